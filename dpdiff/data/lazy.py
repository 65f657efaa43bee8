"""Arrays of images that are read when indexed, and helpers of all readers."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from dpdiff.errors import InputError

ROWS_AT_ONCE = 1024  # between two updates of a progress bar
BYTES_AT_ONCE = 2**20
DENSEST = 1032  # bytes that deflate can put into one
PATIENCE = 2  # seconds without a progress bar


class Lazy:
    """An array of images that are read when indexed.

    An integer, a slice, an array of integers or a boolean mask picks images as it would from an
    ndarray, and the result is one. ``numpy.asarray`` reads them all.

    Parameters
    ----------
    shape : tuple of int
        ``(N, C, H, W)``.
    dtype : dtype
        Of the images.
    progress : bool
        Show a progress bar when many are read at once.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any = np.uint8, *, progress: bool) -> None:
        self.shape, self.dtype = tuple(map(int, shape)), np.dtype(dtype)
        self.progress = progress

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} images, shape {self.shape}, {self.dtype}>"

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = np.arange(len(self))[index]
        flat = rows.reshape(-1)
        if len(flat) <= ROWS_AT_ONCE:
            images = self._read(flat)
        else:
            images = np.empty((len(flat), *self.shape[1:]), self.dtype)
            starts = range(0, len(flat), ROWS_AT_ONCE)
            for start in bar(starts, f"read images, {ROWS_AT_ONCE} at a time", self.progress):
                part = slice(start, start + ROWS_AT_ONCE)
                images[part] = self._read(flat[part])
        return images.reshape(rows.shape + self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("lazy images have to be read: they cannot be had without a copy")
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """The images ``rows``, a flat array of valid row numbers."""
        raise NotImplementedError


class Deferred(Lazy):
    """An array that is loaded when a row of it is first needed."""

    def __init__(self, get: Callable[[], np.ndarray], shape: tuple[int, ...], dtype: Any) -> None:
        super().__init__(shape, dtype, progress=False)
        self._get, self._array = get, None

    def _read(self, rows: np.ndarray) -> np.ndarray:
        if self._array is None:
            self._array = self._get()
        return self._array[rows]


class Stacked(Lazy):
    """Arrays concatenated along their first axis, or a slice of that."""

    def __init__(
        self, arrays: Sequence[Any], start: int = 0, stop: int | None = None, *, progress: bool
    ) -> None:
        if len({(array.shape[1:], array.dtype) for array in arrays}) > 1:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise InputError(f"the files of one set hold arrays of different kinds: {shapes}")
        self._arrays, self._start = arrays, start
        self._ends = np.cumsum([len(array) for array in arrays])
        count = (self._ends[-1] if stop is None else stop) - start
        super().__init__((count, *arrays[0].shape[1:]), arrays[0].dtype, progress=progress)

    def part(self, start: int, stop: int) -> Stacked:
        """The slice ``start … stop - 1``; nothing is read."""
        first = self._start
        return Stacked(self._arrays, first + start, first + stop, progress=self.progress)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        rows = rows + self._start
        owner = np.searchsorted(self._ends, rows, side="right")
        images = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for number in np.unique(owner):
            array, here = self._arrays[number], owner == number
            images[here] = array[rows[here] - (self._ends[number] - len(array))]
        return images


def official_split(
    split: str, train: Callable[[], Stacked], test: Callable[[], Stacked]
) -> Stacked:
    """A split of a set with an official test set; only its own files are opened.

    The last tenth of the official training set is "validation", and not in "train".

    Examples
    --------
    >>> everything = Stacked([np.arange(25)[:, None]], progress=False)
    >>> official_split("validation", lambda: everything, lambda: None)[:].ravel()
    array([23, 24])
    """
    if split == "test":
        return test()
    images = train()
    cut = len(images) - len(images) // 10
    return images.part(0, cut) if split == "train" else images.part(cut, len(images))


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Any exception while a file is read, as an InputError that names the file.

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
    chunks = iter(lambda: stream.read(min(left + 1, BYTES_AT_ONCE)), b"")
    with tempfile.TemporaryFile() as file:
        for chunk in bar(
            chunks, f"unpack {path.name}", progress, unit="MB", total=-(-size // BYTES_AT_ONCE)
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
    """Refuse a header that promises more than its packed bytes can hold.

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
