"""From the best paths of a cost to the one whose samples are best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from dpdiff import strides
from dpdiff.errors import InputError
from dpdiff.schedule import Schedule
from dpdiff.solvers.plan import schedule_of, solve
from dpdiff.solvers.protocols import as_costs, checked
from dpdiff.solvers.reference import BLOCK
from dpdiff.trajectory.comparison import Comparison
from dpdiff.trajectory.moving import nearer
from dpdiff.trajectory.runs import Runs


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
    jumps = checked(costs.rows, 0, costs.T + 1)
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
            best.append((float(total), schedule_of(costs, [int(i) for i in path[::-1]])))
    return best


def _cheapest(jumps: np.ndarray, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of some nodes, the cheapest ways through all others; which they are, the nearest first."""
    # From the nearest node on, so that of equals the shortest last jump comes first.
    bids = (jumps[:, ::-1, None] + totals[None, ::-1]).reshape(len(jumps), -1)
    order = np.argsort(bids, axis=1, kind="stable")[:, : totals.shape[1]]
    return np.take_along_axis(bids, order, axis=1), order


@dataclass(frozen=True)
class Recommendation:
    """The schedule to use, and what it was chosen from.

    Attributes
    ----------
    schedule : Schedule
    name : str
        ``flow`` is the cheapest path, ``flow 2``, ``flow 3`` … the next ones; ``aligned`` and
        ``plain`` are the other costs' optima; ``moved`` is the best of all these with some of
        its steps moved; and the rest are rivals.
    comparison : Comparison
        Of all candidates, on the noises that chose.
    candidates : dict of str to Schedule
        What was compared.
    """

    schedule: Schedule
    name: str
    comparison: Comparison
    candidates: dict[str, Schedule]


def largest_budget(paths: Runs) -> int:
    """A quarter of the nodes, for a jump between neighbours costs nothing; all that T allows."""
    nodes, T = len(paths.nodes) - 1, paths.denoiser.noise.T
    return T if nodes == T else max(1, nodes // 4)


def recommend(
    paths: Runs,
    steps: int,
    rivals: Mapping[str, Schedule] | None,
    candidates: int,
    moves: int,
    n: int,
    seed: int,
    progress: bool,
) -> Recommendation:
    """See :meth:`dpdiff.trajectory.paths.Trajectories.recommend`."""
    most = largest_budget(paths)
    if not 1 <= steps <= most:
        raise InputError(
            f"{len(paths.nodes) - 1} nodes serve budgets of 1…{most} steps, a quarter of them; got "
            f"{steps}: run trajectories() with nodes = {min(4 * steps, paths.denoiser.noise.T)}"
        )
    if not paths.spread > 0:
        raise InputError("the model draws the same from every noise: there is nothing to choose by")
    if rivals is None:
        rivals = strides.usual(paths.denoiser.noise, steps, paths.spread**2 / paths.ends.shape[1])
    best = best_paths(paths.costs(), steps, candidates)
    names = ["flow", *(f"flow {i}" for i in range(2, len(best) + 1))]
    everything = {name: path for name, (_, path) in zip(names, best, strict=True)}
    for kind in ("aligned", "plain"):  # at times they are nearer
        everything[kind] = solve(paths.costs(kind), steps).schedule(steps)
    everything |= {name: rival for name, rival in rivals.items() if name not in everything}
    comparison = paths.compare(everything, n, seed=seed, progress=progress)
    best, least = everything[comparison.best], comparison.distances[comparison.best]

    def distances(schedule: Schedule, n: int) -> np.ndarray:
        return paths.compare({"": schedule}, n, seed=seed, progress=False).distances[""]

    with tqdm(total=moves, desc="move", disable=not progress) as bar:
        moved, values = nearer(best, least, paths.nodes, distances, moves, bar)
    if moved != best:
        everything["moved"] = moved
        comparison = Comparison({**comparison.distances, "moved": values}, seed)
    name = comparison.best
    about = {
        "noise_schedule": paths.denoiser.noise.fingerprint,
        "sampler": "ddim",
        "chosen": name,
        "of": list(everything),
        "distance": comparison.mean(name) / paths.spread,
        "stderr": comparison.stderr(name) / paths.spread,
        "trajectories": paths.provenance,
    }
    schedule = Schedule(everything[name].timesteps, about)
    return Recommendation(schedule, name, comparison, everything)


def fewest_steps(paths: Runs, within: float, n: int, seed: int | None, progress: bool) -> int:
    """See :meth:`dpdiff.trajectory.paths.Trajectories.fewest_steps`."""
    most = largest_budget(paths)
    plan = solve(paths.costs(), most)

    def share(steps: int) -> float:
        schedules = {"flow": plan.schedule(steps)}
        best = paths.compare(schedules, n, seed=seed, progress=progress)
        return best.mean("flow") / paths.spread

    if not share(most) <= within:
        raise InputError(
            f"{most} steps are not within {within:g} of the teacher, and these trajectories "
            "serve no larger budget: run trajectories() with more nodes"
        )
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if share(middle) <= within else (middle, high)
    return high


def resampled(paths: Runs, steps: int, resamples: int, kind: str, seed: int) -> np.ndarray:
    """See :meth:`dpdiff.trajectory.paths.Trajectories.resampled`."""
    groups = len(paths.grams)
    if groups < 4:
        raise InputError(f"a bootstrap needs four groups of noises or more, here are {groups}")
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples)
    plans = (solve(paths.costs(kind, weights), steps) for weights in draws.astype(float))
    return np.array([plan.schedule(steps).timesteps for plan in plans])
