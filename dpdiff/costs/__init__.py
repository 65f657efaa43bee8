"""What every jump costs a model: measured in one pass over the grid, kept, smoothed, compared."""

from __future__ import annotations

from dpdiff.facade import lazy

_HOMES = {
    "Costs": "dpdiff.costs.costs",
    "Estimate": "dpdiff.costs.costs",
    "Sample": "dpdiff.costs.smoothing",
    "measure": "dpdiff.costs.measurement",
    "node_functions": "dpdiff.costs.statistics",
    "per_image": "dpdiff.costs.statistics",
    "uncertainty": "dpdiff.costs.bootstrap",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
