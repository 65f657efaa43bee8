"""Network calls: checked inputs and outputs, device, precision, and a fingerprint."""

from __future__ import annotations

import functools
import hashlib
import operator
import re
import types
import uuid
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpdiff.errors import InputError
from dpdiff.runtime.batches import not_finite, ran_out

Network = Callable[[Tensor, Tensor], Any]
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# How networks say that they were called without what they are conditioned on.
CONDITIONS = re.compile(
    r"class[-_ ]?(label|cond)|must specify y|encoder_hidden_states|missing \d+ required .*argument",
    re.IGNORECASE,
)
EXPECTED = (  # what a network raises that is given what it cannot take
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)
PLAIN = (
    *(type(None), type(...), bool, int, float, complex, str, bytes, slice),
    *(torch.dtype, torch.device),
)
_TOKENS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def ask(
    network: Network, x: Tensor, times: np.ndarray, timesteps: np.ndarray, expected: tuple[int, ...]
) -> Tensor:
    """Call a network with its own time inputs and check the shape of its output.

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
    fine = output.isfinite().flatten(1).all(1)
    if not fine.all():
        raise not_finite(timesteps[int(torch.argmin(fine.int()))])
    return output


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


def weights_of(network: Any) -> list[Tensor]:
    """The parameters of a network; none if it is a plain function."""
    parameters = getattr(network, "parameters", None)
    return list(parameters()) if callable(parameters) else []


def dtype_of(network: Any) -> torch.dtype:
    """The one dtype of a network's weights, to which inputs are cast; else float32.

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


def checked_shape(shape: Any) -> tuple[int, ...]:
    """The shape of one example as integers.

    Examples
    --------
    >>> checked_shape([np.int64(1), 8, 8])
    (1, 8, 8)
    """
    try:
        lengths = tuple(operator.index(n) for n in shape)
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


class DeviceField:
    """The field ``device`` of a denoiser: its network's own device, else what was given."""

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


class InPrecision:
    """A network under autocast, channels last, and compiled on demand.

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


class Unseen(Exception):
    """A function uses something that no digest can be made of."""


def identity(function: Any) -> str:
    """A digest of a function's code and of everything it closes over or refers to.

    Numbers, text, tuples, arrays, tensors, networks and other functions are looked at; modules and
    what they hold count by name. Where something else is in use, such as a list that may change,
    the function is known only as itself: its name, ``unseen-…``, holds in this process alone.

    Examples
    --------
    >>> def scaled(by):
    ...     return lambda x, index: by * x
    >>> identity(scaled(2)) == identity(scaled(2)), identity(scaled(2)) == identity(scaled(3))
    (True, False)
    >>> identity(scaled(object())).startswith("unseen-")
    True
    """
    digest = hashlib.sha256()
    try:
        _feed(function, digest, set())
    except Unseen:
        try:
            return _TOKENS.setdefault(function, f"unseen-{uuid.uuid4().hex[:16]}")
        except TypeError:  # no weak references to such objects
            return f"unseen-{id(function):x}"
    return digest.hexdigest()


def _feed(value: Any, digest: Any, seen: set[int]) -> None:
    """Update a digest with a value and all that it is made of."""
    digest.update(type(value).__qualname__.encode() + b"(")
    if isinstance(value, PLAIN):
        digest.update(repr(value).encode())
    elif id(value) in seen:
        digest.update(b"again")
    else:
        for part in _parts(value):
            if isinstance(part, bytes):
                digest.update(part + b",")
            else:
                _feed(part, digest, seen | {id(value)})
    digest.update(b")")


def _parts(value: Any) -> list[Any]:
    """The raw bytes and other values that a value consists of."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return [repr((value.dtype, value.shape)).encode(), *_numbers(value)]
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        return [repr((value.dtype, value.shape)).encode(), value.tobytes()]
    if isinstance(value, np.generic):
        return [repr(value).encode()]
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, frozenset):
        return sorted(value, key=repr)
    if isinstance(value, torch.nn.Module):
        return _module_parts(value)
    if isinstance(value, functools.partial):
        return [value.func, value.args, *_items(value.keywords)]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, types.FunctionType):
        return _function_parts(value)
    if isinstance(value, types.ModuleType):
        return [value.__name__.encode()]
    if isinstance(value, types.BuiltinFunctionType | np.ufunc):
        return [f"{getattr(value, '__module__', '')}.{value.__name__}".encode()]
    if isinstance(value, type) and value.__module__ != "__main__":
        return [f"{value.__module__}.{value.__qualname__}".encode()]
    raise Unseen(type(value).__name__)


def _numbers(tensor: Tensor) -> list[bytes]:
    if tensor.is_floating_point():
        tensor = tensor.double()
    return [tensor.numpy().tobytes()]


def _items(values: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(values.items())


def _module_parts(module: torch.nn.Module) -> list[Any]:
    """A network's layout and weights; of one without weights, its code and its settings."""
    state = module.state_dict()
    if state:
        return [repr(module).encode(), *_items(state)]
    own = {k: v for k, v in vars(module).items() if not k.startswith("_") and k != "training"}
    return [type(module).forward, *_items(own), *module.children()]


def _function_parts(function: types.FunctionType) -> list[Any]:
    known, cells = function.__globals__, []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # still empty
            cells.append(None)
    return [
        _code_parts(function.__code__),
        *cells,
        *_items({k: known[k] for k in _names(function.__code__) if k in known}),
        function.__defaults__,
        *_items(function.__kwdefaults__ or {}),
    ]


def _names(code: types.CodeType) -> set[str]:
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _code_parts(code: types.CodeType) -> tuple[Any, ...]:
    constants = (_code_parts(c) if isinstance(c, types.CodeType) else c for c in code.co_consts)
    return (code.co_code, tuple(constants), code.co_names, code.co_varnames)
