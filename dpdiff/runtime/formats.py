"""Files of arrays, JSON and tensors, each with a SHA-256 of its content."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from dpdiff.errors import InputError
from dpdiff.runtime.files import file_status, read_bytes, replacing

if TYPE_CHECKING:
    import torch

CHECKSUM_LENGTH = 64  # hexadecimal digits of SHA-256
UNPACKABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what unpacks a bounded piece at a time
JSON_AT_MOST = 2**23  # bytes
JSON_DEPTH = 32  # of lists and objects in each other
ARRAYS_AT_MOST = 2**28  # bytes, packed and unpacked
TENSORS_AT_MOST = 2**34
DTYPES = ("<f8", "<f4", "<i8", "|u1")
HEADER, DIGEST_NAME = "about", "digest"

Arrays = dict[str, np.ndarray]


def with_checksum(content: bytes) -> bytes:
    """A zip file with the SHA-256 of all that comes before as its comment.

    It stays a zip file, which NumPy and torch read.

    Parameters
    ----------
    content : bytes
        A zip file without a comment: its last two bytes, the comment's length, are 0.

    Examples
    --------
    >>> import io
    >>> buffer = io.BytesIO()
    >>> zipfile.ZipFile(buffer, "w").close()
    >>> zipfile.ZipFile(io.BytesIO(with_checksum(buffer.getvalue()))).comment[:8]
    b'c9982e03'
    """
    if content[-2:] != b"\0\0":
        raise ValueError("the zip file has a comment already")
    body = content[:-2] + CHECKSUM_LENGTH.to_bytes(2, "little")
    return body + hashlib.sha256(body).hexdigest().encode()


def checked_content(path: str | Path, kind: str, at_most: int) -> bytes:
    """The bytes of a file that :func:`with_checksum` made, if they are as they were written.

    Parameters
    ----------
    path : str or Path
        The file.
    kind : str
        What it should be, for the error.
    at_most : int
        Bytes; a longer file is refused unread.

    Raises
    ------
    InputError
        If the file is missing, too long, or not as it was written.
    """
    content = read_bytes(path, at_most)
    body, checksum = content[:-CHECKSUM_LENGTH], content[-CHECKSUM_LENGTH:]
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        raise InputError(
            f"{path} cannot be read as a {kind} file: it is damaged, or was not written by this "
            "version of dpdiff; make it anew"
        )
    return content


def check_members(archive: zipfile.ZipFile, at_most: int, stored: bool = False) -> None:
    """Refuse a zip file that unpacks to more than expected, before anything is unpacked.

    Parameters
    ----------
    archive : ZipFile
        An open one.
    at_most : int
        Bytes that all members together may have.
    stored : bool
        Whether nothing in it may be compressed.

    Raises
    ------
    ValueError
        If it does, if a name stands twice, or if a member is encrypted or packed in another way.
    """
    members = archive.infolist()
    allowed = UNPACKABLE[:1] if stored else UNPACKABLE
    if len({member.filename for member in members}) < len(members):
        raise ValueError("a name stands twice")
    if any(m.flag_bits & 1 or m.compress_type not in allowed for m in members):
        raise ValueError("a member is packed in an unexpected way")
    if sum(member.file_size for member in members) > at_most:
        raise ValueError(f"it unpacks to more than {at_most:,} bytes")


def read_json(path: str | Path, *, strict: bool = True) -> dict[str, Any]:
    """The JSON object that a file holds.

    Parameters
    ----------
    path : str or Path
        An ordinary file.
    strict : bool
        As for :func:`parsed_json`.

    Raises
    ------
    InputError
        As :func:`parsed_json`, or if the file is missing, too long or not an ordinary file.
    """
    content = read_bytes(path, JSON_AT_MOST)
    try:
        return parsed_json(content.decode(), path, strict=strict)
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: it is no text in UTF-8") from error


def parsed_json(text: str, source: str | Path, *, strict: bool = True) -> dict[str, Any]:
    """The JSON object in a text, of at most 32 levels.

    Parameters
    ----------
    text : str
        JSON.
    source : str or Path
        Where it is from, for the error.
    strict : bool
        Refuse what Python reads and JSON does not know: a name twice, NaN and infinity. diffusers
        writes these.

    Raises
    ------
    InputError
        If it is anything else.

    Examples
    --------
    >>> parsed_json('{"levels": 17}', "example")
    {'levels': 17}
    >>> parsed_json('[17]', "example")
    Traceback (most recent call last):
    dpdiff.errors.InputError: cannot read example: it holds a list where an object {...} is expected
    """
    only = {"parse_constant": _finite_number, "parse_float": _finite_number}
    only |= {"object_pairs_hook": _object_without_repeats}
    try:
        document = json.loads(text, **(only if strict else {}))
    except RecursionError as error:
        raise InputError(f"cannot read {source}: its lists are nested too deeply") from error
    except ValueError as error:
        raise InputError(f"cannot read {source}: {error}") from error
    if not isinstance(document, dict):
        raise InputError(
            f"cannot read {source}: it holds a {type(document).__name__} where an object {{...}} "
            "is expected"
        )
    if _is_deep(document):
        raise InputError(f"cannot read {source}: its lists are nested too deeply")
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # "\\ud800", half of a character
        raise InputError(f"cannot read {source}: it holds no proper text: {error}") from error
    return document


def signed_json(document: dict[str, Any]) -> str:
    """A JSON object as text, with a digest of its values.

    Examples
    --------
    >>> check_digest(parsed_json(signed_json({"levels": 17}), "example"), "example")
    {'levels': 17}
    """
    signed = document | {DIGEST_NAME: _json_digest(document)}
    return json.dumps(signed, indent=1, ensure_ascii=False, allow_nan=False)


def check_digest(document: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """The values of an object that :func:`signed_json` wrote.

    Raises
    ------
    InputError
        If the digest is missing, or not that of the values.
    """
    values = {name: value for name, value in document.items() if name != DIGEST_NAME}
    if document.get(DIGEST_NAME) != _json_digest(values):
        raise InputError(f"{source} does not fit its digest: it was changed after it was written")
    return values


def read_signed_json(path: str | Path, format: str, version: int) -> dict[str, Any]:
    """What :func:`signed_json` made and a file holds, if it is of the wanted format and version.

    Raises
    ------
    InputError
        As :func:`read_json` and :func:`check_digest`, or if it is of another format or version.
    """
    document, kind = read_json(path), format.split("-")[-1]
    if document.get("format") != format:
        raise InputError(f"{path} is not a {kind} file of dpdiff")
    if document.get("version") != version:
        raise InputError(
            f"{path} is of version {document.get('version')}, this dpdiff reads {version}: "
            "write it anew"
        )
    return check_digest(document, path)


def _json_digest(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _finite_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return members


def _is_deep(document: Any) -> bool:
    level, depth = [document], 0
    while level:
        depth += 1
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
    return depth > JSON_DEPTH


def write_arrays(path: str | Path, about: dict[str, Any], arrays: Arrays) -> None:
    """Write arrays and JSON values to one ``.npz`` file; it is complete or absent.

    It ends with a digest of itself: see :func:`dpdiff.runtime.formats.with_checksum`.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "example.npz"
    >>> write_arrays(path, {"format": "example", "version": 1}, {"x": np.arange(2)})
    >>> read_arrays(path, "example", 1)
    ({'format': 'example', 'version': 1}, {'x': array([0, 1])})
    """
    buffer = io.BytesIO()
    rows = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    np.savez_compressed(buffer, **{HEADER: json.dumps(about, allow_nan=False)}, **rows)
    with replacing(path) as file:
        file.write(with_checksum(buffer.getvalue()))


def read_arrays(path: str | Path, format: str, version: int) -> tuple[dict[str, Any], Arrays]:
    """What :func:`write_arrays` wrote, if it is of the wanted format and version.

    Nothing is unpacked before its size is known, and known to be small enough.

    Raises
    ------
    InputError
        If the file is missing, changed in any bit, not such a file, or of another version.
    """
    kind = format.split("-")[-1]
    content = checked_content(path, kind, ARRAYS_AT_MOST)
    try:
        about, arrays = _unpacked_arrays(content, f"the header of {path}")
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


def _unpacked_arrays(content: bytes, header: str) -> tuple[dict[str, Any], Arrays]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        check_members(archive, ARRAYS_AT_MOST)
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        arrays = {name: _member(archive, f"{name}.npy", name == HEADER) for name in names}
    return parsed_json(str(arrays.pop(HEADER)), header), arrays


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


def write_tensors(path: str | Path, state: dict[str, Any]) -> None:
    """Write tensors and numbers so that any change is noticed; the file is complete or absent.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "example.pt"
    >>> write_tensors(path, {"step": 3})
    >>> read_tensors(path, "cpu")
    {'step': 3}
    """
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    with replacing(path) as file:
        file.write(with_checksum(buffer.getvalue()))


def read_tensors(path: str | Path, device: str | torch.device) -> dict[str, Any]:
    """What :func:`write_tensors` wrote.

    Raises
    ------
    InputError
        If the file is missing, changed in any bit, or holds anything else.
    """
    content = checked_content(path, "checkpoint", TENSORS_AT_MOST)
    try:
        return _state_dict(io.BytesIO(content), device)
    except InputError as error:
        raise InputError(f"{path} {error}") from error


def read_state_dict(path: str | Path, key: str | None = None) -> dict[str, Any]:
    """The state dict in a file of others, on the CPU; no code in it is run.

    Parameters
    ----------
    path : str or Path
        Of ``torch.save``, or ``.safetensors``.
    key : str, optional
        Where in the file it is, as of :func:`part_of`.

    Raises
    ------
    InputError
        If it is missing, damaged, or holds more than named tensors. The message goes on from the
        file's name.
    """
    try:
        file_status(path)
    except InputError as error:
        raise InputError(f"cannot be read: {error}") from error
    if Path(path).suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return part_of(load_file(path), key)
        except Exception as error:  # a damaged file leads its reader to errors of any kind
            if isinstance(error, InputError):
                raise
            raise InputError(f"is damaged, or no file of safetensors: {error}") from error
    with open(path, "rb") as file:
        return part_of(_state_dict(file, "cpu"), key)


def part_of(checkpoint: Mapping[str, Any], key: str | None) -> dict[str, Any]:
    """The tensors of a checkpoint whose names begin with a key and a dot, without these.

    Trainers save dicts of several, in which names go on: lucidrains' trainer has the averaged
    weights of its network under ``ema.ema_model.model``, DiT's under ``ema``, k-diffusion's under
    ``model_ema``.

    Examples
    --------
    >>> import torch
    >>> part_of({"step": 3, "ema": {"net.bias": torch.zeros(1)}}, "ema.net")
    {'bias': tensor([0.])}
    >>> part_of({"step": 3, "ema": {"net.bias": torch.zeros(1)}}, None)
    Traceback (most recent call last):
    dpdiff.errors.InputError: holds more than one state dict: name one of its parts, key='ema'
    """
    from torch import Tensor

    flat: dict[str, Any] = {}

    def flatten(part: Mapping[str, Any], prefix: str, depth: int = 8) -> None:
        for name, value in part.items():
            if isinstance(value, Mapping) and depth:
                flatten(value, f"{prefix}{name}.", depth - 1)
            else:
                flat[f"{prefix}{name}"] = value

    flatten(checkpoint, "")
    parts = [name for name, value in checkpoint.items() if isinstance(value, Mapping)]
    if key is None and not parts:
        return dict(checkpoint)
    begin = "" if key is None else f"{key}."
    found = {name.removeprefix(begin): v for name, v in flat.items() if name.startswith(begin)}
    found = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if key is None or not found:
        known = parts or sorted({name.split(".")[0] for name in flat})
        names = ", ".join(f"key={name!r}" for name in known[:8])
        what = f"has nothing under {key!r}" if key else "holds more than one state dict"
        raise InputError(f"{what}: name one of its parts, {names}")
    return found


def _state_dict(file: Any, device: str | torch.device) -> dict[str, Any]:
    import torch

    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                check_members(archive, TENSORS_AT_MOST, stored=True)
        file.seek(0)
        # DiT's trainer keeps its settings in one; torch 2.4 has no way to say that they do no harm.
        safe = getattr(torch.serialization, "safe_globals", lambda names: nullcontext())
        with safe([argparse.Namespace]):
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
