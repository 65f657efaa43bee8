"""JSON objects from files: strictly read, and signed with a digest where they are ours."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from dpdiff.errors import InputError
from dpdiff.runtime.files import contents

AT_MOST = 2**23  # bytes
DEPTH = 32  # of lists and objects in each other
DIGEST = "digest"


def read(path: str | Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises
    ------
    InputError
        As :func:`parsed`, or if the file is missing, too long or not an ordinary file.
    """
    content = contents(path, AT_MOST)
    try:
        return parsed(content.decode(), path)
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: it is no text in UTF-8") from error


def parsed(text: str, source: str | Path) -> dict[str, Any]:
    """The JSON object in a text.

    Stricter than Python: no name twice, no NaN or infinity, at most 32 levels.

    Parameters
    ----------
    text : str
        JSON.
    source : str or Path
        Where it is from, for the error.

    Raises
    ------
    InputError
        If it is anything else.

    Examples
    --------
    >>> parsed('{"levels": 17}', "example")
    {'levels': 17}
    >>> parsed('[17]', "example")
    Traceback (most recent call last):
    dpdiff.errors.InputError: cannot read example: it holds a list where an object {...} is expected
    """
    try:
        document = json.loads(
            text, parse_constant=_number, parse_float=_number, object_pairs_hook=_object
        )
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


def signed(document: dict[str, Any]) -> str:
    """A JSON object as text, with a digest of its values.

    Examples
    --------
    >>> check_digest(parsed(signed({"levels": 17}), "example"), "example")
    {'levels': 17}
    """
    whole = document | {DIGEST: _digest(document)}
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False)


def check_digest(document: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """The values of an object that :func:`signed` wrote.

    Raises
    ------
    InputError
        If the digest is missing, or not that of the values.
    """
    values = {name: value for name, value in document.items() if name != DIGEST}
    if document.get(DIGEST) != _digest(values):
        raise InputError(f"{source} does not fit its digest: it was changed after it was written")
    return values


def read_signed(path: str | Path, format: str, version: int) -> dict[str, Any]:
    """What :func:`signed` made and a file holds, if it is of the wanted format and version.

    Raises
    ------
    InputError
        As :func:`read` and :func:`check_digest`, or if it is of another format or version.
    """
    document, kind = read(path), format.split("-")[-1]
    if document.get("format") != format:
        raise InputError(f"{path} is not a {kind} file of dpdiff")
    if document.get("version") != version:
        raise InputError(
            f"{path} is of version {document.get('version')}, this dpdiff reads {version}: "
            "write it anew"
        )
    return check_digest(document, path)


def _digest(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
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
    return depth > DEPTH
