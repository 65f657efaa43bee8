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

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from dpdiff.errors import InputError

BLOCK = 64  # rows of the costs made and used together

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


class Table:
    """A bare array ``L[t, s]`` as costs."""

    def __init__(self, table: Any) -> None:
        try:
            self.table = np.asarray(table)
            numeric = self.table.dtype.kind in "fiub"
        except (TypeError, ValueError):
            numeric = False
        if not numeric or self.table.ndim != 2 or len(set(self.table.shape)) != 1:
            what = f"an array of shape {np.shape(table)}" if numeric else type(table).__name__
            raise InputError(f"costs are a square array of real numbers L[t, s], got {what}")
        self.T = len(self.table) - 1
        if self.T < 1:
            raise InputError("costs are of shape (T+1, T+1) with T at least 1, got (1, 1) or less")

    def rows(self, start: int, stop: int) -> np.ndarray:
        """The block ``L[start:stop, :stop]``, infinite where s ≥ t."""
        block = self.table[start:stop, :stop].astype(np.float64)
        block[:, start:][~np.tri(stop - start, k=-1, dtype=bool)] = np.inf
        return block

    def lines(self) -> None:
        """An array says nothing about its structure."""
        return None


class Reference:
    """The reference's results, in the form in which every solver gives its own.

    Attributes
    ----------
    totals : (max_steps+1,) float64 array
        ``C[k, T]`` for every budget.
    """

    def __init__(self, rows: Rows, T: int, max_steps: int) -> None:
        self._best, self._origin = reference(checked(rows, 0, T + 1), max_steps)
        self.totals = self._best[:, -1].copy()

    def paths(self, budgets: list[int]) -> list[list[int]]:
        """The nodes 0 … T of the best paths with these numbers of steps, which must exist."""
        paths = []
        for steps in budgets:
            nodes = [self._best.shape[1] - 1]
            for k in range(steps, 0, -1):
                nodes.append(int(self._origin[k, nodes[-1]]))
            paths.append(nodes[::-1])
        return paths

    def forward(self) -> np.ndarray:
        """The table ``C[k, t]``."""
        return self._best


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
