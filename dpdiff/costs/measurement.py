"""Measuring what every jump costs: at a few timesteps, or at all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dpdiff import data, noising, strides
from dpdiff.costs import statistics
from dpdiff.costs.bootstrap import uncertainty
from dpdiff.costs.costs import VERSION, Costs
from dpdiff.costs.smoothing import ROUGH, Sample
from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.errors import InputError, check_counts
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import random_streams
from dpdiff.runtime.batches import Batches, concatenated, cut, joined
from dpdiff.runtime.checkpoints import Checkpoints, locked
from dpdiff.runtime.formats import Arrays
from dpdiff.runtime.workers import ALONE, Workers
from dpdiff.version import __version__

TIMESTEPS = 97  # hold a model: interpolation loses less than 0.01 bits/dim at any budget
FEWEST = 25
IMAGES = 20  # that each timestep should see before there are more timesteps
DENSE = 16  # images a timestep where a network must be measured at every timestep
LEAST_CALLS = 1000  # of a measurement that was left to itself
FIRST_IMAGES = 10  # of the first of several rounds
REPLICATES = 40  # that decide whether there is another round


@dataclass(frozen=True, eq=False)
class Stage:
    """Timesteps, and the images that each of them is shown.

    Attributes
    ----------
    number : int
        0 of a measurement of every timestep, 1, 2 … of rounds at a few.
    timesteps : ndarray of int
        Rising.
    images : int
        How many each sees.
    rows : callable
        ``rows(t)``, which images timestep t sees.
    """

    number: int
    timesteps: np.ndarray
    images: int
    rows: Callable[[int], np.ndarray]

    @property
    def calls(self) -> int:
        """How often the network is called, one image each."""
        return len(self.timesteps) * self.images

    @property
    def every_step(self) -> bool:
        """Whether it is a measurement of every timestep."""
        return self.number == 0


def every_timestep(T: int, count: int, per_step: int, seed: int) -> Stage:
    """Every timestep sees so many of ``count`` images, each the next ones of a shuffled list.

    Examples
    --------
    >>> every_timestep(4, count=3, per_step=3, seed=0).rows(1)
    array([0, 1, 2])
    """
    per_step = min(max(2, per_step), count)
    shuffled = np.random.default_rng(seed).permutation(count)

    def rows(t: int) -> np.ndarray:
        if per_step == count:
            return np.arange(count)
        return shuffled[(t * per_step + np.arange(per_step)) % count]

    return Stage(0, np.arange(1, T + 1), per_step, rows)


def few_timesteps(noise: NoiseSchedule, count: int, calls: int, seed: int) -> Stage | None:
    """At most so many calls: a few timesteps, and the same images at each.

    Parameters
    ----------
    noise : NoiseSchedule
        The grid.
    count : int
        How many images there are.
    calls : int
        The limit.
    seed : int
        Decides which images are taken.

    Returns
    -------
    Stage or None
        None where every timestep may as well be measured: short grids, and few images.

    Raises
    ------
    InputError
        If the calls do not give two images at 25 timesteps, or at all of a shorter grid.

    Examples
    --------
    >>> stage = few_timesteps(NoiseSchedule.linear(1000), count=5000, calls=4000, seed=0)
    >>> len(stage.timesteps), stage.images
    (96, 41)
    """
    least = 2 * min(FEWEST, noise.T)
    if calls < least:
        raise InputError(f"a measurement takes at least {least} calls, got {calls}")
    number = max(FEWEST, min(TIMESTEPS, calls // IMAGES), calls // count)
    if number >= noise.T:
        return None
    timesteps = strides.spread(noise, number)
    return first_round(timesteps, count, calls // len(timesteps), seed)


def first_round(timesteps: np.ndarray, count: int, images: int, seed: int) -> Stage:
    """So many of ``count`` images at some timesteps."""
    chosen = np.random.default_rng(seed).permutation(count)[:images]
    return Stage(1, timesteps, len(chosen), lambda t: chosen)


def next_round(before: Stage, done: int, count: int, seed: int) -> Stage | None:
    """As many images again as all rounds so far have seen; None if there are no two left."""
    chosen = np.random.default_rng(seed).permutation(count)[done : 2 * done]
    if len(chosen) < 2:
        return None
    return Stage(before.number + 1, before.timesteps, len(chosen), lambda t: chosen)


def first_stage(noise: NoiseSchedule, count: int, request: dict[str, Any], seed: int) -> Stage:
    """What is measured first: all that was asked for, or what may turn out to be enough of it.

    Parameters
    ----------
    noise : NoiseSchedule
        The grid.
    count : int
        How many images there are.
    request : dict
        ``calls``, ``regret`` and ``per_step``, as for :func:`measure`.
    seed : int
        Decides which images are taken.
    """
    if request["per_step"] is not None:
        return every_timestep(noise.T, count, request["per_step"], seed)
    if request["regret"] is not None and 2 * TIMESTEPS < noise.T:  # short grids: all at once
        timesteps = strides.spread(noise, TIMESTEPS)
        images = max(FIRST_IMAGES, noise.T // (4 * len(timesteps)))
        return first_round(timesteps, count, images, seed)
    calls = request["calls"] or max(noise.T, LEAST_CALLS)
    few = few_timesteps(noise, count, calls, seed)
    return few or every_timestep(noise.T, count, calls // noise.T, seed)


class Output(NamedTuple):
    """What the network said of some images, and what follows from that image by image."""

    batch: noising.Batch
    prediction: Prediction
    values: dict[str, Tensor]

    def cpu(self) -> Output:
        x0, v = self.prediction
        prediction = Prediction(x0.cpu(), None if v is None else v.cpu())
        return Output(self.batch, prediction, {k: x.cpu() for k, x in self.values.items()})


def measured(
    denoiser: Denoiser,
    images: np.ndarray,
    stage: Stage,
    seed: int,
    batches: Batches,
    kept: Checkpoints | None = None,
) -> Arrays:
    """The statistics of a stage: all images of its timesteps, put through the network.

    Parameters
    ----------
    denoiser : Denoiser
        The model.
    images : ndarray, shape (N, ...)
        As :func:`dpdiff.data.check` returns them.
    stage : Stage
        What to measure.
    seed : int
        Of the noise.
    batches : Batches
        The loop that calls the network.
    kept : Checkpoints, optional
        Where finished blocks are kept.

    Returns
    -------
    dict of ndarray, shape (timesteps, ...)
        Moments where every timestep is measured, else every image's values; the same for every
        worker.
    """

    def prepare(timesteps: np.ndarray) -> noising.Batch:
        rows = np.concatenate([stage.rows(t) for t in timesteps])
        return noising.prepare(denoiser, images, timesteps.repeat(stage.images), rows, seed)

    def ask(batch: noising.Batch) -> Output:
        x0, prediction = noising.predict(denoiser, batch)
        batches.called(batch.t, prediction.x0)
        return Output(batch, prediction, statistics.per_image(denoiser, batch.t, x0, prediction))

    def finish(outputs: list[Output], timesteps: np.ndarray) -> Arrays:
        mse = torch.cat([values["mse"].cpu() for _, _, values in outputs])
        mse = mse.reshape(len(timesteps), -1).mean(1).repeat_interleave(stage.images)
        parts = mse.split([len(batch) for batch, _, _ in outputs])
        for (batch, prediction, values), mean in zip(outputs, parts, strict=True):
            x0 = batch.x0.to(prediction.x0.device)
            values |= statistics.decoders(denoiser, batch.t, x0, prediction, mean)
        names = outputs[0].values
        values = {k: concatenated([output.values[k].cpu() for output in outputs]) for k in names}
        return statistics_of(values, len(timesteps))

    statistics_of = statistics.moments if stage.every_step else statistics.single
    # Timesteps whose images share a network call: results depend on no others.
    pieces = cut(stage.timesteps, max(1, batches.batch_size // stage.images))
    calls = [len(timesteps) * stage.images for timesteps in pieces]
    return joined(batches.run(ask, pieces, prepare, finish, calls=calls, kept=kept))


def measure(
    denoiser: Denoiser,
    images: Any,
    *,
    calls: int | None = None,
    regret: float | None = None,
    per_step: int | None = None,
    budgets: Sequence[int] = strides.BUDGETS,
    variance: str | None = None,
    seed: int = 0,
    batch_size: int = 256,
    resume: str | Path | None = None,
    workers: Workers = ALONE,
    progress: bool = True,
) -> Costs:
    """Measure what every jump costs a denoiser.

    A network call shows the network one image at one timestep ``t``; from ``x̂_0`` and ``v`` come
    the statistics that give ``L(t, s)`` for all ``s`` at once (Watson et al. 2021, section 3.2)
    under every variance rule. These are smooth along log SNR. So by default a hundred timesteps
    are looked at, all with the same images, and the rest is interpolated: as many calls as
    drawing one sample with all steps. A network that is not smooth is recognised, and measured
    at every timestep with 16 images; a line on stderr says so.

    How much is measured is said in one of three ways, of which ``calls`` is the default.

    Parameters
    ----------
    denoiser : Denoiser
        The model.
    images : array_like, shape (N, ...)
        Integers ``0 … levels - 1`` (floats if ``denoiser.levels`` is None), best of images that
        the network was not fitted to: a small set is remembered, and its costs are too low.
    calls : int, optional
        At most so many network calls, one image each; by default T, but at least 1,000.
    regret : float, optional
        Measure in rounds, each as large as all before, until schedules are estimated to lose
        less than this (bits/dim) against the best ones at every budget, with 95 % confidence,
        or until the images are used up.
    per_step : int, optional
        Measure every timestep, with so many images each and no interpolation. If fewer than N,
        every timestep takes the next ones of a shuffled list, so that all images are used.
    budgets : sequence of int
        Numbers of steps that ``regret`` is about; those above T are left out.
    variance : str, optional
        The variance rule that ``regret`` is about; by default the denoiser's own.
    seed : int
        Decides which images are shown, and the noise. Batches do not.
    batch_size : int
        Images that are put through the network together; halved whenever a GPU's memory does
        not hold them. Another one changes the results by rounding only.
    resume : str or Path, optional
        A folder for finished blocks. Killed at any moment, and called again with the same
        arguments, the measurement goes on from there and ends with the same bits. Other
        arguments are refused; of the images, 256 are compared. Delete the folder once the costs
        are saved.
    workers : Workers
        Processes to share the work with, each calling this function: see
        :func:`dpdiff.runtime.join`. They must see the same ``resume`` folder. Their number
        changes nothing in the results.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Costs
        Under the denoiser's own variance rule; the same for every worker.
        ``provenance["calls"]`` tells how many calls it took.

    Raises
    ------
    InputError
        If the images do not suit the denoiser, or the network's output is not finite or of a
        wrong shape; if more than one amount is given, or one that is too small; if the folder
        is another job's, in use, or cannot be written to.

    Examples
    --------
    >>> from dpdiff.noise import NoiseSchedule
    >>> silent = Denoiser(lambda x, index: 0 * x, NoiseSchedule.cosine(8), shape=(2,))
    >>> costs = measure(silent, np.full((3, 2), 200), per_step=3, progress=False)
    >>> costs.table().shape
    (9, 9)
    """
    noising.check_likelihood(denoiser)
    images = data.check(images, denoiser.shape, denoiser.levels)
    random_streams.check_seed(seed)
    request: dict[str, Any] = {"calls": calls, "regret": regret, "per_step": per_step}
    _check(request, len(images), batch_size)
    if regret is not None:
        request["budgets"] = [int(k) for k in budgets]
        request["variance"] = variance or denoiser.variance
    about = _provenance(denoiser, images, seed, batch_size)
    job = None if resume is None else _job(about, request, images)
    batches = Batches("measure", batch_size, workers, progress)
    stage, sample = first_stage(denoiser.noise, len(images), request, seed), None
    with locked(resume, workers):
        while True:
            kept = None if job is None else Checkpoints(resume, job, stage.number)
            values = measured(denoiser, images, stage, seed, batches, kept)
            if stage.every_step:
                about |= {"per_step": stage.images, "calls": stage.calls}
                if sample:
                    about["roughness"] = round(sample.roughness, 3)
                values = {k: np.concatenate([np.zeros_like(v[:1]), v]) for k, v in values.items()}
                return _costs(denoiser, images, values, about)
            new = Sample(denoiser.noise, stage.timesteps, values)
            sample = sample.with_more(new) if sample else new
            if stage.number == 1 and sample.roughness > ROUGH:
                stage = every_timestep(denoiser.noise.T, len(images), DENSE, seed)
                batches.say(_rough(sample, stage), always=True)
                continue
            costs = _costs(denoiser, images, sample.statistics(), about | _facts(sample), sample)
            if workers.broadcast(workers.first and _enough(costs, request, batches.say)):
                return costs
            stage = next_round(stage, sample.images, len(images), seed)
            if stage is None:
                batches.say(
                    f"all {len(images)} images are used, so it ends here, above the {regret} "
                    "bits/dim that were asked for: more images help"
                )
                return costs


def _check(request: dict[str, Any], images: int, batch_size: int) -> None:
    """Refuse what measures nothing, or says how much in two ways."""
    counts = {k: request[k] for k in ("calls", "per_step") if request[k] is not None}
    check_counts(batch_size=batch_size, **counts)
    given = [name for name, value in request.items() if value is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} say the same thing in two ways: give one of them")
    regret, per_step = request["regret"], request["per_step"]
    if regret is not None and not 0 < regret < np.inf:
        raise InputError(f"regret is a positive number of bits/dim, got {regret}")
    least = images if per_step is None else min(images, per_step)
    if least < 2:
        raise InputError(
            f"every timestep needs at least two images, or no error can be told; got {least}"
        )


def _provenance(
    denoiser: Denoiser, images: np.ndarray, seed: int, batch_size: int
) -> dict[str, Any]:
    """What files say of a measurement, whatever it finds."""
    return {
        "model": denoiser.fingerprint,
        "images": len(images),
        "seed": seed,
        "batch_size": batch_size,
        "precision": denoiser.precision,
        "dpdiff": __version__,
    }


def _job(about: dict[str, Any], request: dict[str, Any], images: np.ndarray) -> dict[str, Any]:
    """What tells a measurement from any other; of the images, some are compared."""
    rows = np.unique(np.linspace(0, len(images) - 1, 256).astype(int))
    some = np.ascontiguousarray(images[rows])
    return {
        **about,
        **request,
        "dpdiff": f"costs version {VERSION}",
        "image digest": hashlib.sha256(some.tobytes()).hexdigest()[:16],
        "image type": str(some.dtype),
    }


def _facts(sample: Sample) -> dict[str, Any]:
    """What files say of a few timesteps."""
    return {
        "per_step": sample.images,
        "calls": sample.images * len(sample.timesteps),
        "timesteps": len(sample.timesteps),
        "smoothing_width": sample.width,
    }


def _costs(
    denoiser: Denoiser,
    images: np.ndarray,
    values: Arrays,
    about: dict[str, Any],
    sample: Sample | None = None,
) -> Costs:
    priors = noising.prior_costs(denoiser, images, at_most=4096)
    values |= {"prior": priors.mean(), "prior_var": priors.var()}
    model = (denoiser.noise, denoiser.shape, denoiser.variance)
    return Costs(*model, values, about, sample=sample)


def _enough(costs: Costs, request: dict[str, Any], say: Callable[[str], None]) -> bool:
    """Whether the regret that was asked for is reached at every budget."""
    if request["regret"] is None:
        return True
    budgets = [k for k in request["budgets"] if k <= costs.T]
    ruled = costs.with_variance(request["variance"])
    schedules = uncertainty(ruled, budgets, count=REPLICATES).schedules
    worst = max(schedules, key=lambda one: one.regret95)
    say(
        f"{costs.provenance['calls']:,} calls: schedules lose less than "
        f"{worst.regret95:.4f} bits/dim with 95 % confidence (worst: {worst.steps} steps)"
    )
    return worst.regret95 <= request["regret"]


def _rough(sample: Sample, stage: Stage) -> str:
    """What is said of a network that is not smooth along log SNR."""
    return (
        f"this network's error leaps by {100 * sample.roughness:.0f} % from timestep to timestep, "
        f"so all {len(stage.timesteps):,} are measured, with {stage.images} images each: "
        f"{stage.calls:,} calls instead of {sample.values['mse'].size:,}"
    )
