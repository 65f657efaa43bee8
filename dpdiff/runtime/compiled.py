"""Compiled loops, kept on disk where there is a place for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**settings: Any) -> Callable[[Callable], Any]:
    """``numba.njit`` with its cache; without, where neither the package nor HOME can be written.

    A read-only installation, as in a container, then compiles anew in every process.

    Parameters
    ----------
    **settings
        As ``numba.njit`` takes them.

    Examples
    --------
    >>> @compiled(nogil=True)
    ... def twice(x):
    ...     return 2 * x
    >>> twice(4)
    8
    """

    def decorate(function: Callable) -> Any:
        try:
            return njit(cache=True, **settings)(function)
        except RuntimeError:  # "cannot cache function: no locator available"
            return njit(**settings)(function)

    return decorate
