"""Images as users have them: arrays, tensors, lists of pictures, Datasets and DataLoaders."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from dpdiff.data.lazy import Lazy
from dpdiff.data.reading import bar
from dpdiff.errors import InputError

NAMES = ("image", "images", "img", "pixel_values", "x")  # under which dictionaries hold images
KNOWN = "an array, a tensor, a list of images or a torch Dataset or DataLoader"


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


FILES = "dpdiff.images(path) reads them"


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
