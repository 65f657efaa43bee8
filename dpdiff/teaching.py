"""For the book: the package's own code on the page, and checks that can tell right from wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.display import Markdown


def quote(thing: Any) -> Markdown:
    """The source of a class or function, whole, as a notebook shows code.

    Parameters
    ----------
    thing : class or function
        One of the package's own.

    Examples
    --------
    >>> quote(refuses).data.splitlines()[1]
    'def refuses(check: Callable[..., Any], *answer: Any) -> bool:'
    """
    from IPython.display import Markdown

    return Markdown(f"```python\n{inspect.getsource(thing).rstrip()}\n```")


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
