"""A folder of finished blocks: what makes long work restartable."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from dpdiff.errors import InputError
from dpdiff.runtime import formats
from dpdiff.runtime.files import file_status
from dpdiff.runtime.formats import Arrays
from dpdiff.runtime.workers import ALONE, Workers

FORMAT, VERSION = "dpdiff-block", 2
LAYOUT = {"blocks": "of version 3"}  # what stands in a block; part of the job, so told with it
LOCK = "lock"
BLOCKS = 500  # at most so many to a stage: a kill costs every worker 0.2 % of it, or less


@contextmanager
def locked(folder: str | Path | None, workers: Workers = ALONE) -> Iterator[None]:
    """Make a folder, and keep other processes out of it until the block ends.

    The lock dies with its process, however that ends. The process that holds it may take it
    again. Without a folder, and in workers other than the first, nothing is done.

    Raises
    ------
    InputError
        If another process holds it, or the folder cannot be made or written to.
    """
    if folder is None or not workers.first:
        yield
        return
    folder = Path(folder)
    try:
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0, is_singleton=True).acquire()
    except Timeout:
        raise InputError(
            f"another process writes to {folder}: wait for it, or give another name"
        ) from None
    except OSError as error:
        raise InputError(f"cannot write to the folder {folder}: {error.strerror}") from error
    with lock:
        try:
            yield
        finally:
            if lock.lock.lock_counter == 1 and not any(folder.glob("*.part")):
                remove(folder)  # nothing was begun
    with suppress(OSError):  # on Windows the lock's file goes no sooner than the lock
        folder.rmdir()


def remove(folder: Path) -> None:
    """Delete what was written to a folder that is :func:`locked`; others' files stay."""
    if not folder.is_dir():
        return
    for pattern in ("*.part", ".*.part.*", LOCK):
        for file in folder.glob(pattern):
            with suppress(PermissionError):  # Windows, of a lock that is held
                file.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


class Checkpoints:
    """The finished blocks of one stage of a job.

    Every block is a file of its own, as :mod:`dpdiff.runtime.formats` writes them: a header with
    the job and the numbers that the block is about, and arrays with a row for each of these
    numbers. It is complete or absent.

    Parameters
    ----------
    folder : str or Path
        Where they lie.
    job : dict
        All that decides what is in them: JSON values by name.
    stage : int
        Which part of the job, where later parts hang on what earlier ones found.

    Examples
    --------
    >>> import tempfile
    >>> kept, block = Checkpoints(tempfile.mkdtemp(), {"seed": 0}), np.array([1, 2])
    >>> kept.save(block, {"mse": np.array([0.5, 0.25])})
    >>> list(kept.finished([block]))
    [(0, {'mse': array([0.5 , 0.25])})]
    """

    def __init__(self, folder: str | Path, job: dict[str, Any], stage: int = 0) -> None:
        self.folder, self.job, self.stage = Path(folder), LAYOUT | job, stage

    def _path(self, block: np.ndarray) -> Path:
        return self.folder / f"{self.stage}-{block[0]:06d}.part"

    def save(self, block: np.ndarray, arrays: Arrays) -> None:
        """Write a finished block, given by its numbers: timesteps or examples."""
        about = {"format": FORMAT, "version": VERSION, "job": self.job}
        about |= {"stage": self.stage, "block": block.tolist()}
        formats.write_arrays(self._path(block), about, arrays)

    def read(self, block: np.ndarray) -> Arrays:
        """The arrays of a block that was finished."""
        for _, arrays in self._readable([self._path(block)], [block]):
            return arrays
        raise InputError(f"{self._path(block)} is damaged: repeat the command")

    def finished(self, blocks: Sequence[np.ndarray]) -> Iterator[tuple[int, Arrays]]:
        """The place and the arrays of every whole block; what is damaged counts as not there.

        Parameters
        ----------
        blocks : sequence of ndarray
            The numbers of every block of the stage. Blocks of other stages are left alone.

        Raises
        ------
        InputError
            If a block is of another job, is none of these, or does not hold what its numbers
            need.
        """
        return self._readable(sorted(self.folder.glob("*.part")), blocks)

    def _readable(
        self, paths: Sequence[Path], blocks: Sequence[np.ndarray]
    ) -> Iterator[tuple[int, Arrays]]:
        places, kinds = {str(block.tolist()): i for i, block in enumerate(blocks)}, None
        for path in paths:
            file_status(path)
            try:
                about, arrays = formats.read_arrays(path, FORMAT, VERSION)
            except InputError:
                continue
            self._check_job(about.get("job"))
            if about.get("stage") != self.stage:
                continue
            place = places.get(json.dumps(about.get("block")))
            if place is None:
                raise InputError(f"{path} is no block of this job: remove it")
            if {array.shape[:1] for array in arrays.values()} != {blocks[place].shape}:
                raise InputError(f"{path} does not hold what its numbers need: remove it")
            own = {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()}
            kinds = kinds or own
            if own != kinds:
                raise InputError(f"{path} holds other arrays than the blocks beside it")
            yield place, arrays

    def _check_job(self, job: Any) -> None:
        if not isinstance(job, dict):
            raise InputError(f"{self.folder} holds a block that names no job: remove it")
        names = [name for name in {**self.job, **job} if self.job.get(name) != job.get(name)]
        if names:
            differences = "; ".join(
                f"{name} was {job.get(name)} and is now {self.job.get(name)}" for name in names
            )
            raise InputError(
                f"{self.folder} holds unfinished work of another job: {differences}. "
                "To go on with it, repeat the command that began it; to begin anew, delete the "
                "folder or give another file name"
            )
