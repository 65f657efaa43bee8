"""Public names that are imported when they are first used: torch alone takes seconds to load."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__`` for names that live in its modules.

    Parameters
    ----------
    package : str
        Its own name.
    homes : mapping of str to str
        The module of every public name.

    Examples
    --------
    >>> get, names = lazy("dpdiff", {"Schedule": "dpdiff.schedule"})
    >>> get("Schedule").__name__, names()
    ('Schedule', ['Schedule'])
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted(homes)
