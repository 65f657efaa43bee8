r"""Costs of DPM-Solver++(2M)'s steps: each error depends on three nodes, and still adds up.

2M's step from t to s (Lu et al., DPM-Solver++, 2022) goes on in the direction that x̂_0 took from r,
the node before t, so that in the words of
:mod:`dpdiff.trajectory.flow_costs` it misses the teacher by

.. math:: e_{rts} = g_s \Big(\sum_k w_k (D_k - D_t) - a c\,(D_t - D_r)\Big), \qquad
          a = \sum_k w_k, \quad c = \frac{λ_s - λ_t}{2 (λ_t - λ_r)}, \quad λ = \log f/g.

The sums run over the teacher's nodes from t down to s. The first step has no r and the last one
lands on x̂_0: both are of first order, as in diffusers. ``E‖e‖²`` is made of the Gram matrices that
are there already.
"""

from __future__ import annotations

import numpy as np

from dpdiff.noise import NoiseSchedule
from dpdiff.solvers.pairs import PairCosts
from dpdiff.trajectory.flow_costs import inverse_scales, jump_table, squared_sums, sums_above


class SecondOrderCosts(PairCosts):
    """The cost ``Σ_b gain_b(s) E‖P_b e(r, t, s)‖²`` of every step of 2M between nodes.

    Parameters
    ----------
    grams : ndarray, shape (B, N, N)
        Averaged over noises.
    gains : ndarray, shape (B, N)
        Of an error at ``nodes[1:]``; at 0 it is 1.
    noise : NoiseSchedule
    nodes : ndarray of int, shape (N + 1,)
    """

    def __init__(
        self, grams: np.ndarray, gains: np.ndarray, noise: NoiseSchedule, nodes: np.ndarray
    ) -> None:
        inverse, weights = inverse_scales(noise, nodes)
        self.timesteps, self.first = nodes, jump_table(grams, gains, noise, nodes)
        self._grams, self._inverse = grams, inverse
        self._landing = noise.g[nodes[1:]] ** 2 * gains
        self._half_log_snr = noise.log_snr[nodes[1:]] / 2
        self._missed = np.stack([squared_sums(gram, weights, inverse) for gram in grams])
        self._single = np.stack([sums_above(gram * weights) for gram in grams])

    def from_node(self, t: int) -> np.ndarray:
        """Costs of steps from one node t < N, shape (N - t, t): row i is of r = t + 1 + i."""
        i, depth = t - 1, self._half_log_snr  # nodes[1] is the first of the arrays
        a = self._inverse[:i] - self._inverse[i]
        slope = (depth[:i] - depth[i]) / (2 * (depth[i] - depth[t:, None]))
        grams, single = self._grams, self._single
        own = grams[:, i, i, None]
        of_t = single[:, i, :i] - single[:, i, i, None] - a * own  # ⟨Σ w (D_k - D_t), D_t⟩
        of_r = single[:, t:, :i] - single[:, t:, i, None] - a * grams[:, t:, i, None]
        turn = own - 2 * grams[:, t:, i] + np.diagonal(grams, axis1=1, axis2=2)[:, t:]
        step = a * slope
        errors = self._missed[:, None, i, :i] - 2 * step * (of_t[:, None] - of_r)
        errors += step**2 * turn[:, :, None]
        costs = np.einsum("brs,bs->rs", errors, self._landing[:, :i]).clip(0)
        to_zero = np.full((len(costs), 1), self.first[t, 0])
        return np.concatenate([to_zero, costs], axis=1)
