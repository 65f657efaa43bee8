"""Images in NumPy's own files: ``.npy``, mapped, and ``.npz``, mapped or unpacked once."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from dpdiff.data.lazy import Deferred, Stacked, check_promise, file_errors, official_split, unpacked
from dpdiff.errors import InputError
from dpdiff.runtime.formats import UNPACKABLE

PAIRS = (("train_images", "test_images"), ("x_train", "x_test"), ("X_train", "X_test"))
SINGLES = ("images", "arr_0", "data", "x", "X")


KNOWN = "an .npy or .npz array"


def recognises(path: Path) -> bool:
    """Whether a path ends like NumPy's files."""
    return path.suffix in (".npy", ".npz") and not path.is_dir()


def read(path: Path, split: str, shape: tuple[int, ...] | None, progress: bool) -> tuple[Any, bool]:
    """The images of a file, and whether it has an official test set: ``.npy`` has none."""
    if path.suffix == ".npz":
        return read_npz(path, split, shape, progress)
    with file_errors(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} is an archive of arrays: give its name the ending .npz")
    return arranged(array, shape, path), False


def read_npz(
    path: Path, split: str, shape: tuple[int, ...] | None, progress: bool
) -> tuple[Stacked, bool]:
    """The images of an ``.npz`` file, and whether it has an official test set."""

    def stacked(key: str) -> Stacked:
        array = member(path, key, lambda array: arranged(array, shape, path), progress)
        return Stacked([array], progress=progress)

    with file_errors(path), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    pair = next((pair for pair in PAIRS if set(pair) <= set(names)), None)
    if pair:
        return official_split(split, lambda: stacked(pair[0]), lambda: stacked(pair[1])), True
    keys = [name for name in SINGLES if name in names] or (names if len(names) == 1 else [])
    if not keys:
        raise InputError(
            f"{path} holds {', '.join(names) or 'nothing'}; images are expected under "
            f"{', '.join(SINGLES)}, or under {' or '.join(' and '.join(pair) for pair in PAIRS)}"
        )
    return stacked(keys[0]), False


def member(
    path: Path, key: str, layout: Callable[[np.ndarray], np.ndarray], progress: bool
) -> Deferred:
    """One array of an ``.npz`` file: mapped where it lies, or unpacked when first needed.

    Parameters
    ----------
    path : Path
        The file.
    key : str
        The name of the array.
    layout : callable
        Views the stored array as (N, C, H, W), or refuses it by its shape and dtype.
    progress : bool
        Show a progress bar while unpacking.
    """
    with file_errors(path), zipfile.ZipFile(path) as archive:
        if f"{key}.npy" not in archive.namelist():
            raise InputError(f"{path} holds no array {key!r}")
        info = archive.getinfo(f"{key}.npy")
        with archive.open(info) as stream:
            stored, fortran, dtype = header(stream)
            begin = stream.tell()
        # A stand-in of the same shape that takes no memory: a wrong array is refused unread.
        promise = layout(np.broadcast_to(np.zeros((), dtype), stored))
        size = begin + math.prod(stored) * dtype.itemsize
        if info.file_size != size or info.compress_type not in UNPACKABLE:
            raise InputError(f"cannot read {path}: it is damaged, or packed in an unexpected way")
        check_promise(size, path.stat().st_size, path)

    def get() -> np.ndarray:
        with file_errors(path), zipfile.ZipFile(path) as archive:
            if info.compress_type == zipfile.ZIP_STORED:
                raw = np.memmap(path, np.uint8, "r", _place(path, info), (size,))
            else:
                with archive.open(info) as stream:
                    raw = unpacked(stream, size, path, progress)
        return layout(np.ndarray(stored, dtype, raw, begin, order="F" if fortran else "C"))

    return Deferred(get, promise.shape, dtype)


def header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and dtype of the ``.npy`` that a stream begins with."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"unknown version {version} of the npy format")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(stream)


def _place(path: Path, info: zipfile.ZipInfo) -> int:
    """Where in the archive the bytes of an uncompressed member begin."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)  # two lengths end the local header's fixed part
        name, extra = np.frombuffer(file.read(4), "<u2").tolist()
    return info.header_offset + 30 + name + extra


def arranged(array: np.ndarray, shape: tuple[int, ...] | None, path: Path) -> np.ndarray:
    """View an array of images as (N, C, H, W).

    With ``shape``, an arrangement that gives it is taken: channels first before channels last,
    also without the one channel, or in one row an image. Without, an array (N, H, W) has one
    channel; one of four axes has its channels last if only the last of its axes 1 and 3 has
    length 1 or 3, and first otherwise.

    Raises
    ------
    InputError
        If the array holds neither integers nor floats, or no arrangement gives the shape.

    Examples
    --------
    >>> arranged(np.zeros((5, 28, 28, 3), np.uint8), None, "images.npy").shape
    (5, 3, 28, 28)
    """
    if array.dtype.kind not in "iuf":
        raise InputError(
            f"{path} holds {array.dtype} values; images are integers, or floats in [0, 1] or "
            "[-1, 1]"
        )
    one = array.shape[1:]
    if 0 in one:
        raise InputError(f"{path} holds an array of shape {array.shape}: images without pixels")
    if shape is None:
        if array.ndim == 3:
            return array[:, None]
        if array.ndim == 4:
            last = one[2] in (1, 3) and one[0] not in (1, 3)
            return np.moveaxis(array, 3, 1) if last else array
    elif one == shape:
        return array
    elif len(one) == 3 and (one[2], *one[:2]) == shape:
        return np.moveaxis(array, 3, 1)
    elif (1, *one) == shape or (len(one) == 1 and one[0] == math.prod(shape)):
        return array.reshape(len(array), *shape)
    wanted = "(N, H, W), (N, H, W, C) or (N, C, H, W)" if shape is None else f"for {shape} images"
    raise InputError(f"{path} holds an array of shape {array.shape}, expected one {wanted}")
