"""Steps moved one by one to where samples are nearer: what a sum over jumps does not see."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from tqdm import tqdm

from dpdiff.schedule import Schedule

FARTHEST = 4  # nodes that a step is moved at once


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
