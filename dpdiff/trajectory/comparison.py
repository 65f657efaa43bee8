"""Schedules side by side: how far their samples are from the many-step sampler's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from dpdiff.denoiser import Denoiser
from dpdiff.sampling import sample
from dpdiff.schedule import Schedule


@dataclass(frozen=True, eq=False)
class Comparison:
    """Distances of samples to the teacher's from the same noise.

    Attributes
    ----------
    distances : dict of str to ndarray, shape (n,)
        Euclidean, over all dimensions, one a noise.
    seed : int
        Of the noises.

    Examples
    --------
    >>> both = {"even": np.array([2.0, 8.0]), "flow": np.array([2.0, 4.0])}
    >>> result = Comparison(both, seed=1)
    >>> result.mean("even"), round(result.geometric_mean("even"), 6)
    (5.0, 4.0)
    >>> result.difference("flow", "even")
    (-2.0, 2.0)
    """

    distances: dict[str, np.ndarray] = field(repr=False)
    seed: int

    def __str__(self) -> str:
        """A table, the nearest first."""
        lines = [f"{'schedule':16} {'mean':>9} {'stderr':>8} {'geometric':>10}"]
        for name in sorted(self.distances, key=self.mean):
            values = (self.mean(name), self.stderr(name), self.geometric_mean(name))
            lines.append("{:16} {:9.4f} {:8.4f} {:10.4f}".format(name, *values))
        return "\n".join(lines)

    def mean(self, name: str) -> float:
        """Mean distance of one schedule."""
        return float(self.distances[name].mean())

    def stderr(self, name: str) -> float:
        """Standard error of the mean."""
        return _stderr(self.distances[name])

    def geometric_mean(self, name: str) -> float:
        """Geometric mean: distances have heavy tails."""
        smallest = np.finfo(float).tiny
        return float(np.exp(np.log(np.maximum(self.distances[name], smallest)).mean()))

    def difference(self, one: str, other: str) -> tuple[float, float]:
        """Mean distance of one less that of another, and the standard error, noise by noise."""
        gap = self.distances[one] - self.distances[other]
        return float(gap.mean()), _stderr(gap)

    def ratio(self, one: str, other: str) -> tuple[float, float]:
        """Ratio of the geometric means, and its standard error, noise by noise."""
        smallest = np.finfo(float).tiny
        a, b = (np.log(np.maximum(self.distances[name], smallest)) for name in (one, other))
        value = float(np.exp((a - b).mean()))
        return value, value * _stderr(a - b)

    @property
    def best(self) -> str:
        """The name with the smallest mean; of equals, the one that was given first."""
        return min(self.distances, key=self.mean)


def compare(
    denoiser: Denoiser,
    schedules: Mapping[str, Schedule],
    goal: np.ndarray,
    seed: int,
    batch_size: int,
    progress: bool,
) -> Comparison:
    """See :meth:`dpdiff.trajectory.paths.Trajectories.compare`; ``goal`` is the teacher's ends."""
    bar = tqdm({*schedules.values()}, desc="compare", disable=not progress)
    far = {
        schedule: np.linalg.norm(
            drawn(denoiser, schedule, len(goal), seed, batch_size, False) - goal, axis=1
        )
        for schedule in bar
    }
    return Comparison({name: far[schedule] for name, schedule in schedules.items()}, seed)


def drawn(
    denoiser: Denoiser, schedule: Schedule, n: int, seed: int, batch_size: int, progress: bool
) -> np.ndarray:
    """DDIM's samples from a seed's noises, float64, shape (n, D)."""
    samples = sample(
        denoiser, schedule, n, seed=seed, sampler="ddim", batch_size=batch_size, progress=progress
    )
    return samples.flatten(1).double().numpy()


def _stderr(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))
