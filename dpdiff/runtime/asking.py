"""What goes into a network and what comes out, looked at, so that mistakes are said plainly."""

from __future__ import annotations

import re
from operator import index as whole
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpdiff.errors import InputError
from dpdiff.runtime.memory import ran_out
from dpdiff.runtime.networks import Network, tensor_of, weights_of

# How networks say that they were called without what they are conditioned on.
CONDITIONS = re.compile(
    r"class[-_ ]?(label|cond)|must specify y|encoder_hidden_states|missing \d+ required .*argument",
    re.IGNORECASE,
)
EXPECTED = (  # what a network raises that is given what it cannot take
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)


class Place:
    """The field ``device`` of a denoiser: where its network's weights are, else what was given."""

    def __get__(self, denoiser: Any, owner: type) -> torch.device | None:
        if denoiser is None:
            return None  # the field's default
        weights = weights_of(denoiser.network)
        given = vars(denoiser).get("_device") or torch.device("cpu")
        return weights[0].device if weights else given

    def __set__(self, denoiser: Any, value: Any) -> None:
        try:
            vars(denoiser)["_device"] = None if value is None else torch.device(value)
        except (RuntimeError, TypeError) as error:
            raise InputError(f"device is a torch device such as 'cuda', got {value!r}") from error


def checked_shape(shape: Any) -> tuple[int, ...]:
    """The shape of one example as integers.

    Examples
    --------
    >>> checked_shape([np.int64(1), 8, 8])
    (1, 8, 8)
    """
    try:
        lengths = tuple(whole(n) for n in shape)
    except TypeError as error:
        raise InputError(f"shape is a tuple of integers, got {shape!r}") from error
    if not lengths or min(lengths) < 1:
        raise InputError(f"shape holds lengths of at least 1, one or more; got {shape!r}")
    return lengths


def checked_arguments(x_t: Any, t: Any, shape: tuple[int, ...], T: int) -> np.ndarray:
    """The timesteps ``t`` as one integer for each of the noisy examples ``x_t``."""
    if not isinstance(x_t, Tensor) or not x_t.is_floating_point():
        raise InputError(f"noisy examples are a tensor of floats, got {_kind(x_t)}")
    if x_t.ndim == 0 or len(x_t) == 0 or tuple(x_t.shape[1:]) != shape:
        wanted = ", ".join(map(str, shape))
        raise InputError(f"noisy examples have shape (B, {wanted}), got {tuple(x_t.shape)}")
    t = np.asarray(t.cpu() if isinstance(t, Tensor) else t)
    if t.dtype.kind not in "iu" or t.shape not in ((), (len(x_t),)):
        raise InputError(
            f"t is an integer, or one for each of the {len(x_t)} examples; got {t.tolist()!r}"
        )
    if t.min() < 1 or t.max() > T:
        raise InputError(f"timesteps lie in 1…{T}, got {t.min() if t.min() < 1 else t.max()}")
    return np.broadcast_to(t, len(x_t))


def ask(
    network: Network, x: Tensor, times: np.ndarray, timesteps: np.ndarray, expected: tuple[int, ...]
) -> Tensor:
    """Call a network with its own time inputs; its output has the expected shape.

    Integers are given as int64, other numbers as float32.

    Raises
    ------
    InputError
        If the network fails, or returns anything else; the first timestep is named.
    """
    t = timesteps[0]
    try:
        time_inputs = torch.from_numpy(
            times if times.dtype == np.int64 else times.astype(np.float32)
        )
        output = tensor_of(network(x, time_inputs.to(x.device)))
    except EXPECTED as error:
        if ran_out(error) or isinstance(error, InputError):
            raise
        said = f"the network failed at timestep {t}: {type(error).__name__}: {error}"
        raise InputError(said + _advice(str(error))) from error
    if not isinstance(output, Tensor) or tuple(output.shape) != expected:
        raise InputError(
            f"at timestep {t} the network returned {_kind(output)}, expected a tensor of shape "
            f"{expected}; do the denoiser's shape and outputs_variance fit it?"
        )
    return output


def finite(output: Tensor, timesteps: np.ndarray) -> Tensor:
    """An output without infinities.

    On the CPU one that is not finite is refused. On other devices, where looking would mean
    waiting, what is not finite becomes NaN, which no clipping hides and later checks find.
    """
    if output.device.type != "cpu":
        return torch.where(output.isfinite(), output, torch.nan)
    whole_ones = output.isfinite().flatten(1).all(1)
    if not whole_ones.all():
        raise not_finite(timesteps[int(torch.argmin(whole_ones.int()))])
    return output


def not_finite(t: int) -> InputError:
    """The complaint about an output that is not finite."""
    return InputError(f"the network's output is not finite at timestep {t}")


def _advice(said: str) -> str:
    if not CONDITIONS.search(said):
        return ""
    return (
        ". If it is conditional, hold its conditions fixed: dpdiff.Conditioned(network, "
        "class_labels=3), with the name of its own argument, is a network for one class"
    )


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype)[6:]}, shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
