"""The recursion as one writes it on a blackboard, and the same from the other end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dpdiff.runtime.compiled import compiled
from dpdiff.solvers.jump_costs import JumpCosts

BLOCK = 64  # rows of the costs made and used together


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


class Reference:
    """The reference as a solver."""

    def __init__(self, costs: JumpCosts, max_steps: int) -> None:
        self._best, self._origin = reference(costs.rows(0, costs.T + 1), max_steps)
        self.totals = self._best[:, -1].copy()

    def paths(self, budgets: Sequence[int]) -> list[list[int]]:
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


@compiled(nogil=True, fastmath={"nnan", "nsz"})
def _push(best, costs, start):
    """From every finished node t of a block, offer all earlier nodes a path through t."""
    for t in range(start + len(costs) - 1, start - 1, -1):
        for s in range(t):
            cost, through, own = costs[t - start, s], best[t, :-1], best[s, 1:]
            for k in range(len(own)):
                own[k] = min(own[k], through[k] + cost)


def backward(costs: JumpCosts, max_steps: int) -> np.ndarray:
    """``B[k, s]``, the least cost of a path from T down to s in k jumps; (max_steps+1, T+1).

    The sweep turned round: nodes are visited from T down, and each offers its paths to all
    earlier nodes, so that rows are still made one block at a time.
    """
    T = costs.T
    best = np.full((T + 1, max_steps + 1), np.inf)
    best[T, 0] = 0
    for start in range(T // BLOCK * BLOCK, -1, -BLOCK):
        _push(best, costs.rows(start, min(start + BLOCK, T + 1)), start)
    return best.T
