"""Zip files that end with a digest of themselves: not one bit of them changes unnoticed."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from dpdiff.errors import InputError
from dpdiff.runtime.files import contents

DIGEST = 64  # hexadecimal digits of SHA-256
PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what unpacks a bounded piece at a time


def sealed(content: bytes) -> bytes:
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
    >>> zipfile.ZipFile(io.BytesIO(sealed(buffer.getvalue()))).comment[:8]
    b'c9982e03'
    """
    if content[-2:] != b"\0\0":
        raise ValueError("the zip file has a comment already")
    body = content[:-2] + DIGEST.to_bytes(2, "little")
    return body + hashlib.sha256(body).hexdigest().encode()


def unsealed(path: str | Path, kind: str, at_most: int) -> bytes:
    """The bytes of a file that :func:`sealed` made, if they are as they were written.

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
    content = contents(path, at_most)
    if hashlib.sha256(content[:-DIGEST]).hexdigest().encode() != content[-DIGEST:]:
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
    allowed = PLAIN[:1] if stored else PLAIN
    if len({member.filename for member in members}) < len(members):
        raise ValueError("a name stands twice")
    if any(m.flag_bits & 1 or m.compress_type not in allowed for m in members):
        raise ValueError("a member is packed in an unexpected way")
    if sum(member.file_size for member in members) > at_most:
        raise ValueError(f"it unpacks to more than {at_most:,} bytes")
