"""Networks as users have them: what they are told apart by, and reduced precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dpdiff.errors import InputError

Network = Callable[[Tensor, Tensor], Any]
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def weights_of(network: Any) -> list[Tensor]:
    """The parameters of a network; none if it is a plain function."""
    parameters = getattr(network, "parameters", None)
    return list(parameters()) if callable(parameters) else []


def dtype_of(network: Any) -> torch.dtype:
    """What a network's inputs are cast to: the one dtype of its weights, else float32.

    Examples
    --------
    >>> dtype_of(torch.nn.Linear(2, 2).half()), dtype_of(lambda x, index: x)
    (torch.float16, torch.float32)
    """
    dtypes = {w.dtype for w in weights_of(network) if w.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def tensor_of(output: Any) -> Any:
    """The tensor that a network means: itself, the first of a tuple, or its ``.sample``."""
    if isinstance(output, tuple | list) and output:
        output = output[0]
    return getattr(output, "sample", output)


class InPrecision:
    """A network under autocast, its inputs channels last, and compiled on demand.

    The weights are the original's own: nothing is copied, and the original is left as it is.

    Parameters
    ----------
    original : callable
        As a :class:`dpdiff.Denoiser` takes it.
    precision : {"float32", "bf16", "fp16"}
        Of the operations that autocast thinks safe; weights and output stay as they are.
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
        self.original, self.precision, self.compiled = original, precision, compiled
        self._run = torch.compile(original) if compiled else original

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "original":  # not there while being copied
            raise AttributeError(name)
        return getattr(self.original, name)

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        if x.ndim == 4:  # of the others there is no such layout, or none that pays
            x = x.contiguous(memory_format=torch.channels_last)
        dtype = PRECISIONS[self.precision]
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            output = self._answer(x, index)
        return tensor_of(output).to(torch.float32)

    def _answer(self, x: Tensor, index: Tensor) -> Any:
        try:
            return self._run(x, index)
        except Exception as error:
            if self.compiled and type(error).__module__.startswith("torch._"):
                raise InputError(
                    f"torch.compile does not manage this network here: {error}; leave it out"
                ) from error
            raise
