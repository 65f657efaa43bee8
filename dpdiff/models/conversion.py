"""Weights in improved-diffusion's layout, renamed and reshaped for a diffusers network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from dpdiff.errors import InputError

# Layer names inside each kind of block: theirs → diffusers'.
LAYERS = {
    "ResnetBlock2D": {
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "time_emb_proj",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
        "skip_connection": "conv_shortcut",
    },
    "Attention": {"norm": "group_norm", "qkv": "to_q to_k to_v", "proj_out": "to_out.0"},
    "Downsample2D": {"op": "conv"},
    "Upsample2D": {"conv": "conv"},
}
# Layers outside of all blocks.
ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def diffusers_weights(
    state: Mapping[str, Tensor], network: nn.Module, *, new_order: bool = False
) -> dict[str, Tensor]:
    """The state dict of a ``UNet2DModel``, from one of improved-diffusion or guided-diffusion.

    There, ``input_blocks``, ``middle_block`` and ``output_blocks`` count residual blocks,
    attention and resampling in the order of use. Attention is 1×1 convolutions; q, k and v are
    one projection of shape (3C, C, 1), whose rows are packed (head, q|k|v, C/heads), or
    (q|k|v, head, C/heads) in guided-diffusion's new order.

    Parameters
    ----------
    state : mapping of str to Tensor
        The weights; it is left as it is.
    network : UNet2DModel
        The network they are for, with the right number of heads; its own weights are not read.
    new_order : bool
        Whether q, k and v are packed in the new order.

    Returns
    -------
    dict of str to Tensor
        float32, every key and shape as in ``network.state_dict()``.

    Raises
    ------
    InputError
        If a key is missing, unexpected, of the wrong shape, or not a floating-point tensor.
    """
    shapes = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    left, weights = dict(state), {}
    for theirs, ours, heads in _layers(network):
        for part in ("weight", "bias"):
            targets = [f"{name}.{part}" for name in ours]
            shape = _their_shape(theirs, shapes[targets[0]], len(ours))
            weight = _take(left, f"{theirs}.{part}", shape)
            pieces = _unpack(weight, heads, new_order) if len(ours) > 1 else [weight]
            for name, piece in zip(targets, pieces, strict=True):
                weights[name] = piece.reshape(shapes[name])
    if left:
        raise InputError(f"unexpected key {min(left)}: do the flags belong to this file?")
    return weights


def _blocks(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs (their name, ours) of residual blocks, attention and resampling."""
    count = 1
    for d, block in enumerate(network.down_blocks):
        for r in range(len(block.resnets)):
            yield f"input_blocks.{count}.0", f"down_blocks.{d}.resnets.{r}"
            if hasattr(block, "attentions"):
                yield f"input_blocks.{count}.1", f"down_blocks.{d}.attentions.{r}"
            count += 1
        if block.downsamplers is not None:
            yield f"input_blocks.{count}.0", f"down_blocks.{d}.downsamplers.0"
            count += 1
    for i, name in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        yield f"middle_block.{i}", f"mid_block.{name}"
    count = 0
    for u, block in enumerate(network.up_blocks):
        kinds = ["resnets", "attentions"] if hasattr(block, "attentions") else ["resnets"]
        for r in range(len(block.resnets)):
            for i, kind in enumerate(kinds):
                yield f"output_blocks.{count}.{i}", f"up_blocks.{u}.{kind}.{r}"
            count += 1
        if block.upsamplers is not None:  # it shares its place with the level's last block
            yield f"output_blocks.{count - 1}.{len(kinds)}", f"up_blocks.{u}.upsamplers.0"


def _layers(network: nn.Module) -> Iterator[tuple[str, list[str], int]]:
    """Their layers with weights: their name, our names, and the heads if it is attention."""
    for theirs, ours in ENDS.items():
        yield theirs, [ours], 0
    for theirs, ours in _blocks(network):
        block = network.get_submodule(ours)
        for layer, names in LAYERS[type(block).__name__].items():
            if layer == "skip_connection" and block.conv_shortcut is None:
                continue  # as many channels out as in
            targets = [f"{ours}.{name}" for name in names.split()]
            yield f"{theirs}.{layer}", targets, getattr(block, "heads", 0)


def _their_shape(layer: str, shape: tuple[int, ...], pieces: int) -> tuple[int, ...]:
    """The shape a weight has there: attention is 1×1 convolutions, q, k and v in one."""
    shape = (shape[0] * pieces, *shape[1:])
    convolution = layer.endswith(("qkv", "proj_out")) and len(shape) == 2
    return (*shape, 1) if convolution else shape


def _take(left: dict[str, Any], key: str, shape: tuple[int, ...]) -> Tensor:
    """Remove a weight from those that are left, in float32."""
    if key not in left:
        raise InputError(f"the key {key} is missing: do the flags belong to this file?")
    weight = left.pop(key)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise InputError(f"the key {key} holds no tensor of floating-point numbers")
    if tuple(weight.shape) != shape:
        raise InputError(
            f"the key {key} has shape {tuple(weight.shape)}, expected {shape}: "
            "do the flags belong to this file?"
        )
    return weight.detach().float()


def _unpack(qkv: Tensor, heads: int, new_order: bool) -> list[Tensor]:
    """q, k and v, each with its heads one after the other."""
    if new_order:
        return list(qkv.chunk(3))
    return list(qkv.unflatten(0, (heads, 3, -1)).unbind(1))
