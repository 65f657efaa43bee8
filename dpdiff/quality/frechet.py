"""The Fréchet distance of two sets of features, and the difference of two such distances."""

from __future__ import annotations

from typing import Any

import numpy as np

from dpdiff.errors import InputError
from dpdiff.quality.estimate import Estimate, checked


def frechet_distance(
    features_a: Any, features_b: Any, *, resamples: int = 100, seed: int = 0
) -> Estimate:
    """Fréchet distance between Gaussians with the means and covariances of two sets of features.

    With means μ and covariances C (divided by ``n - 1``), it is
    ``‖μ_a - μ_b‖² + tr(C_a + C_b - 2 (C_a C_b)^½)`` [1]_: the squared 2-Wasserstein distance of
    the two Gaussians. It is called FID when the features are Inception's.

    Parameters
    ----------
    features_a, features_b : array_like, shape (n_a, d) and (n_b, d)
        One row an example. More examples than features are needed.
    resamples : int
        The standard error is the spread over so many bootstrap resamples of the rows of both
        sets. With 0 it is not computed, and NaN.
    seed : int
        Of the resampling.

    Returns
    -------
    Estimate
        In the features' squared unit. The value is biased upwards, the more the fewer the
        examples: compare values from equally many only, and see :func:`frechet_difference` for
        two sets made from the same noise. Where the two sets come from nearly the same
        distribution, the standard error is too large, up to twice.

    Raises
    ------
    InputError
        If the features are not two finite tables of equal width, or there are too few rows.

    Notes
    -----
    ``tr (C_a C_b)^½`` is the sum of the singular values of ``C_a^½ C_b^½``, and the roots come
    from symmetric eigen-decompositions. So nothing is lost where a covariance is singular.

    References
    ----------
    .. [1] Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs Trained by a Two Time-Scale
       Update Rule Converge to a Local Nash Equilibrium", 2017.

    Examples
    --------
    >>> a = np.array([[0.0], [2.0], [4.0]])
    >>> frechet_distance(a, a + 3, resamples=0).value
    9.0
    """
    a, b = checked(features_a, features_b)
    _check_sizes(resamples, a, b)
    rng = np.random.default_rng(seed)
    again = [_distance(_resampled(a, rng), _resampled(b, rng)) for _ in range(resamples)]
    return Estimate(_distance(a, b), _spread(again))


def frechet_difference(
    features_a: Any, features_b: Any, reference: Any, *, resamples: int = 100, seed: int = 0
) -> Estimate:
    """How much farther a is from a reference than b is, where row i of both began the same way.

    ``frechet_distance(a, reference) - frechet_distance(b, reference)``, for two sets of samples
    whose rows i were drawn from the same noise, as :func:`dpdiff.sample` with the same ``n`` and
    ``seed`` draws them for every schedule.

    Parameters
    ----------
    features_a, features_b : array_like, shape (n, d)
        One row an example, in the same order. More examples than features are needed.
    reference : array_like, shape (n_reference, d)
        What both are compared with.
    resamples : int
        The standard error is the spread over so many bootstrap resamples, each of which takes
        the same rows of a as of b, and the same rows of the reference for both. With 0 it is not
        computed, and NaN.
    seed : int
        Of the resampling.

    Returns
    -------
    Estimate
        In the features' squared unit, below zero where a is the nearer one. The upward biases of
        the two distances cancel in part, since both sets have equally many rows. The standard
        error is smaller than that of two separate distances, the more alike the rows are.

    Raises
    ------
    InputError
        If the features are not finite tables of equal width, a and b have different numbers of
        rows, or there are too few.

    Examples
    --------
    >>> a = np.array([[0.0], [2.0], [4.0]])
    >>> frechet_difference(a + 3, a + 1, a, resamples=0).value  # 9 - 1
    8.0
    """
    a, b = checked(features_a, features_b)
    real = checked(reference, a)[0]
    if len(a) != len(b):
        raise InputError(
            f"rows are compared in pairs, got {len(a)} and {len(b)}: draw both sets with the same "
            "n and seed, or take the difference of two frechet_distance"
        )
    _check_sizes(resamples, a, b, real)
    rng = np.random.default_rng(seed)

    def difference(rows: Any, sample: np.ndarray) -> float:
        return _distance(a[rows], sample) - _distance(b[rows], sample)

    again = [
        difference(rng.integers(len(a), size=len(a)), _resampled(real, rng))
        for _ in range(resamples)
    ]
    return Estimate(difference(slice(None), real), _spread(again))


def _check_sizes(resamples: int, *tables: np.ndarray) -> None:
    for features in tables:
        n, d = features.shape
        if n <= d:
            raise InputError(
                f"the covariance of {d} features needs at least {d + 1} examples, got {n}: "
                "draw more, or use kernel_distance"
            )
    if resamples < 0 or resamples == 1:
        raise InputError(f"resamples is 0 or at least 2, got {resamples}")


def _resampled(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return features[rng.integers(len(features), size=len(features))]


def _spread(again: list[float]) -> float:
    return float(np.std(again, ddof=1)) if again else float("nan")


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    gap = a.mean(axis=0) - b.mean(axis=0)
    covariances = [np.atleast_2d(np.cov(features, rowvar=False)) for features in (a, b)]
    roots = [_root(covariance) for covariance in covariances]
    overlap = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    return float(gap @ gap + sum(np.trace(c) for c in covariances) - 2 * overlap)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
