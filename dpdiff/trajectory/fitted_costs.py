r"""What a step costs that has the best coefficients it could have.

A step that comes from r and goes from t to s has the previous prediction at hand. From the
teacher's own points it misses the next one by at least

.. math:: L(r, t, s) = \min_{a, c_0, c_1} E \sum_k w_k(s)
          \bigl(u_k^\top (x_s - a x_t - c_0 D_t - c_1 D_r)\bigr)^2,

with the gains w of :class:`dpdiff.trajectory.flow_costs.Bands`. The teacher's points are linear in
its noise and its predictions, so averaged Gram matrices of these hold every one of the problems.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dpdiff.noise import NoiseSchedule
from dpdiff.solvers.pairs import PairCosts
from dpdiff.trajectory.flow_costs import Bands, gram

RIDGE = 1e-12  # of each diagonal entry: vectors that repeat others count as nothing


def run_grams(x_T: Tensor, means: Tensor, bands: Bands) -> np.ndarray:
    """Gram matrices of a run's noise and predictions, averaged over noises.

    Parameters
    ----------
    x_T : Tensor of float32, shape (n, D)
    means : Tensor of float32, shape (N, n, D)
    bands : Bands

    Returns
    -------
    ndarray of float64, shape (B, N + 1, N + 1)
        Of ``(x_T, D_1, …, D_N)``.
    """
    runs = (torch.cat([x_T[i : i + 1], means[:, i]]) for i in range(len(x_T)))
    return sum(gram(run, bands) for run in runs) / len(x_T)


class FittedCosts(PairCosts):
    """The cost ``L(r, t, s)`` of every step between nodes, each with its own best coefficients.

    Parameters
    ----------
    grams : ndarray, shape (B, N + 1, N + 1)
        As :func:`run_grams` gives them.
    matrix : ndarray, shape (N + 1, N + 1)
        The points of the runs: see :func:`dpdiff.trajectory.fitting.run_matrix`.
    gains : ndarray, shape (B, N)
        Of an error at ``nodes[1:]``; at 0 it is 1.
    noise : NoiseSchedule
    nodes : ndarray of int, shape (N + 1,)
    """

    def __init__(
        self,
        grams: np.ndarray,
        matrix: np.ndarray,
        gains: np.ndarray,
        noise: NoiseSchedule,
        nodes: np.ndarray,
    ) -> None:
        self.timesteps = nodes
        self._gains = np.concatenate([np.ones((len(gains), 1)), gains], axis=1)
        self._points_with_means = (matrix @ grams)[:, :, 1:]
        self._points = matrix @ grams @ matrix.T
        self._means = grams[:, 1:, 1:]
        # What is left of x_t without f_t D_t: near the data x_t and D_t are nearly the same.
        residues = matrix.copy()
        count = len(nodes) - 1
        residues[np.arange(1, count + 1), np.arange(1, count + 1)] -= noise.f[nodes[1:]]
        self._residues_with_means = (residues @ grams)[:, :, 1:]
        self._points_with_residues = matrix @ grams @ residues.T
        self._residues = np.einsum("ij,bjk,ik->bi", residues, grams, residues)
        self._squares = self._weighed(np.diagonal(self._points, axis1=1, axis2=2))
        self.first = np.full((count + 1, count + 1), np.inf)
        for t in range(1, count + 1):
            self.first[t, :t] = self._least(t, None)

    def from_node(self, t: int) -> np.ndarray:
        """Costs of steps from one node t < N, shape (N - t, t): row i is of r = t + 1 + i."""
        return self._least(t, slice(t, None))

    def _weighed(self, entries: np.ndarray) -> np.ndarray:
        """``Σ_b gain_b(s) entries_b(s)``, for entries (B, N + 1) of every s."""
        return (self._gains * entries).sum(0)

    def _least(self, t: int, before: slice | None) -> np.ndarray:
        """Least squares by elimination, for all landings and all previous nodes at once."""
        i, gains = t - 1, self._gains[:, :t]
        means, across = self._means, self._points_with_means
        # Vectors in turn: D_t, the residue of x_t, D_r. Entries are of s, or of (r, s).
        squares = [means[:, i, i] @ gains, self._residues[:, t] @ gains]
        products = {(0, 1): self._residues_with_means[:, t, i] @ gains}
        aims = [
            (across[:, :t, i] * gains).sum(0),
            (self._points_with_residues[:, :t, t] * gains).sum(0),
        ]
        if before is not None:
            squares.append(np.diagonal(means, axis1=1, axis2=2)[:, before].T @ gains)
            products[0, 2] = means[:, i, before].T @ gains
            products[1, 2] = self._residues_with_means[:, t, before].T @ gains
            aims.append(np.einsum("bsr,bs->rs", across[:, :t, before], gains))
        return eliminated(self._squares[:t], squares, products, aims).clip(0)


def ddim_costs(
    grams: np.ndarray,
    matrix: np.ndarray,
    gains: np.ndarray,
    noise: NoiseSchedule,
    nodes: np.ndarray,
) -> np.ndarray:
    """The ``flow`` cost of DDIM's jumps from the points of any linear run.

    Parameters and shape as of :class:`FittedCosts` and its ``first``. For a run of DDIM these
    are the costs of :func:`dpdiff.trajectory.flow_costs.jump_table`, less accurate where a jump of
    DDIM's own costs nothing.
    """
    points = matrix @ grams @ matrix.T
    means = (matrix @ grams)[:, :, 1:]
    squares = np.diagonal(grams, axis1=1, axis2=2)[:, 1:]
    weights = np.concatenate([np.ones((len(gains), 1)), gains], axis=1)
    table = np.full(matrix.shape, np.inf)
    for t in range(1, len(nodes)):
        a = noise.g[nodes[:t]] / noise.g[nodes[t]]
        c = noise.f[nodes[:t]] - noise.f[nodes[t]] * a
        errors = np.diagonal(points, axis1=1, axis2=2)[:, :t] + a**2 * points[:, t, t, None]
        errors = errors - 2 * a * points[:, :t, t] - 2 * c * means[:, :t, t - 1]
        errors += 2 * a * c * means[:, t, t - 1, None] + c**2 * squares[:, t - 1, None]
        table[t, :t] = (weights[:, :t] * errors).sum(0).clip(0)
    return table


def eliminated(
    rest: np.ndarray,
    squares: list[np.ndarray],
    products: dict[tuple[int, int], np.ndarray],
    aims: list[np.ndarray],
) -> np.ndarray:
    """``min_θ ‖y - Σ θ_i v_i‖²`` of many small problems at once, by Cholesky's method.

    Parameters
    ----------
    rest : ndarray
        ``⟨y, y⟩``.
    squares : list of ndarray
        ``⟨v_i, v_i⟩``.
    products : dict of (int, int) to ndarray
        ``⟨v_i, v_j⟩`` for i < j.
    aims : list of ndarray
        ``⟨v_i, y⟩``.

    Examples
    --------
    >>> rest, one = np.array(2.0), np.array(1.0)
    >>> eliminated(rest, [one, 4 * one], {(0, 1): 0 * one}, [one, one]).round(9)
    np.float64(0.75)
    """
    rows: list[list[np.ndarray]] = []
    for j, square in enumerate(squares):
        row: list[np.ndarray] = []
        for i in range(j):
            done = sum(a * b for a, b in zip(rows[i], row, strict=False))
            row.append((products[i, j] - done) / rows[i][i])
        left = square - sum(a * a for a in row)
        tiny = np.finfo(float).tiny
        row.append(np.sqrt(np.maximum(left, 0) + RIDGE * square + tiny))
        rows.append(row)
    reached: list[np.ndarray] = []
    for row, aim in zip(rows, aims, strict=True):
        done = sum(a * b for a, b in zip(row, reached, strict=False))
        reached.append((aim - done) / row[-1])
        rest = rest - reached[-1] ** 2
    return rest
