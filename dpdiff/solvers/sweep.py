"""The sweep: every budget in one pass over the nodes, each cost read once.

All jumps go down, so the nodes can be visited in order, and all budgets of a node together:

    C[t, 1:] = min over s < t of (C[s, :-1] + L[t, s])

The loop over budgets is innermost: it is contiguous, and nothing in it depends on what came
before, so the processor takes many budgets in one instruction.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
from numba import config

from dpdiff.errors import InputError
from dpdiff.runtime.compiled import compiled
from dpdiff.solvers.jump_costs import JumpCosts
from dpdiff.solvers.recursion import BLOCK

LOOKAHEAD = 2  # blocks of costs made before they are used
SOURCES = 128  # rows of the table that a block reads before it writes; a multiple of 4
MARGIN = 8  # columns before a strip's own, so that those begin on a cache line
WIDEST = 256  # budgets in a strip: eight rows fill half of the first cache
STRIDE = MARGIN + WIDEST  # from a row to the next; no multiple of a page, so that rows spread


@compiled(nogil=True, fastmath={"nnan", "nsz"})
def _relax(target, rows, cost, begin, end, first, last):
    """Offer four rows of the table all paths through the rows ``begin … end - 1``.

    ``target[i][k + 1] = min(target[i][k + 1], rows[j][k] + cost[i, j])`` for all k. Rows lie
    STRIDE apart, which the compiler knows: it sees that they do not overlap, and takes several k
    at once. Four sources meet four targets, so that each number that is loaded serves four
    times, and the loop waits for additions and comparisons instead of memory.
    """
    a, b, c, d = MARGIN, MARGIN + STRIDE, MARGIN + 2 * STRIDE, MARGIN + 3 * STRIDE
    for j in range(begin, end, 4):
        source = rows[j * STRIDE : (j + 4) * STRIDE]
        a0, a1, a2, a3 = cost[0, j], cost[0, j + 1], cost[0, j + 2], cost[0, j + 3]
        b0, b1, b2, b3 = cost[1, j], cost[1, j + 1], cost[1, j + 2], cost[1, j + 3]
        c0, c1, c2, c3 = cost[2, j], cost[2, j + 1], cost[2, j + 2], cost[2, j + 3]
        d0, d1, d2, d3 = cost[3, j], cost[3, j + 1], cost[3, j + 2], cost[3, j + 3]
        for k in range(_columns(j + 4, first, last)):
            p, q = source[k + a - 1], source[k + b - 1]
            r, s = source[k + c - 1], source[k + d - 1]
            target[k + a] = min(min(min(min(target[k + a], p + a0), q + a1), r + a2), s + a3)
            target[k + b] = min(min(min(min(target[k + b], p + b0), q + b1), r + b2), s + b3)
            target[k + c] = min(min(min(min(target[k + c], p + c0), q + c1), r + c2), s + c3)
            target[k + d] = min(min(min(min(target[k + d], p + d0), q + d1), r + d2), s + d3)


@compiled(nogil=True)
def _columns(reach, first, last):
    """How many budgets ``first … last`` are at most ``reach``; more, to fill whole vectors."""
    return max(0, min(WIDEST, (min(last, reach) - first + 32) // 32 * 32))


@compiled(nogil=True)
def _gather(strip, costs, start, first, last):
    """Bring the finished rows ``0 … start - 1`` to a block of rows from ``start`` on."""
    rows = strip.reshape(-1)
    rows[start * STRIDE : (start + len(costs)) * STRIDE] = np.inf
    for begin in range(0, start, SOURCES):  # these rows stay in the second cache …
        end = min(begin + SOURCES, start)
        for t in range(0, len(costs), 4):  # … while four of the block at a time use them
            target = rows[(start + t) * STRIDE : (start + t + 4) * STRIDE]
            _relax(target, rows, costs[t : t + 4], begin, end, first, last)


@compiled(nogil=True)
def _finish(strip, costs, start, first, last):
    """Bring the rows of a block to each other, in order: after this they are final."""
    rows = strip.reshape(-1)
    for t in range(start, start + len(costs), 4):
        target = rows[t * STRIDE : (t + 4) * STRIDE]
        _relax(target, rows, costs[t - start : t - start + 4], start, t, first, last)
        for later in range(t + 1, t + 4):
            for s in range(t, later):
                cost = costs[later - start, s]
                source, own = strip[s, MARGIN - 1 :], strip[later, MARGIN:]
                for k in range(_columns(s + 1, first, last)):
                    own[k] = min(own[k], source[k] + cost)


def blocks(pool: Executor, costs: JumpCosts, dtype: type) -> Iterator[tuple[int, np.ndarray]]:
    """Yield ``(start, rows)`` for consecutive blocks of rows, making a few ahead in the pool."""
    tasks = (pool.submit(_block, costs, start, dtype) for start in range(0, costs.T + 1, BLOCK))
    ahead = deque(islice(tasks, 1 + LOOKAHEAD))
    while ahead:
        yield ahead.popleft().result()
        ahead.extend(islice(tasks, 1))


def _block(jumps: JumpCosts, start: int, dtype: type) -> tuple[int, np.ndarray]:
    """One block of rows, filled up to a multiple of four rows."""
    costs = jumps.rows(start, min(start + BLOCK, jumps.T + 1))
    largest = np.abs(costs, where=np.isfinite(costs), out=np.zeros_like(costs)).max(initial=0)
    if dtype != np.float64 and largest * (jumps.T + 1) > np.finfo(dtype).max:
        raise InputError(
            f"costs of {largest:.3g} and sums of them do not fit {np.dtype(dtype)}: use the sweep "
            "in float64, or other units"
        )
    costs = costs.astype(dtype, copy=False)
    if missing := -len(costs) % 4:
        costs = np.pad(costs, ((0, missing), (0, missing)), constant_values=np.inf)
    return start, costs


class Sweep:
    """The table ``C[k, t]`` of all budgets, kept in strips of budgets.

    ``strips[i, t, MARGIN + j]`` is the entry for ``k = 1 + i * width + j`` where k ≤ t, and is
    undefined elsewhere. The column before a strip's own repeats the last one of the strip before.

    Parameters
    ----------
    costs : JumpCosts
        Asked once for every row, from several threads.
    max_steps : int
        The largest budget.
    dtype : numpy.float64 or numpy.float32
        Of the table. In float64 every entry equals the reference's bit by bit. In float32 the
        paths are the best ones up to rounding, and their totals are summed in float64.

    Examples
    --------
    >>> from dpdiff.solvers.jump_costs import Table
    >>> Sweep(Table([[0, 0, 0], [3, 0, 0], [9, 4, 0]]), max_steps=2).totals
    array([inf,  9.,  7.])
    """

    def __init__(self, costs: JumpCosts, max_steps: int, dtype: type = np.float64) -> None:
        threads, T = config.NUMBA_NUM_THREADS, costs.T
        self.costs, self.T, self.max_steps = costs, T, max_steps
        self.width = min(WIDEST, max(32, -(-max_steps // threads)))
        self.firsts = range(1, max_steps + 1, self.width)
        self.strips = aligned((len(self.firsts), (T + 4) // 4 * 4, STRIDE), dtype)
        with ThreadPoolExecutor(threads) as pool:
            self._fill(pool)
            self.totals = self._totals()
            if dtype != np.float64:
                self._sum_again(pool, threads)

    def _fill(self, pool: ThreadPoolExecutor) -> None:
        """Go down the blocks of rows and along the strips, in as many threads as there are."""
        done: list[Future | None] = [None] * len(self.firsts)  # the latest block of each strip
        for start, costs in blocks(pool, self.costs, self.strips.dtype.type):
            end, left = start + len(costs), None
            for i, first in enumerate(self.firsts):
                if first <= end:
                    left = done[i] = pool.submit(self._advance, i, start, costs, done[i], left)
        for task in filter(None, done):
            task.result()

    def _advance(self, i, start, costs, above, left):
        """Finish a block of rows of strip i once those above it and to its left are."""
        strip, first, rows = self.strips[i], self.firsts[i], slice(start, start + len(costs))
        limits = (start, first, min(first + self.width - 1, self.max_steps))
        if above:
            above.result()
        _gather(strip, costs, *limits)
        strip[rows, MARGIN - 1] = left.result() if left else np.inf
        if start == first - 1 == 0:
            strip[0, MARGIN - 1] = 0  # C[0, 0]
        _finish(strip, costs, *limits)
        return strip[rows, MARGIN + self.width - 1]

    def column(self, k: int) -> np.ndarray:
        """``C[k, :]`` in the table's own type; undefined where t < k."""
        strip, place = divmod(max(k, 1) - 1, self.width)
        return self.strips[strip, : self.T + 1, MARGIN + place - (k == 0)]

    def _totals(self) -> np.ndarray:
        own = self.strips[:, self.T, MARGIN : MARGIN + self.width].reshape(-1)
        return np.append(np.inf, own[: self.max_steps]).astype(np.float64)

    def _sum_again(self, pool: ThreadPoolExecutor, threads: int) -> None:
        """Sum the costs of all best paths in float64, each thread for its share of budgets."""
        budgets = np.flatnonzero(self.totals < np.inf)
        nodes, sums = np.full(len(budgets), self.T), np.zeros(len(budgets))
        shares = [np.array_split(values, threads) for values in (nodes, budgets.copy(), sums)]
        for start in range(self.T // BLOCK * BLOCK, -1, -BLOCK):
            costs = self.costs.rows(start, min(start + BLOCK, self.T + 1))
            rough = costs.astype(self.strips.dtype)
            for task in [
                pool.submit(_descend, self.strips, self.width, costs, rough, start, *share)
                for share in zip(*shares, strict=True)
            ]:
                task.result()
        self.totals[budgets] = sums

    def forward(self) -> np.ndarray:
        """The table as one float64 array, ``(max_steps + 1, T + 1)``."""
        table = np.full((self.max_steps + 1, self.T + 1), np.inf)
        for k in range(self.max_steps + 1):
            table[k, k:] = self.column(k)[k:]
        return table

    def paths(self, budgets: Sequence[int]) -> list[list[int]]:
        """The nodes 0 … T of the best paths with these numbers of steps, which must exist."""
        return [self._path(steps) for steps in budgets]

    def _path(self, steps: int) -> list[int]:
        nodes = [self.T]
        for k in range(steps, 0, -1):
            t = nodes[-1]
            costs = self.costs.rows(t, t + 1)[0, :t].astype(self.strips.dtype)
            nodes.append(last_jump(self.column(k - 1), costs, self.column(k)[t], k - 1))
        return nodes[::-1]


@compiled(nogil=True)
def last_jump(before, costs, total, first):
    """The largest s ≥ ``first`` at which ``before[s] + costs[s]`` is least.

    ``total`` is what that least value should be, so the search, from the shortest jump upwards,
    ends where it is met: the jumps of a path add up to T, and a whole path takes T trials. Rows
    that are not the same to the last bit when they are made again, such as a matrix product's,
    may miss it; then all are tried.
    """
    best, place = np.inf, -1
    for s in range(len(costs) - 1, first - 1, -1):
        bid = before[s] + costs[s]
        if bid <= total:
            return s
        if bid < best:
            best, place = bid, s
    return place


@compiled(nogil=True)
def _descend(strips, width, costs, rough, start, nodes, left, sums):
    """Follow many paths down through a block of rows, adding up what their jumps cost."""
    for t in range(start + len(costs) - 1, start - 1, -1):
        for i in range(len(nodes)):
            if nodes[i] == t and left[i] > 0:
                strip, place = divmod(left[i] - 1, width)
                table = strips[strip]
                before, total = table[:, MARGIN + place - 1], table[t, MARGIN + place]
                nodes[i] = last_jump(before, rough[t - start, :t], total, left[i] - 1)
                left[i] -= 1
                sums[i] += costs[t - start, nodes[i]]


def aligned(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array that begins on a cache line, its contents undefined."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    offset = -memory.ctypes.data % 64
    return memory[offset : offset + size].view(dtype).reshape(shape)
