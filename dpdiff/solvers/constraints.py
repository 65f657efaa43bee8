"""Schedules under constraints: forbidden jumps are infinite costs, and the solvers do the rest."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np

from dpdiff.errors import InputError, check_counts
from dpdiff.solvers.protocols import as_costs


class Constrained:
    """Costs of which some jumps are forbidden; give them to :func:`dpdiff.solve`.

    From every t only a window of earlier nodes may be reached, which is all that each of these
    constraints says.

    Parameters
    ----------
    costs : (T+1, T+1) array, or costs as :func:`dpdiff.measure` returns them
    min_jump, max_jump : int, optional
        The least and the greatest ``t - s``, the first step to 0 included.
    require : sequence of int
        Timesteps that every schedule visits.
    forbid : sequence of int
        Timesteps that no schedule visits.
    prefix : sequence of int
        The beginning ``0 = τ_0 < … < τ_j`` of every schedule: from there on, the best way to T.

    Raises
    ------
    InputError
        If a jump or a timestep is no integer or out of range, 0 or T is forbidden, or the prefix
        does not start at 0 and increase. Constraints that cannot all hold show in the plan: no
        budget has a finite total.

    Examples
    --------
    >>> from dpdiff.solvers.plan import solve
    >>> costs = [[0, 0, 0, 0], [1, 0, 0, 0], [4, 1, 0, 0], [9, 4, 1, 0]]
    >>> solve(Constrained(costs, forbid=[2])).totals
    array([inf,  9.,  5., inf])
    >>> solve(Constrained(costs, prefix=[0, 2])).schedule(2).timesteps
    (0, 2, 3)
    """

    nodes = None

    def __init__(
        self,
        costs: Any,
        *,
        min_jump: int = 1,
        max_jump: int | None = None,
        require: Sequence[int] = (),
        forbid: Sequence[int] = (),
        prefix: Sequence[int] = (0,),
    ) -> None:
        check_counts(min_jump=min_jump)
        if max_jump is not None:
            check_counts(max_jump=max_jump)
        self._costs = as_costs(costs)
        self.T, self.unit = self._costs.T, self._costs.unit
        if self._costs.nodes is not None:
            raise InputError(
                "these costs know some timesteps only, and constraints speak of all: give "
                "trajectories() a list of nodes without the forbidden timesteps"
            )
        t = np.arange(self.T + 1)
        must, never, start = (self._nodes(nodes) for nodes in (require, forbid, prefix))
        if start[:1] != [0] or (np.diff(start) <= 0).any():
            raise InputError(f"a prefix starts at 0 and increases, got {list(prefix)}")
        if {0, self.T} & set(never):
            raise InputError(f"every schedule visits 0 and T = {self.T}: they cannot be forbidden")
        never += sorted(set(range(start[-1])) - set(start))
        stops = np.array(sorted({0, *must, *start}))
        self._low = np.maximum(
            stops[np.searchsorted(stops, t) - 1], t - (self.T if max_jump is None else max_jump)
        )
        self._low[never] = self.T + 1
        self._high = t - min_jump

    def _nodes(self, nodes: Sequence[int]) -> list[int]:
        try:
            timesteps = [index(t) for t in nodes]
        except TypeError as error:
            raise InputError(f"timesteps are a list of integers, got {nodes!r}") from error
        for t in timesteps:
            if not 0 <= t <= self.T:
                raise InputError(f"timesteps lie in 0…{self.T}, got {t}")
        return timesteps

    def rows(self, start: int, stop: int) -> np.ndarray:
        """The block ``L[start:stop, :stop]`` with infinite costs outside the windows."""
        s = np.arange(stop)
        low, high = self._low[start:stop, None], self._high[start:stop, None]
        return np.where((low <= s) & (s <= high), self._costs.rows(start, stop), np.inf)

    def lines(self) -> None:
        """Costs with holes in them are no lines."""
        return None
