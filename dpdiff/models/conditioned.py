"""Conditional networks, with what they are conditioned on held fixed."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor


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
        get the batch dimension that ``x`` has: a class label is a number, a text embedding of
        shape (tokens, width) a tensor. Anything else (None, strings, booleans) is passed as it
        is.

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
        self.conditions = {
            name: torch.as_tensor(value) if _is_condition(value) else value
            for name, value in conditions.items()
        }

    def forward(self, x: Tensor, index: Tensor) -> Any:
        """Call the network with a copy of the conditions for every example of ``x``."""
        batch = {
            name: value.to(x.device).expand(len(x), *value.shape)
            if isinstance(value, Tensor)
            else value
            for name, value in self.conditions.items()
        }
        return self.network(x, index, **batch)

    @property
    def layout(self) -> str:
        """A digest of the conditions, which the weights do not tell."""
        digest = hashlib.sha256(getattr(self.network, "layout", "").encode())
        for name, value in sorted(self.conditions.items()):
            shown = value.cpu().numpy().tobytes() if isinstance(value, Tensor) else repr(value)
            digest.update(name.encode() + (shown if isinstance(shown, bytes) else shown.encode()))
        return digest.hexdigest()


def _is_condition(value: Any) -> bool:
    return isinstance(value, Tensor | int | float) and not isinstance(value, bool)
