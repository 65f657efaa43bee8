"""Reading the arrays of a pickle without running anything of it.

A pickle is a program. Of what it may name, only four things are known here, and each is a
stand-in of ours that does nothing but hold what it is given; everything else is refused by name.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from dpdiff.errors import InputError


class _Array:
    """In the place of ``ndarray``: bytes in C order, and nothing else."""

    def __init__(self, *_: Any) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _Dtype) or type(content) not in (bytes, _Latin1):
            raise ValueError("an array of something other than bytes")
        array = np.frombuffer(content, np.uint8)
        self.array = array.reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """In the place of ``dtype``: unsigned bytes, or a refusal."""

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in ("u1", b"u1"):
            raise ValueError(f"an array of dtype {name!r}, images are uint8")

    def __setstate__(self, state: tuple) -> None:
        pass


class _Latin1(bytes):
    """In the place of ``_codecs.encode``: how newer Pythons write bytes for older ones."""

    def __new__(cls, text: str, encoding: Any = "latin1") -> _Latin1:
        if encoding not in ("latin1", b"latin1"):
            raise ValueError(f"bytes in the encoding {encoding!r}")
        return super().__new__(cls, text.encode("latin1"))

    def __setstate__(self, state: tuple) -> NoReturn:
        raise ValueError("bytes with a state")


KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Latin1,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise InputError(f"it asks for {module}.{name}, which no set of images needs")
        return KNOWN[module, name]


def load(path: Path) -> Any:
    """What a pickle holds, as plain containers, bytes and uint8 arrays.

    Parameters
    ----------
    path : Path
        A pickle that Python 2 or 3 wrote; text of Python 2 becomes bytes.

    Raises
    ------
    InputError
        If the file is broken, or asks for anything but plain containers and byte arrays.
    """
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="bytes").load()
    except Exception as error:  # a broken pickle can fail in any way
        raise InputError(f"cannot read {path}: {error}") from error
    if isinstance(content, dict):
        return {k: v.array if isinstance(v, _Array) else v for k, v in content.items()}
    return content
