"""A folder of finished blocks: what makes a long measurement restartable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from dpdiff.errors import InputError
from dpdiff.runtime import formats
from dpdiff.runtime.files import file_status

FORMAT = "dpdiff-block"
VERSION = 2
LOCK = "lock"
STAGE = (
    1_000_000  # a job may have several stages: those of stage i are numbered from i times this on
)
BLOCKS = 500  # at most so many to a grid: a kill costs every worker 0.2 % of the whole, or less

Statistics = dict[str, np.ndarray]


@contextmanager
def locked(folder: str | Path) -> Iterator[Path]:
    """Make a folder, and keep other processes out of it until the block ends.

    The lock dies with its process, however that ends. The process that holds it may take it
    again.

    Raises
    ------
    InputError
        If another process holds it, or the folder cannot be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0, is_singleton=True).acquire()
    except Timeout:
        raise InputError(
            f"another process is measuring into {folder}: wait for it, or give another file name"
        ) from None
    except OSError as error:
        raise InputError(f"cannot write to the folder {folder}: {error.strerror}") from error
    with lock:
        try:
            yield folder
        finally:
            if lock.lock.lock_counter == 1 and not any(folder.glob("*.part")):
                remove(folder)  # nothing was begun


def remove(folder: Path) -> None:
    """Delete what was written to a folder that is :func:`locked`; others' files stay."""
    if not folder.is_dir():
        return
    for pattern in ("*.part", ".*.part.*", LOCK):
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


class Checkpoints:
    """The finished blocks of one job.

    Every block is a file of its own, as :mod:`dpdiff.runtime.formats` writes them: a header that
    names the job and the timesteps, and the statistics. It is complete or absent.

    Parameters
    ----------
    folder : Path
        Where they lie.
    job : dict
        All that decides the statistics: JSON values by name.

    Examples
    --------
    >>> import tempfile
    >>> kept, block = Checkpoints(Path(tempfile.mkdtemp()), {"seed": 0}), np.array([1, 2])
    >>> kept.save(block, {"mse": np.array([0.5, 0.25])})
    >>> kept.load([block])
    {1: {'mse': array([0.5 , 0.25])}}
    """

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self.folder, self.job = folder, job

    def save(self, timesteps: np.ndarray, statistics: Statistics) -> None:
        """Write a finished block; its arrays' first axes run over ``timesteps``."""
        about = {"format": FORMAT, "version": VERSION, "job": self.job}
        about["timesteps"] = [int(t) for t in timesteps]
        formats.write_arrays(self.folder / f"t{timesteps[0]:06d}.part", about, statistics)

    def load(self, grid: Sequence[np.ndarray]) -> dict[int, Statistics]:
        """All whole blocks by their first timestep; what is damaged counts as not there.

        Parameters
        ----------
        grid : sequence of ndarray
            The timesteps of every block of one stage; blocks of other stages are left alone.

        Raises
        ------
        InputError
            If a block is of another job, is none of the grid, or does not hold what its timesteps
            need.
        """
        blocks = {int(block[0]): block.tolist() for block in grid}
        loaded: dict[int, Statistics] = {}
        for path in sorted(self.folder.glob("*.part")):
            about, statistics = self._read(path)
            if about is None:
                continue
            self._check(about.get("job"))
            timesteps = about.get("timesteps")
            if _of_another_stage(timesteps, blocks):
                continue
            first = self._fit(path, timesteps, statistics, blocks)
            loaded[first] = statistics
            if _kinds(statistics) != _kinds(next(iter(loaded.values()))):
                raise InputError(f"{path} holds other statistics than the blocks beside it")
        return loaded

    def _read(self, path: Path) -> tuple[dict[str, Any] | None, Statistics]:
        file_status(path)
        try:
            return formats.read_arrays(path, FORMAT, VERSION)
        except InputError:
            return None, {}

    def read(self, first: int) -> Statistics | None:
        """The block that begins there, or None if it is missing or damaged."""
        path = self.folder / f"t{first:06d}.part"
        about, statistics = self._read(path) if path.exists() else (None, {})
        if about is None:
            return None
        self._check(about.get("job"))
        return statistics

    def _fit(
        self, path: Path, timesteps: Any, statistics: Statistics, blocks: dict[int, list[int]]
    ) -> int:
        """The first timestep of a block, if it is one of the grid's and its arrays are its own."""
        first = timesteps[0] if isinstance(timesteps, list) and timesteps else None
        if type(first) is not int or blocks.get(first) != timesteps:
            raise InputError(f"{path} holds timesteps that are no block of this job: remove it")
        if {array.shape[:1] for array in statistics.values()} != {(len(timesteps),)}:
            raise InputError(f"{path} does not hold the numbers of its timesteps: remove it")
        return first

    def _check(self, job: Any) -> None:
        if not isinstance(job, dict):
            raise InputError(f"{self.folder} holds a block that names no job: remove it")
        names = [name for name in {**self.job, **job} if self.job.get(name) != job.get(name)]
        if names:
            differences = "; ".join(
                f"{name} was {job.get(name)} and is now {self.job.get(name)}" for name in names
            )
            raise InputError(
                f"{self.folder} holds an unfinished measurement of another job: {differences}. "
                "To go on with it, repeat the command that began it; to begin anew, delete the "
                "folder or give another file name"
            )


def _kinds(statistics: Statistics) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (array.dtype.str, array.shape[1:]) for name, array in statistics.items()}


def _of_another_stage(timesteps: Any, blocks: dict[int, list[int]]) -> bool:
    """Whether a block belongs to another stage of the same job than a grid."""
    first = timesteps[0] if isinstance(timesteps, list) and timesteps else None
    return type(first) is int and first // STAGE != min(blocks) // STAGE
