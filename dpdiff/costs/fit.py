"""From a few timesteps to all: statistics of some images, interpolated along log SNR."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.special import fdtri

from dpdiff.costs import chebyshev
from dpdiff.costs.design import axis
from dpdiff.costs.smoothing import WIDTHS, chosen_width, smoother
from dpdiff.noise import NoiseSchedule

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
    a = gain[:, None] * (1 + chebyshev.nodes(nodes)) / 2
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
