"""The one exception that means: the input was wrong, not the program."""

from __future__ import annotations

from operator import index
from typing import Any


class InputError(ValueError):
    """Bad input: the message says what was given, what is allowed and what to do next.

    The command line prints it as one line and exits with code 2.
    """


def check_counts(**counts: Any) -> None:
    """Refuse what is no integer, or is less than 1; each by its name.

    Examples
    --------
    >>> check_counts(n=3, batch_size=2.5)
    Traceback (most recent call last):
    dpdiff.errors.InputError: batch_size is an integer, at least 1; got 2.5
    """
    for name, value in counts.items():
        try:
            known = index(value) >= 1
        except TypeError:
            known = False
        if not known:
            raise InputError(f"{name} is an integer, at least 1; got {value!r}")
