"""One pass over the grid: a network call for every timestep and image gives every jump's cost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dpdiff import data, noising
from dpdiff.costs import statistics
from dpdiff.costs.costs import Costs
from dpdiff.costs.storage import VERSION
from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.errors import InputError, check_counts
from dpdiff.runtime import random_streams
from dpdiff.runtime.asking import not_finite
from dpdiff.runtime.checkpoints import Checkpoints, Statistics, blocks, cut, locked
from dpdiff.runtime.memory import Halving
from dpdiff.runtime.prefetch import prefetch
from dpdiff.runtime.workers import ALONE, Workers
from dpdiff.version import __version__


def measure(
    denoiser: Denoiser,
    images: Any,
    *,
    seed: int = 0,
    per_step: int = 128,
    batch_size: int = 256,
    resume: str | Path | None = None,
    workers: Workers = ALONE,
    progress: bool = True,
) -> Costs:
    """Measure what every jump costs a denoiser.

    Each timestep ``t`` is shown ``per_step`` images with noise of its own, one network call
    each; from ``x̂_0`` and ``v`` come the statistics that give ``L(t, s)`` for all ``s`` at once
    (Watson et al. 2021, section 3.2) under every variance rule.

    Parameters
    ----------
    denoiser : Denoiser
        The model.
    images : array_like, shape (N, ...)
        Integers ``0 … levels - 1`` (floats if ``denoiser.levels`` is None), best of images that
        the network was not fitted to: a small set is remembered, and its costs are too low.
    seed : int
        Decides which images each timestep sees, and the noise. Batches do not.
    per_step : int
        Images a timestep. If fewer than N, every timestep takes the next ones of a shuffled
        list, so that all images are used; otherwise each timestep sees each image once.
    batch_size : int
        Images a network call; halved whenever a GPU's memory does not hold them. Another one
        changes the results by rounding only.
    resume : str or Path, optional
        A folder for finished blocks of the grid. Killed at any moment, and called again with
        the same arguments, the measurement goes on from there and ends with the same bits.
        Other arguments are refused; of the images, 256 are compared. Delete the folder once
        the costs are saved.
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

    Raises
    ------
    InputError
        If the images do not suit the denoiser, or the network's output is not finite or of a
        wrong shape; if the folder is another job's, in use, or cannot be written to.

    Examples
    --------
    >>> from dpdiff.noise import NoiseSchedule
    >>> silent = Denoiser(lambda x, index: 0 * x, NoiseSchedule.cosine(8), shape=(2,))
    >>> costs = measure(silent, np.full((3, 2), 200), per_step=3, progress=False)
    >>> costs.table().shape
    (9, 9)
    """
    images = data.check(images, denoiser.shape, denoiser.levels)
    random_streams.check_seed(seed)
    check_counts(per_step=per_step, batch_size=batch_size)
    job = _Job(denoiser, images, seed, min(per_step, len(images)), batch_size)
    if job.per_step < 2 or batch_size < 1:
        raise InputError(
            "every timestep needs at least two images, or no error can be told, and a batch at "
            f"least one; got {job.per_step} images a timestep and batches of {batch_size}"
        )
    with locked(resume) if resume is not None and workers.first else nullcontext():
        kept = Checkpoints(Path(resume), job.identity()) if resume is not None else None
        measured = _all_blocks(job, kept, workers, progress)
    priors = noising.prior_costs(denoiser, images, at_most=4096)
    measured["prior"], measured["prior_var"] = priors.mean(), priors.var()
    return Costs(denoiser.noise, denoiser.shape, denoiser.variance, measured, job.provenance())


def rows_for(t: int, count: int, per_step: int, seed: int) -> np.ndarray:
    """Which of ``count`` images timestep ``t`` sees.

    Examples
    --------
    >>> rows_for(1, 3, 3, seed=0)
    array([0, 1, 2])
    """
    if per_step == count:
        return np.arange(count)
    shuffled = np.random.default_rng(seed).permutation(count)
    return shuffled[(t * per_step + np.arange(per_step)) % count]


@dataclass(frozen=True, eq=False)
class _Job:
    """A measurement: everything that decides what it finds."""

    denoiser: Denoiser
    images: np.ndarray
    seed: int
    per_step: int
    batch_size: int

    @property
    def unit(self) -> int:
        """Timesteps whose images share a network call: results depend on no others."""
        return max(1, self.batch_size // self.per_step)

    def provenance(self) -> dict[str, Any]:
        return {
            "model": self.denoiser.fingerprint,
            "images": len(self.images),
            "per_step": self.per_step,
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
            "dpdiff": f"costs version {VERSION}",
            "image digest": hashlib.sha256(some.tobytes()).hexdigest()[:16],
            "image type": str(some.dtype),
            "block": len(blocks(self.denoiser.noise.T, self.unit)[0]),
        }

    def measured(self, todo: list[np.ndarray]) -> Iterator[tuple[np.ndarray, Statistics]]:
        """Statistics of every unit of some blocks, in their order."""
        units = [unit for block in todo for unit in cut(block, self.unit)]
        halving = Halving()
        calls = (call for unit in units for call in self._calls(unit))
        batches = prefetch(self._prepare, calls)
        for unit in units:
            yield unit, self._statistics(halving, unit, batches)

    def _calls(self, unit: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Timesteps and images of the network calls that a unit takes."""
        t = np.repeat(unit, self.per_step)
        rows = [rows_for(step, len(self.images), self.per_step, self.seed) for step in unit]
        calls = (cut(array, self.batch_size) for array in (t, np.concatenate(rows)))
        return list(zip(*calls, strict=True))

    def _prepare(self, call: tuple[np.ndarray, np.ndarray]) -> noising.Batch:
        return noising.prepare(self.denoiser, self.images, *call, self.seed)

    @torch.inference_mode()
    def _statistics(
        self, halving: Halving, unit: np.ndarray, batches: Iterator[noising.Batch]
    ) -> Statistics:
        """Take a unit's batches through the network; each array's first axis runs over ``unit``."""
        count = -(-len(unit) * self.per_step // self.batch_size)
        seen = _Seen()
        for batch in islice(batches, count):
            look = partial(self._look, batch)
            seen += halving(look, len(batch.t), seen.leave_device)
            if halving.limit:  # memory is scarce: make room before it runs out again
                seen.leave_device()
        mse = torch.cat([piece.values["mse"].cpu() for piece in seen])
        mse = mse.reshape(len(unit), -1).mean(1).repeat_interleave(self.per_step)
        whole = {name: [piece.values[name] for piece in seen] for name in seen[0].values}
        for piece, some in zip(seen, mse.split([len(p.t) for p in seen]), strict=True):
            last = halving(partial(self._last, piece, some), len(piece.t), seen.leave_device)
            for name in last[0]:
                whole.setdefault(name, []).extend(part[name] for part in last)
        values = {k: torch.cat([v.cpu() for v in parts]).numpy() for k, parts in whole.items()}
        for t, own in zip(unit, values["mse"].reshape(len(unit), -1), strict=True):
            if not np.isfinite(own).all():
                raise not_finite(t)
        return statistics.moments(values, len(unit))

    def _look(self, batch: noising.Batch, rows: slice) -> _Piece:
        """Some images of a batch: what is predicted, and all that follows from that alone."""
        batch = batch.part(rows)
        x0, prediction = noising.predict(self.denoiser, batch)
        values = statistics.per_image(self.denoiser, batch.t, x0, prediction)
        return _Piece(batch.t, x0, prediction, values)

    def _last(self, piece: _Piece, mse: Tensor, rows: slice) -> dict[str, Tensor]:
        """What a last jump costs some images, where that depends on all of their timestep."""
        place = noising.place(self.denoiser)
        x0, x0_hat = (x[rows].to(place) for x in (piece.x0, piece.prediction.x0))
        v = None if piece.prediction.v is None else piece.prediction.v[rows].to(place)
        outcome = (piece.t[rows], x0, Prediction(x0_hat, v))
        return statistics.decoders(self.denoiser, *outcome, mse[rows])


class _Piece(NamedTuple):
    """A few images that the network has seen."""

    t: np.ndarray
    x0: Tensor
    prediction: Prediction
    values: dict[str, Tensor]

    def on_cpu(self) -> _Piece:
        x0, v = self.prediction
        prediction = Prediction(x0.cpu(), None if v is None else v.cpu())
        values = {name: numbers.cpu() for name, numbers in self.values.items()}
        return _Piece(self.t, self.x0.cpu(), prediction, values)


class _Seen(list[_Piece]):
    """All pieces of a unit, kept until the last of them is there."""

    def leave_device(self) -> bool:
        """Move to the CPU, and say whether that was anything."""
        kept = any(piece.x0.device.type != "cpu" for piece in self)
        self[:] = [piece.on_cpu() for piece in self]
        return kept


def _all_blocks(
    job: _Job, kept: Checkpoints | None, workers: Workers, progress: bool
) -> Statistics:
    """Statistics of the whole grid: what is there already, and the rest shared out."""
    grid = blocks(job.denoiser.noise.T, job.unit)
    done = kept.load(grid) if kept and workers.first else {}
    finished = workers.broadcast(list(done))
    todo = workers.share([block for block in grid if block[0] not in finished])
    before = sum(len(block) for block in grid if block[0] in finished)
    bar = tqdm(
        desc=workers.bar_title("measure"),
        unit="t",
        initial=before,
        total=before + sum(map(len, todo)),
        disable=not (progress and workers.first),
    )
    with workers.named(), bar:
        units = job.measured(todo)
        for block in todo:
            pieces = []
            for unit, values in islice(units, -(-len(block) // job.unit)):
                pieces.append(values)
                bar.update(len(unit))
            done[int(block[0])] = _joined(pieces)
            if kept:
                kept.save(block, done[int(block[0])])
    everything = {first: values for part in workers.gather(done) for first, values in part.items()}
    ordered = [everything[first] for first in sorted(everything)]
    return workers.broadcast(ordered and _with_zero(_joined(ordered)))


def _joined(pieces: list[Statistics]) -> Statistics:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _with_zero(statistics: Statistics) -> Statistics:
    """A row of zeros for t = 0, where nothing is measured."""
    return {k: np.concatenate([np.zeros_like(v[:1]), v]) for k, v in statistics.items()}
