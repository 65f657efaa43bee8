"""A folder of finished blocks: what makes a long measurement restartable."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from dpdiff.errors import InputError
from dpdiff.runtime.files import replacing

LOCK = "lock"
BLOCKS = 500  # at most so many to a grid: a kill costs every worker 0.2 % of the whole, or less

Statistics = dict[str, np.ndarray]


def cut(timesteps: np.ndarray, size: int) -> list[np.ndarray]:
    """Consecutive pieces of ``size`` timesteps; the last one may be shorter.

    Examples
    --------
    >>> [piece.tolist() for piece in cut(np.arange(1, 6), 2)]
    [[1, 2], [3, 4], [5]]
    """
    return [timesteps[start : start + size] for start in range(0, len(timesteps), size)]


def blocks(T: int, unit: int) -> list[np.ndarray]:
    """The timesteps ``1 … T`` in blocks of whole units, whoever may work on them.

    Parameters
    ----------
    T : int
        Length of the grid.
    unit : int
        Timesteps whose network calls are made together.

    Examples
    --------
    >>> len(blocks(4000, 2)), len(blocks(4000, 1)), len(blocks(10, 1))
    (500, 500, 10)
    """
    return cut(np.arange(1, T + 1), unit * -(-T // (unit * BLOCKS)))


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

    Every block is a file of its own: a SHA-256 digest of the rest, a JSON header that names the
    job and the timesteps, and the statistics as ``.npz``. It is complete or absent.

    Parameters
    ----------
    folder : Path
        Where they lie.
    job : dict
        All that decides the statistics: JSON values by name.

    Examples
    --------
    >>> import tempfile
    >>> kept = Checkpoints(Path(tempfile.mkdtemp()), {"seed": 0})
    >>> kept.save(np.array([1, 2]), {"mse": np.array([0.5, 0.25])})
    >>> kept.load()
    {1: {'mse': array([0.5 , 0.25])}}
    """

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self.folder, self.job = folder, job

    def save(self, timesteps: np.ndarray, statistics: Statistics) -> None:
        """Write a finished block; its arrays' first axes run over ``timesteps``."""
        buffer = io.BytesIO()
        header = {"job": self.job, "first": int(timesteps[0]), "last": int(timesteps[-1])}
        buffer.write(json.dumps(header).encode() + b"\n")
        np.savez(buffer, **statistics)
        content = buffer.getvalue()
        with replacing(self.folder / f"t{timesteps[0]:06d}.part") as file:
            file.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)

    def load(self) -> dict[int, Statistics]:
        """All whole blocks by their first timestep; what is damaged counts as not there.

        Raises
        ------
        InputError
            If a block is of another job, or cannot be read.
        """
        try:
            found = [self._read(path) for path in sorted(self.folder.glob("*.part"))]
        except OSError as error:
            raise InputError(f"cannot read {error.filename}: {error.strerror}") from error
        return {header["first"]: statistics for header, statistics in filter(None, found)}

    def read(self, first: int) -> Statistics | None:
        """The block that begins there, or None if it is missing or damaged."""
        path = self.folder / f"t{first:06d}.part"
        whole = self._read(path) if path.exists() else None
        return whole and whole[1]

    def _read(self, path: Path) -> tuple[dict[str, Any], Statistics] | None:
        digest, _, content = path.read_bytes().partition(b"\n")
        if digest.decode("latin-1") != hashlib.sha256(content).hexdigest():
            return None
        header, _, archive = content.partition(b"\n")
        header = json.loads(header)
        self._check(header["job"])
        with np.load(io.BytesIO(archive), allow_pickle=False) as arrays:
            return header, dict(arrays)

    def _check(self, job: dict[str, Any]) -> None:
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
