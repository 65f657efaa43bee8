"""Running the teacher from many noises: restartable, shared by workers, in bounded memory."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dpdiff.denoiser import Denoiser
from dpdiff.runtime.checkpoints import Checkpoints, cut, locked
from dpdiff.runtime.memory import Halving
from dpdiff.runtime.workers import Workers
from dpdiff.trajectory.bands import Bands, bands_of
from dpdiff.trajectory.gram import gram
from dpdiff.trajectory.teacher import predictions, start

LIMIT = 2**29  # bytes of Gram matrices that are kept apart, so that noises can be resampled


@dataclass(frozen=True, eq=False)
class Collection:
    """A job: the teacher's trajectories of some noises, and what is kept of them.

    Every batch of noises is a finished block on disk: its predictions at every node. Once all
    are there, their end points give the bands, and each block its Gram matrices. Whoever works
    on which block, the results are put together in the order of the noises.
    """

    denoiser: Denoiser
    nodes: np.ndarray
    n: int
    seed: int
    batch_size: int
    bands: int

    def identity(self) -> dict[str, Any]:
        """What tells these trajectories from any others."""
        return {
            "model": self.denoiser.fingerprint,
            "precision": self.denoiser.precision,
            "nodes": self.nodes.tolist(),
            "n": self.n,
            "seed": self.seed,
            "batch_size": self.batch_size,
        }

    @property
    def group(self) -> int:
        """Noises whose Gram matrices are added at once: 1 unless memory forbids it."""
        return -(-self.n * self.bands * 8 * (len(self.nodes) - 1) ** 2 // LIMIT)

    def collect(
        self, resume: str | Path | None, workers: Workers, progress: bool
    ) -> tuple[np.ndarray, Bands, np.ndarray]:
        """End points (n, D), bands, and averaged Gram matrices by group, (G, B, N, N)."""
        with ExitStack() as stack:
            if resume is None:
                folder = Path(stack.enter_context(TemporaryDirectory(prefix="dpdiff-")))
            else:
                folder = Path(resume)
                if workers.first:
                    stack.enter_context(locked(folder))
            workers.broadcast(None)  # the folder is there
            parts = Checkpoints(folder, self.identity())
            own = workers.share(cut(np.arange(self.n), self.batch_size))
            with workers.named():
                ends = self._run(parts, own, workers, progress)
            gathered = dict(piece for share in workers.gather(ends) for piece in share)
            first = workers.first and self._bands(gathered)
            ends, bands = workers.broadcast(first)
            grams = [(rows[0], self._grams(parts, rows, bands)) for rows in own]
            gathered = dict(piece for share in workers.gather(grams) for piece in share)
            ordered = workers.first and np.concatenate([gathered[k] for k in sorted(gathered)])
            return ends, bands, workers.broadcast(ordered)

    def _run(
        self, parts: Checkpoints, own: list[np.ndarray], workers: Workers, progress: bool
    ) -> list[tuple[int, np.ndarray]]:
        """Run the teacher where no finished block is; first row and end points of all blocks."""
        halving, ends = Halving(), []
        bar = tqdm(
            desc=workers.bar_title("trajectories"),
            unit="noise",
            total=sum(map(len, own)),
            disable=not (progress and workers.first),
        )
        with bar:
            for rows in own:
                block = parts.read(rows[0])
                if block is None:
                    pieces = halving(lambda part, rows=rows: self._teach(rows[part]), len(rows))
                    block = {"means": torch.cat(pieces, dim=1).numpy()}
                    parts.save(rows, block)
                ends.append((int(rows[0]), block["means"][0].copy()))  # a view would keep it all
                bar.update(len(rows))
        return ends

    def _teach(self, rows: np.ndarray) -> Tensor:
        """What the denoiser says on the teacher's way down from some noises."""
        return predictions(self.denoiser, self.nodes, start(self.denoiser, self.seed, rows))

    def _bands(self, ends: dict[int, np.ndarray]) -> tuple[np.ndarray, Bands]:
        ordered = np.concatenate([ends[first] for first in sorted(ends)])
        return ordered, bands_of(ordered, self.bands)

    def _grams(self, parts: Checkpoints, rows: np.ndarray, bands: Bands) -> np.ndarray:
        """Mean Gram matrices of a block's groups of noises, times their share of the noises."""
        block = parts.read(rows[0])
        means = torch.from_numpy(block["means"]).to(self.denoiser.device)
        groups = [
            sum(gram(means[:, int(i)], bands) for i in some)
            for some in cut(np.arange(len(rows)), self.group)
        ]
        return np.stack(groups) / self.n
