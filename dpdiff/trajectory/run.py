"""Running a model's many-step sampler, for schedules of few steps that follow it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.errors import InputError
from dpdiff.runtime.batches import Batches, concatenated, cut, whole_batches
from dpdiff.runtime.checkpoints import Checkpoints, locked
from dpdiff.runtime.workers import ALONE, Workers
from dpdiff.sampling import DDIM, Call, start, walk
from dpdiff.schedule import Schedule
from dpdiff.strides import chosen_nodes
from dpdiff.trajectory.flow_costs import bands_of, gram
from dpdiff.trajectory.trajectories import Trajectories
from dpdiff.version import __version__


class Rounded(DDIM):
    """DDIM that knows of every prediction what a file in float32 keeps of it."""

    def step(self, denoiser, calls, s, noise):
        t, x, (x0, _) = calls[-1]
        call = Call(t, x, Prediction(x0.float().to(x.dtype), None))
        return super().step(denoiser, [call], s, noise)


def predictions(
    denoiser: Denoiser,
    nodes: np.ndarray,
    x: Tensor,
    called: Callable[[int, Tensor], None] = lambda t, x0: None,
) -> Tensor:
    """What the denoiser says at every node of a DDIM run.

    Parameters
    ----------
    denoiser : Denoiser
        The model.
    nodes : ndarray of int, shape (N + 1,)
        ``0 = u_0 < … < u_N = T``.
    x : Tensor, shape (B, ...)
        Noise at T. The run goes on in its dtype.
    called : callable
        Told of every network call: ``called(t, x̂_0)``.

    Returns
    -------
    Tensor of float32, shape (N, B, D), on the CPU
        x̂_0 at ``u_1 … u_N``. The first one is the end point too, since DDIM's last step returns
        it. The run uses these rounded values, so all that follows from them is exact.
    """
    means = torch.empty((len(nodes) - 1, len(x), denoiser.dims))
    downwards = range(len(nodes) - 1, 0, -1)
    for i, state in zip(downwards, walk(denoiser, Schedule(nodes), x, Rounded()), strict=True):
        called(nodes[i], state.x0)
        means[i - 1] = state.x0.flatten(1)
    return means


def states(denoiser: Denoiser, nodes: np.ndarray, x: Tensor, means: Tensor) -> Tensor:
    """The points of a run whose predictions are known, float64, shape (N + 1, B, D)."""
    run = [x.double().flatten(1).cpu()]
    for i in range(len(nodes) - 1, 0, -1):
        call = Call(nodes[i], run[-1], Prediction(means[i - 1].double(), None))
        run.append(DDIM().step(denoiser, [call], nodes[i - 1], run[-1]))
    return torch.stack(run[::-1])


LIMIT = 2**29  # bytes of Gram matrices that are kept apart, so that noises can be resampled


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
        of ``4 · nodes · D`` bytes a noise, and two blocks are in memory at a time.
    bands : int
        At most so many groups of directions, each with a matrix of ``nodes²`` numbers.
    resume : str or Path, optional
        A folder for finished blocks; by default they go to a temporary one. Killed, and called
        again with the same arguments, the run goes on and ends with the same bits. Delete the
        folder when it is done.
    workers : Workers
        Processes to share the noises with, each calling this function: see
        :func:`dpdiff.runtime.join`. Their number changes nothing in the results.
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
    about = {"model": denoiser.fingerprint, "n": n, "seed": seed, "batch_size": batch_size}
    about["precision"] = denoiser.precision
    pieces = whole_batches(np.arange(n), batch_size)
    batches = Batches("trajectories", batch_size, workers, progress)

    def run(rows: np.ndarray) -> Tensor:
        """What the denoiser says on the way down from some noises, shape (B, N, D)."""
        said = predictions(denoiser, grid, start(denoiser, seed, rows), batches.called)
        return said.swapaxes(0, 1)

    with ExitStack() as stack:
        folder = resume or stack.enter_context(TemporaryDirectory(prefix="dpdiff-"))
        stack.enter_context(locked(resume, workers))
        kept = Checkpoints(folder, about | {"nodes": grid.tolist()})
        ends = batches.run(
            run,
            pieces,
            finish=lambda parts, rows: {"means": concatenated(parts)},
            calls=[len(rows) * (len(grid) - 1) for rows in pieces],
            kept=kept,
            take=lambda block: block["means"][:, 0].copy(),  # a view would keep it all
        )
        ends = np.concatenate(ends)
        groups = workers.broadcast(workers.first and bands_of(ends, bands))
        size = -(-n * bands * 8 * (len(grid) - 1) ** 2 // LIMIT)

        def grams(means: Tensor) -> Tensor:
            """Gram matrices of a block, summed over groups of noises, as shares of the mean."""
            means = means.to(denoiser.device)
            sums = [sum(gram(one, groups) for one in some) for some in cut(means, size)]
            return torch.from_numpy(np.stack(sums) / n)

        def read(rows: np.ndarray) -> Tensor:
            return torch.from_numpy(kept.read(rows)["means"])

        averaged = np.concatenate(Batches("", n, workers).run(grams, pieces, read))
    return Trajectories(denoiser, grid, ends, groups, averaged, about | {"dpdiff": __version__})
