"""Fréchet and kernel distances, precision and recall, between sets of features."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dpdiff.data.lazy import bar
from dpdiff.errors import InputError

ENTRIES = 2**21  # distances in a block, 16 MiB


class Distance(NamedTuple):
    """An estimated number and its standard error."""

    value: float
    stderr: float


class PrecisionRecall(NamedTuple):
    """The share of samples that look real, and the share of the real that samples cover."""

    precision: Distance
    recall: Distance


def checked_images(name: str, images: Any, shape: tuple[int, int, int], levels: int) -> np.ndarray:
    """Images (N, C, H, W) in [-1, 1] as float64, or an error that says why not."""
    pixels = np.asarray(images, dtype=np.float64)
    if pixels.ndim != 4 or pixels.shape[1:] != shape or not (np.abs(pixels) <= 1).all():
        wanted, highest = ", ".join(map(str, shape)), levels - 1
        raise InputError(
            f"{name} images are (N, {wanted}) in [-1, 1], got shape {pixels.shape}; "
            f"levels 0…{highest} become that by images / {highest / 2:g} - 1"
        )
    return pixels


def checked_features(features_a: Any, features_b: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both sets as finite tables of equal width in float64, or an error that says why not."""
    a, b = (np.asarray(features, dtype=np.float64) for features in (features_a, features_b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] == 0:
        raise InputError(
            f"features are two tables (examples, d) of the same d, got {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("features are finite numbers; these hold NaN or infinity")
    return a, b


def frechet_distance(
    features_a: Any, features_b: Any, *, resamples: int = 100, seed: int = 0
) -> Distance:
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
    Distance
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
    a, b = checked_features(features_a, features_b)
    _check_sizes(resamples, a, b)
    rng = np.random.default_rng(seed)
    again = [_distance(_resampled(a, rng), _resampled(b, rng)) for _ in range(resamples)]
    return Distance(_distance(a, b), _standard_error(again))


def frechet_difference(
    features_a: Any, features_b: Any, reference: Any, *, resamples: int = 100, seed: int = 0
) -> Distance:
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
    Distance
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
    a, b = checked_features(features_a, features_b)
    real = checked_features(reference, a)[0]
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
    return Distance(difference(slice(None), real), _standard_error(again))


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
    a, b = checked_features(features_a, features_b)
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


def precision_recall(
    samples: Any, real: Any, *, neighbours: int = 3, progress: bool = True
) -> PrecisionRecall:
    """Precision and recall of samples, by nearest neighbours [1]_.

    A set of features stands for the union of balls around its rows, each of which reaches to the
    row's ``neighbours``-th nearest other row of the same set. Precision is the share of samples
    within the balls of the real examples; recall is the share of real examples within the balls
    of the samples. A point on the surface of a ball lies within it.

    Parameters
    ----------
    samples, real : array_like, shape (n_samples, d) and (n_real, d)
        One row an example, more than ``neighbours`` rows each. The sets share no examples.
    neighbours : int
        The paper takes 3.
    progress : bool
        Show a progress bar if it takes more than two seconds.

    Returns
    -------
    PrecisionRecall
        Two pairs of a value in [0, 1] and its standard error. Both values depend on both sizes:
        compare values from equally many examples only. A standard error counts the chance in
        which points are judged, and takes the balls of the other set as given. Over experiments
        that draw both sets anew, values spread more, by up to twice.

    Raises
    ------
    InputError
        If the features are not two finite tables of equal width, or there are too few rows.

    Notes
    -----
    Samples that repeat themselves have small balls, so dropping modes lowers recall and may leave
    precision as it was; noise and blur lower precision. A set of outliers has large balls, so
    recall may even grow as samples get worse: it says something only beside precision.

    Time grows with ``d`` and the square of the number of rows; memory does not, since distances
    are made block by block, a few dozen MiB at a time.

    References
    ----------
    .. [1] Kynkäänniemi, Karras, Laine, Lehtinen, Aila, "Improved Precision and Recall Metric for
       Assessing Generative Models", 2019.

    Examples
    --------
    >>> real = np.arange(6.0)[:, None]  # balls of radius 1: [-1, 6]
    >>> samples = np.array([[2.5], [2.75], [9.0]])  # balls of radius ¼, ¼ and 6¼
    >>> precision, recall = precision_recall(samples, real, neighbours=1)
    >>> round(precision.value, 3), round(recall.value, 3)
    (0.667, 0.5)
    """
    drawn, true = checked_features(samples, real)
    for features in (drawn, true):
        if not 1 <= neighbours < len(features):
            raise InputError(
                f"neighbours lies between 1 and the number of examples less one, got {neighbours} "
                f"with {len(features)} examples: draw more, or ask for fewer neighbours"
            )
    # Squares lose fewer digits near the origin; a shift by whole numbers keeps ties exact.
    centre = true.mean(axis=0).round()
    drawn, true = drawn - centre, true - centre
    return PrecisionRecall(
        _share(_covered(drawn, true, neighbours, progress)),
        _share(_covered(true, drawn, neighbours, progress)),
    )


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


def _standard_error(again: list[float]) -> float:
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


def _share(inside: np.ndarray) -> Distance:
    """The mean of yes and no, and its standard error."""
    return Distance(float(inside.mean()), float(inside.std(ddof=1) / np.sqrt(len(inside))))


def _covered(
    points: np.ndarray, centres: np.ndarray, neighbours: int, progress: bool
) -> np.ndarray:
    """Which points lie in a ball of the centres."""
    radii, inside = _radii(centres, neighbours, progress), np.empty(len(points), bool)
    for rows in bar(_blocks(points, centres), "coverage", progress):
        inside[rows] = (_squared(points[rows], centres) <= radii).any(axis=1)
    return inside


def _radii(centres: np.ndarray, neighbours: int, progress: bool) -> np.ndarray:
    """The squared distance of each centre to its k-th nearest other one."""
    radii = np.empty(len(centres))
    for rows in bar(_blocks(centres, centres), "neighbours", progress):
        squared = _squared(centres[rows], centres)
        np.fill_diagonal(squared[:, rows], np.inf)  # not its own neighbour
        radii[rows] = np.partition(squared, neighbours - 1, axis=1)[:, neighbours - 1]
    return radii


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances ``‖a_i - b_j‖²``, of which rounding must not make negative ones."""
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * (a @ b.T)
    return squared.clip(min=0, out=squared)


def _blocks(a: np.ndarray, b: np.ndarray) -> list[slice]:
    """Rows of a, in blocks that have at most ``ENTRIES`` distances to b."""
    height = max(1, ENTRIES // len(b))
    return [slice(start, start + height) for start in range(0, len(a), height)]
