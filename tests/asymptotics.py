"""How many steps are enough: the law of many steps, for every variance rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dpdiff.costs.costs import REPLICATES
from dpdiff.errors import InputError

CLOSE = 128  # timesteps


class Law(NamedTuple):
    """What the best schedules of many steps cost, in bits/dim.

    Attributes
    ----------
    limit : float
        What infinitely many steps would cost, from the best first landing on.
    c, c_stderr : float
        K steps cost ``c/K`` more than that, for K that are large, but not so large that the
        grid is too coarse for them (see :func:`totals`); and the standard error of c.
    """

    limit: float
    c: float
    c_stderr: float


def waste(costs: Any) -> tuple[np.ndarray, np.ndarray]:
    """How steps should lie, and what the path costs besides: two integrals over the grid.

    A short jump over h timesteps costs its share of an integral, and ``¼ q h²`` more, whatever
    the rule. Two jumps of h cost ``½ q h²`` less than one jump over both, which gives q at each
    timestep from three costs. Among schedules of K jumps the waste is least where steps lie with
    the density ``√q``, and then ``A²/4K`` with ``A = ∫ √q dt``.

    Parameters
    ----------
    costs : Costs
        Smooth ones.

    Returns
    -------
    area, integral : ndarray, shape (T + 1,)
        A and the integral of the jumps' costs, from timestep 1 up to t; in √nats and nats.
    """
    T = costs.T
    t = np.arange(3, T + 1)
    h = np.minimum(np.maximum(1, t // 50), (t - 1) // 2)  # wide enough for small differences
    one = costs.jump_costs(t, t - 2 * h)
    two = costs.jump_costs(t, t - h) + costs.jump_costs(t - h, t - 2 * h)
    density = np.sqrt(np.maximum(2 * (one - two), 0)) / h  # √q over the middle of the three
    middle = np.interp(np.arange(2, T + 1), t - h, density)
    # A jump of one timestep, t → t - 1, less its own waste.
    steps = np.arange(2, T + 1)
    level = costs.jump_costs(steps, steps - 1) - middle**2 / 4
    return (np.concatenate([[0, 0], np.cumsum(values)]) for values in (middle, level))


def totals(costs: Any, budgets: Sequence[int]) -> np.ndarray:
    """Bits/dim that the law foresees for the best schedules of so many steps.

    The density of steps is ``√q`` where that is below one step a timestep, and one elsewhere:
    no schedule has more. Where many timesteps are full, as at the clean end of a coarse grid,
    the excess stops falling like ``c/K``.

    Parameters
    ----------
    costs : Costs
        Smooth ones.
    budgets : sequence of int
        Numbers of steps K, from 2 to T.

    Examples
    --------
    >>> import dpdiff
    >>> costs = dpdiff.load_costs("digits").smoothed().with_variance("small")
    >>> (totals(costs, [64]) / dpdiff.solve(costs, 64).values[64]).round(3)
    array([1.])
    """
    if min(budgets) < 2 or max(budgets) > costs.T:
        raise InputError(f"the law is about 2…{costs.T} steps, got {budgets}")
    area, integral = waste(costs)
    # First landings lie near the clean end; far from it, a coarse look is enough.
    close = np.arange(1, min(costs.T, CLOSE))
    first = np.unique([*close, *np.geomspace(1, costs.T - 1, CLOSE).astype(int)])
    ends = costs.decoder_costs[first] + integral[-1] - integral[first]
    roots = np.diff(area)
    wasted = [[_least_waste(roots[t:], steps - 1) for steps in budgets] for t in first]
    return costs.unit((ends[:, None] + wasted).min(axis=0))


def _least_waste(roots: np.ndarray, jumps: int) -> float:
    """The least ``¼ Σ q/ρ`` with densities ``ρ ≤ 1`` that sum to so many jumps."""
    if jumps > len(roots):
        return np.inf
    sharpest = np.sort(roots)[::-1]
    rest = sharpest[::-1].cumsum()[::-1][:jumps]
    full = int(np.argmax(sharpest[:jumps] * (jumps - np.arange(jumps)) <= rest))
    return ((sharpest[:full] ** 2).sum() + rest[full] ** 2 / (jumps - full)) / 4


def law(costs: Any, *, count: int = REPLICATES, seed: int = 0) -> Law:
    """The law of many steps for measured costs, with the error of its constant.

    Parameters
    ----------
    costs : Costs
        As :func:`dpdiff.measure` returns them, under the rule of interest.
    count, seed : int
        Draws for the standard error: see :meth:`dpdiff.Costs.replicates`.

    Examples
    --------
    >>> import dpdiff
    >>> costs = dpdiff.load_costs("digits").with_variance("small")
    >>> result = law(costs, count=2)
    >>> bool(3 < result.c < 5)
    True
    """
    limit, c = _constants(costs.smoothed())
    drawn = [_constants(draw)[1] for draw in costs.replicates(count, seed)]
    return Law(limit, c, float(np.std(drawn, ddof=1)))


def _constants(costs: Any) -> tuple[float, float]:
    area, integral = waste(costs)
    ends = costs.decoder_costs[1:] + integral[-1] - integral[1:]
    first = int(ends.argmin())
    return float(costs.unit(ends[first])), float((area[-1] - area[1 + first]) ** 2) / (
        4 * costs.unit.size
    )
