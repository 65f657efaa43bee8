"""What a schedule is worth on given images, computed directly from the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpdiff import data, noising
from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.elbo import decoder_cost, jump_cost
from dpdiff.errors import InputError, check_counts
from dpdiff.noise import per_example
from dpdiff.runtime import random_streams
from dpdiff.runtime.batches import Batches, cut
from dpdiff.runtime.workers import ALONE, Workers
from dpdiff.schedule import Schedule


def jump_nats(
    denoiser: Denoiser,
    schedule: Schedule,
    edge: int,
    x0: Tensor,
    prediction: Prediction,
    two_node_decoder: bool,
) -> Tensor:
    """The cost of one jump of a schedule for each image, in nats.

    Parameters
    ----------
    denoiser, schedule, two_node_decoder
        As for :func:`dpdiff.evaluate`.
    edge : int
        Which jump, the decoder's being 0.
    x0 : Tensor, shape (B, ...)
        The images in [-1, 1].
    prediction : Prediction
        What the denoiser says of them at the jump's beginning.

    Returns
    -------
    Tensor, shape (B,)
    """
    t, s = schedule.jumps[edge]
    if s > 0:
        gap, u = denoiser.noise.snr_gap(t, s), denoiser.log_ratio(t, s, prediction)
        costs = jump_cost(u, (x0 - prediction.x0) ** 2, gap)
    else:
        log_variance = denoiser.decoder_log_variance(t, prediction)
        if two_node_decoder:  # where improved-diffusion's large, too, starts from the posterior's
            later = schedule.timesteps[2]
            rule, v = denoiser.rule, prediction.v
            log_variance = rule.two_node_log_variance(denoiser.noise, later, t, v)
            log_variance = per_example(log_variance, prediction.x0)
        costs = decoder_cost(x0, prediction.x0, log_variance, denoiser.levels)
    return costs.flatten(1).sum(1)


Job = tuple[Denoiser, Schedule]


@dataclass(frozen=True, eq=False)
class Bound:
    """The negative ELBO of a schedule on given images; everything in bits/dim.

    Attributes
    ----------
    edge_bits : ndarray, shape (K,)
        Mean of each jump, the decoder's first.
    prior_bits : float
        Mean of the prior term.
    image_bits : ndarray, shape (N,)
        The whole bound of each image.

    Examples
    --------
    >>> Bound(np.array([1.0, 0.5]), 0.01, np.array([1.4, 1.6, 1.53]))
    Bound(1.5100 ± 0.0586 bits/dim, 3 images)
    """

    edge_bits: np.ndarray
    prior_bits: float
    image_bits: np.ndarray

    def __repr__(self) -> str:
        return f"Bound({self.mean:.4f} ± {self.stderr:.4f} bits/dim, {len(self.image_bits)} images)"

    @property
    def mean(self) -> float:
        """The bound, averaged over the images."""
        return float(self.image_bits.mean())

    @property
    def stderr(self) -> float:
        """Standard error of the mean, over images and noise together."""
        return _stderr(self.image_bits)

    def minus(self, other: Bound) -> tuple[float, float]:
        """How many bits/dim this lies above another bound, and the standard error of that.

        Both must be of the same images in the same order: taken image by image, the difference
        is much surer than either bound.
        """
        if len(self.image_bits) != len(other.image_bits):
            raise InputError(
                f"bounds on {len(self.image_bits)} and on {len(other.image_bits)} images cannot "
                "be compared image by image: evaluate both on the same ones"
            )
        difference = self.image_bits - other.image_bits
        return float(difference.mean()), _stderr(difference)


def _stderr(values: np.ndarray) -> float:
    n = len(values)
    return float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")


def evaluate(
    denoiser: Denoiser,
    images: Any,
    schedule: Schedule,
    *,
    seed: int = 0,
    batch_size: int = 256,
    two_node_decoder: bool = False,
    workers: Workers = ALONE,
    progress: bool = True,
) -> Bound:
    """The negative ELBO of a schedule, edge by edge, with a network call per image and step.

    For many schedules at once, :func:`dpdiff.evaluation.evaluate_many` saves the calls that
    they share.

    Parameters
    ----------
    denoiser : Denoiser
        The model, under the variance rule that is of interest.
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
        Processes to share the images with, each calling this function; all get the same bound.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Bound

    Raises
    ------
    InputError
        If images, schedule and model do not fit together.

    Examples
    --------
    >>> from dpdiff.noise import NoiseSchedule
    >>> silent = Denoiser(lambda x, index: 0 * x, NoiseSchedule.cosine(8), shape=(2,))
    >>> bound = evaluate(silent, np.full((3, 2), 200), Schedule([0, 4, 8]), progress=False)
    >>> bound.edge_bits.shape, bound.image_bits.shape
    ((2,), (3,))
    """
    (bound,) = evaluate_many(
        [(denoiser, schedule)],
        images,
        seed=seed,
        batch_size=batch_size,
        two_node_decoder=two_node_decoder,
        workers=workers,
        progress=progress,
    )
    return bound


def evaluate_many(
    jobs: Sequence[Job],
    images: Any,
    *,
    seed: int = 0,
    batch_size: int = 256,
    two_node_decoder: bool = False,
    first_row: int = 0,
    workers: Workers = ALONE,
    progress: bool = True,
) -> list[Bound]:
    """Evaluate many schedules under many variance rules, asking the network once per timestep.

    Parameters
    ----------
    jobs : sequence of (Denoiser, Schedule)
        The denoisers are one model under any of its variance rules.
    images, seed, batch_size, two_node_decoder, workers, progress
        As for :func:`dpdiff.evaluate`.
    first_row : int
        Number of the first image. An image's noise goes by its number, so that a set that is
        evaluated part by part has the bounds that it has as a whole.

    Returns
    -------
    list of Bound
        In the order of the jobs, each what :func:`dpdiff.evaluate` gives.

    Raises
    ------
    InputError
        If images, schedules and models do not fit together.

    Examples
    --------
    >>> from dpdiff.noise import NoiseSchedule
    >>> silent = Denoiser(lambda x, index: 0 * x, NoiseSchedule.cosine(8), shape=(2,))
    >>> jobs = [(silent, Schedule.even(8, 2)), (silent.with_variance("small"), Schedule([0, 8]))]
    >>> bounds = evaluate_many(jobs, np.full((3, 2), 200), progress=False)
    >>> [len(bound.edge_bits) for bound in bounds]
    [2, 1]
    """
    model = _one_model(jobs, two_node_decoder)
    random_streams.check_seed(seed)
    check_counts(batch_size=batch_size)
    random_streams.check_seed(first_row, "first_row")
    noising.check_likelihood(model)
    images = data.check(images, model.shape, model.levels)
    batches = Batches("evaluate", batch_size, workers, progress)
    begin = {t: _edges(jobs, t) for t in sorted({t for _, s in jobs for t, _ in s.jumps})}
    pieces = [(t, rows) for t in begin for rows in cut(np.arange(len(images)), batch_size)]

    def noised(piece: tuple[int, np.ndarray]) -> noising.Batch:
        t, rows = piece
        return noising.prepare(model, images, np.full(len(rows), t), rows, seed, first_row)

    def costs(batch: noising.Batch) -> Tensor:
        x0, prediction = noising.predict(model, batch)
        batches.called(batch.t, prediction.x0)
        edges = (
            jump_nats(*jobs[job], edge, x0, prediction, two_node_decoder)
            for job, edge in begin[batch.t[0]]
        )
        return torch.stack([*edges], dim=1)

    nats = [np.empty((schedule.steps, len(images))) for _, schedule in jobs]
    results = batches.run(costs, pieces, noised, calls=[len(rows) for _, rows in pieces])
    for (t, rows), found in zip(pieces, results, strict=True):
        for (job, edge), values in zip(begin[t], found.T, strict=True):
            nats[job][edge, rows] = values
    bits, prior = model.dims * np.log(2), noising.prior_costs(model, images)
    return [Bound(c.mean(1) / bits, prior.mean() / bits, (c.sum(0) + prior) / bits) for c in nats]


def _one_model(jobs: Sequence[Job], two_node_decoder: bool) -> Denoiser:
    """The model of all jobs, which must be one, read in one way, on one grid."""
    if not jobs or not all(isinstance(schedule, Schedule) for _, schedule in jobs):
        raise InputError("at least one schedule is evaluated, each a dpdiff.Schedule")
    models = [denoiser for denoiser, _ in jobs]
    keys = {(id(m.network), m.noise.fingerprint, m.output_key) for m in models}
    if len(keys) != 1:
        raise InputError(
            "the jobs of one call share one network, its noise schedule and what its output "
            "means, and differ in schedule and variance alone; evaluate other models apart"
        )
    for denoiser, schedule in jobs:
        schedule.check_noise(denoiser.noise)
        if two_node_decoder and (schedule.steps < 2 or denoiser.rule.needs_error):
            raise InputError("the two-node decoder needs two steps and a variance of its own")
    return models[0]


def _edges(jobs: Sequence[Job], t: int) -> list[tuple[int, int]]:
    """Which jumps of which jobs begin at t."""
    begins = (np.array(schedule.timesteps[1:]) for _, schedule in jobs)
    return [(job, edge) for job, ts in enumerate(begins) for edge in np.flatnonzero(ts == t)]


def rounding_effect(denoiser: Denoiser, images: np.ndarray, steps: int = 32) -> tuple[float, float]:
    """How much the reduced precision of a denoiser changes its bound.

    Parameters
    ----------
    denoiser : Denoiser
        As :meth:`dpdiff.Denoiser.with_precision` returns it.
    images : ndarray, shape (N, ...)
        A few images.
    steps : int
        Of the quadratic schedule that both precisions are evaluated on, with the same noise.

    Returns
    -------
    mean, stderr : float
        Of the difference to the network as it was loaded, image by image, in bits/dim.
    """
    schedule = Schedule.quadratic(denoiser.noise.T, min(steps, denoiser.noise.T))
    reduced, full = (
        evaluate(model, images, schedule, progress=False)
        for model in (denoiser, denoiser.unwrapped)
    )
    return reduced.minus(full)
