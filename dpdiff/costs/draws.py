"""Costs as other images and other noise might have given them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np

from dpdiff.costs.fit import Sample

Measured = TypeVar("Measured")  # Costs
COUNT = 100


def draws(
    costs: Measured,
    count: int = COUNT,
    seed: int = 0,
    *,
    only: np.ndarray | None = None,
    width: float | None = None,
) -> Iterator[Measured]:
    """Draw from the sampling distribution of measured costs.

    Where every image was kept, images are drawn anew: each counts with a random weight, such
    that means are spread as Student's distribution says of n independent images (a Bayesian
    bootstrap, Rubin 1981, with Dirichlet weights that sum to ``χ²_{n-1} - 1`` before they are
    normed). What images and noise have in common from timestep to timestep stays as it is. The
    errors of the means are smoothed less than the costs were: see ``dpdiff.costs.fit``.

    Of a dense measurement, means and variances are all there is. Each timestep is moved on its
    own, by its standard errors: m(t) by a lognormal factor, the two functions of a learned
    variance by one number each for all nodes, correlated as they are at the widest jump, and
    decoders on their own. Then the draw is smoothed as the costs are. If all timesteps saw the
    same images, this says too much, not too little.

    Parameters
    ----------
    costs : Costs
        As :func:`dpdiff.measure` returns them.
    count : int
        How many draws.
    seed : int
        Of the draws.
    only : ndarray of int, optional
        The timesteps of interest; others need not hold anything.
    width : float, optional
        How far costs of every timestep are smoothed; by default as their residuals decide.

    Yields
    ------
    Costs
        Means only, and only those that the rule in force asks for.
    """
    rng = np.random.default_rng(seed)
    if costs.sample is None and width is None:
        width = costs.smoothed().provenance["smoothing_width"]
    sample = costs.sample
    if sample is not None and not costs.rule.needs_output:
        sample = sample.without("penalty", "error")  # most of the work, and not asked for
    for _ in range(count):
        if sample is not None:
            drawn = _other_images(sample, rng, only)
        else:
            drawn = _other_means(costs.statistics, costs.provenance["per_step"], rng)
        statistics = drawn | {"prior": costs.statistics["prior"]}
        moved = replace(costs, statistics=statistics)
        yield moved if sample is not None else _smoothed(moved, costs, width)


def _other_images(sample: Sample, rng: np.random.Generator, only: np.ndarray | None) -> dict:
    n = sample.images
    weights = rng.dirichlet(np.full(n, max(rng.chisquare(n - 1) - 1, 0.5) / n))
    return sample.statistics(weights, spread=False, only=only)


def _other_means(statistics: dict, images: int, rng: np.random.Generator) -> dict:
    """Means of a dense measurement, moved by their standard errors."""
    T, drawn = len(statistics["mse"]) - 1, {}
    first, second = rng.standard_normal((2, T))
    for name in [k for k in statistics if f"{k}_var" in statistics and k != "prior"]:
        mean = statistics[name][1:]
        error = np.sqrt(np.maximum(statistics[f"{name}_var"][1:], 0) / (images - 1))
        if name in ("mse", "error"):
            shift, relative = first, error / np.maximum(mean, 1e-300)
            width = np.sqrt(np.log1p(relative**2))
            shift = shift[:, None] if mean.ndim > 1 else shift
            moved = mean * np.exp(width * shift - width**2 / 2)
        elif name == "penalty":
            moved = np.maximum(mean + error * _with(statistics, first, second)[:, None], 0)
        else:
            moved = mean + error * rng.standard_normal(T)
        drawn[name] = np.concatenate([statistics[name][:1], moved])
    return drawn


def _with(statistics: dict, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The penalty's numbers, correlated with the error's as at the first node."""
    names = ("penalty_error_cov", "penalty_var", "error_var")
    both, one, other = (statistics[k][1:, 0].astype(np.float64) for k in names)
    scale = np.sqrt(np.maximum(one * other, 0))
    share = np.clip(np.divide(both, scale, out=np.zeros_like(both), where=scale > 0), -1, 1)
    return share * first + np.sqrt(1 - share**2) * second


def _smoothed(moved: Measured, costs: Measured, width: float) -> Measured:
    return replace(moved, provenance=costs.provenance).smoothed(width)
