"""What a denoiser can be given, and the way from levels to [-1, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np

from dpdiff.data.lazy import CHUNK, Lazy
from dpdiff.data.reading import bar
from dpdiff.errors import InputError


def check(images: Any, shape: tuple[int, ...], levels: int | None) -> Any:
    """Refuse images that a denoiser of this shape and these levels cannot be given.

    Parameters
    ----------
    images : array_like, shape (N, ...)
        Integers in ``0 … levels - 1``, or finite floats when ``levels`` is None.
    shape : tuple of int
        One example.
    levels : int or None
        The data's levels.

    Returns
    -------
    ndarray or Lazy
        The same images. Lazy ones stay so; they are looked at only if their dtype holds values
        that the levels exclude.

    Raises
    ------
    InputError
        If there are none, or their shape, dtype or range is wrong.

    Examples
    --------
    >>> check(np.zeros((5, 2), dtype=np.uint8), (2,), 256).shape
    (5, 2)
    """
    array = images if isinstance(images, Lazy) else np.asarray(images)
    if len(array.shape) == 0 or len(array) == 0:
        raise InputError("the data set is empty")
    if array.shape[1:] != tuple(shape):
        raise InputError(
            f"images have shape {array.shape[1:]}, the model takes {tuple(shape)} "
            "(channels first, no batch dimension)"
        )
    if levels is None:
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(f"continuous data are finite floats, got dtype {array.dtype}")
        return array
    if array.dtype.kind not in "iu":
        raise InputError(
            f"images are integers 0…{levels - 1}, got dtype {array.dtype}; "
            f"for floats in [-1, 1] pass ((x + 1) * {(levels - 1) / 2:g}).round().astype(int)"
        )
    low, high = _extremes(array, levels)
    if low < 0 or high >= levels:
        raise InputError(f"images lie in 0…{levels - 1}, got values from {low} to {high}")
    return array


def _extremes(array: Any, levels: int) -> tuple[int, int]:
    """Smallest and largest value, or those of the dtype if the levels allow them anyway."""
    allowed = np.iinfo(array.dtype)
    if allowed.min == 0 and allowed.max < levels:
        return allowed.min, allowed.max
    if not isinstance(array, Lazy):
        return array.min(), array.max()
    starts = bar(range(0, len(array), CHUNK), "check the levels", array.progress)
    parts = (array[start : start + CHUNK] for start in starts)
    lows, highs = zip(*((part.min(), part.max()) for part in parts), strict=True)
    return min(lows), max(highs)


def scaled(images: np.ndarray, levels: int | None) -> np.ndarray:
    """Levels ``0 … levels - 1`` as float64 in [-1, 1]; continuous data as they are.

    Examples
    --------
    >>> scaled(np.array([0, 8, 16]), 17)
    array([-1.,  0.,  1.])
    """
    if levels is None:
        return np.asarray(images, dtype=np.float64)
    return np.asarray(images, dtype=np.float64) * (2 / (levels - 1)) - 1
