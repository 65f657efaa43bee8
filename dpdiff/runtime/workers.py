"""Data-parallel processes, as ``torchrun`` starts them."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

from dpdiff.errors import InputError

Item = TypeVar("Item")
PATIENCE = timedelta(days=30)  # shares take unequal times, and one may be long done before another


class WorkerError(InputError):
    """An error of a worker other than the first, which is otherwise silent."""


@dataclass(frozen=True)
class Workers:
    """A process's rank among those that share a job.

    By default a process is alone. Results do not depend on the number of workers: work is cut
    into pieces first, and then the pieces are shared out.

    Parameters
    ----------
    rank : int
        Which of them this process is.
    count : int
        How many there are.
    group : object, optional
        The ``torch.distributed`` group they talk in.

    Examples
    --------
    >>> Workers(rank=1, count=3).share(["a", "b", "c", "d", "e"])
    ['b', 'e']
    """

    rank: int = 0
    count: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the worker that writes, prints and shows bars."""
        return self.rank == 0

    def share(self, pieces: Sequence[Item]) -> Sequence[Item]:
        """The pieces of work that are this process's own."""
        return pieces[self.rank :: self.count]

    def gather(self, value: Any) -> list[Any]:
        """Every worker's value on the first one; elsewhere the empty list."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        values = [None] * self.count if self.first else None
        dist.gather_object(value, values, dst=0, group=self.group)
        return values or []

    def broadcast(self, value: Any) -> Any:
        """The first worker's value, on all of them."""
        if self.count == 1:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def bar_title(self, name: str) -> str:
        """What the first worker writes beside its progress bar, which shows its own share."""
        return name if self.count == 1 else f"{name} (1 of {self.count} workers)"

    @contextmanager
    def named(self) -> Iterator[None]:
        """Say which worker an error comes from, unless it is the first one."""
        try:
            yield
        except InputError as error:
            if self.first:
                raise
            raise WorkerError(f"worker {self.rank}: {error}") from error


ALONE = Workers()


def environment_rank() -> int:
    """This process's rank under ``torchrun``; 0 without it."""
    return _from_environment("RANK", 0)


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InputError(
            f"{name} in the environment is a number, as torchrun sets it; got {text!r}"
        )
    return int(text)


@cache
def join() -> Workers:
    """Join the workers that ``torchrun`` started; without it, be alone.

    They talk through ``gloo``, whatever the networks run on.

    Examples
    --------
    >>> join().count
    1
    """
    count = _from_environment("WORLD_SIZE", 1)
    if count <= 1:
        return ALONE
    import torch.distributed as dist

    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "RANK") if name not in os.environ]
    if missing and not dist.is_initialized():
        raise InputError(f"WORLD_SIZE is {count} and {missing[0]} is not set: start with torchrun")
    if dist.is_initialized():  # a script's own group may be of another kind
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        return Workers(dist.get_rank(), dist.get_world_size(), group)
    dist.init_process_group("gloo", timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)
    return Workers(dist.get_rank(), dist.get_world_size())


def device(name: str) -> str:
    """A worker's own device: ``cuda`` means the GPU that is this worker's.

    Parameters
    ----------
    name : str
        A torch device; one with a number is taken as it is.

    Raises
    ------
    InputError
        If there is no such device.

    Examples
    --------
    >>> device("cpu")
    'cpu'
    """
    if name == "cpu":
        return name
    import torch

    try:
        kind = torch.device(name).type
        if kind != "cuda" and kind != "meta":
            torch.empty(1, device=name)
    except (AssertionError, NotImplementedError, RuntimeError):
        kind = "meta"
    if kind == "meta":
        raise WorkerError(f"there is no device {name!r} here; give cpu, cuda, cuda:0, mps …")
    if kind != "cuda":
        return name
    place, count = os.environ.get("LOCAL_RANK", "0"), torch.cuda.device_count()
    number = name.partition(":")[2] or place
    if not number.isdigit() or int(number) >= count:
        raise WorkerError(
            f"there is no GPU {number} for worker {environment_rank()}: this machine has {count}; "
            "start at most one worker a GPU, or give another --device"
        )
    return f"cuda:{number}"
