"""Measuring what every jump costs: at a few timesteps, or at all of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dpdiff import data, noising
from dpdiff.costs import design
from dpdiff.costs.costs import Costs
from dpdiff.costs.design import Stage
from dpdiff.costs.fit import ROUGH, Sample
from dpdiff.costs.job import Job
from dpdiff.costs.uncertainty import uncertainty
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError, check_counts
from dpdiff.runtime import random_streams
from dpdiff.runtime.checkpoints import Checkpoints, locked
from dpdiff.runtime.workers import ALONE, Workers

BUDGETS = (8, 16, 32, 64, 128, 256)
DENSE = 16  # images a timestep where a network must be measured at every timestep
LEAST_CALLS = 1000  # of a measurement that was left to itself
FIRST_IMAGES = 10  # of the first of several rounds
DRAWS = 40  # that decide whether there is another round


def measure(
    denoiser: Denoiser,
    images: Any,
    *,
    calls: int | None = None,
    regret: float | None = None,
    per_step: int | None = None,
    budgets: Sequence[int] = BUDGETS,
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
        :func:`dpdiff.runtime.workers.join`. They must see the same ``resume`` folder. Their number
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
    amounts = {"calls": calls, "per_step": per_step}
    check_counts(batch_size=batch_size, **{k: v for k, v in amounts.items() if v is not None})
    request = {"calls": calls, "regret": regret, "per_step": per_step}
    _check(request, len(images), batch_size)
    if regret is not None:
        request["budgets"] = [int(k) for k in budgets]
        request["variance"] = variance or denoiser.variance
    job = Job(denoiser, images, seed, batch_size, request)
    measuring = _Measuring(job, workers, progress)
    stage = measuring.first_stage()
    with locked(resume) if resume is not None and workers.first else nullcontext():
        if resume is not None:
            measuring.kept = Checkpoints(Path(resume), job.identity())
        return measuring.dense(stage) if stage.whole else measuring.rounds(stage)


def _check(request: dict[str, Any], images: int, batch_size: int) -> None:
    given = [name for name, value in request.items() if value is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} say the same thing in two ways: give one of them")
    regret, per_step = request["regret"], request["per_step"]
    if regret is not None and not 0 < regret < np.inf:
        raise InputError(f"regret is a positive number of bits/dim, got {regret}")
    least = images if per_step is None else min(images, per_step)
    if least < 2 or batch_size < 1:
        raise InputError(
            "every timestep needs at least two images, or no error can be told, and a batch at "
            f"least one; got {least} images a timestep and batches of {batch_size}"
        )


@dataclass
class _Measuring:
    """A job under way: stage after stage, until there is enough."""

    job: Job
    workers: Workers
    progress: bool
    kept: Checkpoints | None = None

    def first_stage(self) -> Stage:
        """What to look at first."""
        job, request = self.job, self.job.request
        noise, count = job.denoiser.noise, len(job.images)
        if request["per_step"] is not None:
            return self._dense_stage(request["per_step"])
        if request["regret"] is not None and design.in_rounds(noise.T):
            timesteps = design.spread(noise, design.TIMESTEPS)
            first = max(FIRST_IMAGES, noise.T // (4 * len(timesteps)))
            return design.first_round(timesteps, count, first, job.seed)
        calls = request["calls"] or max(noise.T, LEAST_CALLS)
        return design.few(noise, count, calls, job.seed) or self._dense_stage(calls // noise.T)

    def _dense_stage(self, per_step: int) -> Stage:
        job = self.job
        return design.dense(job.denoiser.noise.T, len(job.images), max(2, per_step), job.seed)

    def dense(self, stage: Stage, **about: Any) -> Costs:
        """Costs of a measurement of every timestep."""
        moments = self._run(stage)
        with_zero = {k: np.concatenate([np.zeros_like(v[:1]), v]) for k, v in moments.items()}
        return self._costs(stage, with_zero, calls=stage.calls, **about)

    def rounds(self, stage: Stage) -> Costs:
        """Costs of a few timesteps, measured until the regret that was asked for is reached."""
        sample = self._sample(stage)
        if sample.roughness > ROUGH:
            return self._rough(stage, sample.roughness)
        while True:
            costs = self._fitted(stage, sample)
            if self.workers.broadcast(self.workers.first and self._enough(costs)):
                return costs
            seen, count = sample.images, len(self.job.images)
            stage = design.next_round(stage, seen, count, self.job.seed)
            if stage is None:
                self._say(
                    f"all {count} images are used, so it ends here, above the "
                    f"{self.job.request['regret']} bits/dim that were asked for: more images help"
                )
                return costs
            sample = sample.with_more(self._sample(stage))

    def _enough(self, costs: Costs) -> bool:
        """Whether the regret that was asked for is reached at every budget."""
        target = self.job.request["regret"]
        if target is None:
            return True
        budgets = [k for k in self.job.request["budgets"] if k <= costs.T]
        ruled = costs.with_variance(self.job.request["variance"])
        schedules = uncertainty(ruled, budgets, count=DRAWS).schedules
        worst = max(schedules, key=lambda one: one.regret95)
        self._say(
            f"{costs.provenance['calls']:,} calls: schedules lose less than "
            f"{worst.regret95:.4f} bits/dim with 95 % confidence (worst: {worst.steps} steps)"
        )
        return worst.regret95 <= target

    def _say(self, line: str) -> None:
        if self.progress and self.workers.first:
            tqdm.write(f"dpdiff: {line}", file=sys.stderr)

    def _rough(self, stage: Stage, roughness: float) -> Costs:
        """All timesteps, for a network that is not smooth along log SNR."""
        whole = self._dense_stage(DENSE)
        if self.workers.first:
            tqdm.write(
                f"dpdiff: this network's error leaps by {100 * roughness:.0f} % from timestep to "
                f"timestep, so all {len(whole.timesteps):,} are measured, with {whole.images} "
                f"images each: {whole.calls:,} calls instead of {stage.calls:,}",
                file=sys.stderr,
            )
        return self.dense(whole, roughness=round(roughness, 3))

    def _run(self, stage: Stage) -> dict[str, np.ndarray]:
        return self.job.run(stage, self.kept, self.workers, self.progress)

    def _sample(self, stage: Stage) -> Sample:
        return Sample(self.job.denoiser.noise, stage.timesteps, self._run(stage))

    def _fitted(self, stage: Stage, sample: Sample) -> Costs:
        about = {"timesteps": len(stage.timesteps), "smoothing_width": sample.width}
        calls = sample.images * len(stage.timesteps)
        return self._costs(stage, sample.statistics(), sample, calls=calls, **about)

    def _costs(
        self,
        stage: Stage,
        statistics: dict[str, np.ndarray],
        sample: Sample | None = None,
        **about: Any,
    ) -> Costs:
        denoiser = self.job.denoiser
        priors = noising.prior_costs(denoiser, self.job.images, at_most=4096)
        statistics |= {"prior": priors.mean(), "prior_var": priors.var()}
        images = sample.images if sample else stage.images
        provenance = self.job.provenance() | {"per_step": images} | about
        return Costs(
            denoiser.noise, denoiser.shape, denoiser.variance, statistics, provenance, sample=sample
        )
