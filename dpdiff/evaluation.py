"""What a schedule is worth on given images, computed directly from the network."""

from __future__ import annotations

from collections.abc import Sequence
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
        return _stderr(self.per_image)

    def minus(self, other: Score) -> tuple[float, float]:
        """How many bits/dim this lies above another score, and the standard error of that.

        Both must be of the same images in the same order: taken image by image, the difference
        is much surer than either score.
        """
        if len(self.per_image) != len(other.per_image):
            raise InputError(
                f"scores of {len(self.per_image)} and of {len(other.per_image)} images cannot be "
                "compared image by image: score both on the same ones"
            )
        difference = self.per_image - other.per_image
        return float(difference.mean()), _stderr(difference)


def _stderr(values: np.ndarray) -> float:
    n = len(values)
    return float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")


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

    For many schedules at once :func:`dpdiff.evaluation.score_many` saves the calls that they share.

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
    (score,) = score_many(
        [(denoiser, schedule)],
        images,
        seed=seed,
        batch_size=batch_size,
        two_node_decoder=two_node_decoder,
        workers=workers,
        progress=progress,
    )
    return score


def score_many(
    jobs: Sequence[tuple[Denoiser, Schedule]],
    images: Any,
    *,
    seed: int = 0,
    batch_size: int = 256,
    two_node_decoder: bool = False,
    workers: Workers = ALONE,
    progress: bool = True,
) -> list[Score]:
    """Score many schedules under many variance rules, asking the network once per timestep.

    Parameters
    ----------
    jobs : sequence of (Denoiser, Schedule)
        The denoisers are one model under any of its variance rules.
    images, seed, batch_size, two_node_decoder, workers, progress
        As for :func:`dpdiff.bits_per_dim`.

    Returns
    -------
    list of Score
        In the order of the jobs, each what :func:`dpdiff.bits_per_dim` gives.

    Raises
    ------
    InputError
        If images, schedules and models do not fit together.

    Examples
    --------
    >>> from dpdiff.noise import NoiseSchedule
    >>> silent = Denoiser(lambda x, index: 0 * x, NoiseSchedule.cosine(8), shape=(2,))
    >>> jobs = [(silent, Schedule.even(8, 2)), (silent.with_variance("small"), Schedule([0, 8]))]
    >>> [len(score.edges) for score in score_many(jobs, np.full((3, 2), 200), progress=False)]
    [2, 1]
    """
    if len({denoiser.network for denoiser, _ in jobs}) != 1:
        raise InputError("the jobs of one call share one network; score other networks apart")
    model = sparing(jobs[0][0])
    images = data.check(images, model.shape, model.levels)
    if batch_size < 1:
        raise InputError(f"a batch holds at least one image, got batch_size = {batch_size}")
    landings: dict[int, list[tuple[int, int, int]]] = {}  # t: the (job, edge, s) that start there
    for job, (denoiser, schedule) in enumerate(jobs):
        _check_job(denoiser, schedule, two_node_decoder)
        for edge, (t, s) in enumerate(schedule.jumps):
            landings.setdefault(t, []).append((job, edge, s))
    own = workers.share(cut(np.arange(len(images)), batch_size))
    calls = [(t, rows) for t in sorted(landings) for rows in own]
    coming = batches.ahead(
        lambda call: batches.prepare(model, images, np.full(len(call[1]), call[0]), call[1], seed),
        calls,
    )
    bar = tqdm(
        desc=workers.bar_title("evaluate"),
        unit="call",
        total=len(calls),
        disable=not (progress and workers.first),
    )
    nats = [np.empty((schedule.steps, len(images))) for _, schedule in jobs]
    with workers.named(), bar:
        for (t, rows), batch in zip(calls, coming, strict=True):
            found = batches.predict(model, batch)
            for job, edge, s in landings[t]:
                denoiser, schedule = jobs[job]
                floor = _two_node_floor(denoiser, schedule) if two_node_decoder else None
                nats[job][edge, rows] = _edge_nats(denoiser, found, t, s, floor)
            bar.update()
    mine = np.concatenate([*own, np.zeros(0, int)])
    for rows, shares in workers.gather((mine, [costs[:, mine] for costs in nats])):
        for costs, share in zip(nats, shares, strict=True):
            costs[:, rows] = share
    nats = workers.broadcast(nats)
    to_bits, prior = 1 / (model.dims * np.log(2)), prior_costs(model, images)
    return [
        Score(costs.mean(1) * to_bits, prior.mean() * to_bits, (costs.sum(0) + prior) * to_bits)
        for costs in nats
    ]


def _check_job(denoiser: Denoiser, schedule: Schedule, two_node_decoder: bool) -> None:
    if schedule.T != denoiser.noise.T:
        raise InputError(f"the schedule ends at {schedule.T}, the model's T is {denoiser.noise.T}")
    if two_node_decoder and (schedule.steps < 2 or denoiser.variance == "optimal"):
        raise InputError("the two-node decoder needs two steps and a variance of its own")


def _edge_nats(
    denoiser: Denoiser,
    found: tuple[Tensor, Tensor, Tensor | None],
    t: int,
    s: int,
    floor: float | None,
) -> np.ndarray:
    """Cost of the jump ``t → s`` in nats, from ``x_0``, ``x̂_0`` and ``v`` of each image at t."""
    x0, mean, v = found
    if s > 0:
        gap = denoiser.noise.snr_gap(t, s)
        costs = jump_cost(denoiser.log_ratio(t, s, v), (x0 - mean) ** 2, gap)
    else:
        log_variance = _two_node(denoiser, t, v, floor) if floor is not None else None
        if log_variance is None:
            log_variance = denoiser.decoder_log_variance(t, v)
        costs = decoder_cost(x0, mean, log_variance, denoiser.levels)
    return costs.flatten(1).sum(1).cpu().numpy()


def _two_node_floor(denoiser: Denoiser, schedule: Schedule) -> float:
    return denoiser.noise.posterior(*schedule.timesteps[2:0:-1])[2]


def _two_node(denoiser: Denoiser, t: int, v: Tensor | None, floor: float) -> Tensor:
    """improved-diffusion's decoder variance: ``large`` too starts from the posterior's there."""
    if denoiser.variance == "learned_range":
        return floor + (denoiser.noise.log_g2[t] - floor) * v
    return torch.tensor(floor, dtype=torch.float64, device=denoiser.device)
