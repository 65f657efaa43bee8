"""A few hundred timesteps of a grid: the same problem, a hundred times cheaper to solve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dpdiff.costs.design import spread
from dpdiff.schedule import Schedule
from dpdiff.solvers.plan import Plan, solve
from dpdiff.solvers.protocols import Lines, Unit

NODES = 512


class Thinned:
    """Costs of the jumps between some timesteps only; costs themselves.

    Parameters
    ----------
    costs : Costs
        Of the whole grid.
    nodes : ndarray of int, optional
        Rising, from 0 to T; by default 0 and 512 timesteps as :func:`spread` lays them,
        or all of a shorter grid.

    Examples
    --------
    >>> import dpdiff
    >>> costs = dpdiff.load_costs("digits").with_variance("small")
    >>> few = Thinned(costs.smoothed())
    >>> few.schedules([4])[0].steps
    4
    """

    def __init__(self, costs: Any, nodes: np.ndarray | None = None) -> None:
        self.costs = costs
        if nodes is None:
            whole = costs.T <= NODES
            nodes = np.arange(costs.T + 1) if whole else np.append(0, spread(costs.noise, NODES))
        self.nodes, self.T = nodes, len(nodes) - 1

    @property
    def unit(self) -> Unit:
        """That of the whole grid's costs."""
        return self.costs.unit

    def lines(self) -> Lines | None:
        """Those of the whole grid's costs that belong to the nodes."""
        lines = self.costs.lines()
        return lines and Lines(*(part[self.nodes] for part in lines))

    def rows(self, start: int, stop: int) -> np.ndarray:
        """A block of the table between nodes."""
        block = np.full((stop - start, stop), np.inf)
        place = np.arange(max(start, 1), stop)
        t, s = self.nodes[place][:, None], self.nodes[None, 1:stop]
        with np.errstate(all="ignore"):  # entries above the diagonal are thrown away
            block[place - start, 1:] = np.where(s < t, self.costs.jump_costs(t, s), np.inf)
        block[place - start, 0] = self.costs.decoder_costs[self.nodes[place]]
        return block

    def plan(self, max_steps: int) -> Plan:
        """The solution between the nodes."""
        return solve(self, min(max_steps, self.T))

    def schedules(self, budgets: Sequence[int], plan: Plan | None = None) -> list[Schedule]:
        """The best schedules among the nodes, of no more steps than there are."""
        steps = [min(k, self.T) for k in budgets]
        plan = plan or self.plan(max(steps))
        return plan.schedules(steps)
