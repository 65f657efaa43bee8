"""Files of named arrays with a header that says what they are."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from dpdiff.errors import InputError
from dpdiff.runtime.files import replacing


def write(path: str | Path, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write arrays and JSON values to one ``.npz`` file; it is complete or absent.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "example.npz"
    >>> write(path, {"format": "example", "version": 1}, {"x": np.arange(2)})
    >>> read(path, "example", 1)
    ({'format': 'example', 'version': 1}, {'x': array([0, 1])})
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, about=json.dumps(about), **arrays)
    with replacing(path) as file:
        file.write(buffer.getvalue())


def read(
    path: str | Path, format: str, version: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`write` wrote, if it is of the wanted format and version.

    Raises
    ------
    InputError
        If the file is missing, truncated, not such a file, or of another version.
    """
    kind = format.split("-")[-1]
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        about = json.loads(str(arrays.pop("about")))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as a {kind} file: {error}") from error
    if about.get("format") != format or about.get("version") != version:
        raise InputError(
            f"{path} is {about.get('format')} version {about.get('version')}; "
            f"this dpdiff reads {format} version {version}"
        )
    return about, arrays
