"""CIFAR-10 and ImageNet64 in the batches in which they come."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path

import numpy as np

from dpdiff.data import arrays, unpickling
from dpdiff.data.lazy import Stacked, official
from dpdiff.data.reading import blaming
from dpdiff.errors import InputError

CIFAR = (3, 32, 32)
CIFAR_BATCHES = 5
IMAGENET_TEST = "val_data.npz"


def reads_cifar(folder: Path) -> bool:
    """Whether a folder holds CIFAR-10, in its binary or its Python version."""
    return _suffix(folder) is not None


def read_cifar(folder: Path, split: str, progress: bool) -> Stacked:
    """A split of CIFAR-10."""
    suffix = _suffix(folder)
    read = cifar_binary if suffix == ".bin" else cifar_python

    def stacked(names: list[str]) -> Stacked:
        paths = [_existing(folder / f"{name}{suffix}") for name in names]
        return Stacked([read(path) for path in paths], progress=progress)

    numbers = range(1, CIFAR_BATCHES + 1)
    return official(
        split,
        lambda: stacked([f"data_batch_{number}" for number in numbers]),
        lambda: stacked(["test_batch"]),
    )


def cifar_binary(path: Path) -> np.ndarray:
    """A binary batch, memory-mapped: records of one label and three planes of 32×32 bytes."""
    record = 1 + math.prod(CIFAR)
    size = path.stat().st_size
    if size == 0 or size % record:
        raise InputError(f"{path} has {size} bytes, expected a multiple of {record}: cut short?")
    with blaming(path):
        return np.memmap(path, np.uint8, "r").reshape(-1, record)[:, 1:].reshape(-1, *CIFAR)


def cifar_python(path: Path) -> np.ndarray:
    """A Python batch: a pickled dictionary, read without running anything of it."""
    content = unpickling.load(path)
    pixels = None
    if isinstance(content, dict):
        pixels = content.get(b"data", content.get("data"))
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.ndim != 2
        or pixels.shape[1] != math.prod(CIFAR)
    ):
        raise InputError(f"{path} is no CIFAR-10 batch: it has no 'data' of 3,072 bytes an image")
    return pixels.reshape(-1, *CIFAR)


def reads_imagenet(folder: Path) -> bool:
    """Whether a folder holds downsampled ImageNet in ``.npz`` batches."""
    return (folder / IMAGENET_TEST).is_file() or bool(_train_batches(folder))


def read_imagenet(folder: Path, split: str, progress: bool) -> Stacked:
    """A split of downsampled ImageNet; a compressed batch is unpacked when first needed."""

    def stacked(names: list[str]) -> Stacked:
        paths = [_existing(folder / name) for name in names]
        batches = [arrays.member(p, "data", partial(planes, path=p), progress) for p in paths]
        return Stacked(batches, progress=progress)

    def train() -> Stacked:
        last = max(_train_batches(folder), default=1)
        return stacked([f"train_data_batch_{number}.npz" for number in range(1, last + 1)])

    return official(split, train, lambda: stacked([IMAGENET_TEST]))


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


def _suffix(folder: Path) -> str | None:
    for suffix in (".bin", ""):
        if any((folder / f"{name}{suffix}").is_file() for name in ("data_batch_1", "test_batch")):
            return suffix
    return None


def _train_batches(folder: Path) -> list[int]:
    names = (re.fullmatch(r"train_data_batch_(\d+)\.npz", path.name) for path in folder.iterdir())
    return [int(name[1]) for name in names if name]


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path} is missing; put all files of the set into one folder")
    return path
