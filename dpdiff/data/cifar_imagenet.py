"""CIFAR-10's binary batches and ImageNet64's ``.npz`` batches."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dpdiff.data import arrays
from dpdiff.data.lazy import Stacked, file_errors, official_split
from dpdiff.errors import InputError

KNOWN = "the batches of CIFAR-10 or ImageNet64"
CIFAR = (3, 32, 32)
CIFAR_NAMES = ["test_batch", *(f"data_batch_{number}" for number in range(1, 6))]
IMAGENET_TEST = "val_data.npz"


def recognises(path: Path) -> bool:
    """Whether a folder holds one of the two."""
    return path.is_dir() and (is_cifar(path) or is_imagenet(path))


def read(path: Path, split: str, shape: Any, progress: bool) -> tuple[Stacked, bool]:
    """A split of the set in a folder."""
    reader = read_cifar if is_cifar(path) else read_imagenet
    return reader(path, split, progress), True


def is_cifar(folder: Path) -> bool:
    """Whether a folder holds CIFAR-10, in whichever version."""
    return any((folder / f"{name}{end}").is_file() for name in CIFAR_NAMES for end in (".bin", ""))


def read_cifar(folder: Path, split: str, progress: bool) -> Stacked:
    """A split of CIFAR-10's binary version."""
    if not any((folder / f"{name}.bin").is_file() for name in CIFAR_NAMES):
        raise InputError(
            f"{folder} holds CIFAR-10's Python version, whose files are pickles: programs, which "
            "are not run here; download the binary version, cifar-10-binary.tar.gz"
        )

    def stacked(names: list[str]) -> Stacked:
        paths = [_existing(folder / f"{name}.bin") for name in names]
        return Stacked([cifar_binary(path) for path in paths], progress=progress)

    return official_split(split, lambda: stacked(CIFAR_NAMES[1:]), lambda: stacked(CIFAR_NAMES[:1]))


def cifar_binary(path: Path) -> np.ndarray:
    """A binary batch, memory-mapped: records of one label and three planes of 32×32 bytes."""
    record = 1 + math.prod(CIFAR)
    size = path.stat().st_size
    if size == 0 or size % record:
        raise InputError(f"{path} has {size} bytes, expected a multiple of {record}: cut short?")
    with file_errors(path):
        return np.memmap(path, np.uint8, "r").reshape(-1, record)[:, 1:].reshape(-1, *CIFAR)


def is_imagenet(folder: Path) -> bool:
    """Whether a folder holds downsampled ImageNet in ``.npz`` batches."""
    return (folder / IMAGENET_TEST).is_file() or bool(_train_batches(folder))


def read_imagenet(folder: Path, split: str, progress: bool) -> Stacked:
    """A split of downsampled ImageNet; a compressed batch is unpacked when first needed."""

    def stacked(names: list[str]) -> Stacked:
        paths = [_existing(folder / name) for name in names]
        batches = [arrays.member(p, "data", partial(planes, path=p), progress) for p in paths]
        return Stacked(batches, progress=progress)

    def train() -> Stacked:
        present = _train_batches(folder)
        # One more than there are: of a gap, the first missing file is named.
        complete = present == list(range(1, len(present) + 1)) and present
        numbers = present if complete else range(1, len(present) + 2)
        return stacked([f"train_data_batch_{number}.npz" for number in numbers])

    return official_split(split, train, lambda: stacked([IMAGENET_TEST]))


def planes(array: np.ndarray, path: Path) -> np.ndarray:
    """View rows of three square planes, (N, 3·S·S), as (N, 3, S, S).

    Examples
    --------
    >>> planes(np.zeros((2, 12288), np.uint8), Path("val_data.npz")).shape
    (2, 3, 64, 64)
    """
    side = math.isqrt(array.shape[-1] // 3) if array.ndim == 2 else 0
    if array.dtype != np.uint8 or side == 0 or array.shape[1] != 3 * side**2:
        raise InputError(
            f"{path} holds {array.dtype} of shape {array.shape}, expected uint8 of (N, 3·S·S)"
        )
    return array.reshape(-1, 3, side, side)


def _train_batches(folder: Path) -> list[int]:
    names = (
        re.fullmatch(r"train_data_batch_([1-9]\d{0,8})\.npz", path.name)
        for path in folder.iterdir()
    )
    return sorted(int(name[1]) for name in names if name)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path} is missing; put all files of the set into one folder")
    return path
