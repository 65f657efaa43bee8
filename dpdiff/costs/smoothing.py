"""Local linear regression along log SNR, its bandwidth by Mallows' C_p; and interpolation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.sparse import csr_array
from scipy.special import fdtri

from dpdiff.costs import statistics
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.strides import axis

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


Statistics = dict[str, np.ndarray]
ROUGH = 0.08  # a network whose log m(t) leaps by more than this between timesteps
CHANCE = 1e-3  # of calling a smooth network rough, in each window of timesteps


@dataclass(frozen=True, eq=False)
class Sample:
    """What was measured of every image at a few timesteps, the same images at each.

    Attributes
    ----------
    noise : NoiseSchedule
        The grid.
    timesteps : ndarray of int, shape (G,)
        Rising, from 1 to T.
    values : dict of ndarray, float32, shape (G, n, ...)
        As :func:`dpdiff.costs.statistics.per_image` names them.
    """

    noise: NoiseSchedule
    timesteps: np.ndarray
    values: Statistics

    @property
    def images(self) -> int:
        """n, how many images each timestep saw."""
        return self.values["mse"].shape[1]

    def without(self, *names: str) -> Sample:
        """The same with fewer statistics."""
        values = {k: v for k, v in self.values.items() if k not in names}
        return Sample(self.noise, self.timesteps, values)

    def with_more(self, other: Sample) -> Sample:
        """The images of both."""
        joined = {k: np.concatenate([v, other.values[k]], 1) for k, v in self.values.items()}
        return Sample(self.noise, self.timesteps, joined)

    def arrays(self) -> Statistics:
        """All that a file keeps of it."""
        return {f"sample_{k}": v for k, v in {"timesteps": self.timesteps, **self.values}.items()}

    @classmethod
    def taken_from(cls, noise: NoiseSchedule, arrays: Statistics) -> Sample | None:
        """The sample in a file's arrays, removed from them; None where there is none."""
        names = [name for name in arrays if name.startswith("sample_")]
        values = {name.removeprefix("sample_"): arrays.pop(name) for name in names}
        return cls(noise, values.pop("timesteps"), values) if values else None

    def means(self, weights: np.ndarray | None = None) -> Statistics:
        """Means over images, which may count differently; float64, shape (G, ...)."""
        if weights is None:
            return {k: v.mean(1, dtype=np.float64) for k, v in self.values.items()}
        share = weights / weights.sum()
        return {k: np.einsum("gi...,i->g...", v, share) for k, v in self.values.items()}

    def redrawn(self, rng: np.random.Generator, only: np.ndarray | None) -> Statistics:
        """The statistics had the images been others: a draw of the Bayesian bootstrap."""
        n = self.images
        weights = rng.dirichlet(np.full(n, max(rng.chisquare(n - 1) - 1, 0.5) / n))
        return self.statistics(weights, spread=False, only=only)

    @cached_property
    def points(self) -> np.ndarray:
        """Where the timesteps lie on the axis along which statistics are smooth."""
        return axis(self.noise)[self.timesteps - 1]

    @cached_property
    def residuals(self) -> tuple[np.ndarray, np.ndarray]:
        """How far log m(t) lies from the line between its neighbours, and the variance of that.

        The variance is that of the same residual in single images, so what images have in
        common along the whole path is not in it. Both have shape (G - 2,).
        """
        x, mse = self.points, self.values["mse"].astype(np.float64)
        share = (x[1:-1] - x[2:]) / (x[:-2] - x[2:])

        def gap(y: np.ndarray) -> np.ndarray:
            left = share.reshape(-1, *(1,) * (y.ndim - 1))
            return y[1:-1] - left * y[:-2] - (1 - left) * y[2:]

        mean = np.maximum(mse.mean(1, keepdims=True), 1e-300)
        return gap(np.log(mean[:, 0])), gap(mse / mean).var(1, ddof=1) / self.images

    @cached_property
    def roughness(self) -> float:
        """Leaps of log m(t) from timestep to timestep that the noise does not explain.

        The root of the mean squared residual less its variance, in units of log m, over the
        third of the timesteps where it is largest; 0 where the ratio of the two is what an F
        distribution leaves to chance.
        """
        count = len(self.points) // 3
        if count < 4:
            return 0.0
        # Not the two ends: the grid itself leaps there, and the curve is no line over them.
        residual, variance = (values[2:-2] for values in self.residuals)
        window = np.full(count, 1 / count)
        seen, known = (np.convolve(y, window, "valid") for y in (residual**2, variance))
        # Neighbouring residuals share two of their three timesteps: half as many are independent.
        limit = fdtri(count / 2, self.images - 1, 1 - CHANCE)
        return float(np.sqrt(np.max(np.where(seen > limit * known, seen - known, 0)) / 1.5))

    @cached_property
    def width(self) -> float:
        """How far the noise is averaged along log SNR, as the residuals say; 0 for not at all."""
        if len(self.points) < 5:
            return 0.0
        x, (_, variance) = self.points, self.residuals
        left = (x[1:-1] - x[2:]) / (x[:-2] - x[2:])
        single = np.pad(variance / (1 + left**2 + (1 - left) ** 2), 1, mode="edge")
        pooled = smoother(x, WIDTHS[-1], lines=False) @ single
        return chosen_width(x, _log(self.means()["mse"]), pooled)

    @cached_property
    def matrix(self) -> Any:
        """The smoother of that width, shape (G, G)."""
        return smoother(self.points, self.width)

    def statistics(
        self,
        weights: np.ndarray | None = None,
        *,
        spread: bool = True,
        only: np.ndarray | None = None,
    ) -> Statistics:
        """Means by timestep for the whole grid, as :class:`dpdiff.Costs` keeps them.

        Squared errors are fitted in the logarithm; the penalty of a learned variance relative
        to that of ``v = 1``; decoder costs as they are.

        Parameters
        ----------
        weights : ndarray, shape (n,), optional
            How much every image counts in a draw; all the same by default. A draw is the fit
            moved by what the weights change, smoothed less: see :class:`_Along`.
        spread : bool
            Whether to give the variances over single images too.
        only : ndarray of int, optional
            The timesteps of interest; others are left at zero.
        """
        along, means = _Along(self, only), self.means()
        moved = means if weights is None else self.means(weights)
        fits = {name: self._fitted(along, name, y, moved[name]) for name, y in means.items()}
        if not spread:
            return fits
        for name, values in self.values.items():
            fits[f"{name}_var"] = along.positive(_log(values.var(1, dtype=np.float64)))
        if "penalty" in means:
            both = np.einsum("gij,gij->gj", *(self.values[k] for k in ("penalty", "error")))
            both = both / self.images - means["penalty"] * means["error"]
            fits["penalty_error_cov"] = along(both)
        return {
            k: v.astype(np.float32) if v.ndim > 1 and k.endswith(("_var", "_cov")) else v
            for k, v in fits.items()
        }

    def _fitted(self, along: _Along, name: str, means: np.ndarray, moved: np.ndarray) -> np.ndarray:
        if name in ("mse", "error"):
            return along.positive(along.smooth(_log(means), _log(moved)))
        if name == "penalty":
            whole = penalty_of_one(self.noise, means.shape[1])
            ratios = (self._ratio(y, whole) for y in (means, moved))
            return along(along.smooth(*ratios)) * whole
        return along(along.smooth(means, moved))

    def _ratio(self, penalty: np.ndarray, whole: np.ndarray) -> np.ndarray:
        some = whole[self.timesteps]
        ratio = np.divide(penalty, some, out=np.zeros_like(penalty), where=some > 0)
        ratio[0] = ratio[min(1, len(ratio) - 1)]  # no jump begins at t = 1: its penalty is 0
        return ratio


def _log(y: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(y, 1e-300))


def penalty_of_one(noise: NoiseSchedule, nodes: int) -> np.ndarray:
    """``a + e^{-a} - 1`` at the Chebyshev nodes of every timestep's a, shape (T + 1, nodes)."""
    gain = np.concatenate([[0.0], noise.noise_gain(np.arange(1, noise.T + 1), 1)])
    a = gain[:, None] * (1 + statistics.chebyshev_nodes(nodes)) / 2
    return a + np.expm1(-a)


class _Along:
    """Smooth, then interpolate, along log SNR; monotone between timesteps, rows 0 … T.

    What a draw adds to the fit ``S y`` is smoothed by ``2S - S²`` only, which is nearly the root of
    S: so the spread of draws is not that of repeated fits, but holds the fit's bias too, on
    average over the timesteps (Wahba 1983, Nychka 1988).
    """

    def __init__(self, sample: Sample, only: np.ndarray | None) -> None:
        noise = sample.noise
        self.only = np.arange(1, noise.T + 1) if only is None else only[only > 0]
        self.rows, self.matrix = noise.T + 1, sample.matrix
        self.asked, self.at = -axis(noise)[self.only - 1], -sample.points

    def __call__(self, y: np.ndarray) -> np.ndarray:
        """Values at the measured timesteps, interpolated."""
        fit = np.zeros((self.rows, *y.shape[1:]))
        fit[self.only] = PchipInterpolator(self.at, y)(self.asked) if len(y) > 1 else y
        return fit

    def positive(self, log_y: np.ndarray) -> np.ndarray:
        """From the logarithms of values that are not negative, those values."""
        fit = self(log_y)
        fit[self.only] = np.exp(fit[self.only])
        return fit

    def smooth(self, y: np.ndarray, moved: np.ndarray) -> np.ndarray:
        """The fit at the measured timesteps, and what a draw adds to it."""
        added = moved - y
        return self.matrix @ (y + 2 * added - self.matrix @ added)
