r"""From a teacher's predictions to the cost of every jump, through averaged Gram matrices.

With ``σ = g/f`` and ``D_k`` the prediction x̂_0 at node k, DDIM adds ``w_k D_k`` to ``x/g`` at every
step, ``w_k = 1/σ_{k-1} - 1/σ_k``. One jump from i to j adds ``(Σ w_k) D_i`` instead, so that it
misses the teacher's point by

.. math:: e_{ij} = g_j \sum_{k=j+1}^{i} w_k (D_k - D_i), \qquad e_{i0} = D_1 - D_i,

and ``E‖e_ij‖²`` is made of entries of ``Q_kl = E⟨D_k, D_l⟩``: prefix sums over Q give all pairs in
O(N²). Q is an average, so it adds up over noises, batches and workers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dpdiff.noise import NoiseSchedule
from dpdiff.trajectory.bands import Bands

CHUNK = 2**16  # dimensions turned to float64 at a time


def gram(means: Tensor, bands: Bands) -> np.ndarray:
    """``⟨P_b D_k, P_b D_l⟩`` of one trajectory, for the projections on every band.

    Parameters
    ----------
    means : Tensor of float32, shape (N, D)
        Predictions at the nodes; the sums are made in float64 on its device.
    bands : Bands

    Returns
    -------
    ndarray of float64, shape (B, N, N)
    """
    directions = torch.from_numpy(bands.directions).to(means.device)
    whole = torch.zeros((len(means),) * 2, dtype=torch.float64, device=means.device)
    along = whole.new_zeros((len(means), directions.shape[1]))
    for some, axes in zip(means.split(CHUNK, 1), directions.split(CHUNK), strict=True):
        some = some.double()
        whole += some @ some.T
        along += some @ axes
    parts = [c @ c.T for c in along.split(bands.sizes[1:].tolist(), 1) if c.shape[1]]
    rest = whole - sum(parts) if parts else whole
    return torch.stack([rest, *parts]).cpu().numpy()


def jump_table(
    grams: np.ndarray, gains: np.ndarray, noise: NoiseSchedule, nodes: np.ndarray
) -> np.ndarray:
    """The cost ``Σ_b gain_b(s) E‖P_b e(t, s)‖²`` of every jump between nodes.

    Parameters
    ----------
    grams : ndarray, shape (B, N, N)
        Averaged over noises.
    gains : ndarray, shape (B, N)
        Of an error at ``nodes[1:]``; at 0 it is 1.
    noise : NoiseSchedule
    nodes : ndarray of int, shape (N + 1,)

    Returns
    -------
    ndarray of float64, shape (N + 1, N + 1)
        ``L[t, s]`` by the index of a node; infinite where s ≥ t. Rounding is at most a few
        1e-16 of ``E‖D‖²``, and nothing is below 0.
    """
    inverse, steps = inverse_scales(noise, nodes)
    landing = noise.g[nodes[1:]] ** 2 * gains
    count = len(nodes) - 1
    table = np.zeros((count + 1, count + 1))
    for gram, weight in zip(grams, landing, strict=True):
        table[1:, 1:] += weight * squared_sums(gram, steps, inverse)
        table[1:, 0] += gram[0, 0] - 2 * gram[0] + np.diag(gram)
    table.clip(0, out=table)
    table[np.triu_indices(count + 1)] = np.inf
    return table


def inverse_scales(noise: NoiseSchedule, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``f/g`` at ``nodes[1:]``, and how far it falls to each from the node before."""
    inverse = noise.f[nodes[1:]] / noise.g[nodes[1:]]
    return inverse, np.concatenate([[0.0], inverse[:-1] - inverse[1:]])


def squared_sums(gram: np.ndarray, steps: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """``E‖Σ_{j<k≤i} w_k (D_k - D_i)‖²`` at [i, j]; what stands above the diagonal is nonsense."""
    # Sums from the noisy end, where weights are small: there is nothing large to cancel.
    single = sums_above(gram * steps)
    double = sums_above((single * steps[:, None]).T).T
    own, diagonal = np.diag(single)[:, None], np.diag(double)
    a = inverse[None, :] - inverse[:, None]
    within = diagonal[None, :] - 2 * double.T + diagonal[:, None]
    return a**2 * np.diag(gram)[:, None] - 2 * a * (single - own) + within


def sums_above(values: np.ndarray) -> np.ndarray:
    """``Σ_{k>j} values[i, k]`` at [i, j]."""
    sums = np.zeros_like(values)
    sums[:, :-1] = np.cumsum(values[:, :0:-1], axis=1)[:, ::-1]
    return sums
