"""For the book: proof that the check of an exercise can tell right from wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def refuses(check: Callable[..., Any], *answer: Any) -> bool:
    """Whether a check turns an answer down, by an ``assert`` of its own.

    Parameters
    ----------
    check : callable
        Takes an answer and raises AssertionError, with a hint, when it is wrong.
    *answer
        The arguments that make up one answer.

    Examples
    --------
    >>> def check_sum(total):
    ...     assert total == 4, "count again"
    >>> refuses(check_sum, 5), refuses(check_sum, 4)
    (True, False)
    """
    try:
        check(*answer)
    except AssertionError:
        return True
    return False
