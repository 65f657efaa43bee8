"""Ancestral and DDIM sampling over any schedule."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dpdiff import draws
from dpdiff.batches import ahead
from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.errors import InputError
from dpdiff.parts import cut
from dpdiff.schedule import Schedule
from dpdiff.workers import ALONE, Workers
from dpdiff.wrappers import sparing

SAMPLERS = ("ancestral", "ddim")


@torch.inference_mode()
def sample(
    denoiser: Denoiser,
    schedule: Schedule,
    n: int = 64,
    *,
    seed: int = 0,
    sampler: str = "ancestral",
    eta: float = 0.0,
    batch_size: int = 256,
    workers: Workers = ALONE,
    progress: bool = True,
) -> Tensor:
    """Draw examples from a denoiser with as many network calls as the schedule has steps.

    Parameters
    ----------
    denoiser : Denoiser
        The model; ``ancestral`` uses its variance rule.
    schedule : Schedule
        Must end at the model's T.
    n : int
        How many examples.
    seed : int
        Of the noise. Sample ``i`` at timestep ``t`` always gets the same noise, whatever the
        batch size, the schedule's other steps and ``n``.
    sampler : {"ancestral", "ddim"}
        ``ancestral`` draws from ``p(x_s | x_t)``; ``ddim`` follows Song et al. (2021), eq. 12.
    eta : float
        Of ``ddim``: 0 is deterministic, 1 has the ``small`` variance.
    batch_size : int
        Examples a network call.
    workers : Workers
        Processes to share the batches with, each calling this function: see
        :func:`dpdiff.workers.join`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Tensor, float32, shape (n, ...)
        On the CPU; in [-1, 1] if the denoiser clips. Workers other than the first get none:
        shape (0, ...).

    Raises
    ------
    InputError
        If the schedule is of another grid or an argument is out of range.

    Examples
    --------
    >>> from dpdiff.noise import NoiseSchedule
    >>> silent = Denoiser(lambda x, index: 0 * x, NoiseSchedule.cosine(8), shape=(2,))
    >>> sample(silent, Schedule([0, 4, 8]), n=3, progress=False).shape
    torch.Size([3, 2])
    """
    if schedule.T != denoiser.noise.T:
        raise InputError(f"the schedule ends at {schedule.T}, the model's T is {denoiser.noise.T}")
    if sampler not in SAMPLERS:
        raise InputError(f"sampler is one of {', '.join(SAMPLERS)}; got {sampler!r}")
    if n < 1 or batch_size < 1 or not 0 <= eta <= 1:
        raise InputError(
            f"n and batch_size are at least 1 and eta lies in [0, 1]; "
            f"got n = {n}, batch_size = {batch_size}, eta = {eta}"
        )
    denoiser = sparing(denoiser)
    own = workers.share(cut(np.arange(n), batch_size))
    needed = [s for _, s in reversed(schedule.jumps) if s > 0 and (eta > 0 or sampler != "ddim")]
    noises = ahead(
        lambda job: torch.from_numpy(draws.gaussian(seed, *job, denoiser.shape)),
        [(t, rows) for rows in own for t in (schedule.T, *needed)],
    )
    bar = tqdm(
        desc=workers.bar_title("sample"),
        unit="call",
        total=len(own) * schedule.steps,
        disable=not (progress and workers.first),
    )
    drawn = []
    with workers.named(), bar:
        for rows in own:
            x = next(noises).to(denoiser.device)
            for t, s in reversed(schedule.jumps):
                noise = next(noises).to(x.device) if s in needed else torch.zeros_like(x)
                if sampler == "ancestral":
                    x = ancestral_step(denoiser, x, t, s, noise)
                else:
                    x = ddim_step(denoiser, x, t, s, noise, eta)
                bar.update()
            drawn.append((rows, x.cpu().numpy()))
    shares = [piece for share in workers.gather(drawn) for piece in share]
    samples = torch.empty((n if workers.first else 0, *denoiser.shape))
    for rows, x in shares:
        samples[rows] = torch.from_numpy(x)
    return samples


def ancestral_step(denoiser: Denoiser, x_t: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
    """Draw from ``p(x_s | x_t)``; the last step returns its mean x̂_0.

    Parameters
    ----------
    denoiser : Denoiser
        The model with its variance rule.
    x_t : Tensor, shape (B, ...)
        Current examples.
    t, s : int
        The jump, ``0 ≤ s < t``.
    noise : Tensor
        Standard normal, shaped as ``x_t``; not used when ``s = 0``.
    """
    return ancestral_move(denoiser, denoiser(x_t, t), x_t, t, s, noise)


def ancestral_move(
    denoiser: Denoiser, prediction: Prediction, x_t: Tensor, t: int, s: int, noise: Tensor
) -> Tensor:
    """What is left of :func:`ancestral_step` once the network has been asked."""
    x0, v = prediction
    if s == 0:
        return x0
    signal, residue, log_variance = denoiser.noise.posterior(t, s)
    scale = (0.5 * (log_variance + denoiser.log_ratio(t, s, v))).exp().to(x_t.dtype)
    return signal * x0 + residue * x_t + scale * noise


def ddim_step(denoiser: Denoiser, x_t: Tensor, t: int, s: int, noise: Tensor, eta: float) -> Tensor:
    """One DDIM step; the noise estimate is derived anew from the clipped x̂_0.

    Parameters
    ----------
    denoiser : Denoiser
        The model; its variance rule plays no part.
    x_t : Tensor, shape (B, ...)
        Current examples.
    t, s : int
        The jump, ``0 ≤ s < t``.
    noise : Tensor
        Standard normal, shaped as ``x_t``; matters when ``eta > 0`` and ``s > 0``.
    eta : float
        Share of the ``small`` standard deviation.
    """
    return ddim_move(denoiser, denoiser(x_t, t), x_t, t, s, noise, eta)


def ddim_move(
    denoiser: Denoiser,
    prediction: Prediction,
    x_t: Tensor,
    t: int,
    s: int,
    noise: Tensor,
    eta: float,
) -> Tensor:
    """What is left of :func:`ddim_step` once the network has been asked."""
    x0 = prediction.x0
    if s == 0:
        return x0
    f, g = denoiser.noise.f, denoiser.noise.g
    sigma = eta * np.exp(0.5 * denoiser.noise.posterior(t, s)[2])
    eps = (x_t - f[t] * x0) / g[t]
    return f[s] * x0 + np.sqrt(g[s] ** 2 - sigma**2) * eps + sigma * noise
