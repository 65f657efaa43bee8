r"""The shortest path with exactly K edges whose costs depend on the step before as well.

A sampler that remembers its last prediction pays ``L(r, t, s)`` for a step from t to s that comes
after one from r to t. With

.. math:: C[k, t, s] = \min_{r > t} C[k - 1, r, t] + L(r, t, s), \qquad C[1, T, s] = L(T, s),

``C[k, t, s]`` is the least cost of k steps from T down, the last of them from t to s. It is exact,
in O(K N³) time and O(K N²) memory: the costs of one t are made when it is its turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from dpdiff.solvers.jump_costs import PLAIN, Unit


class PairCosts:
    """Costs ``L(r, t, s)`` of steps over pairs of nodes: what :func:`dpdiff.solve` takes as well.

    Attributes
    ----------
    timesteps : ndarray of int, shape (N + 1,)
        What the nodes 0 … N stand for, rising from 0.
    unit : Unit
        How totals are shown.
    about : mapping
        What schedules say of themselves: see :class:`dpdiff.solvers.JumpCosts`.
    first : ndarray of float64, shape (N + 1, N + 1)
        Costs of steps before which there is none, at [t, s]; read where t = N.
    """

    timesteps: np.ndarray
    unit: Unit = PLAIN
    about: Mapping[str, Any] = MappingProxyType({})
    first: np.ndarray

    @property
    def T(self) -> int:
        """The last node, N."""
        return len(self.timesteps) - 1

    def from_node(self, t: int) -> np.ndarray:
        """``L(r, t, s)`` of one node 0 < t < N, shape (N - t, t): row i is of r = t + 1 + i."""
        raise NotImplementedError


class Pairs:
    """The least totals of all budgets, and the paths that have them.

    Of paths of equal cost it takes the one whose step to 0 is shortest, then the one before that,
    and so on up.

    Attributes
    ----------
    totals : (max_steps+1,) float64 array
        The least cost of every budget; ``totals[0]`` is infinite.

    Examples
    --------
    >>> class Turns(PairCosts):
    ...     timesteps, first = np.arange(4), np.zeros((4, 4))
    ...     def from_node(self, t):
    ...         r, s = np.arange(t + 1, 4)[:, None], np.arange(t)
    ...         return abs((r - t) - (t - s)) + 1.0
    >>> pairs = Pairs(Turns(), 3)
    >>> pairs.totals, pairs.paths([2])
    (array([inf,  0.,  2.,  2.]), [[0, 1, 3]])
    """

    def __init__(self, costs: PairCosts, max_steps: int) -> None:
        N = costs.T
        least = np.full((max_steps + 1, N + 1, N + 1), np.inf)
        self._before = np.zeros(least.shape, np.int32)
        least[1, N, :N] = costs.first[N, :N]
        for t in range(N - 1, 0, -1):
            steps = costs.from_node(t)
            for k in range(2, max_steps + 1):
                bids = least[k - 1, t + 1 :, t, None] + steps
                best = bids.argmin(0)
                self._before[k, t, :t] = t + 1 + best
                least[k, t, :t] = np.take_along_axis(bids, best[None], axis=0)[0]
        self._last = least[:, :, 0].argmin(1)
        self.totals: np.ndarray = least[:, :, 0].min(1)

    def paths(self, budgets: Sequence[int]) -> list[list[int]]:
        """The nodes 0 … N of the best paths with these numbers of steps, which must exist."""
        paths = []
        for steps in budgets:
            nodes = [0, int(self._last[steps])]
            for k in range(steps, 1, -1):
                nodes.append(int(self._before[k, nodes[-1], nodes[-2]]))
            paths.append(nodes)
        return paths
