"""The idx files of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dpdiff.data.lazy import Deferred, Stacked, check_promise, file_errors, official_split, unpacked
from dpdiff.errors import InputError

KNOWN = "the idx files of MNIST or Fashion-MNIST"
NAMES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
MAGIC = bytes((0, 0, 8, 3))  # unsigned bytes, three axes
HEADER = 16


def recognises(path: Path) -> bool:
    """Whether this is an idx file, or a folder with one under its official name."""
    if path.is_dir():
        return any(_path(path, split) for split in NAMES)
    return path.name.endswith(("idx3-ubyte", "idx3-ubyte.gz"))


def read(path: Path, split: str, shape: Any, progress: bool) -> tuple[Stacked, bool]:
    """One file, or a split of the set in a folder."""
    if not path.is_dir():
        return read_file(path, progress), False

    def part(name: str) -> Stacked:
        file = _path(path, name)
        if file is None:
            raise InputError(f"{path} has no {NAMES[name]} or {NAMES[name]}.gz")
        return read_file(file, progress)

    return official_split(split, lambda: part("train"), lambda: part("test")), True


def read_file(path: Path, progress: bool) -> Stacked:
    """The images of one idx file, (N, 1, H, W): mapped, or unpacked when first needed."""
    with _opened(path) as file:
        head = file.read(HEADER)
    if len(head) < HEADER or head[:4] != MAGIC:
        raise InputError(f"{path} is no idx file of images: it begins with {head[:4].hex(' ')}")
    count, height, width = (int.from_bytes(head[i : i + 4], "big") for i in (4, 8, 12))
    shape = (count, 1, height, width)
    size = HEADER + math.prod(shape)

    def get() -> np.ndarray:
        if path.suffix == ".gz":
            with _opened(path) as file:
                raw = unpacked(file, size, path, progress)
        else:
            raw = np.memmap(path, np.uint8, "r")
        return raw[HEADER:].reshape(shape)

    there = path.stat().st_size
    if min(height, width) == 0:
        raise InputError(f"{path} holds images of {height}×{width} pixels")
    if path.suffix == ".gz":
        check_promise(size, there, path)
    elif there != size:
        raise InputError(f"{path} has {there} bytes, its header promises {size}")
    return Stacked([Deferred(get, shape, np.uint8)], progress=progress)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    opener = gzip.open if path.suffix == ".gz" else open
    with file_errors(path), opener(path, "rb") as file:
        yield file


def _path(folder: Path, split: str) -> Path | None:
    paths = (folder / f"{NAMES[split]}{end}" for end in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)
