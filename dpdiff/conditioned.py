"""Conditional networks with their conditions held fixed, with and without guidance."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpdiff.network import tensor_of

TIMES = ("timestep", "timesteps", "time", "t", "sigma")  # what networks call their time input
PLAIN = re.compile(r"\b(int|float)\b")  # in the annotation of an argument that is no tensor


def time_argument(network: Any, *others: str) -> str | None:
    """The name under which a network or its class takes the time; None where no name tells.

    ``others`` are arguments that are something else.

    Examples
    --------
    >>> class Later(torch.nn.Module):
    ...     def forward(self, x, text, timestep): ...
    >>> time_argument(Later()), time_argument(lambda x, index: x)
    ('timestep', None)
    """
    return next(
        (name for name in _arguments(network) if name in TIMES and name not in others), None
    )


def _arguments(network: Any) -> dict[str, str]:
    """The arguments of a network or its class with their annotations."""
    try:
        parameters = inspect.signature(getattr(network, "forward", network)).parameters
    except (TypeError, ValueError):
        return {}
    return {name: str(parameter.annotation) for name, parameter in parameters.items()}


def called(
    network: Any, time: str | None, x: Tensor, index: Tensor, conditions: Mapping[str, Any]
) -> Any:
    """What a network says, its time under that name, else after x."""
    told = (x, index) if time is None else (x,)
    return network(*told, **({} if time is None else {time: index}), **conditions)


class Conditioned(torch.nn.Module):
    """A conditional network as an unconditional one: the same conditions for every example.

    A schedule is best for one distribution, so one class, one embedding or one guidance weight
    is one model with costs of its own. The conditions are part of its fingerprint.

    Parameters
    ----------
    network : torch.nn.Module
        Called as ``network(x, index, **conditions)``; where it has an argument that is named
        ``timestep``, ``timesteps``, ``time``, ``t`` or ``sigma``, the index goes there.
    **conditions
        Keyword arguments of the network. Tensors and numbers are conditions of one example, and
        get the batch dimension that ``x`` has, and floats its dtype: a class label is a number, a
        text embedding of shape (tokens, width) a tensor. Anything else (None, strings, booleans,
        dicts and lists, and numbers where the network's own annotation says int or float) is
        passed as it is.

    Examples
    --------
    >>> from dpdiff.denoiser import Denoiser
    >>> from dpdiff.noise import NoiseSchedule
    >>> class Scaled(torch.nn.Module):
    ...     def forward(self, x, index, weight):
    ...         return x * weight[:, None]
    >>> network = Conditioned(Scaled(), weight=0.5)
    >>> Denoiser(network, NoiseSchedule.cosine(8), shape=(2,))(torch.ones(3, 2), 8).x0.shape
    torch.Size([3, 2])
    """

    def __init__(self, network: torch.nn.Module, **conditions: Any) -> None:
        super().__init__()
        self.network, self.conditions = network, held(network, conditions)
        self.time = time_argument(network, *conditions)

    def forward(self, x: Tensor, index: Tensor) -> Any:
        """Call the network with a copy of the conditions for every example of ``x``."""
        return called(self.network, self.time, x, index, for_each(self.conditions, x))

    @property
    def layout(self) -> str:
        """A digest of the conditions, which the weights do not tell."""
        return digest_of(getattr(self.network, "layout", ""), self.conditions)

    @property
    def guided(self) -> bool:
        """Whether the network within is a guided one."""
        return getattr(self.network, "guided", False)


def held(network: Any, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Conditions, of which tensors, and numbers for which one is expected, have become tensors."""
    annotations = _arguments(network)
    plain = {n for n, a in annotations.items() if PLAIN.search(a) and "Tensor" not in a}
    return {
        name: torch.as_tensor(value) if name not in plain and _is_condition(value) else value
        for name, value in conditions.items()
    }


def for_each(conditions: Mapping[str, Any], x: Tensor) -> dict[str, Any]:
    """Conditions with the batch dimension, the device and, if they are floats, the dtype of x."""

    def copies(value: Tensor) -> Tensor:
        dtype = x.dtype if value.is_floating_point() else value.dtype
        return value.to(x.device, dtype).expand(len(x), *value.shape)

    return {
        name: copies(value) if isinstance(value, Tensor) else value
        for name, value in conditions.items()
    }


def digest_of(beginning: str, *conditions: Mapping[str, Any]) -> str:
    """A digest that tells conditions from others."""
    digest = hashlib.sha256(beginning.encode())
    for name, value in (pair for part in conditions for pair in sorted(part.items())):
        digest.update(name.encode())
        _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    """Feed a digest with a condition, all of it."""
    if isinstance(value, np.ndarray):
        value = torch.as_tensor(value)
    if isinstance(value, Tensor):
        wide = value.double() if value.is_floating_point() else value
        digest.update(wide.detach().cpu().numpy().tobytes())
    elif isinstance(value, Mapping | list | tuple):
        digest.update(f"{type(value).__name__}{len(value)}".encode())
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, part in sorted(pairs, key=lambda pair: str(pair[0])):
            digest.update(f"{name}{getattr(part, 'shape', '')}".encode())
            _feed(digest, part)
    else:
        digest.update(repr(value).encode())


def _is_condition(value: Any) -> bool:
    return isinstance(value, Tensor | int | float) and not isinstance(value, bool)


class Guided(torch.nn.Module):
    """``u + w (c - u)`` of what a network says with conditions, c, and without, u.

    Ho & Salimans (2022), with w as diffusers' pipelines count it: 1 is no guidance. Both are asked
    in one call of 2B examples. Of a learned variance, whose channels come after those of x, that
    of c is kept. A guided network is no denoiser of any data, so its likelihood has no meaning:
    :func:`dpdiff.measure` and :func:`dpdiff.evaluate` refuse it. Schedules for its samples are
    found from its trajectories.

    Parameters
    ----------
    network : torch.nn.Module
        Called as :class:`dpdiff.Conditioned` calls one.
    scale : float
        The guidance weight w.
    conditions, without : mapping
        Keyword arguments of the network, the same names in both, as
        :class:`dpdiff.Conditioned` takes them: one example's, without the batch dimension.

    Examples
    --------
    >>> class Labelled(torch.nn.Module):
    ...     def forward(self, x, index, label):
    ...         return x * label[:, None]
    >>> network = Guided(Labelled(), 3.0, {"label": 2}, {"label": 1})
    >>> network(torch.ones(2, 1), torch.zeros(2)).flatten()
    tensor([4., 4.])
    """

    guided = True

    def __init__(
        self,
        network: torch.nn.Module,
        scale: float,
        conditions: Mapping[str, Any],
        without: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.network, self.scale = network, float(scale)
        self.conditions, self.without = held(network, conditions), held(network, without)
        self.time = time_argument(network, *conditions)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """The guided output."""
        both = [for_each(part, x) for part in (self.conditions, self.without)]
        joined = {
            name: torch.cat([value, both[1][name]]) if isinstance(value, Tensor) else value
            for name, value in both[0].items()
        }
        twice = [torch.cat([part, part]) for part in (x, time)]
        output = called(self.network, self.time, *twice, joined)
        with_them, without = tensor_of(output).chunk(2)
        own = slice(x.shape[1])
        guided = without[:, own] + self.scale * (with_them[:, own] - without[:, own])
        return torch.cat([guided, with_them[:, x.shape[1] :]], dim=1)

    @property
    def layout(self) -> str:
        """A digest of what the weights do not tell: the conditions and the scale."""
        beginning = getattr(self.network, "layout", "") + repr(self.scale)
        return digest_of(beginning, self.conditions, self.without)
