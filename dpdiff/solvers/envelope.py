r"""The shortest path with exactly K edges when the costs of jumps are lines: no table at all.

Suppose that the cost of a jump is a line in a number x that belongs to t,

.. math:: L[t, s] = c_t + h_s + m_s x_t \quad (1 \le s < t), \qquad L[t, 0] = d_t,

with slopes m monotone in s. Then one row of the recursion asks, for every t, for the lowest of the
lines ``(C[k-1, s] + h_s) + m_s x`` with s < t at the place ``x_t``. The lines come in order of
slope, so their lower envelope is kept on a stack, each line entering and leaving it at most once,
and a question is a binary search: O(T log T) a row, O(T) memory. The envelope is exact whatever
the values of x, noisy or not in order.

Ties go to the shortest last jump, the largest s, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, sqrt

import numpy as np

from dpdiff.errors import InputError
from dpdiff.runtime.compiled import compiled
from dpdiff.solvers.jump_costs import Lines

KEEP = 2**28  # bytes of rows kept for reading paths before only every so many are


def falling(lines: Lines) -> Lines:
    """The same lines with slopes that fall, or an error that names what is wrong.

    Examples
    --------
    >>> falling(Lines([0, 1], [0, np.nan], [0, 0], [0, 0], [0, 1]))
    Traceback (most recent call last):
    dpdiff.errors.InputError: x of t = 1 is nan; it must be finite
    """
    arrays = [np.array(values, dtype=np.float64) for values in lines]
    T = len(arrays[0]) - 1
    if T < 1 or any(values.shape != (T + 1,) for values in arrays):
        shapes = ", ".join(str(values.shape) for values in arrays)
        raise InputError(f"lines are five arrays of one length T + 1 > 1, got {shapes}")
    for name, values in zip(lines._fields, arrays, strict=True):
        used = values[1:T] if name in ("intercept", "slope") else values[1:]
        finite = name in ("x", "slope")
        bad = ~np.isfinite(used) if finite else ~(used > -np.inf)
        if bad.any():
            i, node = np.argmax(bad), "s" if len(used) < T else "t"
            must = "finite" if finite else "a number or +inf"
            raise InputError(f"{name} of {node} = {i + 1} is {used[i]}; it must be {must}")
    const, x, intercept, slope, first = arrays
    steps = np.diff(slope[1:T])
    if (steps > 0).any() and (steps < 0).any():
        raise InputError("the slopes of lines must rise or fall with s, and these do both")
    if (steps > 0).any():
        slope, x = -slope, -x
    return Lines(const, x, intercept, slope, first)


@compiled(nogil=True, error_model="numpy")
def _push(line, height, slopes, heights, begins, size):
    """Put a line on the envelope, below whose last line it slopes; return the new size.

    Of every line of the envelope we hold the slope, the height at 0, and the place from which on
    it is the lowest. Lines that the new one overtakes before they were ever lowest leave.
    """
    begin = -np.inf
    while size > 0:
        top = size - 1
        if slopes[top] == line:
            if height > heights[top]:
                return size
        else:
            begin = (height - heights[top]) / (slopes[top] - line)
            if begin > begins[top]:
                break
        size -= 1
    slopes[size] = line
    heights[size] = height
    begins[size] = begin
    return size + 1


@compiled(nogil=True)
def _find(begins, size, guess, x):
    """The last i < size with ``begins[i] <= x``: strides that double from a guess, then halving."""
    low, high, stride = min(guess, size - 1), size, 1
    while low > 0 and begins[low] > x:
        low, high, stride = max(low - stride, 0), low, 2 * stride
    if high == size:
        while low + stride < size and begins[low + stride] <= x:
            low, stride = low + stride, 2 * stride
        high = min(size, low + stride)
    while high - low > 1:
        middle = (low + high) // 2
        if begins[middle] <= x:
            low = middle
        else:
            high = middle
    return low


@compiled(nogil=True, error_model="numpy")
def _row(const, x, intercept, slope, before, after, slopes, heights, begins, k):
    """One row of the recursion: ``after[t] = min_{1 <= s < t} before[s] + L[t, s]``.

    Node t is reached in at most t steps, so that row k begins at t = k.
    """
    size, lowest = 0, 0
    after[:k] = np.inf
    for t in range(k, len(x)):
        height = before[t - 1] + intercept[t - 1]
        if height < np.inf:
            size = _push(slope[t - 1], height, slopes, heights, begins, size)
        after[t] = np.inf
        if size > 0:
            lowest = _find(begins, size, lowest, x[t])
            after[t] = (const[t] + slopes[lowest] * x[t]) + heights[lowest]


@compiled(nogil=True)
def _last_jump(const, x, intercept, slope, before, t, total, first):
    """The largest s ≥ ``first`` that reaches ``total``, or else comes nearest to it from above."""
    best, place = np.inf, -1
    for s in range(t - 1, max(first, 1) - 1, -1):
        bid = (const[t] + slope[s] * x[t]) + (before[s] + intercept[s])
        if bid <= total:
            return s
        if bid < best:
            best, place = bid, s
    return place


def envelope_rows(lines: Lines, start: int, stop: int, row: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows ``C[start], …, C[stop - 1]``, where ``row`` is the first of them.

    Parameters
    ----------
    lines : Lines
        As :func:`falling` returns them.
    start, stop : int
        Numbers of steps, at least 1.
    row : (T+1,) float64 array
        ``C[start, :]``; for one step, ``lines.first`` with an infinite entry at 0.

    Examples
    --------
    >>> lines = Lines(np.zeros(3), np.arange(3.0), np.zeros(3), np.ones(3), [np.inf, 3, 9])
    >>> list(envelope_rows(falling(lines), 1, 3, np.array([np.inf, 3, 9])))[1]
    array([inf, inf,  5.])
    """
    hull = np.empty((3, len(row)))
    yield row
    for k in range(start + 1, stop):
        before, row = row, np.empty_like(row)
        _row(*lines[:4], before, row, *hull, k)
        yield row


class Envelope:
    """Totals of every budget, and paths for those asked for, in O(T) or O(T sqrt(K)) memory.

    Rows of the table are kept as long as they fit into ``keep`` bytes. Otherwise every
    sqrt(K)-th is, and paths are read by making the rows between two kept ones once more: all
    paths together cost as much as the solution did.
    """

    def __init__(self, lines: Lines, max_steps: int, keep: int = KEEP) -> None:
        self._lines = falling(lines)
        self._max_steps = max_steps
        small = (max_steps + 1) * lines.x.nbytes <= keep
        self._every = 1 if small else ceil(sqrt(max_steps))
        self._kept: list[np.ndarray] = []
        self.totals = np.full(max_steps + 1, np.inf)
        first = self._lines.first.copy()
        first[0] = np.inf
        for k, row in enumerate(envelope_rows(self._lines, 1, max_steps + 1, first), start=1):
            self.totals[k] = row[-1]
            if (k - 1) % self._every == 0:
                self._kept.append(row)

    def _segment(self, i: int) -> list[np.ndarray]:
        """The rows from the i-th kept one up to, and with, the next."""
        start = 1 + i * self._every
        stop = min(start + self._every, self._max_steps) + 1
        if self._every == 1:
            return self._kept[i : i + 2]
        return list(envelope_rows(self._lines, start, stop, self._kept[i]))

    def paths(self, budgets: Sequence[int]) -> list[list[int]]:
        """The best paths of several budgets, each of which has a finite total."""
        paths = [[len(self._lines.x) - 1] for _ in budgets]
        for i in range(len(self._kept) - 1, -1, -1):
            start, rows = 1 + i * self._every, None
            for steps, nodes in zip(budgets, paths, strict=True):
                while (k := steps - len(nodes) + 1) > start:
                    rows = rows or self._segment(i)
                    t, before = nodes[-1], rows[k - 1 - start]
                    total = rows[k - start][t]
                    nodes.append(_last_jump(*self._lines[:4], before, t, total, k - 1))
        return [[0, *nodes[::-1]] for nodes in paths]

    def forward(self) -> np.ndarray:
        """The whole table ``C[k, t]``, (K+1, T+1)."""
        T = len(self._lines.x) - 1
        table = np.full((self._max_steps + 1, T + 1), np.inf)
        table[0, 0] = 0
        table[1:] = list(envelope_rows(self._lines, 1, self._max_steps + 1, self._kept[0]))
        return table
