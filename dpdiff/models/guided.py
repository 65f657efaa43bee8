"""Classifier-free guidance: a conditional network that is pushed away from what it says without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dpdiff.models.conditioned import digest_of, for_each, held
from dpdiff.runtime.networks import tensor_of


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
