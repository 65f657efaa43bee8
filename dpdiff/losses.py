"""What a bundled model is trained to make small: L_hybrid of Nichol & Dhariwal (2021)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dpdiff.denoiser import Denoiser
from dpdiff.elbo import decoder_cost, jump_cost


def losses(denoiser: Denoiser, x0: Tensor, t: np.ndarray, eps: Tensor) -> tuple[Tensor, Tensor]:
    """The two parts of L_hybrid for a batch.

    Parameters
    ----------
    denoiser : Denoiser
        With learned-range variance, predicting ``eps`` or ``v``.
    x0, eps : Tensor, shape (B, ...)
        Data in [-1, 1] and Gaussian noise.
    t : ndarray of int, shape (B,)
        Timesteps in 1 … T.

    Returns
    -------
    simple : Tensor, shape (B,)
        Mean squared error of the network's own target.
    bound : Tensor, shape (B,)
        ``T`` times the cost of the jump ``t → t - 1`` in bits/dim, an unbiased estimate of L_vlb
        for uniform ``t``; gradients flow through the variance only.
    """
    noise = denoiser.noise
    per_example = (-1,) + (1,) * (x0.ndim - 1)

    def coefficient(values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=x0.dtype, device=x0.device).reshape(per_example)

    f, g = coefficient(noise.f[t]), coefficient(noise.g[t])
    x_t = f * x0 + g * eps
    output, v = denoiser.network_output(x_t, t)
    target = f * eps - g * x0 if denoiser.predicts == "v" else eps
    mean = f * x_t - g * output if denoiser.predicts == "v" else (x_t - g * output) / f
    mean = mean.detach().clamp(-1, 1)
    s = np.maximum(t - 1, 1)  # the decoder takes the place of the jump to 0
    jump = jump_cost(
        coefficient(noise.log_ratio(t, s)) * v,
        (x0 - mean) ** 2,
        coefficient(noise.snr_gap(t, s)),
    )
    floor = denoiser.decoder_floor(1)
    log_variance = floor + (noise.log_g2[1] - floor) * v
    first = coefficient(t) == 1
    decoder = decoder_cost(x0, mean, torch.where(first, log_variance, 0.0), denoiser.levels)
    bound = torch.where(first, decoder, jump).flatten(1).mean(1) * (noise.T / math.log(2))
    return (target - output).square().flatten(1).mean(1), bound
