"""Local regression: what neighbouring measurements say of each other."""

from __future__ import annotations

import numpy as np


def local_linear(x: np.ndarray, y: np.ndarray, width: float) -> np.ndarray:
    """Fit a straight line around every point, near neighbours counting most.

    Weights are tricube, ``(1 - (|x - x_i| / width)³)³``; a neighbourhood reaches two points to
    either side at least, wherever ``width`` is too narrow for that (Cleveland 1979).

    Parameters
    ----------
    x : ndarray, shape (N,)
        Strictly decreasing or increasing, finite.
    y : ndarray, shape (N, ...)
        Noisy values of functions of x.
    width : float
        Half the width of a neighbourhood, in units of x.

    Returns
    -------
    ndarray of float64, shape (N, ...)
        The lines' values at their own points.

    Examples
    --------
    >>> x = np.linspace(0, 1, 20)
    >>> np.allclose(local_linear(x, 3 * x + 1, width=0.2), 3 * x + 1)
    True
    """
    x = np.asarray(x, dtype=np.float64)
    if x[-1] < x[0]:
        return local_linear(x[::-1], y[::-1], width)[::-1]
    places = np.arange(len(x))
    first = np.minimum(np.searchsorted(x, x - width), np.maximum(places - 2, 0))
    last = np.maximum(np.searchsorted(x, x + width), np.minimum(places + 3, len(x)))
    smooth = np.empty(y.shape, dtype=np.float64)
    for i, (begin, end) in enumerate(zip(first, last, strict=True)):
        distance = x[begin:end] - x[i]
        reach = max(width, 1.01 * np.abs(distance[[0, -1]]).max())
        weights = (1 - (np.abs(distance) / reach) ** 3) ** 3
        moments = [(weights * distance**power).sum() for power in range(3)]
        # The value at x_i of the weighted least-squares line, as a weighted mean.
        weights = weights * (moments[2] - moments[1] * distance)
        smooth[i] = np.tensordot(weights / weights.sum(), y[begin:end], axes=1)
    return smooth
