"""The grid of nodes on which a teacher runs and schedules are searched."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np

from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.strides import LOWEST, spread_out


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
