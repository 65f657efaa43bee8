"""Networks of diffusers' pipelines, each called as ``network(x, time, **conditions)``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Call(torch.nn.Module):
    """A network behind another way to call it."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network


class Halves(Call):
    """A network of images in [0, 1], for those in [-½, ½]: ``network(x + ½, time)``.

    As the score networks of Song et al. (2021) are. Noise is added to both alike.
    """

    def forward(self, x: Tensor, time: Tensor, **conditions: Any) -> Any:
        return self.network(x + 0.5, time, **conditions)


class WithSizes(Call):
    """The U-Net of Stable Diffusion XL: the pooled text and the picture's sizes go into one."""

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor,
        time_ids: Tensor,
    ) -> Any:
        added = {"text_embeds": text_embeds, "time_ids": time_ids}
        return self.network(x, time, encoder_hidden_states, added_cond_kwargs=added)


class TimeLater(Call):
    """The transformer of Stable Diffusion 3, whose time comes after the text."""

    def forward(self, x: Tensor, time: Tensor, **conditions: Tensor) -> Any:
        return self.network(x, timestep=time, **conditions)


class Packed(Call):
    """The transformer of Flux on latents (B, C, H, W): it sees 2×2 of them as one token.

    Where it was distilled from a guided network, guidance is an input of its own, and it says
    what the guided one said: then it is a guided network itself.
    """

    @property
    def guided(self) -> bool:
        return bool(self.network.config.guidance_embeds)

    def forward(
        self, x: Tensor, time: Tensor, encoder_hidden_states: Tensor, **conditions: Tensor
    ) -> Tensor:
        height, width = x.shape[2] // 2, x.shape[3] // 2
        output = self.network(
            packed(x),
            encoder_hidden_states,
            timestep=time.to(x.dtype) / 1000,
            img_ids=torch.stack(
                [
                    torch.zeros(height * width).to(x),
                    torch.arange(height).to(x).repeat_interleave(width),
                    torch.arange(width).to(x).repeat(height),
                ],
                dim=1,
            ),
            txt_ids=x.new_zeros(encoder_hidden_states.shape[1], 3),
            **conditions,
        ).sample
        return unpacked(output, height, width)


def packed(x: Tensor) -> Tensor:
    """(B, C, 2 H, 2 W) as (B, H W, 4 C): four neighbours are one token.

    Examples
    --------
    >>> packed(torch.arange(8.0).reshape(1, 1, 2, 4))
    tensor([[[0., 1., 4., 5.],
             [2., 3., 6., 7.]]])
    """
    blocks = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # B C H 2 W 2
    return blocks.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """What :func:`packed` made of it.

    Examples
    --------
    >>> x = torch.arange(24.0).reshape(1, 2, 2, 6)
    >>> bool((unpacked(packed(x), 1, 3) == x).all())
    True
    """
    blocks = tokens.unflatten(2, (-1, 2, 2)).unflatten(1, (height, width))  # B H W C 2 2
    return blocks.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
