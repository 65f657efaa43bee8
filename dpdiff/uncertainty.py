"""Variances of measured costs, and of the differences between schedules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dpdiff.costs import Costs
    from dpdiff.schedule import Schedule


def jump_variances(costs: Costs, t: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Variance over single images of ``L(t, s)`` in nats², for jumps with ``0 ≤ s < t``.

    The fixed and the optimal rules use the slope ``dL/dm`` (exact where L is linear in m, to
    first order where it is not), learned variances the spread of penalty and error.

    Parameters
    ----------
    costs : Costs
        Measured costs.
    t, s : ndarray of int, shape (K,)
        The jumps.
    """
    last, jump = s == 0, s > 0
    variances = np.empty(len(t))
    variances[last] = costs.decoder_variances[t[last]]
    t, s = t[jump], s[jump]
    if costs.variance == "learned_range":
        penalty, error, both = costs.spread(t, s)
        gap = costs.noise.snr_gap(t, s)
        variances[jump] = 0.25 * np.maximum(penalty + 2 * gap * both + gap**2 * error, 0)
    else:
        variances[jump] = slopes(costs, t, s) ** 2 * costs.statistics["mse_var"][t]
    return variances


def slopes(costs: Costs, t: np.ndarray, s: np.ndarray) -> np.ndarray:
    """``dL(t, s)/dm(t)`` for ``s > 0``, under the rules that know ``m(t)`` alone."""
    gap = costs.noise.snr_gap(t, s)
    if costs.variance == "small":
        return 0.5 * gap
    if costs.variance == "large":
        return 0.5 * gap * np.exp(-costs.noise.log_ratio(t, s))
    return 0.5 * gap / (1 + gap * costs.mse[t] / costs.dims)


def difference(costs: Costs, one: Schedule, other: Schedule) -> tuple[float, float]:
    """Bits/dim of ``one`` less those of ``other``, and the standard error of that.

    See :meth:`dpdiff.Costs.difference`.
    """
    own, others = dict(one.jumps), dict(other.jumps)
    nats = variance = 0.0
    for t in sorted({*own, *others}):
        landings = [jumps[t] for jumps in (own, others) if t in jumps]
        if landings == [own.get(t)] * 2:
            continue  # the same jump: it cancels
        at, to = np.full(len(landings), t), np.array(landings)
        signs = np.array([sign for sign, jumps in ((1, own), (-1, others)) if t in jumps])
        nats += float(signs @ costs.costs_of(at, to))
        spreads = jump_variances(costs, at, to)
        if len(landings) == 2 and costs.variance != "learned_range" and to.min() > 0:
            variance += float(signs @ slopes(costs, at, to)) ** 2 * costs.statistics["mse_var"][t]
        else:  # of two, how they vary together was not kept: suppose the worst
            variance += np.sqrt(spreads).sum() ** 2
    unit, n = costs.dims * math.log(2), costs.provenance["per_step"]
    return nats / unit, math.sqrt(variance / (n - 1)) / unit
