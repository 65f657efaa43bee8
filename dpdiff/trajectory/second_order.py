r"""Schedules for DPM-Solver++(2M): each step's error depends on three nodes, and still adds up.

2M's step from t to s (Lu et al., DPM-Solver++, 2022) goes on in the direction that x̂_0 took from r,
the node before t, so that in the words of
:mod:`dpdiff.trajectory.flow_costs` it misses the teacher by

.. math:: e_{rts} = g_s \Big(\sum_k w_k (D_k - D_t) - a c\,(D_t - D_r)\Big), \qquad
          a = \sum_k w_k, \quad c = \frac{λ_s - λ_t}{2 (λ_t - λ_r)}, \quad λ = \log f/g.

The sums run over the teacher's nodes from t down to s. The first step has no r and the last one
lands on x̂_0: both are of first order, as in diffusers. ``E‖e‖²`` is made of the Gram matrices that
are there already. A recursion over pairs of nodes finds the least sum over a path, exactly.
"""

from __future__ import annotations

import numpy as np

from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.schedule import Schedule
from dpdiff.solvers.plan import whole_number
from dpdiff.trajectory.flow_costs import inverse_scales, jump_table, squared_sums, sums_above
from dpdiff.trajectory.trajectories import Trajectories


class Triples:
    """The cost ``Σ_b gain_b(s) E‖P_b e(r, t, s)‖²`` of every step of 2M between nodes.

    Parameters
    ----------
    grams : ndarray, shape (B, N, N)
        Averaged over noises.
    gains : ndarray, shape (B, N)
        Of an error at ``nodes[1:]``; at 0 it is 1.
    noise : NoiseSchedule
    nodes : ndarray of int, shape (N + 1,)

    Attributes
    ----------
    first : ndarray, shape (N + 1, N + 1)
        Costs of steps of first order, ``[t, s]`` by the index of a node.
    """

    def __init__(
        self, grams: np.ndarray, gains: np.ndarray, noise: NoiseSchedule, nodes: np.ndarray
    ) -> None:
        inverse, weights = inverse_scales(noise, nodes)
        self.first = jump_table(grams, gains, noise, nodes)
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


class SecondOrderPlan:
    """The best schedules for 2M of every budget. Made by :func:`second_order`.

    Attributes
    ----------
    totals : ndarray of float64, shape (max_steps + 1,)
        ``totals[K]`` is the least cost of K steps; ``totals[0]`` is infinite.
    """

    def __init__(self, triples: Triples, nodes: np.ndarray, max_steps: int) -> None:
        count = len(nodes) - 1
        self.nodes, self.max_steps = nodes, max_steps
        # ways[k, t, s]: the least cost of k steps from T down, the last of them from t to s.
        ways = np.full((max_steps + 1, count + 1, count + 1), np.inf)
        self._before = np.zeros(ways.shape, np.int32)
        ways[1, count, :count] = triples.first[count, :count]
        for t in range(count - 1, 0, -1):
            costs = triples.from_node(t)
            for k in range(2, max_steps + 1):
                bids = ways[k - 1, t + 1 :, t, None] + costs
                best = bids.argmin(0)
                self._before[k, t, :t] = t + 1 + best
                ways[k, t, :t] = np.take_along_axis(bids, best[None], axis=0)[0]
        self._last = ways[:, :, 0].argmin(1)
        self.totals = ways[:, :, 0].min(1)

    def schedule(self, steps: int) -> Schedule:
        """The best schedule with a given number of steps."""
        steps = whole_number(steps, "a number of steps")
        if not 1 <= steps <= self.max_steps:
            raise InputError(f"the number of steps lies in 1…{self.max_steps}, got {steps}")
        path = [0, int(self._last[steps])]
        for k in range(steps, 1, -1):
            path.append(int(self._before[k, path[-1], path[-2]]))
        return Schedule(tuple(self.nodes[path]))


def second_order(paths: Trajectories, max_steps: int | None = None) -> SecondOrderPlan:
    """Schedules for DPM-Solver++(2M), from trajectories of the first-order teacher.

    They have the least sum of ``flow`` costs of 2M's own steps, in place of DDIM's. On the bundled
    network with linear betas 2M then comes 3 to 7 % nearer to the teacher than with the ``flow``
    schedule at eight steps, as mean distances go, and as near at five and twelve. On the digits,
    with their cosine grid, it stays 2 and 7 % farther away at four and five steps. From six on no
    mean is nearer for all noises and both teachers, though geometric means are mostly smaller
    (``benchmarks/second_order.py``). So draw with both and compare.

    Parameters
    ----------
    paths : Trajectories
        What :func:`dpdiff.trajectories` returns.
    max_steps : int, optional
        The largest budget; by default all that these nodes serve, a quarter of them.

    Returns
    -------
    SecondOrderPlan

    Raises
    ------
    InputError
        If these nodes do not serve so many steps.

    Notes
    -----
    ``C_k(t, s) = min_r C_{k-1}(r, t) + L(r, t, s)``: exact, in O(K N³) time and O(K N²) memory.

    Examples
    --------
    >>> import dpdiff
    >>> noise = dpdiff.NoiseSchedule.cosine(100)
    >>> shrink = dpdiff.Denoiser(lambda x, index: 0.3 * x, noise, shape=(2,))
    >>> paths = dpdiff.trajectories(shrink, n=4, nodes=16, progress=False)
    >>> second_order(paths).schedule(3).timesteps
    (0, 32, 61, 100)
    """
    limit = paths.largest_budget if max_steps is None else whole_number(max_steps, "max_steps")
    paths.check_budget(limit)
    noise = paths.denoiser.noise
    gains = paths.bands.gains(noise, paths.nodes[1:])
    triples = Triples(paths.grams.sum(0), gains, noise, paths.nodes)
    return SecondOrderPlan(triples, paths.nodes, limit)
