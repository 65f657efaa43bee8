"""Ancestral and DDIM sampling over any schedule."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dpdiff import draws
from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.errors import InputError
from dpdiff.schedule import Schedule

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
    progress : bool
        Show a progress bar.

    Returns
    -------
    Tensor, float32, shape (n, ...)
        On the CPU; in [-1, 1] if the denoiser clips.

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
    samples = torch.empty((n, *denoiser.shape))
    starts = range(0, n, batch_size)
    calls = len(starts) * schedule.steps
    bar = tqdm(total=calls, desc="sample", unit="call", disable=not progress)
    noisy = sampler == "ancestral" or eta > 0
    # Noise is drawn on the CPU, one step ahead: a thread does so while the network is at work.
    with ThreadPoolExecutor(1) as ahead:
        for start in starts:
            rows = np.arange(start, min(start + batch_size, n))

            def draw(t: int, rows: np.ndarray = rows) -> Tensor:
                return torch.from_numpy(draws.gaussian(seed, t, rows, denoiser.shape))

            x = draw(schedule.T).to(denoiser.device)
            for t, s in reversed(schedule.jumps):
                coming = ahead.submit(draw, s) if noisy and s > 0 else None
                prediction = denoiser(x, t)
                fresh = coming.result().to(x.device) if coming else x.new_zeros(())
                if sampler == "ancestral":
                    x = ancestral_move(denoiser, prediction, x, t, s, fresh)
                else:
                    x = ddim_move(denoiser, prediction, x, t, s, fresh, eta)
                bar.update()
            samples[rows] = x.cpu()
    bar.close()
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
