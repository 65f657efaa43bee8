"""The teacher: DDIM down every node of a grid, from the same noise as the sampler's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.runtime import random_streams
from dpdiff.sampling import ddim


def start(denoiser: Denoiser, seed: int, rows: np.ndarray) -> Tensor:
    """The noise x_T from which ``dpdiff.sample`` with this seed draws samples ``rows``; float64."""
    noise = random_streams.gaussian(seed, denoiser.noise.T, rows, denoiser.shape)
    x_T = denoiser.noise.prior_scale * torch.from_numpy(noise)
    return x_T.double().to(denoiser.device)


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
        step = Prediction(mean.to(x.dtype), None)
        x = ddim(denoiser, step, x, nodes[i], nodes[i - 1], torch.zeros_like(x), 0.0)
    return means


def states(denoiser: Denoiser, nodes: np.ndarray, x: Tensor, means: Tensor) -> Tensor:
    """The points of a run whose predictions are known, float64, shape (N + 1, B, D)."""
    run = [x.double().flatten(1).cpu()]
    for i in range(len(nodes) - 1, 0, -1):
        step = Prediction(means[i - 1].double(), None)
        still = torch.zeros_like(run[-1])
        run.append(ddim(denoiser, step, run[-1], nodes[i], nodes[i - 1], still, 0.0))
    return torch.stack(run[::-1])
