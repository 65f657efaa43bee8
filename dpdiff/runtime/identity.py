"""What a plain function computes, as far as it can be seen, so that two do not pass for one."""

from __future__ import annotations

import functools
import hashlib
import types
import uuid
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TOKENS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, type(...))


class Unseen(Exception):
    """Something that a function uses cannot be seen through."""


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
        _look(function, digest, set())
    except Unseen:
        try:
            return _TOKENS.setdefault(function, f"unseen-{uuid.uuid4().hex[:16]}")
        except TypeError:  # no weak references to such objects
            return f"unseen-{id(function):x}"
    return digest.hexdigest()


def _look(value: Any, digest: Any, seen: set[int]) -> None:
    """Feed a digest with a value and all that it is made of."""
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
                _look(part, digest, seen | {id(value)})
    digest.update(b")")


def _parts(value: Any) -> list[Any]:
    """What a value is made of: raw bytes and other values."""
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
