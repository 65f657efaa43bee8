"""Atomic writes; size-checked reads."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from dpdiff.errors import InputError


def file_status(path: str | Path) -> os.stat_result:
    """``os.stat`` of an ordinary file; folders, pipes and devices are refused.

    Raises
    ------
    InputError
        If it is missing, out of reach, or not an ordinary file, whose reading might never end.

    Examples
    --------
    >>> file_status(".")
    Traceback (most recent call last):
    dpdiff.errors.InputError: cannot read .: it is a folder
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {_short(path)}: {_reason(error)}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not an ordinary file"
        raise InputError(f"cannot read {path}: it is {kind}")
    return status


def read_bytes(path: str | Path, at_most: int) -> bytes:
    """The bytes of an ordinary file, of a size that is checked first.

    Parameters
    ----------
    path : str or Path
        The file.
    at_most : int
        Bytes; a longer file is refused unread.

    Raises
    ------
    InputError
        As :func:`file_status`, or if the file is too long.
    """
    size = file_status(path).st_size
    if size > at_most:
        raise InputError(f"cannot read {path}: it has {size:,} bytes, at most {at_most:,} are read")
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise InputError(f"cannot read {path}: {_reason(error)}") from error


def writable(path: str | Path) -> Path:
    """The path that will be written, links followed, if it can be.

    Call it before a long piece of work, not after.

    Raises
    ------
    InputError
        If the folder is missing or cannot be written to, or something else than an ordinary file
        has that name.

    Examples
    --------
    >>> writable("/")
    Traceback (most recent call last):
    dpdiff.errors.InputError: cannot write /: it is a folder; give the name of a file
    """
    try:
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode if target.exists() else stat.S_IFREG
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {_short(path)}: {_reason(error)}") from error
    if stat.S_ISDIR(mode) or not os.fspath(path):
        raise InputError(f"cannot write {path}: it is a folder; give the name of a file")
    if not stat.S_ISREG(mode):
        raise InputError(f"cannot write {path}: it is not an ordinary file")
    if not target.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {target.parent}")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path}: the folder {target.parent} is read-only")
    return target


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Write a file atomically: it takes the place of ``path`` when the block ends well.

    If the block fails, or the process dies, the file that was there before stays as it was. A
    symbolic link stays one, and a file that is replaced hands on its mode. Where the file system
    can, what is being written has no name, so that a kill leaves nothing; elsewhere it is a
    hidden file beside ``path``, which the next writing of ``path`` clears away.

    Parameters
    ----------
    path : str or Path
        The file to write; its folder must exist.

    Raises
    ------
    InputError
        If the folder is missing or cannot be written to, or the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with replacing(target) as file:
    ...     _ = file.write(b"whole")
    >>> target.read_text()
    'whole'
    """
    target = writable(path)
    try:
        clear(target)
        handle = _nameless(target)
        if handle is None:
            with _temporary(target) as name:
                with open(name, "xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                _replace(name, target)
            return
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
            with suppress(FileExistsError):
                return os.link(_link(handle), target, src_dir_fd=handle)  # so links are followed
            with _temporary(target) as name:  # only what has a name can take another's place
                os.link(_link(handle), name, src_dir_fd=handle)
                _replace(name, target)
    except OSError as error:
        raise InputError(f"cannot write {path}: {_reason(error)}") from error


def write_all(files: Mapping[Path, bytes]) -> None:
    """Write several files, all or none: none gets its name before all are on the disk.

    Raises
    ------
    InputError
        As :func:`replacing`; then all are as they were before.
    """
    with ExitStack() as stack:
        for path, content in files.items():
            file = stack.enter_context(replacing(path))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def clear(target: Path) -> None:
    """Remove what dead processes left of writing a file; living ones hold a lock on theirs."""
    for end in (".tmp", ".lock"):
        for left in target.parent.glob(f"{glob.escape(_hidden(target))}????????{end}"):
            with suppress(OSError), FileLock(left.with_suffix(".lock"), timeout=0) as lock:
                _remove(left.with_suffix(".tmp"), lock)


def _nameless(target: Path) -> int | None:
    """A handle of a new file that has no name yet, where the system and the file system can."""
    with suppress(OSError, AttributeError):
        handle = os.open(target.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        if os.path.exists(_link(handle)):
            return handle
        os.close(handle)
    return None


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A hidden name beside a file, for as long as the block lasts, and a lock beside it.

    Windows replaces no file that is open, and one that is closed could hold no lock itself.
    """
    name = target.with_name(f"{_hidden(target)}{secrets.token_hex(4)}.tmp")
    lock = FileLock(name.with_suffix(".lock"), timeout=1)
    with suppress(OSError):  # not every file system has locks
        lock.acquire()
    try:
        yield name
    finally:
        _remove(name, lock)


def _remove(name: Path, lock: FileLock) -> None:
    name.unlink(missing_ok=True)
    lock.release()
    with suppress(OSError):  # gone already, or another process looks at it
        os.unlink(lock.lock_file)


def _replace(name: Path, target: Path) -> None:
    if target.exists():
        shutil.copymode(target, name)
    os.replace(name, target)


def _link(handle: int) -> str:
    return f"/proc/self/fd/{handle}"


def _hidden(target: Path) -> str:
    """How the names of temporary files begin; names have at most 255 bytes."""
    return f".{target.name[:50]}."


def _short(path: str | Path) -> str:
    text = str(path)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
