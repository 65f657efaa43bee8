"""The numbers that training grids are made of: betas, sigmas and flow times, as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from dpdiff.errors import InputError


def checked_numbers(values: Any, name: str) -> np.ndarray:
    """A list of numbers as float64, one axis and at least one number long.

    Examples
    --------
    >>> checked_numbers([1, 2], "sigmas")
    array([1., 2.])
    """
    try:
        given = np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name} are a list of T numbers: {error}") from error
    if given.dtype.kind not in "fiu":
        raise InputError(f"{name} are a list of T numbers, got {given.dtype} values")
    if given.ndim != 1 or given.size == 0:
        raise InputError(f"{name} are a list of T numbers, got shape {given.shape}")
    return given.astype(np.float64)


def cosine_betas(T: int) -> np.ndarray:
    """Nichol & Dhariwal (2021), eq. 17, with β at most 0.999."""
    level = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - level[1:] / level[:-1], 0.999)


def without_signal(betas: np.ndarray) -> np.ndarray:
    """Betas rescaled so that nothing of the data is left at T (Lin et al. 2024, algorithm 1).

    Examples
    --------
    >>> without_signal(np.array([0.1, 0.2]))
    array([0.1, 1. ])
    """
    roots = np.sqrt(np.cumprod(1 - betas))
    levels = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    return 1 - levels / np.concatenate([[1.0], levels[:-1]])


def shifted_betas(betas: np.ndarray, scale: float) -> np.ndarray:
    """Betas of a signal-to-noise ratio ``scale`` times smaller, as of CogVideoX (Yang et al. 2024).

    Examples
    --------
    >>> betas = np.array([0.1, 0.2])
    >>> bool(np.allclose(shifted_betas(betas, 1.0), betas))
    True
    """
    signal = np.cumprod(1 - betas)
    shifted = signal / (scale + (1 - scale) * signal)
    return 1 - shifted / np.concatenate([[1.0], shifted[:-1]])


def karras_sigmas(T: int, low: float, high: float, rho: float = 7.0) -> np.ndarray:
    """T noise levels from low to high, evenly spaced in ``σ^{1/ρ}`` (Karras et al. 2022, eq. 5).

    Examples
    --------
    >>> karras_sigmas(3, 1.0, 9.0, rho=2.0)
    array([1., 4., 9.])
    """
    return np.linspace(low ** (1 / rho), high ** (1 / rho), T) ** rho


def flow_times(T: int, shift: float = 1.0) -> np.ndarray:
    """The times ``1/T … 1``, moved towards 1 by a shift: ``s t / (1 + (s - 1) t)``.

    Examples
    --------
    >>> flow_times(4, shift=3.0)
    array([0.5 , 0.75, 0.9 , 1.  ])
    """
    times = np.arange(1, T + 1) / T
    return shift * times / (1 + (shift - 1) * times)
