"""Which timesteps a measurement looks at, and how many images it shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule

FEWEST_SNR = 1e-12  # a last SNR of 0 counts as this
TIMESTEPS = 97  # hold a model: interpolation loses less than 0.01 bits/dim at any budget
FEWEST = 25
IMAGES = 20  # that each timestep should see before there are more timesteps


@dataclass(frozen=True, eq=False)
class Stage:
    """Timesteps, and the images that each of them is shown.

    Attributes
    ----------
    number : int
        0 of a measurement of every timestep, 1, 2 … of rounds at a few.
    timesteps : ndarray of int
        Rising.
    images : int
        How many each sees.
    rows : callable
        ``rows(t)``, which images timestep t sees.
    """

    number: int
    timesteps: np.ndarray
    images: int
    rows: Callable[[int], np.ndarray]

    @property
    def calls(self) -> int:
        """How often the network is asked, image by image."""
        return len(self.timesteps) * self.images

    @property
    def whole(self) -> bool:
        """Whether it is a measurement of every timestep."""
        return self.number == 0


def dense(T: int, count: int, per_step: int, seed: int) -> Stage:
    """Every timestep sees so many of ``count`` images, each the next ones of a shuffled list.

    Examples
    --------
    >>> dense(4, count=3, per_step=3, seed=0).rows(1)
    array([0, 1, 2])
    """
    per_step = min(per_step, count)
    shuffled = np.random.default_rng(seed).permutation(count)

    def rows(t: int) -> np.ndarray:
        if per_step == count:
            return np.arange(count)
        return shuffled[(t * per_step + np.arange(per_step)) % count]

    return Stage(0, np.arange(1, T + 1), per_step, rows)


def few(noise: NoiseSchedule, count: int, calls: int, seed: int) -> Stage | None:
    """At most so many calls: a few timesteps, and the same images at each.

    Parameters
    ----------
    noise : NoiseSchedule
        The grid.
    count : int
        How many images there are.
    calls : int
        The limit.
    seed : int
        Decides which images are taken.

    Returns
    -------
    Stage or None
        None where every timestep may as well be measured: short grids, and few images.

    Raises
    ------
    InputError
        If the calls do not give two images at 25 timesteps, or at all of a shorter grid.

    Examples
    --------
    >>> stage = few(NoiseSchedule.linear(1000), count=5000, calls=4000, seed=0)
    >>> len(stage.timesteps), stage.images
    (96, 41)
    """
    least = 2 * min(FEWEST, noise.T)
    if calls < least:
        raise InputError(f"a measurement takes at least {least} calls, got {calls}")
    number = max(FEWEST, min(TIMESTEPS, calls // IMAGES), calls // count)
    if number >= noise.T:
        return None
    timesteps = spread(noise, number)
    return first_round(timesteps, count, calls // len(timesteps), seed)


def in_rounds(T: int) -> bool:
    """Whether a measurement that stops by itself takes a few timesteps: not on a short grid."""
    return 2 * TIMESTEPS < T


def first_round(timesteps: np.ndarray, count: int, images: int, seed: int) -> Stage:
    """So many of ``count`` images at some timesteps."""
    chosen = np.random.default_rng(seed).permutation(count)[:images]
    return Stage(1, timesteps, len(chosen), lambda t: chosen)


def next_round(before: Stage, done: int, count: int, seed: int) -> Stage | None:
    """As many images again as all rounds so far have seen; None if there are no two left."""
    chosen = np.random.default_rng(seed).permutation(count)[done : 2 * done]
    if len(chosen) < 2:
        return None
    return Stage(before.number + 1, before.timesteps, len(chosen), lambda t: chosen)


def axis(noise: NoiseSchedule) -> np.ndarray:
    """Log SNR of the timesteps ``1 … T``, finite and strictly falling: where costs are smooth.

    Examples
    --------
    >>> axis(NoiseSchedule.from_betas([0.5, 1.0])).round(3)
    array([  0.   , -27.631])
    """
    log_snr = np.maximum(noise.log_snr[1:], np.log(FEWEST_SNR))
    return log_snr - 1e-9 * np.arange(noise.T)


def spread(noise: NoiseSchedule, count: int) -> np.ndarray:
    """So many timesteps with both ends, evenly apart on the mean of t and log SNR.

    Each of the two runs from 0 to 1 over the grid. In t alone, timesteps would miss the clean
    end, where log SNR changes quickly; in log SNR alone, the noisy end.

    Parameters
    ----------
    noise : NoiseSchedule
        The grid.
    count : int
        How many timesteps; fewer are returned where two would coincide.

    Returns
    -------
    ndarray of int
        Strictly rising, from 1 to T.

    Examples
    --------
    >>> spread(NoiseSchedule.linear(1000), 7)
    array([   1,   42,  202,  415,  622,  808, 1000])
    """
    if noise.T == 1:
        return np.array([1])
    # The last few timesteps may leap to an SNR of nearly nothing: their leap is no room.
    log_snr = np.maximum(axis(noise), np.log(1e-4) + min(0.0, noise.log_snr[1]))
    place = np.linspace(0, 1, noise.T) + (log_snr[0] - log_snr) / (log_snr[0] - log_snr[-1])
    steps = np.interp(np.linspace(0, 2, count), place, np.arange(1, noise.T + 1))
    return np.unique(steps.round().astype(int))
