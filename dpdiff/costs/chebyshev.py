"""Chebyshev interpolation of many functions, each at many points."""

from __future__ import annotations

import numpy as np

from dpdiff.runtime.compiled import compiled


def nodes(count: int) -> np.ndarray:
    """Chebyshev's nodes on [-1, 1], shape (count,).

    Examples
    --------
    >>> nodes(2).round(4)
    array([ 0.7071, -0.7071])
    """
    return np.cos(np.pi * (np.arange(count) + 0.5) / count)


def transform(count: int) -> np.ndarray:
    """The (count, count) matrix that takes values at the nodes to Chebyshev coefficients.

    Examples
    --------
    >>> values = 3 + 2 * nodes(4)
    >>> np.allclose(transform(4) @ values, [3, 2, 0, 0])
    True
    """
    angles = np.pi * np.outer(np.arange(count), np.arange(count) + 0.5) / count
    matrix = 2 / count * np.cos(angles)
    matrix[0] /= 2
    return matrix


@compiled(nogil=True, error_model="numpy")
def evaluate(coefficients: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Sum the series ``Σ_j c_j T_j(x)`` by Clenshaw's recurrence.

    Parameters
    ----------
    coefficients : ndarray of float64, shape (R, J)
        A function a row, J ≥ 2.
    x : ndarray of float64, shape (R, S)
        Points in [-1, 1].

    Returns
    -------
    ndarray of float64, shape (R, S)

    Examples
    --------
    >>> evaluate(np.array([[3.0, 2.0, 1.0]]), np.array([[0.0, 1.0]]))
    array([[2., 6.]])
    """
    rows, terms = coefficients.shape
    result = np.empty_like(x)
    width = 256  # the three work arrays stay in the first-level cache
    b0, b1, b2 = np.empty(width), np.empty(width), np.empty(width)
    for row in range(rows):
        c = coefficients[row]
        for start in range(0, x.shape[1], width):
            size = min(width, x.shape[1] - start)
            twice = 2 * x[row, start : start + size]
            b1[:size] = 0.0
            b2[:size] = 0.0
            for j in range(terms - 1, 0, -1):
                for i in range(size):
                    b0[i] = c[j] + twice[i] * b1[i] - b2[i]
                b0, b1, b2 = b2, b0, b1
            for i in range(size):
                result[row, start + i] = c[0] + 0.5 * twice[i] * b1[i] - b2[i]
    return result
