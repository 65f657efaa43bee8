"""Standard errors of measured costs, and of the differences between schedules."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np

from dpdiff.costs.draws import draws
from dpdiff.costs.fit import Sample
from dpdiff.schedule import Schedule
from dpdiff.solvers.protocols import Unit
from dpdiff.variance import Moments, Rule


class Estimate(NamedTuple):
    """A measured number and its standard error."""

    mean: float
    stderr: float


class Measured(Moments, Protocol):
    """What is read of :class:`dpdiff.Costs` here."""

    provenance: dict[str, Any]
    sample: Sample | None

    @property
    def rule(self) -> Rule: ...

    @property
    def unit(self) -> Unit: ...

    @property
    def decoder_variances(self) -> np.ndarray: ...

    def costs_of(self, t: np.ndarray, s: np.ndarray) -> np.ndarray: ...


def edge_variances(costs: Measured, t: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Variance over single images of ``L(t, s)`` in nats², for jumps with ``0 ≤ s < t``.

    Parameters
    ----------
    costs : Measured
        Measured costs.
    t, s : ndarray of int, shape (K,)
        The jumps.
    """
    variances, jump = costs.decoder_variances[t].copy(), s > 0
    variances[jump] = costs.rule.jump_variances(costs, t[jump], s[jump])
    return variances


def bound(costs: Measured, schedule: Schedule) -> Estimate:
    """See :meth:`dpdiff.Costs.bound`."""
    t, s = np.array(schedule.jumps).T
    nats = costs.costs_of(t, s).sum() + costs.unit.offset
    if costs.sample is not None:
        return _drawn(costs, nats, [(t, s, 1)])
    return _in_unit(costs, nats, edge_variances(costs, t, s).sum())


def difference(costs: Measured, one: Schedule, other: Schedule) -> Estimate:
    """See :meth:`dpdiff.Costs.difference`."""
    if costs.sample is not None:
        parts = [(*np.array(x.jumps).T, sign) for x, sign in ((one, 1), (other, -1))]
        return _drawn(costs, sum(sign * costs.costs_of(t, s).sum() for t, s, sign in parts), parts)
    own, others = dict(one.jumps), dict(other.jumps)
    nats = variance = 0.0
    for t in sorted({*own, *others}):
        landings = [jumps[t] for jumps in (own, others) if t in jumps]
        if landings == [own.get(t)] * 2:
            continue  # the same jump: it cancels
        at, to = np.full(len(landings), t), np.array(landings)
        signs = np.array([sign for sign, jumps in ((1, own), (-1, others)) if t in jumps])
        nats += float(signs @ costs.costs_of(at, to))
        variance += _variance_of_difference(costs, at, to, signs)
    return _in_unit(costs, nats, variance)


def _drawn(costs: Measured, nats: float, parts: list[tuple]) -> Estimate:
    """Where all timesteps saw the same images: the spread of a sum of paths over draws of them."""
    only = np.unique(np.concatenate([part[0] for part in parts]))
    totals = [
        sum(sign * draw.costs_of(t, s).sum() for t, s, sign in parts)
        for draw in draws(costs, only=only)
    ]
    size = costs.unit.size
    return Estimate(float(nats / size), float(np.std(totals, ddof=1)) / size)


def _variance_of_difference(
    costs: Measured, t: np.ndarray, s: np.ndarray, signs: np.ndarray
) -> float:
    """Of one jump from t, or of two that begin there."""
    slopes = costs.rule.slopes(costs, t, s) if len(t) == 2 and s.min() > 0 else None
    if slopes is not None:  # both follow from the same m(t)
        return float(signs @ slopes) ** 2 * costs.mse_variance[t[0]]
    # How two other costs vary together was not kept: suppose the worst.
    return np.sqrt(edge_variances(costs, t, s)).sum() ** 2


def _in_unit(costs: Measured, nats: float, variance: float) -> Estimate:
    """Nats, and a variance over single images, as bits/dim with a standard error."""
    size, n = costs.unit.size, costs.provenance["per_step"]
    return Estimate(float(nats / size), math.sqrt(variance / (n - 1)) / size)
