"""Running a model's many-step sampler, for schedules of few steps that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.errors import InputError
from dpdiff.runtime.batches import Halving, cut
from dpdiff.runtime.checkpoints import Checkpoints, locked
from dpdiff.runtime.workers import ALONE, Workers
from dpdiff.sampling import DDIM, Call, start
from dpdiff.strides import chosen_nodes
from dpdiff.trajectory.flow_costs import Bands, bands_of, gram
from dpdiff.trajectory.trajectories import Trajectories
from dpdiff.version import __version__


@torch.inference_mode()
def predictions(denoiser: Denoiser, nodes: np.ndarray, x: Tensor) -> Tensor:
    """What the denoiser says at every node of a DDIM run.

    Parameters
    ----------
    denoiser : Denoiser
        The model.
    nodes : ndarray of int, shape (N + 1,)
        ``0 = u_0 < … < u_N = T``.
    x : Tensor, shape (B, ...)
        Noise at T. The run goes on in its dtype.

    Returns
    -------
    Tensor of float32, shape (N, B, D), on the CPU
        x̂_0 at ``u_1 … u_N``. The first one is the end point too, since DDIM's last step returns
        it. The run uses these rounded values, so all that follows from them is exact.
    """
    means = torch.empty((len(nodes) - 1, len(x), denoiser.dims))
    for i in range(len(nodes) - 1, 0, -1):
        mean = denoiser(x, int(nodes[i])).x0.float()
        means[i - 1] = mean.flatten(1).cpu()
        call = Call(nodes[i], x, Prediction(mean.to(x.dtype), None))
        x = DDIM().step(denoiser, [call], nodes[i - 1], x)
    return means


def states(denoiser: Denoiser, nodes: np.ndarray, x: Tensor, means: Tensor) -> Tensor:
    """The points of a run whose predictions are known, float64, shape (N + 1, B, D)."""
    run = [x.double().flatten(1).cpu()]
    for i in range(len(nodes) - 1, 0, -1):
        call = Call(nodes[i], run[-1], Prediction(means[i - 1].double(), None))
        run.append(DDIM().step(denoiser, [call], nodes[i - 1], run[-1]))
    return torch.stack(run[::-1])


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


ABOUT = ("model", "n", "seed", "batch_size", "precision")


def trajectories(
    denoiser: Denoiser,
    n: int = 32,
    nodes: int | Sequence[int] = 64,
    *,
    seed: int = 0,
    batch_size: int = 32,
    bands: int = 16,
    resume: str | Path | None = None,
    workers: Workers = ALONE,
    progress: bool = True,
) -> Trajectories:
    """Run the many-step sampler from a few noises, for schedules that draw well.

    DDIM (Song et al. 2021) runs down a grid of nodes, one network call a noise and node. What is
    kept gives the error of every jump between nodes at once: no data, no gradients and no
    further calls.

    Parameters
    ----------
    denoiser : Denoiser
        The model, guided or conditioned as it will be used.
    n : int
        Noises, at least 2. Those of ``dpdiff.sample`` with the same seed.
    nodes : int or sequence of int
        How many nodes, best four times the steps wanted or more: see
        :func:`dpdiff.strides.node_grid`. Or the timesteps themselves, from 0 to T.
    seed : int
        Of the noises.
    batch_size : int
        Noises run together, here and when schedules are compared later. They are a block on disk
        of ``4 · nodes · D`` bytes a noise, and one block is in memory at a time.
    bands : int
        At most so many groups of directions, each with a matrix of ``nodes²`` numbers.
    resume : str or Path, optional
        A folder for finished blocks; by default they go to a temporary one. Killed, and called
        again with the same arguments, the run goes on and ends with the same bits. Delete the
        folder when it is done.
    workers : Workers
        Processes to share the noises with, each calling this function: see
        :func:`dpdiff.runtime.workers.join`. Their number changes nothing in the results.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Trajectories

    Raises
    ------
    InputError
        If an argument is out of range, the network's output is not finite, or the folder is
        another job's or in use.

    Examples
    --------
    >>> from dpdiff.noise import NoiseSchedule
    >>> from dpdiff.solvers.plan import solve
    >>> shrink = Denoiser(lambda x, index: 0.3 * x, NoiseSchedule.cosine(100), shape=(2,))
    >>> paths = trajectories(shrink, n=4, nodes=16, progress=False)
    >>> solve(paths.costs()).schedule(3).timesteps
    (0, 41, 61, 100)
    """
    if n < 2 or batch_size < 1 or bands < 1:
        raise InputError(
            f"n is at least 2, batch_size and bands at least 1; "
            f"got n = {n}, batch_size = {batch_size}, bands = {bands}"
        )
    grid = chosen_nodes(denoiser.noise, nodes)
    job = Collection(denoiser, grid, n, seed, batch_size, bands)
    ends, groups, grams = job.collect(resume, workers, progress)
    about = {name: job.identity()[name] for name in ABOUT}
    return Trajectories(denoiser, grid, ends, groups, grams, about | {"dpdiff": __version__})
