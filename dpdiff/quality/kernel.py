"""The kernel distance of two sets of features."""

from __future__ import annotations

from typing import Any

import numpy as np

from dpdiff.errors import InputError
from dpdiff.quality.estimate import Estimate, checked


def kernel_distance(features_a: Any, features_b: Any) -> Estimate:
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
    Estimate
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
    Estimate(value=7.0, stderr=0.0)
    """
    a, b = checked(features_a, features_b)
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
    return Estimate(float(value), float(np.sqrt(variance)))


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
