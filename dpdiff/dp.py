r"""The shortest path with exactly K edges, for every K: a reference and a fast sweep.

Everything here works on costs ``L[t, s]`` of a jump between the nodes ``s < t`` of ``0 … T`` and
on the table

.. math:: C[k, t] = \min_{s < t} C[k - 1, s] + L[t, s], \qquad C[0, 0] = 0,

where ``C[k, t]`` is the least cost of a path from 0 to t with exactly k jumps. What the costs mean
is none of this module's business. They may be infinite (a forbidden jump), but neither NaN nor
minus infinity.

Among paths of equal cost the one with the **shortest last jump** (the largest s) is taken, and so
on down the path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import config, njit

from dpdiff.errors import InputError

BLOCK = 64  # rows of the table made and used together; a multiple of 4
STRIDE = 256  # columns from one row of a strip to the next, of which
MARGIN = 8  # this many stand before the strip's own, so that those begin on a cache line
STRIP = STRIDE - MARGIN  # budgets in a strip

Rows = Callable[[int, int], np.ndarray]


def reference(costs: np.ndarray, max_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The recursion as one writes it on a blackboard: one pass over all jumps for every budget.

    Parameters
    ----------
    costs : (T+1, T+1) array
        ``costs[t, s]`` of the jump between t and s; read only where s < t.
    max_steps : int
        The largest budget K.

    Returns
    -------
    best : (K+1, T+1) float64 array
        ``best[k, t]``, the least cost from 0 to t in k jumps; infinite where there is none.
    origin : (K+1, T+1) int array
        The node before t on such a path, -1 where there is none.

    Examples
    --------
    >>> best, origin = reference([[0, 0, 0], [3, 0, 0], [9, 4, 0]], 2)
    >>> best[:, 2]
    array([inf,  9.,  7.])
    >>> origin[2, 2]
    np.int64(1)
    """
    T = len(costs) - 1
    jumps = np.where(np.tri(T + 1, k=-1, dtype=bool), costs, np.inf)
    jumps = np.ascontiguousarray(jumps[:, ::-1])  # the shortest jump first: it wins a tie
    best = np.full((max_steps + 1, T + 1), np.inf)
    origin = np.full(best.shape, -1)
    best[0, 0] = 0
    for k in range(1, max_steps + 1):
        bids = best[k - 1, ::-1] + jumps
        best[k] = bids.min(axis=1)
        origin[k] = np.where(best[k] < np.inf, T - bids.argmin(axis=1), -1)
    return best, origin


@njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})
def _relax(target, source, cost, columns):
    """Offer four rows of the table, four times over, a path through four earlier rows.

    ``target[i][k + 1] = min(target[i][k + 1], source[j][k] + cost[i, j])`` for all i, j < 4. The
    rows lie ``STRIDE`` apart, which the compiler knows: it can see that they do not overlap and
    takes several k at once. Each number that is loaded serves four times, so that the loop waits
    for additions and comparisons, not for memory.
    """
    a0, a1, a2, a3 = cost[0, 0], cost[0, 1], cost[0, 2], cost[0, 3]
    b0, b1, b2, b3 = cost[1, 0], cost[1, 1], cost[1, 2], cost[1, 3]
    c0, c1, c2, c3 = cost[2, 0], cost[2, 1], cost[2, 2], cost[2, 3]
    d0, d1, d2, d3 = cost[3, 0], cost[3, 1], cost[3, 2], cost[3, 3]
    a, b, c, d = MARGIN, MARGIN + STRIDE, MARGIN + 2 * STRIDE, MARGIN + 3 * STRIDE
    for k in range(columns):
        p, q = source[k + a - 1], source[k + b - 1]
        r, s = source[k + c - 1], source[k + d - 1]
        target[k + a] = min(min(min(min(target[k + a], p + a0), q + a1), r + a2), s + a3)
        target[k + b] = min(min(min(min(target[k + b], p + b0), q + b1), r + b2), s + b3)
        target[k + c] = min(min(min(min(target[k + c], p + c0), q + c1), r + c2), s + c3)
        target[k + d] = min(min(min(min(target[k + d], p + d0), q + d1), r + d2), s + d3)


@njit(nogil=True, cache=True)
def _gather(strip, costs, start, first, last):
    """Bring the finished rows ``0 … start - 1`` to a block of rows from ``start`` on.

    Node s is reached in at most s jumps, so its row is all infinite beyond.
    """
    rows = strip.reshape(-1)
    rows[start * STRIDE : (start + len(costs)) * STRIDE] = np.inf
    for early in range(0, start, BLOCK):  # a block of sources stays in the cache …
        for t in range(start, start + len(costs), 4):  # … while all targets use it
            target = rows[t * STRIDE : (t + 4) * STRIDE]
            for s in range(early, early + BLOCK, 4):
                columns = _round_up(min(last, s + 4) - first + 1)
                source = rows[s * STRIDE : (s + 4) * STRIDE]
                _relax(target, source, costs[t - start : t - start + 4, s : s + 4], columns)


@njit(nogil=True, cache=True)
def _finish(strip, costs, start, first, last):
    """Bring the rows of a block to each other, in order: after this they are final."""
    rows = strip.reshape(-1)
    for t in range(start, start + len(costs), 4):
        target = rows[t * STRIDE : (t + 4) * STRIDE]
        for s in range(start, t, 4):
            columns = _round_up(min(last, s + 4) - first + 1)
            source = rows[s * STRIDE : (s + 4) * STRIDE]
            _relax(target, source, costs[t - start : t - start + 4, s : s + 4], columns)
        for later in range(t + 1, t + 4):
            for s in range(t, later):
                cost, source, own = (
                    costs[later - start, s],
                    strip[s, MARGIN - 1 :],
                    strip[later, MARGIN:],
                )
                for k in range(_round_up(min(last, s + 1) - first + 1)):
                    own[k] = min(own[k], source[k] + cost)


@njit(nogil=True, cache=True)
def _round_up(columns):
    """Whole vectors are quicker than the last few columns one by one."""
    return max(0, min(STRIP, (columns + 31) // 32 * 32))


def blocks(rows: Rows, T: int, dtype: type = np.float64) -> Iterator[tuple[int, np.ndarray]]:
    """Yield ``(start, costs)`` for consecutive blocks of rows, filled up to four rows.

    Raises
    ------
    InputError
        If a cost is NaN or minus infinity, naming the jump.
    """
    for start in range(0, T + 1, BLOCK):
        costs = checked(rows, start, min(start + BLOCK, T + 1)).astype(dtype, copy=False)
        if missing := -len(costs) % 4:
            costs = np.pad(costs, ((0, missing), (0, missing)), constant_values=np.inf)
        yield start, costs


def checked(rows: Rows, start: int, stop: int) -> np.ndarray:
    """The rows ``start … stop - 1`` of the costs; NaN and minus infinity are refused."""
    costs = np.ascontiguousarray(rows(start, stop), dtype=np.float64)
    if not costs.min() > -np.inf:
        row, s = np.argwhere(~(costs > -np.inf))[0]
        raise InputError(
            f"the cost of the jump from t = {start + row} to s = {s} is {costs[row, s]}; "
            "a cost is a number, or +inf where the jump is forbidden"
        )
    return costs


def sweep(rows: Rows, T: int, max_steps: int, dtype: type = np.float64) -> np.ndarray:
    """Every budget in one pass over t, each cost read once.

    All costs point backwards, so the nodes can be visited in order, all budgets of a node
    together: ``C[t, 1:] = min_s (C[s, :-1] + L[t, s])``. The budgets are kept in strips of
    columns, which different threads update.

    Parameters
    ----------
    rows : callable
        ``rows(start, stop)`` returns the block ``L[start:stop, :stop]``, infinite where s ≥ t.
        It is asked once for every row.
    T, max_steps : int
        The last node, and the largest budget.
    dtype : numpy.float64 or numpy.float32
        Of the table. In float64 every entry equals the reference's bit by bit.

    Returns
    -------
    strips : (strips, T+1 or a little more, STRIDE) array
        The table; read it with :func:`entries` and :func:`sweep_path`.

    Examples
    --------
    >>> costs = np.array([[np.inf, np.inf, np.inf], [3, np.inf, np.inf], [9, 4, np.inf]])
    >>> entries(sweep(lambda start, stop: costs[start:stop, :stop], 2, 2), 2, 2)
    array([inf,  9.,  7.])
    """
    firsts = range(1, max_steps + 1, STRIP)
    strips = aligned((len(firsts), (T + 4) // 4 * 4, STRIDE), dtype)
    with ThreadPoolExecutor(config.NUMBA_NUM_THREADS) as pool:
        for start, costs in blocks(rows, T, dtype):
            end = start + len(costs)
            live = [
                (strip, first) for strip, first in zip(strips, firsts, strict=True) if first <= end
            ]
            tasks = [
                pool.submit(_gather, strip, costs, start, first, max_steps) for strip, first in live
            ]
            for task in tasks:
                task.result()
            border = np.where(np.arange(start, end) > 0, np.inf, 0).astype(dtype)
            for strip, first in live:
                strip[start:end, MARGIN - 1] = border
                _finish(strip, costs, start, first, max_steps)
                border = strip[start:end, -1]
    return strips


@njit(nogil=True, cache=True)
def last_jump(before, costs, total):
    """The largest s with ``before[s] + costs[s] <= total``.

    Looking from the shortest jump upwards settles ties, needs no stored origins, and is cheap:
    the jumps of a path add up to T, so that a whole path takes T trials.
    """
    for s in range(len(costs) - 1, -1, -1):
        if before[s] + costs[s] <= total:
            return s
    return -1


def aligned(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array that begins on a cache line, its contents undefined."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    offset = -memory.ctypes.data % 64
    return memory[offset : offset + size].view(dtype).reshape(shape)


def column(strips: np.ndarray, k: int) -> np.ndarray:
    """``C[k, :]`` as it lies in a sweep's table; undefined where t < k."""
    strip, place = divmod(max(k, 1) - 1, STRIP)
    return strips[strip, :, MARGIN + place - (k == 0)]


def entries(strips: np.ndarray, t: int, max_steps: int) -> np.ndarray:
    """``C[0 … max_steps, t]`` from a sweep's table."""
    found = np.append(strips[0, t, MARGIN - 1], strips[:, t, MARGIN:])[: max_steps + 1]
    return np.where(np.arange(max_steps + 1) <= t, found, np.inf).astype(np.float64)


def sweep_path(strips: np.ndarray, rows: Rows, T: int, steps: int) -> list[int]:
    """The best path with a number of steps whose total is finite, from a sweep's table.

    Parameters
    ----------
    strips, rows, T
        What :func:`sweep` returned, and what it was given.
    steps : int
        The budget, at most the sweep's ``max_steps``.

    Returns
    -------
    list of int
        The nodes 0 … T in increasing order.
    """
    nodes = [T]
    for k in range(steps, 0, -1):
        t = nodes[-1]
        costs = rows(t, t + 1)[0, :t].astype(strips.dtype)
        nodes.append(last_jump(column(strips, k - 1), costs, column(strips, k)[t]))
    return nodes[::-1]


@njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})
def _push(best, costs, start):
    """From every finished node t of a block, offer all earlier nodes a path through t."""
    for t in range(start + len(costs) - 1, start - 1, -1):
        for s in range(t):
            cost, through, own = costs[t - start, s], best[t, :-1], best[s, 1:]
            for k in range(len(own)):
                own[k] = min(own[k], through[k] + cost)


def backward(rows: Rows, T: int, max_steps: int) -> np.ndarray:
    """``B[k, s]``, the least cost of a path from T down to s in k jumps; (max_steps+1, T+1).

    The sweep turned round: nodes are visited from T down, and each offers its paths to all
    earlier nodes, so that rows are still made one block at a time.
    """
    best = np.full((T + 1, max_steps + 1), np.inf)
    best[T, 0] = 0
    for start in range(T // BLOCK * BLOCK, -1, -BLOCK):
        _push(best, checked(rows, start, min(start + BLOCK, T + 1)), start)
    return best.T
