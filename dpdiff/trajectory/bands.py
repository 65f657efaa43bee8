"""Directions of the data, grouped by how much the data varies along them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
