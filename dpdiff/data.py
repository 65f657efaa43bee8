"""Images by name, as integers: the levels the data really has."""

from __future__ import annotations

from typing import Any

import numpy as np

from dpdiff.errors import InputError

SPLITS = ("train", "validation", "test")


def images(name: str = "digits", *, split: str = "train") -> np.ndarray:
    """The images of a data set that is always at hand, or of a file.

    Parameters
    ----------
    name : str
        ``"digits"``: scikit-learn's 1,797 handwritten digits, 8×8 pixels of 17 levels. Or an
        ``.npy`` file, which is not read into memory as a whole.
    split : {"train", "validation", "test"}
        Of the digits: 1,295 images that the bundled model was fitted to, 143 that decided when
        its training stopped, and 359 that nothing was chosen on. A file is one split, and this
        is ignored.

    Returns
    -------
    ndarray, shape (N, C, H, W)
        The digits are uint8, (N, 1, 8, 8), with values 0 … 16.

    Raises
    ------
    InputError
        If the name or the split is unknown, or the file cannot be read.

    Examples
    --------
    >>> images("digits", split="test").shape
    (359, 1, 8, 8)
    """
    if name.endswith(".npy"):
        try:
            return np.load(name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"cannot read images from {name}: {error}") from error
    if name != "digits":
        raise InputError(f"unknown data set {name!r}; known are 'digits' and .npy files")
    if split not in SPLITS:
        raise InputError(f"split is one of {', '.join(SPLITS)}; got {split!r}")
    from sklearn.datasets import load_digits

    pixels = load_digits().images.astype(np.uint8)[:, None]
    test = np.arange(len(pixels)) % 5 == 4
    if split == "test":
        return pixels[test]
    rest = pixels[~test]
    validation = np.arange(len(rest)) % 10 == 9
    return rest[validation if split == "validation" else ~validation]


def check(images: Any, shape: tuple[int, ...], levels: int | None) -> np.ndarray:
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
    ndarray
        The same images.

    Raises
    ------
    InputError
        If there are none, or their shape, dtype or range is wrong.

    Examples
    --------
    >>> check(np.zeros((5, 2), dtype=np.uint8), (2,), 256).shape
    (5, 2)
    """
    array = np.asarray(images)
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
    low, high = array.min(), array.max()
    if low < 0 or high >= levels:
        raise InputError(f"images lie in 0…{levels - 1}, got values from {low} to {high}")
    return array


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
