r"""Costs of jumps, the contract of everything in this folder: lines, tables, subsets, constraints.

Costs ``L[t, s]`` belong to a jump between the nodes ``s < t`` of ``0 … T``. With

.. math:: C[k, t] = \min_{s < t} C[k - 1, s] + L[t, s], \qquad C[0, 0] = 0,

``C[k, t]`` is the least cost of a path from 0 to t with exactly k jumps. Costs may be infinite (a
forbidden jump), but neither NaN nor minus infinity. Among paths of equal cost the one with the
**shortest last jump** (the largest s) is taken, and so on down the path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from operator import index
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from dpdiff.errors import InputError, check_counts
from dpdiff.schedule import Schedule


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


class JumpCosts:
    """Costs ``L[t, s]`` of jumps between nodes: what :func:`dpdiff.solve` takes.

    A new kind has ``timesteps`` and :meth:`jump_costs`, and the rest follows.

    Attributes
    ----------
    timesteps : ndarray of int, shape (T + 1,)
        What the nodes 0 … T stand for, rising from 0; ``0 … T`` themselves for a whole grid.
    unit : Unit
        How totals are shown.
    about : mapping
        What schedules say of themselves that are found with these costs: the fingerprints
        of model and ``noise_schedule``, the ``sampler`` that they are for, or nothing.
    """

    timesteps: np.ndarray
    unit: Unit = PLAIN
    about: Mapping[str, Any] = MappingProxyType({})

    @property
    def T(self) -> int:
        """The last node; of costs of a whole grid, its length."""
        return len(self.timesteps) - 1

    def jump_costs(self, t: np.ndarray, s: np.ndarray) -> np.ndarray:
        """``L[t, s]`` of nodes with ``0 ≤ s < t``, for arrays of them that broadcast.

        Of s ≥ t it may say anything.
        """
        raise NotImplementedError

    def lines(self) -> Lines | None:
        """The same costs as lines, if they are lines: then no table is needed."""
        return None

    def rows(self, start: int, stop: int) -> np.ndarray:
        """A block of the table ``L[t, s]``.

        Parameters
        ----------
        start, stop : int
            Rows ``start ≤ t < stop``.

        Returns
        -------
        ndarray of float64, shape (stop - start, stop)
            Column ``s``; entries with ``s ≥ t`` are ``+inf``.

        Raises
        ------
        InputError
            If a cost is NaN or minus infinity.
        """
        with np.errstate(all="ignore"):  # what is said of s ≥ t is thrown away
            block = self.jump_costs(np.arange(start, stop)[:, None], np.arange(stop))
        return self._checked(block, start)

    def _checked(self, block: np.ndarray, start: int) -> np.ndarray:
        """Rows from ``start`` on, infinite where s ≥ t, if they are costs elsewhere."""
        below = np.tri(block.shape[0], block.shape[1], k=start - 1, dtype=bool)
        block = np.where(below, block, np.float64(np.inf))
        if not block.min() > -np.inf:
            row, column = np.argwhere(~(block > -np.inf))[0]
            here, there = self.timesteps[[start + row, column]]
            raise InputError(
                f"the cost of the jump from t = {here} to s = {there} is {block[row, column]}; "
                "a cost is a number, or +inf where the jump is forbidden"
            )
        return block

    def places(self, timesteps: Iterable[int]) -> np.ndarray:
        """The nodes that stand for some timesteps.

        Raises
        ------
        InputError
            If one is no integer, or none of these costs' timesteps.
        """
        try:
            wanted = np.array([index(t) for t in timesteps], dtype=int)
        except TypeError as error:
            raise InputError(f"timesteps are a list of integers, got {timesteps!r}") from error
        nodes = np.minimum(np.searchsorted(self.timesteps, wanted), self.T)
        missing = sorted({*wanted[self.timesteps[nodes] != wanted].tolist()})
        if missing:
            raise InputError(
                f"timesteps {missing} are none of these costs' {self.T + 1}, which lie in "
                f"0…{self.timesteps[-1]}; trajectories() takes a list of nodes"
            )
        return nodes

    def edge_costs(self, schedule: Schedule) -> np.ndarray:
        """Costs of a schedule's jumps, shape (K,), that of the jump to 0 first."""
        schedule.check_end(int(self.timesteps[-1]))
        nodes = self.places(schedule.timesteps)
        return self.jump_costs(nodes[1:], nodes[:-1])


@runtime_checkable
class Solver(Protocol):
    """What every solver of jump costs leaves behind.

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


class _Lines(NamedTuple):
    const: np.ndarray
    x: np.ndarray
    intercept: np.ndarray
    slope: np.ndarray
    first: np.ndarray


class Lines(_Lines, JumpCosts):
    """Costs of jumps as lines, five float64 arrays of length T + 1.

    ``L(t, s) = const[t] + intercept[s] + slope[s] * x[t]`` for ``1 <= s < t`` and
    ``L(t, 0) = first[t]``; ``slope`` is monotone over ``s = 1 … T - 1``, in either direction.
    ``const``, ``intercept`` and ``first`` may be ``+inf``: all jumps from t, all jumps to s, or the
    first step to t are forbidden. What belongs to t = 0, or to s = 0 or s = T, is not read.

    Examples
    --------
    >>> Lines(*np.ones((4, 3)), np.array([np.inf, 5, 7])).rows(1, 3)
    array([[ 5., inf, inf],
           [ 7.,  3., inf]])
    """

    @cached_property
    def timesteps(self) -> np.ndarray:  # type: ignore[override]
        """All of 0 … T."""
        return np.arange(len(self.x))

    def jump_costs(self, t: np.ndarray, s: np.ndarray) -> np.ndarray:
        """``L[t, s]``, summed in the order of the envelope."""
        const, x, intercept, slope, first = self
        return np.where(s == 0, first[t], (const[t] + slope[s] * x[t]) + intercept[s])

    def lines(self) -> Lines:
        """The lines, as all costs that have them are asked for them."""
        return self


class Table(JumpCosts):
    """A table ``L[t, s]`` as costs.

    Parameters
    ----------
    table : array_like, shape (T + 1, T + 1)
        Read only where s < t.
    timesteps : array_like of int, shape (T + 1,), optional
        What its rows and columns stand for; by default ``0 … T``.

    Raises
    ------
    InputError
        If it is not a square array of real numbers, or the timesteps are not as many, rising
        from 0.

    Examples
    --------
    >>> from dpdiff.solvers.plan import solve
    >>> costs = Table([[0, 0, 0], [3, 0, 0], [9, 4, 0]], [0, 250, 1000])
    >>> solve(costs).schedule(2).timesteps
    (0, 250, 1000)
    """

    def __init__(self, table: Any, timesteps: Any = None) -> None:
        try:
            self.table = np.asarray(table)
            numeric = self.table.dtype.kind in "fiub"
        except (TypeError, ValueError):
            numeric = False
        if not numeric or self.table.ndim != 2 or len(set(self.table.shape)) != 1:
            what = f"an array of shape {np.shape(table)}" if numeric else type(table).__name__
            raise InputError(f"costs are a square array of real numbers L[t, s], got {what}")
        if len(self.table) < 2:
            raise InputError("costs are of shape (T+1, T+1) with T at least 1, got (1, 1) or less")
        self.timesteps = np.arange(len(self.table)) if timesteps is None else np.array(timesteps)
        if self.timesteps.shape != self.table.shape[:1] or not _rises(self.timesteps):
            raise InputError(f"a table's {len(self.table)} timesteps rise from 0, got {timesteps}")

    def jump_costs(self, t: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Entries of the table."""
        return self.table[t, s]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """As of all costs, without looking entries up one by one."""
        return self._checked(self.table[start:stop, :stop], start)


def _rises(timesteps: np.ndarray) -> bool:
    return len(timesteps) > 1 and timesteps[0] == 0 and bool((np.diff(timesteps) > 0).all())


class Subset(JumpCosts):
    """Costs of the jumps between some timesteps only.

    Parameters
    ----------
    costs : (T+1, T+1) array, or costs as :func:`dpdiff.measure` returns them
    timesteps : sequence of int
        Those that remain, rising from 0.

    Raises
    ------
    InputError
        If the timesteps do not rise from 0, or the costs do not know one.

    Examples
    --------
    >>> from dpdiff.solvers.plan import solve
    >>> costs = [[0, 0, 0, 0], [1, 0, 0, 0], [4, 1, 0, 0], [9, 4, 1, 0]]
    >>> solve(Subset(costs, [0, 1, 3])).schedule(2).timesteps
    (0, 1, 3)
    """

    def __init__(self, costs: Any, timesteps: Iterable[int]) -> None:
        self._costs = as_costs(costs)
        self._places = self._costs.places(timesteps)
        self.timesteps = self._costs.timesteps[self._places]
        self.unit, self.about = self._costs.unit, self._costs.about
        if not _rises(self.timesteps):
            raise InputError(f"a subset of timesteps rises from 0, got {timesteps}")

    def jump_costs(self, t: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Those of all timesteps, asked for these alone."""
        return self._costs.jump_costs(self._places[t], self._places[s])

    def lines(self) -> Lines | None:
        """Some of the lines, where there are lines."""
        lines = self._costs.lines()
        return lines and Lines(*(part[self._places] for part in lines))


class Constrained(JumpCosts):
    """Costs of which some jumps are forbidden; give them to :func:`dpdiff.solve`.

    From every t only a window of earlier nodes may be reached, which is all that each of these
    constraints says.

    Parameters
    ----------
    costs : (T+1, T+1) array, or costs as :func:`dpdiff.measure` returns them
        Of costs that know some timesteps only, the others are forbidden anyhow.
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
        If a jump or a timestep is no integer or none of the costs', 0 or T is forbidden, or the
        prefix does not start at 0 and increase. Constraints that cannot all hold show in the plan:
        no budget has a finite total.

    Examples
    --------
    >>> from dpdiff.solvers.plan import solve
    >>> costs = [[0, 0, 0, 0], [1, 0, 0, 0], [4, 1, 0, 0], [9, 4, 1, 0]]
    >>> solve(Constrained(costs, forbid=[2])).totals
    array([inf,  9.,  5., inf])
    >>> solve(Constrained(costs, prefix=[0, 2])).schedule(2).timesteps
    (0, 2, 3)
    """

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
        self._costs = as_costs(costs)
        self.timesteps, self.unit = self._costs.timesteps, self._costs.unit
        self.about, steps = self._costs.about, self.timesteps
        max_jump = int(steps[-1]) if max_jump is None else max_jump
        check_counts(min_jump=min_jump, max_jump=max_jump)
        must, never, start = (self.places(nodes) for nodes in (require, forbid, prefix))
        if start[:1].tolist() != [0] or (np.diff(start) <= 0).any():
            raise InputError(f"a prefix starts at 0 and increases, got {list(prefix)}")
        if {0, self.T} & {*never.tolist()}:
            ends = f"0 and T = {steps[-1]}"
            raise InputError(f"every schedule visits {ends}: they cannot be forbidden")
        stops = np.unique([0, *must, *start])
        self._low = np.maximum(
            stops[np.searchsorted(stops, np.arange(self.T + 1)) - 1],
            np.searchsorted(steps, steps - max_jump),
        )
        self._low[never] = self._low[np.setdiff1d(np.arange(start[-1]), start)] = self.T + 1
        self._high = np.searchsorted(steps, steps - min_jump, side="right") - 1

    def jump_costs(self, t: np.ndarray, s: np.ndarray) -> np.ndarray:
        """The costs inside the windows, infinite outside."""
        within = (self._low[t] <= s) & (s <= self._high[t])
        return np.where(within, self._costs.jump_costs(t, s), np.inf)


def as_costs(costs: Any) -> JumpCosts:
    """Costs as they are, or a bare array made into some."""
    return costs if isinstance(costs, JumpCosts) else Table(costs)
