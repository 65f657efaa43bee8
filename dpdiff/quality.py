"""How far drawn samples are from real ones, in the features of a classifier."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from dpdiff import data
from dpdiff.errors import InputError


class Distance(NamedTuple):
    """An estimated distance and its standard error."""

    value: float
    stderr: float


def frechet_distance(
    features_a: Any, features_b: Any, *, resamples: int = 100, seed: int = 0
) -> Distance:
    """Fréchet distance between the Gaussians that two sets of features have in common.

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
    Distance
        In the features' squared unit. The value is biased upwards, the more the fewer the
        examples: compare values from equally many only. Where the two sets come from nearly the
        same distribution, the standard error is too large, up to twice.

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
    a, b = _checked(features_a, features_b)
    for features in (a, b):
        n, d = features.shape
        if n <= d:
            raise InputError(
                f"the covariance of {d} features needs at least {d + 1} examples, got {n}: "
                "draw more, or use kernel_distance"
            )
    if resamples < 0 or resamples == 1:
        raise InputError(f"resamples is 0 or at least 2, got {resamples}")
    rng = np.random.default_rng(seed)
    again = [_frechet(_resampled(a, rng), _resampled(b, rng)) for _ in range(resamples)]
    return Distance(_frechet(a, b), float(np.std(again, ddof=1)) if again else float("nan"))


def _resampled(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return features[rng.integers(len(features), size=len(features))]


def _frechet(a: np.ndarray, b: np.ndarray) -> float:
    gap = a.mean(axis=0) - b.mean(axis=0)
    covariances = [np.atleast_2d(np.cov(features, rowvar=False)) for features in (a, b)]
    roots = [_root(covariance) for covariance in covariances]
    overlap = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    return float(gap @ gap + sum(np.trace(c) for c in covariances) - 2 * overlap)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def kernel_distance(features_a: Any, features_b: Any) -> Distance:
    """Squared maximum mean discrepancy with the cubic kernel ``k(x, y) = (x·y/d + 1)³``.

    The unbiased estimate [1]_: the mean of k over pairs of different rows of a, plus that over
    pairs of different rows of b, less twice the mean over pairs of one row of each. It is called
    KID when the features are Inception's.

    Parameters
    ----------
    features_a, features_b : array_like, shape (n_a, d) and (n_b, d)
        One row an example, at least three rows each.

    Returns
    -------
    Distance
        The value is unbiased, so it may fall below zero, and values from different numbers of
        examples compare. The standard error is the jackknife's, which leaves out one row of
        either set at a time. Where the two sets come from nearly the same distribution, it is
        too large, by up to a half.

    Raises
    ------
    InputError
        If the features are not two finite tables of equal width, or there are too few rows.

    References
    ----------
    .. [1] Bińkowski, Sutherland, Arbel, Gretton, "Demystifying MMD GANs", 2018.

    Examples
    --------
    >>> a = np.array([[0.0], [0.0], [0.0]])
    >>> kernel_distance(a, a + 1)  # 1 + 2³ - 2·1
    Distance(value=7.0, stderr=0.0)
    """
    a, b = _checked(features_a, features_b)
    for features in (a, b):
        if len(features) < 3:
            raise InputError(f"at least three examples a set are needed, got {len(features)}")
    within_a, within_b = (_kernel_sums(x, x) - _kernel(x, x) for x in (a, b))
    to_b, to_a = _kernel_sums(a, b), _kernel_sums(b, a)
    sums = within_a.sum(), within_b.sum(), to_b.sum()
    sizes = len(a), len(b)
    value = _mmd(*sums, *sizes)
    without_a = _mmd(sums[0] - 2 * within_a, sums[1], sums[2] - to_b, sizes[0] - 1, sizes[1])
    without_b = _mmd(sums[0], sums[1] - 2 * within_b, sums[2] - to_a, sizes[0], sizes[1] - 1)
    variance = sum((len(left) - 1) * left.var() for left in (without_a, without_b))
    return Distance(float(value), float(np.sqrt(variance)))


def _mmd(within_a: Any, within_b: Any, across: Any, n_a: int, n_b: int) -> Any:
    """The unbiased estimate from sums of the kernel over ordered pairs."""
    same = within_a / (n_a * (n_a - 1)) + within_b / (n_b * (n_b - 1))
    return same - 2 * across / (n_a * n_b)


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """k of rows side by side."""
    return ((x * y).sum(axis=1) / x.shape[1] + 1) ** 3


def _kernel_sums(x: np.ndarray, y: np.ndarray, block: int = 1024) -> np.ndarray:
    """``Σ_j k(x_i, y_j)`` for every row of x, a block of rows at a time to spare memory."""
    d, starts = x.shape[1], range(0, len(x), block)
    return np.concatenate([((x[i : i + block] @ y.T / d + 1) ** 3).sum(axis=1) for i in starts])


def _checked(features_a: Any, features_b: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = (np.asarray(features, dtype=np.float64) for features in (features_a, features_b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] == 0:
        raise InputError(
            f"features are two tables (examples, d) of the same d, got {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("features are finite numbers; these hold NaN or infinity")
    return a, b


@cache
def digits_classifier() -> Any:
    """A small network that reads the digits, with one hidden layer of 32 tanh units.

    It is fitted to the training split of ``dpdiff.images("digits")`` in a third of a second, with
    a fixed seed. Of the held-out digits it reads 96 in 100.

    Returns
    -------
    sklearn.neural_network.MLPClassifier
        Fitted. It takes rows of 64 pixels in [-1, 1].

    Examples
    --------
    >>> digits_classifier().predict(data.scaled(data.images("digits"), 17).reshape(-1, 64)[:3])
    array([0, 1, 2])
    """
    from sklearn.neural_network import MLPClassifier

    images = data.images("digits", split="train")
    classifier = MLPClassifier((32,), activation="tanh", tol=1e-3, max_iter=300, random_state=0)
    return classifier.fit(data.scaled(images, 17).reshape(-1, 64), digit_labels(images))


def digit_labels(images: np.ndarray) -> np.ndarray:
    """Which digit each image of ``dpdiff.images("digits")`` shows; no two images are the same."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    known = zip(digits.images.astype(np.uint8), digits.target, strict=True)
    label = {image.tobytes(): int(digit) for image, digit in known}
    return np.array([label[image.tobytes()] for image in images])


def digit_features(images: Any) -> np.ndarray:
    """The hidden layer of :func:`digits_classifier`: what decides which digit it reads.

    Parameters
    ----------
    images : array_like, shape (N, 1, 8, 8)
        Values in [-1, 1], as :func:`dpdiff.sample` draws them. They are rounded to the digits'
        17 levels first, as a file would hold them.

    Returns
    -------
    ndarray of float64, shape (N, 32)
        In [-1, 1].

    Raises
    ------
    InputError
        If these are not images of that shape and range.

    Examples
    --------
    >>> digit_features(data.scaled(data.images("digits", split="test"), 17)).shape
    (359, 32)
    """
    pixels = np.asarray(images, dtype=np.float64)
    if pixels.ndim != 4 or pixels.shape[1:] != (1, 8, 8) or not (np.abs(pixels) <= 1).all():
        raise InputError(
            f"digits are images (N, 1, 8, 8) in [-1, 1], got shape {pixels.shape}; "
            "levels 0…16 become that by images / 8 - 1"
        )
    classifier = digits_classifier()
    rounded = ((pixels * 8).round() / 8).reshape(-1, 64)
    return np.tanh(rounded @ classifier.coefs_[0] + classifier.intercepts_[0])
