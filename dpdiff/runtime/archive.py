"""Files of named arrays with a header that says what they are."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from dpdiff.errors import InputError
from dpdiff.runtime import documents, seal
from dpdiff.runtime.files import replacing

AT_MOST = 2**28  # bytes, packed and unpacked
HEADER = "about"
DTYPES = ("<f8", "<f4", "<i8", "|u1")

Arrays = dict[str, np.ndarray]


def write(path: str | Path, about: dict[str, Any], arrays: Arrays) -> None:
    """Write arrays and JSON values to one ``.npz`` file; it is complete or absent.

    It ends with a digest of itself: see :func:`dpdiff.runtime.seal.sealed`.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "example.npz"
    >>> write(path, {"format": "example", "version": 1}, {"x": np.arange(2)})
    >>> read(path, "example", 1)
    ({'format': 'example', 'version': 1}, {'x': array([0, 1])})
    """
    buffer = io.BytesIO()
    rows = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    np.savez_compressed(buffer, **{HEADER: json.dumps(about, allow_nan=False)}, **rows)
    with replacing(path) as file:
        file.write(seal.sealed(buffer.getvalue()))


def read(path: str | Path, format: str, version: int) -> tuple[dict[str, Any], Arrays]:
    """What :func:`write` wrote, if it is of the wanted format and version.

    Nothing is unpacked before its size is known, and known to be small enough.

    Raises
    ------
    InputError
        If the file is missing, changed in any bit, not such a file, or of another version.
    """
    kind = format.split("-")[-1]
    content = seal.unsealed(path, kind, AT_MOST)
    try:
        about, arrays = _unpacked(content, f"the header of {path}")
    except InputError:
        raise
    except Exception as error:  # what reads zip files fails in many ways
        raise InputError(f"{path} cannot be read as a {kind} file: {error}") from error
    if about.get("format") != format or about.get("version") != version:
        raise InputError(
            f"{path} is {about.get('format')} version {about.get('version')}; "
            f"this dpdiff reads {format} version {version}"
        )
    return about, arrays


def _unpacked(content: bytes, header: str) -> tuple[dict[str, Any], Arrays]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        seal.check_members(archive, AT_MOST)
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        arrays = {name: _member(archive, f"{name}.npy", name == HEADER) for name in names}
    return documents.parsed(str(arrays.pop(HEADER)), header), arrays


def _member(archive: zipfile.ZipFile, name: str, text: bool) -> np.ndarray:
    """One array, whose header promises just the bytes that are there."""
    size = archive.getinfo(name).file_size
    with archive.open(name) as stream:
        if npy.read_magic(stream) != (1, 0):
            raise ValueError(f"{name} is in an unexpected version of the npy format")
        shape, fortran, dtype = npy.read_array_header_1_0(stream)
        if fortran or not (dtype.str in DTYPES or (text and dtype.kind == "U" and shape == ())):
            raise ValueError(f"{name} holds unexpected {dtype} values, or in an unexpected order")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - stream.tell():
            raise ValueError(f"{name} promises another number of bytes than it has")
        return np.frombuffer(stream.read(), dtype).reshape(shape).copy()
