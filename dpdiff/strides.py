"""The grid of nodes on which a teacher runs and schedules are searched."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np

from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.schedule import Schedule

#: Numbers of steps that are solved for and reported where none are named.
BUDGETS = (8, 16, 32, 64, 128, 256)
LOWEST = -10.0  # log SNR below which a step changes nothing that can be seen


def log_snr(noise: NoiseSchedule, steps: int) -> Schedule:
    """Even in log SNR, from t = 1 to T (Lu et al., DPM-Solver, 2022).

    This and the next two count log SNR from -10 upwards: what lies below is one step.

    Examples
    --------
    >>> log_snr(NoiseSchedule.linear(1000), 5).timesteps
    (0, 1, 31, 297, 717, 1000)
    """
    return _along(noise, steps, np.log(_sigmas(noise)), first=1)


def karras(noise: NoiseSchedule, steps: int, rho: float = 7.0) -> Schedule:
    """Even in ``σ^(1/ρ)``, σ = g/f, from t = 1 to T (Karras et al. 2022, eq. 5).

    Examples
    --------
    >>> karras(NoiseSchedule.linear(1000), 5).timesteps
    (0, 1, 138, 586, 838, 1000)
    """
    return _along(noise, steps, _sigmas(noise) ** (1 / rho), first=1)


def arctan(noise: NoiseSchedule, steps: int, variance: float) -> Schedule:
    """Even in ``arctan(σ/√λ)``: DDIM's best stride for Gaussian data with one variance λ.

    There ``x/f`` runs along ``√(λ + σ²)``, so that a step of h misses by ``½ h² λ/(λ + σ²)^(3/2)``,
    of which ``√λ/√(λ + σ²)`` reaches the end. The sum of ``h² λ^(3/2)/(λ + σ²)²`` is least when
    the steps' density is the root of that: ``1/(λ + σ²)``.

    Parameters
    ----------
    noise : NoiseSchedule
    steps : int
        K.
    variance : float
        λ, the data's variance in each dimension.

    Examples
    --------
    >>> arctan(NoiseSchedule.linear(1000), 4, variance=0.25).timesteps
    (0, 60, 145, 294, 1000)
    """
    if not variance > 0:
        raise InputError(f"a variance is above 0, got {variance}")
    return _along(noise, steps, np.arctan(_sigmas(noise) / np.sqrt(variance)))


def entropy(noise: NoiseSchedule, steps: int, mse: np.ndarray) -> Schedule:
    """Even in the rescaled entropy ``∫ m/σ² dσ`` (Stancevic et al. 2025).

    Parameters
    ----------
    noise : NoiseSchedule
    steps : int
        K.
    mse : ndarray, shape (T + 1,)
        ``m(t) = E‖x_0 - x̂_0‖²``, as measured costs know it: ``costs.mse``.

    Examples
    --------
    >>> noise = NoiseSchedule.linear(1000)
    >>> entropy(noise, 4, 1 / (1 + np.exp(noise.log_snr))).timesteps  # Gaussian, λ = 1
    (0, 121, 258, 431, 1000)
    """
    mse = np.asarray(mse, np.float64)
    if mse.shape != (noise.T + 1,):
        raise InputError(f"m(t) is of shape {(noise.T + 1,)}, got {mse.shape}")
    inverse, m = 1 / _sigmas(noise), mse[1:]
    increments = (m[1:] + m[:-1]) / 2 * (inverse[:-1] - inverse[1:])
    # Below t = 1, m is in proportion to σ².
    return _along(noise, steps, np.cumsum(np.concatenate([[m[0] * inverse[0]], increments])))


def usual(noise: NoiseSchedule, steps: int, variance: float) -> dict[str, Schedule]:
    """The strides that take no measurement, by name.

    Examples
    --------
    >>> list(usual(NoiseSchedule.linear(1000), 4, 0.25))
    ['even', 'quadratic', 'log SNR', 'Karras', 'arctan']
    """
    return {
        "even": Schedule.even(noise.T, steps),
        "quadratic": Schedule.quadratic(noise.T, steps),
        "log SNR": log_snr(noise, steps),
        "Karras": karras(noise, steps),
        "arctan": arctan(noise, steps, variance),
    }


def _sigmas(noise: NoiseSchedule) -> np.ndarray:
    """``σ = g/f`` at t = 1 … T, where log SNR is -10 or more."""
    return np.exp(-np.maximum(noise.log_snr[1:], LOWEST) / 2)


def _along(noise: NoiseSchedule, steps: int, depth: np.ndarray, first: int = 0) -> Schedule:
    """Nodes even in a rising quantity at t = 1 … T, which is 0 at t = 0.

    With ``first=1`` they begin at t = 1 instead, so that the last step goes from there to 0.
    """
    if not 1 <= steps <= noise.T:
        raise InputError(f"the number of steps lies in 1…{noise.T}, got {steps}")
    if first:
        goals = np.linspace(depth[0], depth[-1], steps)
    else:
        goals = depth[-1] * np.arange(1, steps + 1) / steps
        depth = np.concatenate([[0.0], depth])
    t = np.arange(first, noise.T + 1)
    return Schedule(spread_out(np.interp(goals, depth, t), noise.T))


def spread_out(places: np.ndarray, T: int) -> np.ndarray:
    """Round increasing places in (0, T] to distinct timesteps, with 0 before them and T last.

    Those that rounding would merge are pushed up to the next free timestep, or down from T.

    Examples
    --------
    >>> spread_out(np.array([1.0, 1.2, 9.8, 10.0]), 10)
    array([ 0,  1,  2,  9, 10])
    """
    rank = np.arange(len(places))
    nodes = np.maximum(np.rint(places).astype(int), 1)
    nodes = np.maximum.accumulate(nodes - rank) + rank
    nodes = np.minimum(nodes, T - rank[::-1])
    nodes[-1] = T
    return np.concatenate([[0], nodes])


def node_grid(noise: NoiseSchedule, count: int) -> np.ndarray:
    """Timesteps ``0 = u_0 < … < u_N = T``, dense where either t or log SNR moves.

    Half of the density is even in t and half is even in log SNR, counted from -10 upwards: the
    first serves cosine grids, the second linear ones, and neither leaves a gap.

    Parameters
    ----------
    noise : NoiseSchedule
        The training grid.
    count : int
        N, the number of nodes without 0; it is also the teacher's number of network calls.

    Returns
    -------
    ndarray of int, shape (N + 1,)
        The first node above 0 is t = 1.

    Raises
    ------
    InputError
        If N is not in 2 … T.

    Examples
    --------
    >>> node_grid(NoiseSchedule.cosine(1000), 8)
    array([   0,    1,   41,  186,  389,  606,  809,  953, 1000])
    """
    if not 2 <= count <= noise.T:
        raise InputError(f"the number of nodes lies in 2…{noise.T}, got {count}")
    t = np.arange(1, noise.T + 1)
    depth = -np.maximum(noise.log_snr[1:], LOWEST)
    share = (t - 1) / max(noise.T - 1, 1) + (depth - depth[0]) / max(depth[-1] - depth[0], 1e-300)
    places = np.interp(np.linspace(0, share[-1], count), share, t)
    return spread_out(places, noise.T)


def chosen_nodes(noise: NoiseSchedule, nodes: int | Sequence[int]) -> np.ndarray:
    """A grid of so many nodes, or the given timesteps once they are checked."""
    if isinstance(nodes, int | np.integer):
        return node_grid(noise, index(nodes))
    grid: Any = np.asarray(nodes)
    whole = grid.ndim == 1 and grid.dtype.kind in "iu" and len(grid) > 2
    if not whole or (np.diff(grid) <= 0).any() or grid[0] != 0 or grid[-1] != noise.T:
        raise InputError(
            f"nodes are a number, or timesteps that rise from 0 to T = {noise.T}; got {nodes!r}"
        )
    return grid.astype(int)


FEWEST_SNR = 1e-12  # a last SNR of 0 counts as this


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
