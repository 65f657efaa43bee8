"""Work in batches: cut, prepared in the background, halved when memory runs out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from tqdm import tqdm

from dpdiff.errors import InputError
from dpdiff.runtime.workers import environment_rank

Item = TypeVar("Job")
Made = TypeVar("Made")


def prefetch(make: Callable[[Item], Made], jobs: Iterable[Item]) -> Iterator[Made]:
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


Result = TypeVar("Result")
PHRASES = ("out of memory", "can't allocate memory", "not enough memory")


def ran_out(error: BaseException) -> bool:
    """Whether an error says that a device's memory, or the machine's, does not suffice.

    Examples
    --------
    >>> ran_out(RuntimeError("MPS backend out of memory")), ran_out(RuntimeError("bad shape"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in PHRASES)


class Halving:
    """Does work on a batch in slices, half as long whenever memory runs out, and never longer.

    Everything that the work puts on a device belongs inside it, so that giving up a slice gives
    its memory back.

    Examples
    --------
    >>> Halving()(lambda rows: rows.stop - rows.start, 5)
    [5]
    """

    def __init__(self) -> None:
        self.limit: int | None = None

    def __call__(
        self,
        work: Callable[[slice], Result],
        count: int,
        make_room: Callable[[], bool] = lambda: False,
    ) -> list[Result]:
        """What ``work(rows)`` returns for consecutive slices of ``count`` examples.

        Parameters
        ----------
        work : callable
            Does a slice; may be called again with a part of it.
        count : int
            Examples in the batch.
        make_room : callable
            Frees what earlier batches left on the device, and says whether there was anything.

        Raises
        ------
        InputError
            If memory does not hold a single example.
        """
        results, start = [], 0
        while start < count:
            size = min(self.limit or count, count - start)
            try:
                results.append(work(slice(start, start + size)))
                start += size
                continue
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
                reason = str(error)
            # Not above: an exception keeps the tensors of its frames alive.
            if not make_room() and size == 1:
                raise InputError(f"memory does not hold a single example: {reason}")
            self._halve(size)
        return results

    def _halve(self, size: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.limit is None and environment_rank() == 0:
            tqdm.write(
                f"dpdiff: memory does not hold {size} examples a network call: going on with "
                "half as many, or fewer",
                file=sys.stderr,
            )
        self.limit = max(1, size // 2)


def cut(timesteps: np.ndarray, size: int) -> list[np.ndarray]:
    """Consecutive pieces of ``size`` timesteps; the last one may be shorter.

    Examples
    --------
    >>> [piece.tolist() for piece in cut(np.arange(1, 6), 2)]
    [[1, 2], [3, 4], [5]]
    """
    return [timesteps[start : start + size] for start in range(0, len(timesteps), size)]
