"""What the parts of this folder read of :class:`dpdiff.trajectory.paths.Trajectories`."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from dpdiff.denoiser import Denoiser
from dpdiff.schedule import Schedule
from dpdiff.trajectory.bands import Bands
from dpdiff.trajectory.comparison import Comparison
from dpdiff.trajectory.costs import NodeCosts


class Runs(Protocol):
    """Runs of the teacher, as :func:`dpdiff.trajectories` returns them."""

    denoiser: Denoiser
    nodes: np.ndarray
    ends: np.ndarray
    bands: Bands
    grams: np.ndarray
    provenance: dict[str, Any]

    @property
    def spread(self) -> float: ...

    @property
    def teacher(self) -> Schedule: ...

    def costs(self, kind: str = "flow", weights: np.ndarray | None = None) -> NodeCosts: ...

    def compare(self, schedules: Any, n: int, *, seed: Any, progress: bool) -> Comparison: ...
