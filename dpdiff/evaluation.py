"""What a schedule is worth on given images, computed directly from the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dpdiff import batches, data
from dpdiff.denoiser import Denoiser
from dpdiff.elbo import decoder_cost, jump_cost
from dpdiff.errors import InputError
from dpdiff.measurement import prior_costs
from dpdiff.parts import cut
from dpdiff.schedule import Schedule
from dpdiff.workers import ALONE, Workers
from dpdiff.wrappers import sparing


@dataclass(frozen=True, eq=False)
class Score:
    """The bound of a schedule in bits/dim.

    Attributes
    ----------
    edges : ndarray, shape (K,)
        Mean of each jump, the decoder's first.
    prior : float
        Mean of the prior term.
    per_image : ndarray, shape (N,)
        The whole bound of each image: compare two schedules by these, pair by pair.
    """

    edges: np.ndarray
    prior: float
    per_image: np.ndarray

    @property
    def mean(self) -> float:
        """The bound, averaged over the images."""
        return float(self.per_image.mean())

    @property
    def stderr(self) -> float:
        """Standard error of the mean, over images and noise together."""
        n = len(self.per_image)
        return float(self.per_image.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")


def bits_per_dim(
    denoiser: Denoiser,
    images: Any,
    schedule: Schedule,
    *,
    seed: int = 0,
    batch_size: int = 256,
    two_node_decoder: bool = False,
    workers: Workers = ALONE,
    progress: bool = True,
) -> Score:
    """The negative ELBO of a schedule, edge by edge, with a network call per image and step.

    Parameters
    ----------
    denoiser : Denoiser
        The model, under the variance rule that is to be scored.
    images : array_like, shape (N, ...)
        Held-out images, as :func:`dpdiff.measure` takes them.
    schedule : Schedule
        Must end at the model's T.
    seed : int
        Of the noise. The noise of (timestep, image) is the one :func:`dpdiff.measure` draws.
    batch_size : int
        Images a network call; changes nothing but speed and memory.
    two_node_decoder : bool
        Take the decoder's variance from ``g̃²(τ_2, τ_1)``, as improved-diffusion's spaced chains
        do, to compare with numbers from there. It depends on two nodes, so such a bound is not
        a sum over edges and no schedule is optimised for it.
    workers : Workers
        Processes to share the images with, each calling this function; all get the same score.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Score

    Raises
    ------
    InputError
        If images, schedule and model do not fit together.

    Examples
    --------
    >>> from dpdiff.noise import NoiseSchedule
    >>> silent = Denoiser(lambda x, index: 0 * x, NoiseSchedule.cosine(8), shape=(2,))
    >>> score = bits_per_dim(silent, np.full((3, 2), 200), Schedule([0, 4, 8]), progress=False)
    >>> score.edges.shape, score.per_image.shape
    ((2,), (3,))
    """
    images = data.check(images, denoiser.shape, denoiser.levels)
    if schedule.T != denoiser.noise.T:
        raise InputError(f"the schedule ends at {schedule.T}, the model's T is {denoiser.noise.T}")
    if batch_size < 1:
        raise InputError(f"a batch holds at least one image, got batch_size = {batch_size}")
    if two_node_decoder and (schedule.steps < 2 or denoiser.variance == "optimal"):
        raise InputError("the two-node decoder needs two steps and a variance of its own")
    floor = None
    if two_node_decoder:
        floor = denoiser.noise.posterior(*schedule.timesteps[2:0:-1])[2]
    denoiser = sparing(denoiser)
    nats = np.empty((schedule.steps, len(images)))
    own = workers.share(cut(np.arange(len(images)), batch_size))
    jobs = [(edge, rows) for edge in enumerate(schedule.jumps) for rows in own]
    bar = tqdm(
        desc=workers.bar_title("evaluate"),
        unit="call",
        total=len(jobs),
        disable=not (progress and workers.first),
    )

    def prepare(job: tuple[tuple[int, tuple[int, int]], np.ndarray]) -> batches.Batch:
        (_, (t, _)), rows = job
        return batches.prepare(denoiser, images, np.full(len(rows), t), rows, seed)

    with workers.named(), bar:
        for ((edge, (t, s)), rows), batch in zip(jobs, batches.ahead(prepare, jobs), strict=True):
            nats[edge, rows] = _edge_nats(denoiser, batch, t, s, floor)
            bar.update()
    mine = np.concatenate([*own, np.zeros(0, int)])
    for rows, columns in workers.gather((mine, nats[:, mine])):
        nats[:, rows] = columns
    nats = workers.broadcast(nats)
    to_bits = 1 / (denoiser.dims * np.log(2))
    prior = prior_costs(denoiser, images)
    return Score(nats.mean(1) * to_bits, prior.mean() * to_bits, (nats.sum(0) + prior) * to_bits)


def _edge_nats(
    denoiser: Denoiser, batch: batches.Batch, t: int, s: int, floor: float | None
) -> np.ndarray:
    """Cost of the jump ``t → s`` for the images of a batch, in nats."""
    x0, mean, v = batches.predict(denoiser, batch)
    if s > 0:
        gap = denoiser.noise.snr_gap(t, s)
        costs = jump_cost(denoiser.log_ratio(t, s, v), (x0 - mean) ** 2, gap)
    else:
        log_variance = _two_node(denoiser, t, v, floor) if floor is not None else None
        if log_variance is None:
            log_variance = denoiser.decoder_log_variance(t, v)
        costs = decoder_cost(x0, mean, log_variance, denoiser.levels)
    return costs.flatten(1).sum(1).cpu().numpy()


def _two_node(denoiser: Denoiser, t: int, v: Tensor | None, floor: float) -> Tensor:
    """improved-diffusion's decoder variance: ``large`` too starts from the posterior's there."""
    if denoiser.variance == "learned_range":
        return floor + (denoiser.noise.log_g2[t] - floor) * v
    return torch.tensor(floor, dtype=torch.float64, device=denoiser.device)
