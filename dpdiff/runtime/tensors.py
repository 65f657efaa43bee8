"""Files of tensors as torch writes them: read as tensors only, and never unpacked to more."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from dpdiff.errors import InputError
from dpdiff.runtime import seal
from dpdiff.runtime.files import regular, replacing

AT_MOST = 2**34  # bytes


def write(path: str | Path, state: dict[str, Any]) -> None:
    """Write tensors and numbers so that any change is noticed; the file is complete or absent.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "example.pt"
    >>> write(path, {"step": 3})
    >>> read_sealed(path, "cpu")
    {'step': 3}
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with replacing(path) as file:
        file.write(seal.sealed(buffer.getvalue()))


def read_sealed(path: str | Path, device: str | torch.device) -> dict[str, Any]:
    """What :func:`write` wrote.

    Raises
    ------
    InputError
        If the file is missing, changed in any bit, or holds anything else.
    """
    content = seal.unsealed(path, "checkpoint", AT_MOST)
    try:
        return _dictionary(io.BytesIO(content), device)
    except InputError as error:
        raise InputError(f"{path} {error}") from error


def read(path: str | Path) -> dict[str, Any]:
    """The state dict in a file of others, on the CPU; no code in it is run.

    Raises
    ------
    InputError
        If it is missing, damaged, or holds more than named tensors. The message goes on from the
        file's name.
    """
    try:
        regular(path)
    except InputError as error:
        raise InputError(f"cannot be read: {error}") from error
    with open(path, "rb") as file:
        return _dictionary(file, "cpu")


def _dictionary(file: Any, device: str | torch.device) -> dict[str, Any]:
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                seal.check_members(archive, AT_MOST, stored=True)
        file.seek(0)
        state = torch.load(file, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        need = f"{match[1]} would have to be run" if match else "it is no plain pickle of tensors"
        raise InputError(
            f"refused, since it holds more than tensors: {need}. Save the state dict alone, "
            "torch.save(model.state_dict(), path), where the file is trusted"
        ) from error
    except Exception as error:  # a damaged file leads the unpickler to errors of any kind
        raise InputError("is damaged, or was not written by torch.save") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise InputError(f"holds a {type(state).__name__}, not a state dict of named tensors")
    return dict(state)
