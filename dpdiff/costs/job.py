"""One measurement as a list of network calls: restartable, and shared between workers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dpdiff import noising
from dpdiff.costs import statistics
from dpdiff.costs.design import Stage
from dpdiff.costs.seen import Seen, last_jumps, look
from dpdiff.costs.storage import VERSION
from dpdiff.denoiser import Denoiser
from dpdiff.runtime.asking import not_finite
from dpdiff.runtime.checkpoints import BLOCKS, STAGE, Checkpoints, Statistics, cut
from dpdiff.runtime.memory import Halving
from dpdiff.runtime.prefetch import prefetch
from dpdiff.runtime.workers import Workers
from dpdiff.version import __version__


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
