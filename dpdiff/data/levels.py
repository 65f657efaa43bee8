"""Images as a denoiser takes them: shape, integer levels, and levels in [-1, 1]."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
from tqdm import tqdm

from dpdiff.data.lazy import ROWS_AT_ONCE, Lazy, bar
from dpdiff.errors import InputError
from dpdiff.runtime.workers import environment_rank

FILES = "dpdiff.images(path) reads them"
NAMES = ("image", "images", "img", "pixel_values", "x")  # under which dictionaries hold images
KNOWN = "an array, a tensor, a list of images or a torch Dataset or DataLoader"


def check(images: Any, shape: tuple[int, ...], levels: int | None) -> Any:
    """Images in a denoiser's shape and levels; what cannot be brought there is refused.

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
    """Smallest and largest value; the dtype's own where the levels allow all of them."""
    allowed = np.iinfo(array.dtype)
    if allowed.min == 0 and allowed.max < levels:
        return allowed.min, allowed.max
    if not isinstance(array, Lazy):
        return array.min(), array.max()
    starts = bar(range(0, len(array), ROWS_AT_ONCE), "check the levels", array.progress)
    parts = (array[start : start + ROWS_AT_ONCE] for start in starts)
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
    """Write a line to stderr, once a process."""
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


def as_array(images: Any, shape: tuple[int, ...]) -> Any:
    """Images as one array, shape (N, *shape); lazy ones stay as they are.

    Parameters
    ----------
    images : Any
        As :func:`dpdiff.data.check` takes them.
    shape : tuple of int
        One example, channels first.

    Raises
    ------
    InputError
        If there are none, or their shape is another, or this is nothing of the kind.

    Examples
    --------
    >>> as_array([np.zeros((8, 6, 3), np.uint8)] * 2, (3, 8, 6)).shape
    (2, 3, 8, 6)
    """
    if isinstance(images, Lazy):
        array = images
    elif isinstance(images, np.ndarray) or _is_tensor(images):
        array = _plain(images)
    elif isinstance(images, str | bytes | Mapping) or not _can_be_walked(images):
        raise InputError(f"images are {KNOWN}; got a {type(images).__name__}: for files, {FILES}")
    else:
        array = _gathered(images, shape)
    if len(array.shape) == 0 or len(array) == 0:
        raise InputError("the data set is empty")
    return array if array.shape[1:] == shape else _arranged(array, shape)


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _plain(value: Any) -> np.ndarray:
    """An array with the values of a tensor, a picture or an array."""
    if _is_tensor(value):
        value = value.detach().cpu()
        return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    try:
        return np.asarray(value)
    except (TypeError, ValueError, OSError) as error:
        raise InputError(f"images are {KNOWN}: {error}") from error


def _can_be_walked(images: Any) -> bool:
    return isinstance(images, Iterable) or hasattr(images, "__getitem__")


def _gathered(images: Any, shape: tuple[int, ...]) -> np.ndarray:
    """All images of a list, a Dataset or a DataLoader, in memory."""
    batched = type(images).__name__ == "DataLoader" and images.batch_size is not None
    items = images
    if hasattr(images, "__len__") and not isinstance(images, Iterable):
        items = (images[i] for i in range(len(images)))  # a Dataset need not end by itself
    parts = [_one(item, shape) for item in bar(items, "read images", True)]
    if not parts:
        raise InputError("the data set is empty")
    if len({part.shape[batched:] for part in parts}) > 1:
        raise InputError(
            f"images have different shapes, such as {parts[0].shape} and "
            f"{next(p.shape for p in parts if p.shape != parts[0].shape)}: bring them to one, or "
            "give the folder of their files, where they are cut and resized"
        )
    return np.concatenate(parts) if batched else np.stack(parts)


def _one(item: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The image, or the batch of images, in an item: the first of a pair, or under its name."""
    if isinstance(item, tuple | list) and item and not np.isscalar(item[0]):
        item = item[0] if isinstance(item, tuple) or _is_tensor(item[0]) else item
    if isinstance(item, Mapping):
        name = next((name for name in NAMES if name in item), None)
        if name is None:
            raise InputError(
                f"items hold {', '.join(map(str, item))}; known are {', '.join(NAMES)}"
            )
        item = item[name]
    if hasattr(item, "convert") and hasattr(item, "mode"):  # of PIL
        item = item.convert({1: "L", 3: "RGB", 4: "RGBA"}.get(shape[0], item.mode))
    return _plain(item)


def _arranged(array: Any, shape: tuple[int, ...]) -> Any:
    """Channels brought to the front, or one channel added; anything else is refused."""
    one = array.shape[1:]
    if not isinstance(array, Lazy) and len(shape) == 3:
        if len(one) == 3 and (one[2], *one[:2]) == shape:
            return np.moveaxis(array, 3, 1)
        if (1, *one) == shape:
            return array[:, None]
    raise InputError(
        f"images have shape {one}, the model takes {shape} (channels first or last, no batch "
        "dimension)"
    )
