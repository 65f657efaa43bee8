"""Improved DDPM's U-Net written down a second time, in plain torch, to check the converter.

`shapes` lists the weights of a configuration; `forward` runs a state dict and finds out from its
keys alone which layer follows which. Neither knows of diffusers.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def shapes(
    width: int,
    multipliers: tuple[int, ...],
    blocks: int,
    attention: tuple[bool, ...],
    *,
    outputs: int = 6,
    scale_shift: bool = True,
    updown: bool = False,
) -> dict[str, tuple[int, ...]]:
    """Key → shape of every weight."""
    sizes: dict[str, tuple[int, ...]] = {}
    embedding = 4 * width

    def layer(name: str, *shape: int) -> None:
        sizes[f"{name}.weight"], sizes[f"{name}.bias"] = shape, shape[:1]

    def residual(name: str, before: int, after: int) -> None:
        layer(f"{name}.in_layers.0", before)
        layer(f"{name}.in_layers.2", after, before, 3, 3)
        layer(f"{name}.emb_layers.1", after * (2 if scale_shift else 1), embedding)
        layer(f"{name}.out_layers.0", after)
        layer(f"{name}.out_layers.3", after, after, 3, 3)
        if before != after:
            layer(f"{name}.skip_connection", after, before, 1, 1)

    def attend(name: str, channels: int) -> None:
        layer(f"{name}.norm", channels)
        layer(f"{name}.qkv", 3 * channels, channels, 1)
        layer(f"{name}.proj_out", channels, channels, 1)

    def resample(name: str, kind: str, channels: int) -> None:
        if updown:
            residual(name, channels, channels)
        else:
            layer(f"{name}.{kind}", channels, channels, 3, 3)

    layer("time_embed.0", embedding, width)
    layer("time_embed.2", embedding, embedding)
    layer("input_blocks.0.0", width, 3, 3, 3)
    skips, channels, last = [width], width, len(multipliers) - 1
    for level, multiplier in enumerate(multipliers):
        for _ in range(blocks):
            residual(f"input_blocks.{len(skips)}.0", channels, multiplier * width)
            channels = multiplier * width
            if attention[level]:
                attend(f"input_blocks.{len(skips)}.1", channels)
            skips.append(channels)
        if level < last:
            resample(f"input_blocks.{len(skips)}.0", "op", channels)
            skips.append(channels)
    residual("middle_block.0", channels, channels)
    attend("middle_block.1", channels)
    residual("middle_block.2", channels, channels)
    place = 0
    for level in range(last, -1, -1):
        for i in range(blocks + 1):
            residual(f"output_blocks.{place}.0", channels + skips.pop(), multipliers[level] * width)
            channels = multipliers[level] * width
            if attention[level]:
                attend(f"output_blocks.{place}.1", channels)
            if level and i == blocks:
                resample(f"output_blocks.{place}.{1 + attention[level]}", "conv", channels)
            place += 1
    layer("out.0", channels)
    layer("out.2", outputs, width, 3, 3)
    return sizes


def draw(wanted: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    """Random weights under which signals neither vanish nor explode; norms near the identity."""
    generator = torch.Generator().manual_seed(seed)

    def weight(key: str, shape: tuple[int, ...]) -> Tensor:
        noise = torch.rand(shape, generator=generator).mul_(2).sub_(1)
        if len(shape) > 1:
            return noise.mul_((3 / math.prod(shape[1:])) ** 0.5)
        is_norm = wanted[key.rpartition(".")[0] + ".weight"] == shape and key.endswith("weight")
        return noise.mul_(0.1).add_(1.0 if is_norm else 0.0)

    return {key: weight(key, shape) for key, shape in wanted.items()}


def forward(
    state: State, x: Tensor, timestep: Tensor, heads: int, *, head_size: int = 0, new: bool = False
) -> Tensor:
    """The network's output; ``head_size`` overrides ``heads``, ``new`` is the order of q, k, v."""

    def linear(name: str, h: Tensor) -> Tensor:
        return F.linear(h, state[f"{name}.weight"], state[f"{name}.bias"])

    def conv(name: str, h: Tensor, **how: int) -> Tensor:
        return F.conv2d(h, state[f"{name}.weight"], state[f"{name}.bias"], **how)

    def norm(name: str, h: Tensor) -> Tensor:
        return F.group_norm(h, 32, state[f"{name}.weight"], state[f"{name}.bias"])

    def residual(name: str, h: Tensor, resize: int) -> Tensor:
        inner = F.silu(norm(f"{name}.in_layers.0", h))
        if resize:
            resized = [_down(z) if resize < 0 else _up(z) for z in (h, inner)]
            h, inner = resized
        inner = conv(f"{name}.in_layers.2", inner, padding=1)
        time = linear(f"{name}.emb_layers.1", F.silu(embedding))[:, :, None, None]
        if time.shape[1] == inner.shape[1]:
            inner = norm(f"{name}.out_layers.0", inner + time)
        else:
            scale, shift = time.chunk(2, dim=1)
            inner = norm(f"{name}.out_layers.0", inner) * (1 + scale) + shift
        inner = conv(f"{name}.out_layers.3", F.silu(inner), padding=1)
        shortcut = f"{name}.skip_connection"
        return inner + (conv(shortcut, h) if f"{shortcut}.weight" in state else h)

    def attend(name: str, h: Tensor) -> Tensor:
        n, channels, *_ = h.shape
        count = channels // head_size if head_size else heads
        weight = state[f"{name}.qkv.weight"][..., None]
        packed = F.conv2d(norm(f"{name}.norm", h), weight, state[f"{name}.qkv.bias"]).flatten(2)
        size = channels // count
        order = (n, 3, count, size, -1) if new else (n, count, 3, size, -1)
        q, k, v = packed.reshape(order).unbind(1 if new else 2)  # (n, head, size, pixel)
        attention = torch.softmax(torch.einsum("nhct,nhcs->nhts", q, k) / math.sqrt(size), dim=-1)
        mixed = torch.einsum("nhts,nhcs->nhct", attention, v).reshape(h.shape)
        weight = state[f"{name}.proj_out.weight"][..., None]
        return h + F.conv2d(mixed, weight, state[f"{name}.proj_out.bias"])

    def block(name: str, h: Tensor, up: bool) -> Tensor:
        """Run layers name.0, name.1 … A residual layer of one that resamples does so too."""
        count = len({m[1] for key in state if (m := re.match(rf"{re.escape(name)}\.(\d+)\.", key))})
        residuals = 0
        for part in (f"{name}.{i}" for i in range(count)):
            if f"{part}.in_layers.0.weight" in state:
                resize = 1 if up and residuals else -1 if name in downs else 0
                h, residuals = residual(part, h, resize), residuals + 1
            elif f"{part}.qkv.weight" in state:
                h = attend(part, h)
            elif f"{part}.op.weight" in state:
                h = conv(f"{part}.op", h, stride=2, padding=1)
            elif f"{part}.conv.weight" in state:
                h = conv(f"{part}.conv", _up(h), padding=1)
            else:
                h = conv(part, h, padding=1)
        return h

    half = state["time_embed.0.weight"].shape[1] // 2
    angle = timestep.float()[:, None] * 10000 ** (-torch.arange(half) / half)
    embedding = torch.cat([angle.cos(), angle.sin()], dim=1)
    embedding = linear("time_embed.2", F.silu(linear("time_embed.0", embedding)))
    downs = _downsampling_blocks(state)
    skips, h = [], x
    for name in _numbered(state, "input_blocks"):
        h = block(name, h, up=False)
        skips.append(h)
    for i, layer in enumerate((residual, attend, residual)):
        h = layer(f"middle_block.{i}", h, *((0,) if layer is residual else ()))
    for name in _numbered(state, "output_blocks"):
        h = block(name, torch.cat([h, skips.pop()], dim=1), up=True)
    return conv("out.2", F.silu(norm("out.0", h)), padding=1)


def _numbered(state: State, group: str) -> list[str]:
    numbers = {int(key.split(".")[1]) for key in state if key.startswith(group)}
    return [f"{group}.{i}" for i in sorted(numbers)]


def _downsampling_blocks(state: State) -> set[str]:
    """Input blocks that downsample by a residual layer: a key does not tell them from others.

    An output block that upsamples so has two residual layers, and takes the skip of the input
    block that downsamples: one lies as far from the end as the other from the beginning.
    """
    ups = [
        i
        for i, name in enumerate(_numbered(state, "output_blocks"))
        if any(f"{name}.{j}.in_layers.0.weight" in state for j in (1, 2))
    ]
    count = len(_numbered(state, "input_blocks"))
    return {f"input_blocks.{count - 1 - i}" for i in ups}


def _up(h: Tensor) -> Tensor:
    return h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def _down(h: Tensor) -> Tensor:
    n, channels, height, width = h.shape
    return h.reshape(n, channels, height // 2, 2, width // 2, 2).mean(dim=(3, 5))
