"""Checks before any work begins: output paths, budgets, numbers."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from dpdiff.errors import InputError
from dpdiff.strides import BUDGETS

LONGEST_NAME = 200  # bytes; file systems take 255, and results have companions with longer names


def output_file(text: str) -> Path:
    """The file that ``--out`` names, if it can be written or replaced.

    Raises
    ------
    InputError
        If it has no name, its folder does not exist or cannot be written to, or there is
        something else than a file.
    """
    path = _path(text)
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"--out {text!r} is no file that could be written: give a file name")
        if not path.parent.is_dir():
            raise InputError(f"there is no folder {path.parent} to write {path.name} into")
    except OSError as error:
        raise InputError(f"--out {text!r}: {error.strerror}") from error
    _check_writable(path.parent, text)
    return path


def output_folder(text: str) -> Path:
    """The folder that ``--out`` names, if it is there or can be made.

    Raises
    ------
    InputError
        If it has no name, or a part of the path is no folder, or cannot be written to.
    """
    path = _path(text)
    try:
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
        if not there.is_dir():
            raise InputError(f"cannot make the folder {text!r}: {there} is a file")
    except OSError as error:
        raise InputError(f"--out {text!r}: {error.strerror}") from error
    _check_writable(there, text)
    return path


def _path(text: str) -> Path:
    if not text.strip() or "\0" in text:
        raise InputError(f"--out {text!r} is no name for a file")
    path = Path(text)
    if max(len(os.fsencode(part)) for part in (*path.parts, "")) > LONGEST_NAME:
        raise InputError(f"--out has a name of more than {LONGEST_NAME} bytes: give a shorter one")
    return path


def _check_writable(folder: Path, text: str) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"--out {text!r}: the folder {folder} may not be written to")


def unfinished_folder(path: Path) -> Path:
    """Where the finished part of a job is kept until all of it is done."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}, where unfinished work is kept, is a file: move it away")
    return path


def make_folder(path: Path) -> None:
    """Make a folder that :func:`output_folder` has let pass."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path}: {error.strerror}") from error


def budgets_for(given: Sequence[int] | None, T: int, usual: Sequence[int] = BUDGETS) -> list[int]:
    """The budgets to report: those that were asked for, or the usual ones that the grid has.

    Examples
    --------
    >>> budgets_for(None, T=20), budgets_for(None, T=5)
    ([8, 16], [5])
    """
    if given is None:
        return [steps for steps in usual if steps <= T] or [T]
    for steps in given:
        if not 1 <= steps <= T:
            raise InputError(f"the number of steps lies in 1…{T}, got {steps}")
    return list(given)


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """An option's type: a whole number of at least, and perhaps at most, so much.

    Examples
    --------
    >>> integer(2)("12")
    12
    """
    allowed = f"a whole number of at least {least}" if most is None else f"in {least}…{most}"

    def read(text: str) -> int:
        digits = text.removeprefix("+")
        short = digits.isascii() and digits.isdecimal() and len(digits) <= 20
        if not short or not least <= int(digits) <= (most or 10**19):
            raise argparse.ArgumentTypeError(f"{_shown(text)} is not {allowed}")
        return int(digits)

    return read


def number(least: float, most: float, *, above: bool = False) -> Callable[[str], float]:
    """An option's type: a number from ``least`` (not itself, if ``above``) to ``most``.

    Examples
    --------
    >>> number(0, 1)("0.5")
    0.5
    """

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        fits = least < value if above else least <= value
        if not fits or not value <= most or math.isinf(value):
            allowed = f"above {least}" if above else f"in [{least}, {most}]"
            raise argparse.ArgumentTypeError(f"{_shown(text)} is not a number {allowed}")
        return value

    return read


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:20]!r} … ({len(text)} characters)"
