"""Schedules side by side: how near their samples are to the teacher's, and steps moved nearer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from dpdiff.denoiser import Denoiser
from dpdiff.sampling import sample, sampler_for
from dpdiff.schedule import Schedule

FARTHEST = 4  # nodes that a step is moved at once


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
        return _standard_error(self.distances[name])

    def geometric_mean(self, name: str) -> float:
        """Geometric mean: distances have heavy tails."""
        smallest = np.finfo(float).tiny
        return float(np.exp(np.log(np.maximum(self.distances[name], smallest)).mean()))

    def difference(self, one: str, other: str) -> tuple[float, float]:
        """Mean distance of one less that of another, and the standard error, noise by noise."""
        gap = self.distances[one] - self.distances[other]
        return float(gap.mean()), _standard_error(gap)

    def ratio(self, one: str, other: str) -> tuple[float, float]:
        """Ratio of the geometric means, and its standard error, noise by noise."""
        smallest = np.finfo(float).tiny
        a, b = (np.log(np.maximum(self.distances[name], smallest)) for name in (one, other))
        value = float(np.exp((a - b).mean()))
        return value, value * _standard_error(a - b)

    @property
    def best(self) -> str:
        """The name with the smallest mean; of equals, the one that was given first."""
        return min(self.distances, key=self.mean)


def compare_schedules(
    denoiser: Denoiser,
    schedules: Mapping[str, Schedule],
    goal: np.ndarray,
    seed: int,
    batch_size: int,
    progress: bool,
    features: Callable[[Tensor], Any] | None = None,
) -> Comparison:
    """See :meth:`Trajectories.compare`; ``goal`` is the teacher's ends."""
    keys = {name: (schedule, own_sampler(schedule)) for name, schedule in schedules.items()}
    far = {
        key: np.linalg.norm(
            drawn_points(denoiser, key[0], len(goal), seed, batch_size, False, features) - goal,
            axis=1,
        )
        for key in tqdm({*keys.values()}, desc="compare", disable=not progress)
    }
    return Comparison({name: far[key] for name, key in keys.items()}, seed)


def own_sampler(schedule: Schedule) -> str:
    """The name of the sampler that a schedule is for; DDIM's where it does not say."""
    return sampler_for(schedule, None if "sampler" in schedule.provenance else "ddim").name


def drawn_points(
    denoiser: Denoiser,
    schedule: Schedule,
    n: int,
    seed: int,
    batch_size: int,
    progress: bool,
    features: Callable[[Tensor], Any] | None = None,
) -> np.ndarray:
    """A schedule's own sampler's points from a seed's noises, or their features; float64."""
    sampler = own_sampler(schedule)
    samples = sample(
        denoiser, schedule, n, seed=seed, sampler=sampler, batch_size=batch_size, progress=progress
    )
    if features is not None:
        return np.asarray(features(samples), np.float64).reshape(n, -1)
    return samples.flatten(1).double().numpy()


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def first_noises(n: int) -> int:
    """How many of n noises a move is looked at with first.

    Examples
    --------
    >>> first_noises(4), first_noises(16), first_noises(64)
    (4, 8, 16)
    """
    return min(n, max(8, n // 4))


def nearer(
    schedule: Schedule,
    least: np.ndarray,
    nodes: np.ndarray,
    distances: Callable[[Schedule, int], np.ndarray],
    moves: int,
    bar: tqdm,
) -> tuple[Schedule, np.ndarray]:
    """Move steps as long as samples come nearer, by more than chance would have it.

    Every inner step is tried some nodes up and down, four at first, then two, then one. A move
    stays if the mean distance falls by more than the standard error of the difference. Most do
    not, and a quarter of the noises is enough to see it.

    Parameters
    ----------
    schedule : Schedule
        Where to begin.
    least : ndarray, shape (n,)
        The distances of its samples.
    nodes : ndarray of int
        Where steps may go.
    distances : callable
        ``distances(schedule, n)`` of samples from the first n noises.
    moves : int
        How many to try at most.
    bar : tqdm
        Told of every one.

    Returns
    -------
    Schedule, ndarray
        The best one, and its distances.
    """
    tried, few = {schedule}, first_noises(len(least))
    reach = FARTHEST
    while reach:
        before = schedule
        for step in range(1, schedule.steps):
            for moved in _moved(schedule, step, reach, nodes):
                if moved in tried:
                    continue
                if len(tried) > moves:
                    return schedule, least
                tried.add(moved)
                bar.update()
                if distances(moved, few).mean() >= least[:few].mean():
                    continue
                values = distances(moved, len(least))
                gap = values - least
                if gap.mean() < -gap.std(ddof=1) / np.sqrt(len(gap)):
                    schedule, least = moved, values
        if schedule == before:
            reach //= 2
    return schedule, least


def _moved(schedule: Schedule, step: int, reach: int, nodes: np.ndarray) -> Iterator[Schedule]:
    """One step so many nodes down and up, where it stays between its neighbours."""
    before, here, after = schedule.timesteps[step - 1 : step + 2]
    place = int(np.searchsorted(nodes, here))
    for there in (place - reach, place + reach):
        if 0 < there < len(nodes) and before < nodes[there] < after:
            timesteps = [*schedule.timesteps]
            timesteps[step] = int(nodes[there])
            yield Schedule(timesteps)
