r"""From a teacher's predictions to the cost of every jump, through averaged Gram matrices.

With ``σ = g/f`` and ``D_k`` the prediction x̂_0 at node k, DDIM adds ``w_k D_k`` to ``x/g`` at every
step, ``w_k = 1/σ_{k-1} - 1/σ_k``. One jump from i to j adds ``(Σ w_k) D_i`` instead, so that it
misses the teacher's point by

.. math:: e_{ij} = g_j \sum_{k=j+1}^{i} w_k (D_k - D_i), \qquad e_{i0} = D_1 - D_i,

and ``E‖e_ij‖²`` is made of entries of ``Q_kl = E⟨D_k, D_l⟩``: prefix sums over Q give all pairs in
O(N²). Q is an average, so it adds up over noises, batches and workers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dpdiff.noise import NoiseSchedule

FLOOR = 0.05  # of the mean variance: what few samples say of smaller ones is noise


@dataclass(frozen=True, eq=False)
class Bands:
    """Orthogonal directions in groups of similar variance; band 0 is the whole rest of space.

    Attributes
    ----------
    variances : ndarray of float64, shape (B,)
        λ of every band, of band 0 the floor.
    sizes : ndarray of int, shape (B,)
        Number of dimensions; they add up to D.
    directions : ndarray of float64, shape (D, r)
        Orthonormal columns of the bands 1 … B - 1, one band after another.
    """

    variances: np.ndarray
    sizes: np.ndarray
    directions: np.ndarray

    def gains(self, noise: NoiseSchedule, s: np.ndarray) -> np.ndarray:
        """How much of a squared error at timesteps ``s > 0`` reaches the end, shape (B, len(s)).

        For Gaussian data with variance λ the probability flow carries a small change from s to 0
        by the factor ``sqrt(w)``, ``w = λ / (f_s² λ + g_s²)``.
        """
        variances = self.variances[:, None]
        return variances / (noise.f[s] ** 2 * variances + noise.g[s] ** 2)

    def of(self, points: np.ndarray) -> np.ndarray:
        """Mean square of the rows of ``points`` (n, D) along each direction of a band, (B,)."""
        along = np.square(points @ self.directions).mean(0)
        sums = np.add.reduceat(along, self.first) if along.size else np.zeros(0)
        rest = np.square(points).sum(1).mean() - sums.sum()
        return np.maximum(np.concatenate([[rest], sums]), 0) / np.maximum(self.sizes, 1)

    @property
    def first(self) -> np.ndarray:
        """The column at which each of the bands 1 … B - 1 begins."""
        return np.concatenate([[0], np.cumsum(self.sizes[1:-1])]).astype(int)


def bands_of(ends: np.ndarray, count: int) -> Bands:
    """Bands of the covariance of end points.

    Parameters
    ----------
    ends : ndarray, shape (n, D)
        Samples. Directions in which they vary by less than 5 % of the mean variance, or not at
        all because they are few, make band 0 with that floor as its λ.
    count : int
        At most so many bands; those above the floor are even in log λ.

    Returns
    -------
    Bands

    Examples
    --------
    >>> ends = np.random.default_rng(0).normal(size=(2000, 3)) * [1, 0.5, 0.1]
    >>> bands_of(ends, 8).variances.round(2)
    array([0.02, 0.24, 1.02])
    """
    ends = np.asarray(ends, np.float64)
    n, dims = ends.shape
    _, scales, rows = np.linalg.svd(ends - ends.mean(0), full_matrices=False)
    variances = scales**2 / (n - 1)
    floor = FLOOR * variances.sum() / dims
    above = (variances > floor) & (variances > 0)
    variances, rows = variances[above][::-1], rows[above][::-1]
    if not len(variances) or count < 2:
        return Bands(np.array([floor]), np.array([dims]), np.zeros((dims, 0)))
    height = np.log(variances / floor) / np.log(variances[-1] / floor)
    place = np.minimum((height * (count - 1)).astype(int), count - 2)
    _, first, sizes = np.unique(place, return_index=True, return_counts=True)
    means = np.add.reduceat(variances, first) / sizes
    return Bands(
        np.concatenate([[floor], means]),
        np.concatenate([[dims - len(variances)], sizes]),
        rows.T.copy(),
    )


DIMENSIONS_AT_ONCE = 2**16  # dimensions turned to float64 at a time


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
    for some, axes in zip(
        means.split(DIMENSIONS_AT_ONCE, 1), directions.split(DIMENSIONS_AT_ONCE), strict=True
    ):
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
