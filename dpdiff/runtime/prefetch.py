"""Making the next thing in the background while the last one is being used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Made = TypeVar("Made")


def prefetch(make: Callable[[Job], Made], jobs: Iterable[Job]) -> Iterator[Made]:
    """What ``make`` makes of every job, the next one while the last one is being used.

    Examples
    --------
    >>> list(prefetch(str.upper, "abc"))
    ['A', 'B', 'C']
    """
    with ThreadPoolExecutor(1) as thread:
        coming = None
        for job in jobs:
            ready, coming = coming, thread.submit(make, job)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()
