"""From costs to schedules: one solve, every budget."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from operator import index
from typing import Any

import numpy as np

from dpdiff.errors import InputError
from dpdiff.schedule import Schedule
from dpdiff.solvers.envelope import Envelope
from dpdiff.solvers.jump_costs import JumpCosts, Solver, as_costs
from dpdiff.solvers.pairs import PairCosts, Pairs
from dpdiff.solvers.recursion import BLOCK, Reference, backward
from dpdiff.solvers.sweep import Sweep

METHODS = ("auto", "sweep", "sweep32", "envelope", "reference")


def solve(costs: Any, max_steps: int | None = None, method: str = "auto") -> Plan:
    """Find the cheapest schedule for every number of steps at once.

    Parameters
    ----------
    costs : (T+1, T+1) array, or costs as :func:`dpdiff.measure` returns them
        ``L[t, s]`` is the cost of the jump between the timesteps s < t; nothing else of an array
        is read. A forbidden jump costs ``+inf``. Or costs over pairs of nodes
        (``dpdiff.solvers.PairCosts``), which know the step before as well.
    max_steps : int, optional
        The largest budget of interest; by default T. Time and memory are proportional to it.
    method : {"auto", "envelope", "sweep", "sweep32", "reference"}
        ``envelope`` needs costs that are lines (the ``small`` and ``large`` variances and the
        weighted cost), ``sweep`` takes any, ``reference`` is the textbook's recursion. All three
        are exact. ``sweep32`` searches in single precision and sums the paths it finds in double:
        twice as fast, and its schedules cost up to a few parts in 100,000 more than the best.
        ``auto`` is ``envelope`` where that is possible, else ``sweep``.

    Returns
    -------
    Plan
        Totals and schedules for every budget from 1 to ``max_steps``. Among schedules of equal
        cost it takes the one whose last jump (the one to T) is shortest, then the one before it,
        and so on.

    Raises
    ------
    InputError
        If the costs are not a square array of numbers, a cost is NaN or minus infinity, the
        budget is outside 1…T, or the method does not exist or does not apply.

    Notes
    -----
    ``C[k, t] = min_{s<t} C[k-1, s] + L[t, s]`` with ``C[0, 0] = 0``: Watson, Ho, Norouzi and Chan,
    "Learning to Efficiently Sample from Diffusion Probabilistic Models", 2021, Algorithm 1.

    Examples
    --------
    >>> costs = [[0, 0, 0, 0], [1, 0, 0, 0], [4, 1, 0, 0], [9, 4, 1, 0]]
    >>> plan = solve(costs)
    >>> plan.totals
    array([inf,  9.,  5.,  3.])
    >>> plan.schedule(2).timesteps  # (0, 1, 3) costs the same: the shorter last jump wins
    (0, 2, 3)
    """
    if method not in METHODS:
        raise InputError(f"method is one of {', '.join(METHODS)}, got {method!r}")
    if not isinstance(costs, PairCosts):
        costs = as_costs(costs)
    limit = costs.T if max_steps is None else whole_number(max_steps, "max_steps")
    if not 1 <= limit <= costs.T:
        raise InputError(f"max_steps lies in 1…{costs.T}, the length of the grid; got {limit}")
    if isinstance(costs, PairCosts):
        if method != "auto":
            raise InputError("costs over pairs of nodes have a solver of their own: leave method")
        return Plan(costs, limit, "pairs", Pairs(costs, limit))
    lines = costs.lines()
    if method == "envelope" and lines is None:
        raise InputError("these costs are no lines, which the envelope needs: use method='sweep'")
    if lines is not None and method in ("auto", "envelope"):
        return Plan(costs, limit, "envelope", Envelope(lines, limit))
    if method == "reference":
        return Plan(costs, limit, method, Reference(costs, limit))
    dtype = np.float32 if method == "sweep32" else np.float64
    method = "sweep" if method == "auto" else method
    return Plan(costs, limit, method, Sweep(costs, limit, dtype))


class Plan:
    """The least cost of every budget, and the schedules that attain it. Made by :func:`solve`.

    Attributes
    ----------
    T : int
        The length of the costs' grid: the training grid, or how many timesteps after 0 the costs
        know that do not know all. Schedules are timesteps always.
    max_steps : int
        The largest budget solved for.
    method : str
        The solver that was used.
    totals : (max_steps+1,) float64 array
        ``totals[K]`` is the least cost of a schedule with K steps, infinite where there is none;
        ``totals[0]`` is infinite.
    unit : Unit
        What the totals are shown in, such as bits/dim.
    """

    def __init__(
        self, costs: JumpCosts | PairCosts, max_steps: int, method: str, solver: Solver | Pairs
    ) -> None:
        self._costs, self._solver = costs, solver
        self.T, self.unit, self.totals = costs.T, costs.unit, solver.totals
        self.max_steps, self.method = max_steps, method

    def __repr__(self) -> str:
        return f"Plan(T={self.T}, max_steps={self.max_steps}, method={self.method!r})"

    @property
    def values(self) -> np.ndarray:
        """The totals in ``unit``: of measured costs, bits/dim with the prior's term included."""
        return self.unit(self.totals)

    def schedule(self, steps: int) -> Schedule:
        """The best schedule with a given number of steps.

        Raises
        ------
        InputError
            If the budget is outside 1…max_steps, or every path with so many steps is forbidden.
        """
        return self.schedules([steps])[0]

    def schedules(self, budgets: Iterable[int]) -> list[Schedule]:
        """The best schedules for several budgets; quicker than one by one on very long grids.

        Examples
        --------
        >>> plan = solve([[0, 0, 0, 0], [1, 0, 0, 0], [4, 1, 0, 0], [9, 4, 1, 0]])
        >>> [schedule.timesteps for schedule in plan.schedules([1, 3])]
        [(0, 3), (0, 1, 2, 3)]
        """
        checked = [whole_number(steps, "a number of steps") for steps in budgets]
        for steps in checked:
            if not 1 <= steps <= self.max_steps:
                raise InputError(f"the number of steps lies in 1…{self.max_steps}, got {steps}")
            if not self.totals[steps] < np.inf:
                raise InputError(f"no schedule has {steps} steps: every such path is forbidden")
        timesteps, about = self._costs.timesteps, dict(self._costs.about)
        return [Schedule(tuple(timesteps[path]), about) for path in self._solver.paths(checked)]

    def fewest_steps(self, within: float = 0.1) -> int:
        """The smallest budget whose cost is close to the best of all budgets.

        Parameters
        ----------
        within : float
            The allowance, in ``unit``.

        Examples
        --------
        >>> plan = solve([[0, 0, 0, 0], [1, 0, 0, 0], [4, 1, 0, 0], [9, 4, 1, 0]])
        >>> plan.fewest_steps(within=2)
        2
        """
        if not within >= 0:
            raise InputError(f"an allowance is zero or more, got {within}")
        if not self.values.min() < np.inf:
            raise InputError("no schedule reaches T: every path is forbidden")
        return 1 + int(np.argmax(self.values[1:] <= self.values.min() + within))

    @cached_property
    def forward(self) -> np.ndarray:
        """``C[k, t]``: the least cost of getting from 0 to t in k jumps, (max_steps+1, T+1)."""
        if isinstance(self._solver, Pairs):
            raise InputError(NO_TABLE)
        return self._solver.forward()

    @cached_property
    def backward(self) -> np.ndarray:
        """``B[k, s]``: the least cost of getting from T down to s in k jumps, (max_steps+1, T+1).

        ``forward[k, t] + backward[K-k, t]`` is the least cost of a K-step path whose k-th node
        is t, and its minimum over t is ``totals[K]`` for every k.
        """
        if isinstance(self._costs, PairCosts):
            raise InputError(NO_TABLE)
        return backward(self._costs, self.max_steps)


NO_TABLE = "costs over pairs of nodes have no table over single nodes"


def whole_number(value: Any, name: str) -> int:
    """An int, or an error that says what was asked for."""
    try:
        return index(value)
    except TypeError:
        raise InputError(f"{name} is a whole number, got {value!r}") from None


def best_paths(costs: Any, steps: int, count: int) -> list[tuple[float, Schedule]]:
    """The cheapest paths with exactly K jumps, not only the first of them.

    The recursion of :func:`dpdiff.solve` with the ``count`` best ways to every node instead of
    one: ``C_k(t)`` are the smallest sums ``C_{k-1}(s) + L(t, s)`` over all s and all ways to s.
    Exact, in O(K N² count).

    Parameters
    ----------
    costs : (T+1, T+1) array or costs
        As :func:`dpdiff.solve` takes them.
    steps : int
        K.
    count : int
        How many; fewer are returned where there are fewer.

    Returns
    -------
    list of (float, Schedule)
        Cheapest first.

    Examples
    --------
    >>> costs = [[0, 0, 0, 0], [1, 0, 0, 0], [4, 1, 0, 0], [9, 4, 1, 0]]
    >>> [(total, path.timesteps) for total, path in best_paths(costs, 2, 5)]
    [(5.0, (0, 2, 3)), (5.0, (0, 1, 3))]
    """
    costs = as_costs(costs)
    if not 1 <= steps <= costs.T or count < 1:
        raise InputError(
            f"steps lie in 1…{costs.T} and count is at least 1, got {steps} and {count}"
        )
    jumps = costs.rows(0, costs.T + 1)
    totals = np.full((costs.T + 1, count), np.inf)  # the ways to every node, cheapest first
    totals[0, 0] = 0
    origins = []
    for _ in range(steps):
        parts = [_cheapest(jumps[i : i + BLOCK], totals) for i in range(0, len(jumps), BLOCK)]
        totals, order = (np.concatenate(piece) for piece in zip(*parts, strict=True))
        origins.append((costs.T - order // count, order % count))
    best = []
    for rank, total in enumerate(totals[-1]):
        if total < np.inf:
            path, place = [costs.T], rank
            for origin, way in reversed(origins):
                path, place = [*path, origin[path[-1], place]], way[path[-1], place]
            best.append((float(total), Schedule(costs.timesteps[path[::-1]], dict(costs.about))))
    return best


def _cheapest(jumps: np.ndarray, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of some nodes, the cheapest ways through all others; which they are, the nearest first."""
    # From the nearest node on, so that of equals the shortest last jump comes first.
    bids = (jumps[:, ::-1, None] + totals[None, ::-1]).reshape(len(jumps), -1)
    order = np.argsort(bids, axis=1, kind="stable")[:, : totals.shape[1]]
    return np.take_along_axis(bids, order, axis=1), order
