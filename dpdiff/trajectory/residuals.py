"""What a denoiser leaves unknown at every node, direction by direction."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from dpdiff import noising
from dpdiff.costs import chebyshev
from dpdiff.costs.statistics import NODES
from dpdiff.denoiser import Denoiser
from dpdiff.runtime import random_streams
from dpdiff.runtime.checkpoints import cut
from dpdiff.runtime.memory import Halving
from dpdiff.trajectory.bands import Bands

BATCH = 64


class Residuals(NamedTuple):
    """Mean squares over examples and over the dimensions of every band.

    Attributes
    ----------
    variances : ndarray, shape (B,)
        λ of the data.
    errors : ndarray, shape (B, N + 1)
        ``C(t)`` of ``x_0 - x̂_0``; 0 at t = 0.
    mse : ndarray, shape (N + 1,)
        ``m(t)/D``.
    growth : ndarray, shape (N + 1, J), or None
        ``E e^{a v}`` of a learned variance at Chebyshev's nodes of ``a`` up to log(g(t)²/g(1)²).
    """

    variances: np.ndarray
    errors: np.ndarray
    mse: np.ndarray
    growth: np.ndarray | None


@torch.inference_mode()
def measure_residuals(
    denoiser: Denoiser, nodes: np.ndarray, bands: Bands, x0: Any, seed: int, progress: bool
) -> Residuals:
    """Noise examples to every node and look at what the denoiser says.

    Parameters
    ----------
    denoiser : Denoiser
    nodes : ndarray of int, shape (N + 1,)
    bands : Bands
    x0 : Tensor, shape (n, ...)
        Examples in [-1, 1]; best others than those that the bands were made from.
    seed : int
        Of the noise.
    progress : bool

    Returns
    -------
    Residuals
    """
    flat = x0.double().flatten(1).cpu().numpy()
    halving, squares, growth = Halving(), [], []

    def predicted(t: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        noise = torch.from_numpy(random_streams.gaussian(seed, t, rows, denoiser.shape))
        batch = noising.Batch(np.full(len(rows), t), x0[rows].double(), noise)
        clean, prediction = noising.predict(denoiser, batch)
        errors = (clean - prediction.x0).flatten(1).cpu().numpy()
        return errors, None if prediction.v is None else prediction.v.flatten().cpu().numpy()

    for t in tqdm(nodes[1:].tolist(), desc="residuals", disable=not progress):
        pieces = []
        for rows in cut(np.arange(len(x0)), BATCH):
            pieces += halving(lambda part, t=t, rows=rows: predicted(t, rows[part]), len(rows))
        errors, outputs = zip(*pieces, strict=True)
        squares.append(bands.of(np.concatenate(errors)))
        growth.append(
            _growth(denoiser, t, np.concatenate(outputs)) if outputs[0] is not None else []
        )
    errors = np.array([np.zeros_like(squares[0]), *squares]).T
    variances = bands.of(flat - flat.mean(0)) * len(flat) / (len(flat) - 1)
    known = np.array([np.ones(NODES), *growth]) if growth[0] != [] else None
    return Residuals(variances, errors, bands.sizes @ errors / bands.sizes.sum(), known)


def _growth(denoiser: Denoiser, t: int, v: np.ndarray) -> list[float]:
    widths = denoiser.noise.noise_gain(t, 1) * (1 + chebyshev.nodes(NODES)) / 2
    return [float(np.exp(a * v).mean()) for a in widths]
