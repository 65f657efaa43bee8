r"""What solvers are given, and what they give back: the contract of everything in this folder.

Costs ``L[t, s]`` belong to a jump between the nodes ``s < t`` of ``0 … T``. With

.. math:: C[k, t] = \min_{s < t} C[k - 1, s] + L[t, s], \qquad C[0, 0] = 0,

``C[k, t]`` is the least cost of a path from 0 to t with exactly k jumps. Costs may be infinite (a
forbidden jump), but neither NaN nor minus infinity. Among paths of equal cost the one with the
**shortest last jump** (the largest s) is taken, and so on down the path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from dpdiff.errors import InputError, check_counts
from dpdiff.schedule import Schedule

Rows = Callable[[int, int], np.ndarray]


class Unit(NamedTuple):
    """How totals of paths are shown to people: ``(total + offset) / size``, under a name.

    Examples
    --------
    >>> Unit("minutes", size=60, offset=30)(np.array([90.0, 210.0]))
    array([2., 4.])
    """

    name: str
    size: float
    offset: float = 0.0

    def __call__(self, totals: Any) -> Any:
        """Totals in the costs' own unit, converted."""
        return (totals + self.offset) / self.size


#: Of costs that say nothing of their unit.
PLAIN = Unit("cost", size=1.0)


class Lines(NamedTuple):
    """Costs of jumps as lines, five float64 arrays of length T + 1.

    ``L(t, s) = const[t] + intercept[s] + slope[s] * x[t]`` for ``1 <= s < t`` and
    ``L(t, 0) = first[t]``; ``slope`` is monotone over ``s = 1 … T - 1``, in either direction.
    ``const``, ``intercept`` and ``first`` may be ``+inf``: all jumps from t, all jumps to s, or the
    first step to t are forbidden. What belongs to t = 0, or to s = 0 or s = T, is not read.

    Lines are costs themselves: :func:`dpdiff.solve` takes them as they are.
    """

    const: np.ndarray
    x: np.ndarray
    intercept: np.ndarray
    slope: np.ndarray
    first: np.ndarray

    @property
    def T(self) -> int:
        """The last node."""
        return len(self.x) - 1

    @property
    def unit(self) -> Unit:
        """Lines say nothing of their unit."""
        return PLAIN

    @property
    def nodes(self) -> None:
        """Lines are over all timesteps."""
        return None

    def lines(self) -> Lines:
        """The lines, as all costs that have them are asked for them."""
        return self

    def rows(self, start: int, stop: int) -> np.ndarray:
        """The block ``L[start:stop, :stop]`` of the table, infinite where s ≥ t.

        Examples
        --------
        >>> Lines(*np.ones((4, 3)), np.array([np.inf, 5, 7])).rows(1, 3)
        array([[ 5., inf, inf],
               [ 7.,  3., inf]])
        """
        const, x, intercept, slope, first = self
        t, s = np.arange(start, stop)[:, None], np.arange(stop)[None, :]
        block = (const[t] + slope[s] * x[t]) + intercept[s]  # in the order of the envelope
        block[:, 0] = first[start:stop]
        block[s >= t] = np.inf
        return block


@runtime_checkable
class JumpCosts(Protocol):
    """What every solver takes.

    Attributes
    ----------
    T : int
        The last node.
    unit : Unit
        How totals are shown.
    nodes : ndarray of int or None
        The timesteps that 0 … T stand for, where costs know some of a model's timesteps only.
    """

    @property
    def T(self) -> int: ...

    @property
    def nodes(self) -> np.ndarray | None: ...

    @property
    def unit(self) -> Unit: ...

    def rows(self, start: int, stop: int) -> np.ndarray:
        """The block ``L[start:stop, :stop]``, float64, infinite where s ≥ t."""
        ...

    def lines(self) -> Lines | None:
        """The same costs as lines, if they are lines: then no table is needed."""
        ...


@runtime_checkable
class Solver(Protocol):
    """What every solver leaves behind.

    Attributes
    ----------
    totals : (max_steps+1,) float64 array
        ``C[k, T]`` for every budget; ``totals[0]`` is infinite.
    """

    totals: np.ndarray

    def paths(self, budgets: Sequence[int]) -> list[list[int]]:
        """The nodes 0 … T of the best paths with these numbers of jumps, which must exist."""
        ...

    def forward(self) -> np.ndarray:
        """The table ``C[k, t]``, float64, (max_steps+1, T+1)."""
        ...


class Table:
    """A bare array ``L[t, s]`` as costs; of unknown unit.

    Raises
    ------
    InputError
        If it is not a square array of real numbers.
    """

    unit = PLAIN
    nodes: np.ndarray | None = None

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


def as_costs(costs: Any) -> JumpCosts:
    """Costs as they are, or a bare array made into some."""
    return costs if isinstance(costs, JumpCosts) else Table(costs)


def checked_rows(rows: Rows, start: int, stop: int) -> np.ndarray:
    """The rows ``start … stop - 1`` of the costs; NaN and minus infinity are refused."""
    costs = np.ascontiguousarray(rows(start, stop), dtype=np.float64)
    if not costs.min() > -np.inf:
        row, s = np.argwhere(~(costs > -np.inf))[0]
        raise InputError(
            f"the cost of the jump from t = {start + row} to s = {s} is {costs[row, s]}; "
            "a cost is a number, or +inf where the jump is forbidden"
        )
    return costs


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


class NodeCosts(Table):
    """A table ``L[t, s]`` by the index of a node, and the timesteps that the nodes are.

    Plans made from it speak of timesteps: they map every path through ``nodes``.

    Parameters
    ----------
    table : ndarray, shape (N + 1, N + 1)
    nodes : ndarray of int, shape (N + 1,)

    Examples
    --------
    >>> from dpdiff.solvers.plan import solve
    >>> costs = NodeCosts([[0, 0, 0], [3, 0, 0], [9, 4, 0]], [0, 250, 1000])
    >>> solve(costs).schedule(2).timesteps
    (0, 250, 1000)
    """

    def __init__(self, table: np.ndarray, nodes: np.ndarray) -> None:
        super().__init__(table)
        self.nodes = np.asarray(nodes)

    def total(self, schedule: Schedule) -> float:
        """The cost of a schedule all of whose timesteps are nodes."""
        places = np.searchsorted(self.nodes, schedule.timesteps)
        nearest = self.nodes[np.minimum(places, self.T)]
        if (nearest != schedule.timesteps).any():
            missing = sorted(set(schedule.timesteps) - set(self.nodes.tolist()))
            raise InputError(
                f"timesteps {missing} are no nodes of these costs: give trajectories() nodes that "
                "hold them, or compare schedules by their samples, with compare()"
            )
        return float(self.table[places[1:], places[:-1]].sum())
