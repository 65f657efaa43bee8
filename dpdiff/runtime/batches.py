"""Long work on a network: in batches, shared by workers, taken up where it was left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dpdiff.errors import InputError
from dpdiff.runtime.checkpoints import BLOCKS, Arrays, Checkpoints
from dpdiff.runtime.workers import ALONE, Workers, environment_rank

Item = TypeVar("Item")
Made = TypeVar("Made")
PHRASES = ("out of memory", "can't allocate memory", "not enough memory")


def cut(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Consecutive pieces of ``size`` items; the last one may be shorter.

    Examples
    --------
    >>> [piece.tolist() for piece in cut(np.arange(1, 6), 2)]
    [[1, 2], [3, 4], [5]]
    """
    return [items[start : start + size] for start in range(0, len(items), size)]


def whole_batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Consecutive pieces of one batch of rows each, or of several, so that each may be a file.

    Examples
    --------
    >>> [len(piece) for piece in whole_batches(np.arange(5), 2)]
    [2, 2, 1]
    """
    return cut(rows, size * max(1, -(-len(rows) // (size * BLOCKS))))


def prefetch(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """What ``make`` makes of every item, the next one while the last one is being used.

    Examples
    --------
    >>> list(prefetch(str.upper, "abc"))
    ['A', 'B', 'C']
    """
    with ThreadPoolExecutor(1) as thread:
        coming = None
        for item in items:
            ready, coming = coming, thread.submit(make, item)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def joined(blocks: Sequence[Arrays]) -> Arrays:
    """Arrays of the same names one after the other; none of no blocks.

    Examples
    --------
    >>> joined([{"mse": np.ones(2)}, {"mse": np.zeros(1)}])
    {'mse': array([1., 1., 0.])}
    """
    names = blocks[0] if blocks else ()
    return {name: np.concatenate([block[name] for block in blocks]) for name in names}


def concatenated(parts: list[Tensor], piece: Any = None) -> np.ndarray:
    """What the network said of a piece, one part after the other, on the CPU."""
    return torch.cat(parts).cpu().numpy()


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


def not_finite(t: int) -> InputError:
    """The complaint about an output that is not finite."""
    return InputError(f"the network's output is not finite at timestep {t}")


class Batches:
    """The loop around a network's calls, and all that long work takes beside them.

    Pieces of work are shared out to workers. What a piece needs is prepared while the network is
    busy with the one before; its examples go through the network in batches, half as long
    whenever memory runs out, and never longer again; finished blocks are kept on disk.

    Parameters
    ----------
    title : str
        What stands beside the bar, which counts network calls, one example each.
    batch_size : int
        Examples that are put through the network together.
    workers : Workers
        Those who share the work.
    progress : bool
        Whether the first of them shows the bar.

    Examples
    --------
    >>> batches = Batches(batch_size=2)
    >>> def ask(x):
    ...     batches.called(1, x)
    ...     return x.sum(0, keepdim=True)
    >>> batches.run(ask, [torch.ones(5), torch.ones(1)], calls=[5, 1])
    [array([2., 2., 1.], dtype=float32), array([1.], dtype=float32)]
    """

    def __init__(
        self,
        title: str = "",
        batch_size: int = 256,
        workers: Workers = ALONE,
        progress: bool = False,
    ) -> None:
        self.title, self.batch_size = title, batch_size
        self.workers, self.progress = workers, progress
        self.limit: int | None = None  # examples a call, once memory ran out
        self._bar = tqdm(disable=True)
        self._finite: list[tuple[np.ndarray, Tensor]] = []

    def run(
        self,
        ask: Callable[[Any], Any],
        pieces: Sequence[Any],
        prepare: Callable[[Any], Any] | None = None,
        finish: Callable[[list[Any], Any], Any] = concatenated,
        *,
        calls: Sequence[int] = (),
        kept: Checkpoints | None = None,
        take: Callable[[Any], Any] = lambda result: result,
        everywhere: bool = True,
    ) -> list[Any]:
        """Ask the network about every piece of work.

        Parameters
        ----------
        ask : callable
            What is done to the examples of a batch; tells :meth:`called` of every network call.
            Its result has a method ``cpu``, which frees a device's memory, as a tensor has.
        pieces : sequence
            Cut in the same way whoever works on them; with ``kept``, arrays of int.
        prepare : callable, optional
            Makes of a piece, in the background, the examples that it stands for: something with
            a length, that can be sliced. By default the piece itself.
        finish : callable
            ``finish(parts, piece)`` makes a piece's result of all that ``ask`` returned; with
            ``kept``, a dict of arrays, a row for each of the piece's numbers.
        calls : sequence of int
            How many network calls each piece takes, one example each; none by default.
        kept : Checkpoints, optional
            Where blocks of finished pieces are kept.
        take : callable
            What of a result stays in memory.
        everywhere : bool
            Whether all workers get the results, or the first one alone.

        Returns
        -------
        list
            Results in the order of the pieces; with ``kept``, those of a block joined in one.

        Raises
        ------
        InputError
            If memory does not hold a single example, or an output is not finite. It says which
            worker it comes from, unless that is the first one.
        """
        together = max(1, -(-len(pieces) // BLOCKS))
        blocks = cut(pieces, together)
        sizes = [sum(some) for some in cut(calls or [0] * len(pieces), together)]
        numbers = [np.concatenate(block) for block in blocks] if kept else []
        done = {}
        if kept and self.workers.first:
            done = {i: [take(block)] for i, block in kept.finished(numbers)}
        before = self.workers.broadcast([*done])
        todo = self.workers.share([i for i in range(len(blocks)) if i not in before])
        old = sum(sizes[i] for i in before)
        self._bar = tqdm(
            desc=self.workers.bar_title(self.title),
            unit=" calls of one example",
            initial=old,
            total=old + sum(sizes[i] for i in todo),
            disable=not (self.progress and self.workers.first),
        )
        with torch.inference_mode(), self.workers.named(), self._bar:
            own = (piece for i in todo for piece in blocks[i])
            ready = prefetch(prepare, own) if prepare else own
            for i in todo:
                results = []
                for piece, examples in zip(blocks[i], ready, strict=False):
                    results.append(finish(self.halved(ask, examples), piece))
                    self._check_finite()
                if kept:
                    results = [joined(results)]
                    kept.save(numbers[i], *results)
                done[i] = [take(result) for result in results]
        shares = {i: results for share in self.workers.gather(done) for i, results in share.items()}
        ordered = [result for i in sorted(shares) for result in shares[i]]
        return self.workers.broadcast(ordered) if everywhere else ordered

    def halved(self, ask: Callable[[Any], Any], examples: Any) -> list[Any]:
        """What ``ask`` returns of consecutive batches, halved whenever memory runs out.

        Everything that is put on a device belongs inside it, so that giving up a batch gives its
        memory back.
        """
        results, start = [], 0
        while start < len(examples):
            size = min(self.limit or self.batch_size, len(examples) - start)
            calls = self._bar.n
            try:
                result = ask(examples[start : start + size])
                results.append(result.cpu() if self.limit else result)
                start += size
                continue
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
                reason = str(error)
            # Not above: an exception keeps the tensors of its frames alive.
            if self.limit == 1:
                raise InputError(f"memory does not hold a single example: {reason}")
            self._bar.n, results = calls, [result.cpu() for result in results]
            self._halve(size)
        return results

    def _halve(self, size: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.limit is None and environment_rank() == 0:
            self.say(
                f"memory does not hold {size} examples a network call: going on with half as "
                "many, or fewer",
                always=True,
            )
        self.limit = max(1, size // 2)

    def say(self, line: str, always: bool = False) -> None:
        """A line of the first worker's above the bar, where there is one."""
        if self.workers.first and (self.progress or always):
            tqdm.write(f"dpdiff: {line}", file=sys.stderr)

    def called(self, t: int | np.ndarray, output: Tensor) -> None:
        """A network call is done: count its examples, and remember whether all is finite.

        Nothing waits for the device here. What was not finite is found when a piece is done.

        Parameters
        ----------
        t : int or ndarray of int, shape (B,)
            Where the network was asked.
        output : Tensor, shape (B, ...)
            What it said.
        """
        self._bar.update(len(output))
        finite = output.isfinite().reshape(len(output), -1).all(1)
        self._finite.append((np.broadcast_to(t, len(output)), finite))

    def _check_finite(self) -> None:
        seen, self._finite = self._finite, []
        finite = torch.cat([flags for _, flags in seen]).cpu().numpy() if seen else np.ones(1, bool)
        if not finite.all():
            raise not_finite(np.concatenate([t for t, _ in seen])[finite.argmin()])
