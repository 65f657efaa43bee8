"""Local regression: what neighbouring measurements say of each other, and how far that reaches."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.sparse import csr_array

from dpdiff.errors import InputError

WIDTHS = (0.05, 0.1, 0.2, 0.4, 0.8)  # in units of log SNR
WIDEST = 0.2  # of a dense measurement: more would blur the ends
POOLED = 0.4  # variances are averaged over so much of log SNR: those of few images are noisy


def smoother(x: np.ndarray, width: float, *, lines: bool = True) -> csr_array:
    """The matrix that fits a straight line around every point, near neighbours counting most.

    Weights are tricube, ``(1 - (|x - x_i| / width)³)³``; a neighbourhood reaches two points to
    either side at least, wherever ``width`` is too narrow for that (Cleveland 1979).

    Parameters
    ----------
    x : ndarray, shape (N,)
        Strictly decreasing or increasing, finite.
    width : float
        Half the width of a neighbourhood, in units of x; 0 smoothes nothing.
    lines : bool
        Whether to fit lines; otherwise constants, whose weights are never negative.

    Returns
    -------
    sparse array, shape (N, N)
        Times values at x, the fits' values at x.

    Examples
    --------
    >>> x = np.linspace(0, 1, 20)
    >>> np.allclose(smoother(x, width=0.2) @ (3 * x + 1), 3 * x + 1)
    True
    """
    x = np.asarray(x, dtype=np.float64)
    return _matrix((-x if x[-1] < x[0] else x).tobytes(), float(width), lines)


@lru_cache(maxsize=8)  # error bars smooth the same points again and again
def _matrix(points: bytes, width: float, lines: bool) -> csr_array:
    x = np.frombuffer(points)
    places = np.arange(len(x))
    if width == 0 or len(x) < 3:
        return csr_array((np.ones(len(x)), (places, places)))
    first = np.minimum(np.searchsorted(x, x - width), np.maximum(places - 2, 0))
    last = np.maximum(np.searchsorted(x, x + width), np.minimum(places + 3, len(x)))
    ranges = list(zip(first, last, strict=True))
    rows = [_weights(x[b:e] - x[i], width, lines) for i, (b, e) in enumerate(ranges)]
    columns = np.concatenate([np.arange(b, e) for b, e in ranges])
    ends = np.concatenate([[0], np.cumsum(last - first)])
    return csr_array((np.concatenate(rows), columns, ends), shape=(len(x), len(x)))


def _weights(distance: np.ndarray, width: float, lines: bool) -> np.ndarray:
    """What each neighbour adds to the fit at distance 0."""
    reach = max(width, 1.01 * np.abs(distance[[0, -1]]).max())
    weights = (1 - (np.abs(distance) / reach) ** 3) ** 3
    if lines:  # the value at 0 of the weighted least-squares line, as a weighted mean
        moments = [(weights * distance**power).sum() for power in range(3)]
        weights = weights * (moments[2] - moments[1] * distance)
    return weights / weights.sum()


def positive(x: np.ndarray, y: np.ndarray, width: float) -> np.ndarray:
    """Smooth values that are not negative, and keep them so.

    Where a line falls below zero, the weighted mean of the neighbourhood stands in for it.

    Examples
    --------
    >>> y = np.array([1.0, 0.0, 0.0, 0.0, 1.0, 9.0])
    >>> bool((positive(np.arange(6.0), y, 2.0) >= 0).all())
    True
    """
    smooth = smoother(x, width) @ y
    if (smooth < 0).any():
        smooth = np.where(smooth < 0, smoother(x, width, lines=False) @ y, smooth)
    return smooth


def local_variance(x: np.ndarray, y: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Variance of the noise that differs from point to point.

    The known variance is an upper limit: where all points saw the same images, part of it is
    common to them and no smoother sees it. How far points lie from the line between their
    neighbours tells the rest; a rough function makes that larger, and then the limit holds.

    Parameters
    ----------
    x, y : ndarray, shape (N,)
        Points, as :func:`smoother` takes them, and what was measured there.
    variance : ndarray, shape (N,)
        The known squared standard errors of y.
    """
    average = smoother(x, POOLED, lines=False)
    left = (x[1:-1] - x[2:]) / (x[:-2] - x[2:])  # the share of the neighbour before
    gap = y[1:-1] - left * y[:-2] - (1 - left) * y[2:]
    seen = np.pad(gap**2 / (1 + left**2 + (1 - left) ** 2), 1, mode="edge")
    return np.minimum(average @ variance, average @ seen)


def chosen_width(
    x: np.ndarray, y: np.ndarray, variance: np.ndarray, widest: float = WIDTHS[-1]
) -> float:
    """The width whose expected error is least, judged by the known variances; 0 for none.

    With the smoother's matrix S, ``Σ (y - S y)² / σ² + 2 tr S`` estimates without bias, up to a
    constant, the squared error of ``S y`` in units of σ² (Mallows 1973). Of a function that is
    rough, residuals are larger than the standard errors, and the estimate asks for less.

    Parameters
    ----------
    x, y : ndarray, shape (N,)
        Points, as :func:`smoother` takes them, and what was measured there.
    variance : ndarray, shape (N,)
        Of the noise in y.
    widest : float
        Widths above this are not tried.

    Examples
    --------
    >>> x, rng = np.linspace(0, 9, 300), np.random.default_rng(0)
    >>> chosen_width(x, np.sin(x) + 0.1 * rng.normal(size=300), np.full(300, 0.01))
    0.4
    >>> chosen_width(x, rng.normal(size=300), np.full(300, 0.01))
    0.0
    """
    if len(x) < 5 or not (variance > 0).all():
        return 0.0
    risk = {0.0: 2.0 * len(x)}
    for width in [w for w in WIDTHS if w <= widest]:
        matrix = smoother(x, width)
        residual = y - matrix @ y
        risk[width] = (residual**2 / variance).sum() + 2 * matrix.trace()
    return min(risk, key=risk.get)


def smoothed(
    x: np.ndarray, statistics: dict[str, np.ndarray], images: int, width: float | None
) -> tuple[dict[str, np.ndarray], float]:
    """The means of a dense measurement, smoothed; and how far.

    Parameters
    ----------
    x : ndarray, shape (T,)
        Where the timesteps lie.
    statistics : dict of ndarray, shape (T + 1, ...)
        As :class:`dpdiff.Costs` keeps them.
    images : int
        How many each timestep saw.
    width : float, optional
        How far; by default as :func:`chosen_width` says of m(t).

    Raises
    ------
    InputError
        If the width is not a number that is zero or more.
    """
    if width is not None and not 0 <= width < np.inf:
        raise InputError(f"a width of smoothing is a number from 0 on, or None; got {width}")
    if width is None and len(x) < 5:
        width = 0.0
    if width is None:
        y, known = statistics["mse"][1:], statistics["mse_var"][1:] / max(images - 1, 1)
        width = chosen_width(x, y, local_variance(x, y, known), WIDEST)
    spreads = ("_var", "_cov")
    smooth = {
        name: values.copy()
        for name, values in statistics.items()
        if np.ndim(values) > 0 and not name.endswith(spreads)
    }
    for name, values in smooth.items():
        whole = not name.startswith("decoder")  # squares are never negative
        fit = positive(x, values[1:], width) if whole else smoother(x, width) @ values[1:]
        values[1:] = fit
    return smooth, width
