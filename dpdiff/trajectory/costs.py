"""Costs on a grid of nodes, in the form that :func:`dpdiff.solve` takes."""

from __future__ import annotations

import numpy as np

from dpdiff.errors import InputError
from dpdiff.schedule import Schedule
from dpdiff.solvers.protocols import Table


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
