"""Images of data sets and files, as the integers that are stored."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from dpdiff.data import arrays, cifar_imagenet, idx, pictures
from dpdiff.data.levels import check, scaled
from dpdiff.errors import InputError
from dpdiff.runtime.files import file_status

__all__ = ["check", "digest", "images", "scaled", "training_sets"]

SPLITS = ("train", "validation", "test")
BUNDLED = ("digits",)
HELD_OUT = 256  # images that decide when training stops
#: A module for each format: ``KNOWN`` names it, ``recognises(path)`` tells files and folders of it,
#: ``read(path, split, shape, progress)`` gives the images, and whether they are divided into
#: splits. The first module that recognises a path reads it.
READERS = [cifar_imagenet, idx, arrays, pictures]


def known_formats() -> str:
    """What is read, in words."""
    return "; ".join(reader.KNOWN for reader in reversed(READERS))


def images(
    source: str | os.PathLike,
    *,
    split: str = "train",
    shape: tuple[int, ...] | None = None,
    progress: bool = True,
) -> Any:
    """The images of a data set that is always at hand, or of files.

    Parameters
    ----------
    source : str or path
        - ``"digits"``: scikit-learn's 1,797 handwritten digits, 8×8 pixels of 17 levels.
        - A folder of ``.png``, ``.jpg``, ``.jpeg`` and ``.webp`` images, at any depth, in the
          order of their paths.
        - An ``.npy`` or ``.npz`` file of integers, or of floats in [0, 1] or [-1, 1], of shape
          (N, H, W), (N, H, W, C) or (N, C, H, W). In an ``.npz`` they are called
          ``train_images`` and ``test_images``, ``x_train`` and ``x_test``, ``images``, ``arr_0``
          or ``data``, or are its only array.
        - A folder with the idx files of MNIST or Fashion-MNIST, gzipped or not, or one such file.
        - A folder with CIFAR-10 in its binary version.
        - A folder with the ``.npz`` batches of ImageNet64 (or 32, 16, 8).
    split : {"train", "validation", "test"}
        Of a set with an official test set, that is ``"test"``, ``"validation"`` is the last
        tenth of the official training set, and ``"train"`` the rest. A folder of images whose
        subfolders are called ``train`` and ``validation``, ``valid``, ``val`` or ``test`` is
        divided by them. Any other file or folder is one split, and this is ignored. Of the
        digits: 1,295 images that the bundled model was fitted to, 143 that decided when its
        training stopped, and 359 that nothing was chosen on.
    shape : tuple of int, optional
        ``(C, H, W)`` that a model takes. Folders of images are brought to it: made grey if C is
        1, resized and cut (:func:`dpdiff.data.pictures.fitted`). It also says how the axes of an
        array are meant; without it, of four axes the last holds the channels if it has length 1
        or 3 and the second does not. Without it all images of a folder must have one size.
    progress : bool
        Show a progress bar over whatever takes more than two seconds.

    Returns
    -------
    array_like, shape (N, C, H, W)
        As they are stored: what floats stand for is found when a denoiser takes them. An
        ndarray, or an object with ``shape``, ``dtype`` and ``len`` of which an integer, a slice,
        integers or a boolean mask pick images, as ndarrays. Only what is picked is read.
        What is compressed as a whole (``.npz``, ``.gz``) is unpacked once, into a temporary
        file. The digits are uint8, (N, 1, 8, 8), with values 0 … 16.

    Raises
    ------
    InputError
        If the source or the split is unknown, a file cannot be read, or the images cannot be
        brought to the shape. A broken image in a folder is found when it is first read.

    Examples
    --------
    >>> images("digits", split="test").shape
    (359, 1, 8, 8)
    """
    return _open(source, split, shape, progress)[0]


def digest(images: Any) -> str:
    """A short digest of some images, to tell sets apart: at most 256 are looked at.

    Examples
    --------
    >>> digest(np.zeros((3, 1, 2, 2), np.uint8))
    '15ec7bf0b50732b4'
    """
    rows = np.unique(np.linspace(0, len(images) - 1, 256).astype(int))
    some = np.ascontiguousarray(images[rows])
    return hashlib.sha256(some.tobytes()).hexdigest()[:16]


def training_sets(
    source: str | os.PathLike, shape: tuple[int, ...], *, progress: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Images to train on and at most 256 others to stop by, in memory.

    If the source is not divided, the others are spread evenly over it and taken out of the
    training images; otherwise they are the first of its validation split.

    Parameters
    ----------
    source, shape, progress
        As in :func:`dpdiff.images`.

    Returns
    -------
    training, validation : ndarray of int, shape (N, C, H, W)

    Raises
    ------
    InputError
        As :func:`dpdiff.images`, or if there are too few images to hold one in ten out.

    Examples
    --------
    >>> [len(part) for part in training_sets("digits", (1, 8, 8))]
    [1295, 143]
    """
    training, divided = _open(source, "train", shape, progress)
    if divided:
        others = images(source, split="validation", shape=shape, progress=progress)
        # Files are sorted by path, often by class: their first ones are no sample of them.
        sorted_by_path = isinstance(others, pictures.Pictures)
        rows = _evenly_spaced(others, HELD_OUT) if sorted_by_path else slice(HELD_OUT)
        return training[:], others[rows]
    rows = _evenly_spaced(training, min(HELD_OUT, len(training) // 10))
    if len(rows) == 0:
        raise InputError(f"{source} has {len(training)} images; training takes at least 10")
    rest = np.ones(len(training), bool)
    rest[rows] = False
    return training[rest], training[rows]


def _open(
    source: str | os.PathLike, split: str, shape: tuple[int, ...] | None, progress: bool
) -> tuple[Any, bool]:
    """The images, and whether the source is divided into splits."""
    if split not in SPLITS:
        raise InputError(f"split is one of {', '.join(SPLITS)}; got {split!r}")
    shape = None if shape is None else tuple(shape)
    examples, divided = _read(source, split, shape, progress)
    if len(examples) == 0:
        raise InputError(f"{source} has no images in its split {split!r}")
    if shape is not None and examples.shape[1:] != shape:
        raise InputError(f"the images of {source} have shape {examples.shape[1:]}, not {shape}")
    return examples, divided


def _read(
    source: str | os.PathLike, split: str, shape: tuple[int, ...] | None, progress: bool
) -> tuple[Any, bool]:
    if source == "digits":
        return _digits(split), True
    path = Path(source)
    if not os.path.exists(source):
        raise InputError(
            f"there is no data set, file or folder {os.fspath(source)!r}; known by name are "
            f"{', '.join(BUNDLED)}; read are {known_formats()}"
        )
    if not path.is_dir():
        file_status(path)
    for reader in READERS:
        if reader.recognises(path):
            return reader.read(path, split, shape, progress)
    raise InputError(f"{path} is of an unknown kind; read are {known_formats()}")


def _digits(split: str) -> np.ndarray:
    from sklearn.datasets import load_digits

    pixels = load_digits().images.astype(np.uint8)[:, None]
    test = np.arange(len(pixels)) % 5 == 4
    if split == "test":
        return pixels[test]
    rest = pixels[~test]
    validation = np.arange(len(rest)) % 10 == 9
    return rest[validation if split == "validation" else ~validation]


def _evenly_spaced(images: Any, count: int) -> np.ndarray:
    """At most ``count`` rows, spread evenly over all."""
    count = min(count, len(images))
    return np.arange(count) * len(images) // max(count, 1)
