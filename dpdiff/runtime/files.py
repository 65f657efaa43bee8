"""Files that are whole or absent, and the door through which files are read."""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from dpdiff.errors import InputError


def regular(path: str | Path) -> os.stat_result:
    """What the system knows of a file that is one: no folder, pipe or device.

    Raises
    ------
    InputError
        If it is missing, out of reach, or not an ordinary file, whose reading might never end.

    Examples
    --------
    >>> regular("/dev/zero")
    Traceback (most recent call last):
    dpdiff.errors.InputError: cannot read /dev/zero: it is not an ordinary file
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {_short(path)}: {_reason(error)}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not an ordinary file"
        raise InputError(f"cannot read {path}: it is {kind}")
    return status


def contents(path: str | Path, at_most: int) -> bytes:
    """The bytes of an ordinary file, if they are no more than expected.

    Parameters
    ----------
    path : str or Path
        The file.
    at_most : int
        Bytes; a longer file is refused unread.

    Raises
    ------
    InputError
        As :func:`regular`, or if the file is too long.
    """
    size = regular(path).st_size
    if size > at_most:
        raise InputError(f"cannot read {path}: it has {size:,} bytes, at most {at_most:,} are read")
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise InputError(f"cannot read {path}: {_reason(error)}") from error


def writable(path: str | Path) -> Path:
    """Where a result will be written, links followed; refused if it cannot be.

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
    """Open a file that takes the place of ``path`` when the block ends well.

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
    target, name = writable(path), None
    try:
        clear(target)
        handle, name = _begin(target)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if target.exists():
                os.fchmod(handle, stat.S_IMODE(target.stat().st_mode))
            os.fsync(handle)
            _place(handle, name, target)
    except BaseException as error:
        if name is not None:
            name.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"cannot write {path}: {_reason(error)}") from error
        raise


def write_all(files: Mapping[Path, bytes]) -> None:
    """Write several files; none of them gets its name before all are on the disk.

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
    for left in target.parent.glob(f"{glob.escape(_hidden(target))}????????.tmp"):
        with suppress(OSError), open(left, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink(missing_ok=True)


def _begin(target: Path) -> tuple[int, Path | None]:
    """A file to write to: without a name if that is possible, else a hidden one, locked."""
    with suppress(OSError, AttributeError):  # not every system or file system has them
        handle = os.open(target.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        if os.path.exists(_link(handle)):
            return handle, None
        os.close(handle)
    while True:
        name = _temporary(target)
        handle = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_nlink:
            return handle, name
        os.close(handle)  # another process took it for a dead one's before it was locked


def _place(handle: int, name: Path | None, target: Path) -> None:
    """Give a written file its place."""
    if name is None and not target.exists():
        with suppress(FileExistsError):
            os.link(_link(handle), target, src_dir_fd=handle)  # with a handle, links are followed
            return
    if name is None:  # only what has a name can take another file's place
        fcntl.flock(handle, fcntl.LOCK_EX)
        name = _temporary(target)
        os.link(_link(handle), name, src_dir_fd=handle)
    try:
        os.replace(name, target)
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def _link(handle: int) -> str:
    return f"/proc/self/fd/{handle}"


def _temporary(target: Path) -> Path:
    return target.with_name(f"{_hidden(target)}{secrets.token_hex(4)}.tmp")


def _hidden(target: Path) -> str:
    """How the names of temporary files begin; names have at most 255 bytes."""
    return f".{target.name[:50]}."


def _short(path: str | Path) -> str:
    text = str(path)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
