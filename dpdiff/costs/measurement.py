"""Measuring what every jump costs: at a few timesteps, or at all of them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dpdiff import data, noising, strides
from dpdiff.costs import statistics
from dpdiff.costs.bootstrap import uncertainty
from dpdiff.costs.costs import VERSION, Costs
from dpdiff.costs.smoothing import ROUGH, Sample
from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.errors import InputError, check_counts
from dpdiff.network import not_finite
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import random_streams
from dpdiff.runtime.batches import Halving, cut, prefetch
from dpdiff.runtime.checkpoints import BLOCKS, STAGE, Checkpoints, Statistics, locked
from dpdiff.runtime.workers import ALONE, Workers
from dpdiff.strides import spread
from dpdiff.version import __version__

TIMESTEPS = 97  # hold a model: interpolation loses less than 0.01 bits/dim at any budget
FEWEST = 25
IMAGES = 20  # that each timestep should see before there are more timesteps


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
        """How often the network is asked, image by image."""
        return len(self.timesteps) * self.images

    @property
    def whole(self) -> bool:
        """Whether it is a measurement of every timestep."""
        return self.number == 0


def every_timestep(T: int, count: int, per_step: int, seed: int) -> Stage:
    """Every timestep sees so many of ``count`` images, each the next ones of a shuffled list.

    Examples
    --------
    >>> every_timestep(4, count=3, per_step=3, seed=0).rows(1)
    array([0, 1, 2])
    """
    per_step = min(per_step, count)
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
    timesteps = spread(noise, number)
    return first_round(timesteps, count, calls // len(timesteps), seed)


def in_rounds(T: int) -> bool:
    """Whether a measurement that stops by itself takes a few timesteps: not on a short grid."""
    return 2 * TIMESTEPS < T


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


class Piece(NamedTuple):
    """A few images that the network has seen."""

    t: np.ndarray
    x0: Tensor
    prediction: Prediction
    values: dict[str, Tensor]

    def on_cpu(self) -> Piece:
        x0, v = self.prediction
        prediction = Prediction(x0.cpu(), None if v is None else v.cpu())
        values = {name: numbers.cpu() for name, numbers in self.values.items()}
        return Piece(self.t, self.x0.cpu(), prediction, values)


class Seen(list[Piece]):
    """All pieces of a unit, kept until the last of them is there."""

    def leave_device(self) -> bool:
        """Move to the CPU, and say whether that was anything."""
        kept = any(piece.x0.device.type != "cpu" for piece in self)
        self[:] = [piece.on_cpu() for piece in self]
        return kept


def look(denoiser: Denoiser, batch: noising.Batch, rows: slice) -> Piece:
    """Some images of a batch: what is predicted, and all that follows from that alone."""
    batch = batch.part(rows)
    x0, prediction = noising.predict(denoiser, batch)
    values = statistics.per_image(denoiser, batch.t, x0, prediction)
    return Piece(batch.t, x0, prediction, values)


def last_jumps(denoiser: Denoiser, piece: Piece, mse: Tensor, rows: slice) -> dict[str, Tensor]:
    """What a last jump costs some images, where that depends on all of their timestep."""
    place = noising.place(denoiser)
    x0, x0_hat = (x[rows].to(place) for x in (piece.x0, piece.prediction.x0))
    v = None if piece.prediction.v is None else piece.prediction.v[rows].to(place)
    outcome = (piece.t[rows], x0, Prediction(x0_hat, v))
    return statistics.decoders(denoiser, *outcome, mse[rows])


@dataclass(frozen=True, eq=False)
class Job:
    """A measurement: everything that decides what it finds.

    Parameters
    ----------
    denoiser : Denoiser
        The model.
    images : ndarray, shape (N, ...)
        As :func:`dpdiff.data.check` returns them.
    seed : int
        Of images and noise.
    batch_size : int
        Images a network call.
    request : dict
        How much was asked for, by name.
    """

    denoiser: Denoiser
    images: np.ndarray
    seed: int
    batch_size: int
    request: dict[str, Any] = field(default_factory=dict)

    def provenance(self) -> dict[str, Any]:
        """What files say of it."""
        return {
            "model": self.denoiser.fingerprint,
            "images": len(self.images),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "precision": self.denoiser.precision,
            "dpdiff": __version__,
        }

    def identity(self) -> dict[str, Any]:
        """What tells this measurement from any other; of the images, a look at some of them."""
        rows = np.unique(np.linspace(0, len(self.images) - 1, 256).astype(int))
        some = np.ascontiguousarray(self.images[rows])
        return self.provenance() | {
            **self.request,
            "dpdiff": f"costs version {VERSION}",
            "image digest": hashlib.sha256(some.tobytes()).hexdigest()[:16],
            "image type": str(some.dtype),
        }

    def unit(self, stage: Stage) -> int:
        """Timesteps whose images share a network call: results depend on no others."""
        return max(1, self.batch_size // stage.images)

    def blocks(self, stage: Stage) -> list[np.ndarray]:
        """A stage's timesteps in blocks of whole units, whoever may work on them."""
        unit = self.unit(stage)
        return cut(stage.timesteps, unit * -(-len(stage.timesteps) // (unit * BLOCKS)))

    def measured(
        self, stage: Stage, todo: list[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, Statistics]]:
        """Statistics of every unit of some blocks, in their order."""
        units = [unit for block in todo for unit in cut(block, self.unit(stage))]
        halving = Halving()
        calls = (call for unit in units for call in self._calls(stage, unit))
        batches = prefetch(self._prepare, calls)
        for unit in units:
            yield unit, self._statistics(halving, stage, unit, batches)

    def _calls(self, stage: Stage, unit: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Timesteps and images of the network calls that a unit takes."""
        t = np.repeat(unit, stage.images)
        rows = np.concatenate([stage.rows(step) for step in unit])
        calls = (cut(array, self.batch_size) for array in (t, rows))
        return list(zip(*calls, strict=True))

    def _prepare(self, call: tuple[np.ndarray, np.ndarray]) -> noising.Batch:
        return noising.prepare(self.denoiser, self.images, *call, self.seed)

    @torch.inference_mode()
    def _statistics(
        self, halving: Halving, stage: Stage, unit: np.ndarray, batches: Iterator[noising.Batch]
    ) -> Statistics:
        """Take a unit's batches through the network; each array's first axis runs over ``unit``."""
        seen = Seen()
        for batch in islice(batches, -(-len(unit) * stage.images // self.batch_size)):
            seen += halving(partial(look, self.denoiser, batch), len(batch.t), seen.leave_device)
            if halving.limit:  # memory is scarce: make room before it runs out again
                seen.leave_device()
        mse = torch.cat([piece.values["mse"].cpu() for piece in seen])
        mse = mse.reshape(len(unit), -1).mean(1).repeat_interleave(stage.images)
        whole = {name: [piece.values[name] for piece in seen] for name in seen[0].values}
        for piece, some in zip(seen, mse.split([len(p.t) for p in seen]), strict=True):
            work = partial(last_jumps, self.denoiser, piece, some)
            for part in halving(work, len(piece.t), seen.leave_device):
                for name, costs in part.items():
                    whole.setdefault(name, []).append(costs)
        values = {k: torch.cat([v.cpu() for v in parts]).numpy() for k, parts in whole.items()}
        for t, own in zip(unit, values["mse"].reshape(len(unit), -1), strict=True):
            if not np.isfinite(own).all():
                raise not_finite(t)
        return (statistics.moments if stage.whole else statistics.single)(values, len(unit))

    def run(
        self, stage: Stage, kept: Checkpoints | None, workers: Workers, progress: bool
    ) -> Statistics:
        """Statistics of a whole stage: what is there already, and the rest shared out.

        Parameters
        ----------
        stage : Stage
            What to measure.
        kept : Checkpoints or None
            Where finished blocks lie.
        workers : Workers
            Those who share the work.
        progress : bool
            Whether the first of them shows a bar.

        Returns
        -------
        dict of ndarray, shape (timesteps, ...)
            Moments of a dense stage, else every image's values; the same for every worker.
        """
        grid = {stage.number * STAGE + int(block[0]): block for block in self.blocks(stage)}
        shifted = [block + stage.number * STAGE for block in grid.values()]
        done = kept.load(shifted) if kept and workers.first else {}
        finished = workers.broadcast(list(done))
        todo = workers.share([number for number in grid if number not in finished])
        before = sum(len(grid[number]) for number in finished)
        bar = tqdm(
            desc=workers.bar_title("measure"),
            unit="t",
            initial=before,
            total=before + sum(len(grid[number]) for number in todo),
            disable=not (progress and workers.first),
        )
        with workers.named(), bar:
            units = self.measured(stage, [grid[number] for number in todo])
            for number in todo:
                pieces = []
                for unit, values in islice(units, -(-len(grid[number]) // self.unit(stage))):
                    pieces.append(values)
                    bar.update(len(unit))
                done[number] = joined(pieces)
                if kept:
                    kept.save(grid[number] + stage.number * STAGE, done[number])
        shares = workers.gather(done)
        everything = {number: values for share in shares for number, values in share.items()}
        return workers.broadcast(joined([everything[k] for k in sorted(everything)]))


def joined(pieces: list[Statistics]) -> Statistics:
    """Arrays of the same names one after the other; none of no pieces."""
    names = pieces[0] if pieces else ()
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in names}


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
        if request["regret"] is not None and in_rounds(noise.T):
            timesteps = strides.spread(noise, TIMESTEPS)
            first = max(FIRST_IMAGES, noise.T // (4 * len(timesteps)))
            return first_round(timesteps, count, first, job.seed)
        calls = request["calls"] or max(noise.T, LEAST_CALLS)
        return few_timesteps(noise, count, calls, job.seed) or self._dense_stage(calls // noise.T)

    def _dense_stage(self, per_step: int) -> Stage:
        job = self.job
        return every_timestep(job.denoiser.noise.T, len(job.images), max(2, per_step), job.seed)

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
            stage = next_round(stage, seen, count, self.job.seed)
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
