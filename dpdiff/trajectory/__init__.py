"""Few steps that draw well: schedules from the many-step sampler's own trajectories.

The function :func:`dpdiff.trajectories`, in :mod:`~dpdiff.trajectory.run`, runs DDIM down a small
grid; :mod:`~dpdiff.trajectory.flow_costs` turns what it saw into the cost of every jump, and
:mod:`~dpdiff.trajectory.trajectories` holds the result. The folder's name is singular because a
module and a function cannot share one.
"""

from __future__ import annotations

from dpdiff.facade import lazy

_HOMES = {
    "Choice": "dpdiff.trajectory.choice",
    "Comparison": "dpdiff.trajectory.comparison",
    "FineRuns": "dpdiff.trajectory.fine_runs",
    "LeastLoss": "dpdiff.trajectory.ancestral",
    "Recommendation": "dpdiff.trajectory.trajectories",
    "SecondOrderCosts": "dpdiff.trajectory.second_order",
    "Trajectories": "dpdiff.trajectory.trajectories",
    "VarianceLoss": "dpdiff.trajectory.ancestral",
    "choose": "dpdiff.trajectory.choice",
    "variance_loss": "dpdiff.trajectory.ancestral",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
