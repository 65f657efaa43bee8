"""What a denoiser can be given, and the way from levels to [-1, 1]."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np
from tqdm import tqdm

from dpdiff.data.given import as_array
from dpdiff.data.lazy import CHUNK, Lazy
from dpdiff.data.reading import bar
from dpdiff.errors import InputError
from dpdiff.runtime.workers import environment_rank


def check(images: Any, shape: tuple[int, ...], levels: int | None) -> Any:
    """Images as a denoiser of this shape and these levels takes them; others are refused.

    Parameters
    ----------
    images : array_like, Tensor, list of images, Dataset or DataLoader, shape (N, ...)
        Integers in ``0 … levels - 1``, or floats in [0, 1] or [-1, 1] that stand for them; which
        of the two was recognised is said on stderr. Finite floats when ``levels`` is None.
        Channels may come last, and one channel may be left out. A list may hold PIL images. Of
        the pairs that a Dataset or a DataLoader gives, the first is the image.
    shape : tuple of int
        One example.
    levels : int or None
        The data's levels.

    Returns
    -------
    ndarray or Lazy
        The same images, channels first. Lazy ones stay so; they are looked at only if their dtype
        holds values that the levels exclude.

    Raises
    ------
    InputError
        If there are none, or their shape, dtype or range is wrong.

    Examples
    --------
    >>> check(np.zeros((5, 2), dtype=np.uint8), (2,), 256).shape
    (5, 2)
    """
    array = as_array(images, tuple(shape))
    if levels is None:
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(f"continuous data are finite floats, got dtype {array.dtype}")
        return array
    if array.dtype.kind == "f":
        return levels_of(np.asarray(array), levels)
    if array.dtype.kind not in "iu":
        raise InputError(
            f"images are integers 0…{levels - 1}, or floats in [0, 1] or [-1, 1]; got dtype "
            f"{array.dtype}"
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


def levels_of(array: np.ndarray, levels: int) -> np.ndarray:
    """The levels that floats in [0, 1] or [-1, 1] stand for; floats that are levels are kept.

    Raises
    ------
    InputError
        If the values lie elsewhere, or are not finite.

    Examples
    --------
    >>> levels_of(np.array([[0.0, 0.5, 1.0]]), 17)
    array([[ 0,  8, 16]], dtype=uint8)
    """
    low, high = float(array.min()), float(array.max())
    kind = np.min_scalar_type(levels - 1)
    if low >= -1 and high <= 1:
        begin = 0 if low >= 0 else -1
        say_once(
            f"images are floats from {low:.3g} to {high:.3g}: taken as [{begin}, 1], which stands "
            f"for levels 0…{levels - 1}"
        )
        return np.rint((array - begin) * ((levels - 1) / (1 - begin))).astype(kind)
    if low >= 0 and high <= levels - 1 and (array == np.rint(array)).all():
        return array.astype(kind)
    raise InputError(
        f"images are integers 0…{levels - 1}, or floats in [0, 1] or [-1, 1]; got floats from "
        f"{low:.4g} to {high:.4g}"
    )


@cache
def say_once(line: str) -> None:
    """Tell what was taken for what, on stderr, once in the life of the process."""
    if environment_rank() == 0:
        tqdm.write(f"dpdiff: {line}", file=sys.stderr)


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
