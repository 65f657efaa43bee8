"""What a bundled model is trained to make small: L_hybrid of Nichol & Dhariwal (2021)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.elbo import decoder_cost, jump_cost
from dpdiff.noise import per_example


def losses(
    denoiser: Denoiser, x0: Tensor, t: np.ndarray, eps: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The two parts of L_hybrid for a batch.

    Parameters
    ----------
    denoiser : Denoiser
        Under its learned-range variance, or one that has none.
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
        for uniform ``t``; gradients flow through the variance only. None without a learned
        variance.
    """
    noise = denoiser.noise
    f, g = noise.at(t, x0)
    output, v = denoiser.network_output(f * x0 + g * eps, t)
    simple = (denoiser.target(x0, t, eps) - output).square().flatten(1).mean(1)
    if v is None:
        return simple, None
    x0_hat = denoiser.read(f * x0 + g * eps, t, output).detach()
    prediction = Prediction(x0_hat, v)
    s = np.maximum(t - 1, 1)  # the decoder takes the place of the jump to 0
    gap = per_example(noise.snr_gap(t, s), x0)
    jump = jump_cost(denoiser.log_ratio(t, s, prediction), (x0 - x0_hat) ** 2, gap)
    first = per_example(t, x0) == 1
    log_variance = torch.where(first, denoiser.decoder_log_variance(t, prediction), 0.0)
    decoder = decoder_cost(x0, x0_hat, log_variance, denoiser.levels)
    bound = torch.where(first, decoder, jump).flatten(1).mean(1) * (noise.T / math.log(2))
    return simple, bound
