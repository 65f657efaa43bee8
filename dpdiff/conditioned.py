"""Conditional networks with their conditions held fixed, with and without guidance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dpdiff.network import tensor_of


class Conditioned(torch.nn.Module):
    """A conditional network as an unconditional one: the same conditions for every example.

    A schedule is best for one distribution, so one class, one embedding or one guidance weight
    is one model with costs of its own. The conditions are part of its fingerprint.

    Parameters
    ----------
    network : torch.nn.Module
        Called as ``network(x, index, **conditions)``.
    **conditions
        Keyword arguments of the network. Tensors and numbers are conditions of one example, and
        get the batch dimension that ``x`` has, and floats its dtype: a class label is a number, a
        text embedding of shape (tokens, width) a tensor. Anything else (None, strings, booleans)
        is passed as it is.

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
        self.network = network
        self.conditions = held(conditions)

    def forward(self, x: Tensor, index: Tensor) -> Any:
        """Call the network with a copy of the conditions for every example of ``x``."""
        return self.network(x, index, **for_each(self.conditions, x))

    @property
    def layout(self) -> str:
        """A digest of the conditions, which the weights do not tell."""
        return digest_of(getattr(self.network, "layout", ""), self.conditions)

    @property
    def guided(self) -> bool:
        """Whether the network within is a guided one."""
        return getattr(self.network, "guided", False)


def held(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Conditions, of which tensors and numbers have become tensors."""
    return {
        name: torch.as_tensor(value) if _is_condition(value) else value
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
        shown = value.cpu() if isinstance(value, Tensor) else repr(value).encode()
        if isinstance(shown, Tensor):
            wide = shown.double() if shown.is_floating_point() else shown
            shown = wide.numpy().tobytes()
        digest.update(name.encode() + shown)
    return digest.hexdigest()


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
        Called as ``network(x, time, **conditions)``.
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
        self.conditions, self.without = held(conditions), held(without)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """The guided output."""
        both = [for_each(part, x) for part in (self.conditions, self.without)]
        joined = {
            name: torch.cat([value, both[1][name]]) if isinstance(value, Tensor) else value
            for name, value in both[0].items()
        }
        twice = (torch.cat([part, part]) for part in (x, time))
        with_them, without = tensor_of(self.network(*twice, **joined)).chunk(2)
        own = slice(x.shape[1])
        guided = without[:, own] + self.scale * (with_them[:, own] - without[:, own])
        return torch.cat([guided, with_them[:, x.shape[1] :]], dim=1)

    @property
    def layout(self) -> str:
        """A digest of what the weights do not tell: the conditions and the scale."""
        beginning = getattr(self.network, "layout", "") + repr(self.scale)
        return digest_of(beginning, self.conditions, self.without)
