"""Running a model's many-step sampler, for schedules of few steps that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.runtime.workers import ALONE, Workers
from dpdiff.trajectory.collection import Collection
from dpdiff.trajectory.nodes import chosen_nodes
from dpdiff.trajectory.paths import Trajectories
from dpdiff.version import __version__

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
        :func:`dpdiff.trajectory.nodes.node_grid`. Or the timesteps themselves, from 0 to T.
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
