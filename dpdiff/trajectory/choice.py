"""The few-step solver to use: fitted ones and stock ones, judged on noises of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from dpdiff import strides
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.runtime.workers import ALONE, Workers
from dpdiff.schedule import Schedule
from dpdiff.trajectory.comparison import Comparison, compare_schedules, drawn_points
from dpdiff.trajectory.fine_runs import CALLS, FineRuns, affordable, fine_runs

SHARE = 0.56  # of the calls that find solvers; the others compare them
CANDIDATES = 5


class Choice(NamedTuple):
    """A solver, and what it was chosen from.

    Attributes
    ----------
    solver : Schedule
        With coefficients if it is a fitted one; its provenance says which sampler draws from it,
        its ``distance``, ``stderr`` and the ``teacher_error``.
    name : str
        ``fitted``, ``2m found`` …
    comparison : Comparison or None
        Of all candidates, on noises that nothing was fitted to; None if nothing was compared.
    candidates : dict of str to Schedule
    """

    solver: Schedule
    name: str
    comparison: Comparison | None
    candidates: dict[str, Schedule]


def choose(
    denoiser: Denoiser,
    steps: int,
    calls: int = CALLS,
    *,
    sampler: str | None = None,
    compare: bool = True,
    features: Callable[[Tensor], Any] | None = None,
    seed: int = 0,
    batch_size: int = 32,
    resume: str | Path | None = None,
    workers: Workers = ALONE,
    progress: bool = True,
) -> Choice:
    """The few-step solver whose samples are nearest to the many-step sampler's.

    Candidates are a solver fitted to the model; UniPC, DPM-Solver++(2M) and DDIM on nodes found for
    DDIM; and 2M on Karras' stride. They draw from held-out noises, and the nearest to the teacher's
    end points from the same noises is taken.

    Parameters
    ----------
    denoiser : Denoiser
        The model as it will be drawn from: clipped or not, guided or not.
    steps : int
        K, network calls of one sample.
    calls : int
        At most so many network calls in all. Without ``compare`` all of them go into the fit.
    sampler : {"fitted", "unipc", "2m", "ddim"}, optional
        Only candidates for this sampler.
    compare : bool
        Whether to compare; without, it is the fitted solver, or the sampler's on nodes found.
    features : callable, optional
        Of samples (n, ...) as a tensor: distances are of these features, in place of pixels.
    seed : int
        Of the noises to fit to; those to compare on are the next seed's.
    batch_size, resume, workers, progress
        As of :func:`dpdiff.trajectory.fine_runs.fine_runs`.

    Returns
    -------
    Choice

    Raises
    ------
    InputError
        If an argument is out of range.

    Examples
    --------
    >>> from dpdiff.noise import NoiseSchedule
    >>> shrink = Denoiser(lambda x, index: 0.3 * x, NoiseSchedule.cosine(100), shape=(2,))
    >>> choice = choose(shrink, 3, progress=False)
    >>> sorted(choice.candidates), choice.solver.steps
    (['2m Karras', '2m found', 'ddim found', 'fitted', 'unipc found'], 3)
    """
    known = ("fitted", "unipc", "2m", "ddim")
    if sampler not in (None, *known):
        raise InputError(f"sampler is one of {', '.join(known)}, or None for any; got {sampler!r}")
    n, nodes, noises = spent(steps, calls, compare, denoiser.noise.T)
    settings = {"batch_size": batch_size, "resume": resume, "workers": workers}
    runs = fine_runs(denoiser, n, nodes, seed=seed, progress=progress, **settings)
    candidates = _candidates(runs, steps, sampler)
    name, comparison = next(iter(candidates)), None
    if compare:
        comparison = _compared(runs, candidates, noises, features, progress)
        name = comparison.best
    about = candidates[name].provenance | {"chosen": name, "of": list(candidates)}
    if comparison:
        about |= {"distance": comparison.mean(name), "stderr": comparison.stderr(name)}
        about |= {"held_out": len(comparison.distances[name]), "held_out_seed": comparison.seed}
    solver = Schedule(candidates[name].timesteps, about, candidates[name].coefficients)
    return Choice(solver, name, comparison, candidates)


def spent(steps: int, calls: int, compare: bool, T: int) -> tuple[int, int, int]:
    """What so many calls buy: noises and nodes of the fit, and noises to compare on.

    Raises
    ------
    InputError
        If they do not suffice for either.
    """
    share = int(SHARE * calls) if compare else calls
    n, nodes = affordable(steps, share, T)
    price = nodes + steps * CANDIDATES
    noises = (calls - share) // price
    if compare and noises < 2:
        least = math.ceil(2 * price / (1 - SHARE))
        raise InputError(
            f"{steps} steps are compared with {least} network calls or more, got {calls}: with "
            "--no-compare, or compare=False, they are fitted alone"
        )
    return n, nodes, noises


def _candidates(runs: FineRuns, steps: int, sampler: str | None) -> dict[str, Schedule]:
    """The fitted solver and its rivals, the best guess first."""
    paths, noise, about = runs.paths(steps), runs.denoiser.noise, runs.about
    flow = paths.get("flow", paths["pairs"])
    found = {
        f"{name} found": Schedule(flow.timesteps, about | {"sampler": name})
        for name in ("unipc", "2m", "ddim")
    }
    karras = strides.karras(noise, steps).timesteps
    found["2m Karras"] = Schedule(karras, about | {"sampler": "2m"})
    if sampler in (None, "fitted"):
        found = {"fitted": runs.fit_best(steps)} | found
    return {
        name: one for name, one in found.items() if sampler in (None, one.provenance["sampler"])
    }


def _compared(
    runs: FineRuns,
    candidates: dict[str, Schedule],
    n: int,
    features: Callable[[Tensor], Any] | None,
    progress: bool,
) -> Comparison:
    """Distances to the teacher's end points from other noises than it was run from."""
    teacher = Schedule(runs.nodes, {"sampler": ("ddim", "2m")[runs.order - 1]})
    seed, size = runs.seed + 1, len(runs.blocks[0].x_T)
    goal = drawn_points(runs.denoiser, teacher, n, seed, size, False, features)
    return compare_schedules(runs.denoiser, candidates, goal, seed, size, progress, features)
