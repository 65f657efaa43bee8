"""Networks called in another way: in reduced precision, compiled, or a few examples at a time."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from dpdiff.errors import InputError
from dpdiff.runtime.workers import environment_rank

Network = Callable[[Tensor, Tensor], Any]
Model = TypeVar("Model")  # a dataclass with a field "network"
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Wrapped:
    """A network called in another way; its weights and all else are the original's."""

    def __init__(self, original: Network) -> None:
        self.original = original

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "original":  # not there while being copied
            raise AttributeError(name)
        return getattr(self.original, name)


class InPrecision(Wrapped):
    """A network under autocast, channels last, and compiled on demand.

    Parameters
    ----------
    original : callable
        As a :class:`dpdiff.Denoiser` takes it; of a module, a copy is run.
    precision : {"float32", "bf16", "fp16"}
        Of the operations that autocast thinks safe; weights and output stay float32.
    compiled : bool
        Whether ``torch.compile`` makes it faster, after a first call that takes long.

    Raises
    ------
    InputError
        If there is no such precision.
    """

    def __init__(self, original: Network, precision: str, compiled: bool) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision is one of {', '.join(PRECISIONS)}; got {precision!r}")
        super().__init__(original)
        self.precision, self.compiled = precision, compiled
        run = original
        if isinstance(original, torch.nn.Module):
            run = copy.deepcopy(original).to(memory_format=torch.channels_last)
        self._run = torch.compile(run) if compiled else run

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        dtype = PRECISIONS[self.precision]
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            output = self._run(x, index)
        return getattr(output, "sample", output).float()


class HalvingBatches(Wrapped):
    """A network that is given half as many examples at a time whenever memory runs out."""

    def __init__(self, original: Network) -> None:
        super().__init__(original)
        self.limit: int | None = None

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        while True:
            size = min(self.limit or len(x), len(x))
            try:
                outputs = [
                    getattr(output, "sample", output)
                    for some, i in zip(x.split(size), index.split(size), strict=True)
                    for output in [self.original(some, i)]
                ]
                return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
            except torch.cuda.OutOfMemoryError as error:
                if size == 1:
                    raise InputError(f"memory does not hold a single example: {error}") from error
            self._halve(size)  # not above: an exception keeps the tensors of its frames alive

    def _halve(self, size: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.limit is None and environment_rank() == 0:
            tqdm.write(
                f"dpdiff: memory does not hold {size} examples a network call: going on with "
                "half as many, or fewer",
                file=sys.stderr,
            )
        self.limit = size // 2


def halving_batches(denoiser: Model) -> Model:
    """The same denoiser, its network called with fewer examples once memory has run out."""
    return replace(denoiser, network=HalvingBatches(denoiser.network))
