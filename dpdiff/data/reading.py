"""What all readers share: errors that name the file, progress bars, and a place to unpack."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from dpdiff.errors import InputError

CHUNK = 2**20  # bytes
DENSEST = 1032  # bytes that deflate can put into one
PATIENCE = 2  # seconds without a progress bar


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a file is read is the file's fault, and says so.

    Decoders fail in many ways on broken files, so every exception counts.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot read {path}: {error}") from error


def bar(items: Iterable[Any], title: str, progress: bool, **settings: Any) -> tqdm:
    """A progress bar that shows itself only if the work takes long."""
    return tqdm(items, desc=title, delay=PATIENCE, disable=not progress, **settings)


def unpacked(stream: BinaryIO, size: int, path: Path, progress: bool) -> np.ndarray:
    """``size`` bytes of a compressed stream, in a temporary file that is mapped, not held.

    The file has no name: it goes when the array does, or with the process.

    Raises
    ------
    InputError
        If the stream holds fewer bytes or more, or there is no room for them.
    """
    left = size
    chunks = iter(lambda: stream.read(min(left + 1, CHUNK)), b"")
    with tempfile.TemporaryFile() as file:
        for chunk in bar(
            chunks, f"unpack {path.name}", progress, unit="MB", total=-(-size // CHUNK)
        ):
            left -= len(chunk)
            if left < 0:
                break
            _write(file, chunk, path)
        if left:
            raise InputError(
                f"{path} holds {'fewer' if left > 0 else 'more'} bytes than it promises"
            )
        file.flush()
        return np.memmap(file, np.uint8, "r")


def check_promise(size: int, packed: int, path: Path) -> None:
    """Refuse a header that promises more than so many packed bytes can hold.

    Raises
    ------
    InputError
        If deflate, at its best, does not bring ``size`` bytes down to ``packed``.

    Examples
    --------
    >>> check_promise(2**31, 40, Path("train-images-idx3-ubyte.gz"))
    Traceback (most recent call last):
    dpdiff.errors.InputError: train-images-idx3-ubyte.gz promises more bytes than it can hold
    """
    if size > DENSEST * (packed + 64):
        raise InputError(f"{path} promises more bytes than it can hold")


def _write(file: BinaryIO, chunk: bytes, path: Path) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        advice = "; set TMPDIR to a larger disk" if error.errno == errno.ENOSPC else ""
        raise InputError(
            f"cannot unpack {path} into {tempfile.gettempdir()}: {error.strerror}{advice}"
        ) from error
