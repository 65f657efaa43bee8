"""A diffusers U-Net from its config and its safetensors: whole, or not at all."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpdiff.errors import InputError
from dpdiff.runtime import documents
from dpdiff.runtime.files import regular

WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG = "config.json"
LARGEST = 2**15  # of all sizes in a config: pixels, channels, layers
# The same layers of attention, as diffusers called them until 2023.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
ADVICE = (
    "convert them once, where they are trusted, with diffusers: "
    "UNet2DModel.from_pretrained(folder).save_pretrained(folder, safe_serialization=True)"
)


def read_network(folder: Path) -> nn.Module:
    """The ``UNet2DModel`` in a folder, in float32.

    Nothing is built before the config is known to fit the file in size, and every tensor of the
    network comes from the file.

    Raises
    ------
    InputError
        If config or weights are missing, damaged or do not fit each other: tensors are named.
    """
    from safetensors import safe_open

    config = documents.read(folder / CONFIG)
    path = _weights(folder)
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(s.get_shape()) for name, s in slices.items()}
            network = empty_network(config, len(shapes), folder / CONFIG)
            names = _renamed(shapes, network)
            _compare({names[name]: shape for name, shape in shapes.items()}, network)
            state = {names[name]: _floats(file.get_tensor(name), name) for name in shapes}
    except InputError as error:
        raise InputError(f"cannot load the network in {folder}: {error}") from error
    except Exception as error:  # a damaged file leads its reader to errors of any kind
        raise InputError(f"cannot load the network in {folder}: {error}") from error
    network.load_state_dict(state | _tied(state, network), assign=True)
    return network.requires_grad_(True).eval()


def empty_network(config: dict[str, Any], tensors: int, source: str | Path) -> nn.Module:
    """A ``UNet2DModel`` without weights, on torch's meta device, for so many tensors.

    Raises
    ------
    InputError
        If the config is not of such a network, or asks for more layers than there are tensors.
    """
    from diffusers import UNet2DModel

    if config.get("_class_name") != "UNet2DModel":
        raise InputError(f"{source} is of a {config.get('_class_name')}; only UNet2DModel is read")
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    unknown = settings.keys() - inspect.signature(UNet2DModel).parameters.keys()
    if unknown:
        raise InputError(f"{source} has settings that are not known: {', '.join(sorted(unknown))}")
    _check_sizes(settings, tensors, source)
    try:
        with torch.device("meta"):
            return UNet2DModel(**settings)
    except Exception as error:  # of any kind: diffusers hardly checks what it is given
        raise InputError(f"{source} describes no network: {error}") from error


def classes(config: Any, source: Any) -> int:
    """How many classes a network is conditioned on; 0 if on none.

    Raises
    ------
    InputError
        If it is conditioned on anything else.
    """
    if config.get("class_embed_type") is None:
        return config.get("num_class_embeds") or 0
    raise InputError(
        f"{source} is conditioned on embeddings of classes: load the network with diffusers, hold "
        "them fixed, dpdiff.Conditioned(network, class_labels=…), and wrap that in dpdiff.Denoiser"
    )


def image_shape(config: Any, source: Any) -> tuple[int, int, int]:
    """(C, H, W) of a network's images.

    Raises
    ------
    InputError
        If the config does not tell it.
    """
    size, channels = config.get("sample_size"), config.get("in_channels")
    height, width = size if isinstance(size, list | tuple) and len(size) == 2 else (size, size)
    if not all(type(n) is int and 1 <= n <= LARGEST for n in (channels, height, width)):
        raise InputError(
            f"{source} tells no size of images: sample_size {size}, in_channels {channels}"
        )
    return channels, height, width


def _weights(folder: Path) -> Path:
    path = folder / WEIGHTS
    if not path.exists():
        others = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pth", ".ckpt"))
        if (folder / f"{WEIGHTS}.index.json").exists():
            others = ["weights in several files"]
        held = f"; it has {', '.join(others)}: {ADVICE}" if others else ""
        raise InputError(f"{folder} has no {WEIGHTS}{held}")
    regular(path)
    return path


def _check_sizes(settings: dict[str, Any], tensors: int, source: str | Path) -> None:
    """Refuse sizes that would take long to build, before anything is built."""
    layers, widths = settings.get("layers_per_block", 2), settings.get("block_out_channels", (1,))
    check_numbers(settings, source)
    if type(layers) is not int or not isinstance(widths, list | tuple):
        raise InputError(f"{source} has layers_per_block {layers}, block_out_channels {widths}")
    if max(layers, 1) * len(widths) > tensors:
        raise InputError(
            f"{source} asks for {len(widths)} blocks of {layers} layers, the file of weights has "
            f"{tensors} tensors"
        )


def check_numbers(settings: dict[str, Any], source: str | Path) -> None:
    """Refuse a config with numbers that no network has."""
    numbers = [n for v in settings.values() for n in (v if isinstance(v, list) else [v])]
    for number in numbers:
        if isinstance(number, int | float) and not -LARGEST <= number <= LARGEST:
            raise InputError(f"{source} asks for a size of {number}")


def _renamed(shapes: dict[str, Any], network: nn.Module) -> dict[str, str]:
    """The network's own name of every tensor in a file."""
    own = network.state_dict().keys()

    def name(theirs: str) -> str:
        parts = [OLD_NAMES.get(part, part) for part in theirs.split(".")]
        return theirs if theirs in own else ".".join(parts)

    return {theirs: name(theirs) for theirs in shapes}


def _compare(shapes: dict[str, tuple[int, ...]], network: nn.Module) -> None:
    """Refuse tensors that are missing, not known, or of another shape."""
    expected = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    tied = _tied(shapes, network)
    for what, names in (
        ("are missing", expected.keys() - shapes.keys() - tied.keys()),
        ("are unexpected", shapes.keys() - expected.keys()),
        ("have other shapes than the config says", _differing(shapes, expected)),
    ):
        if names:
            some = ", ".join(sorted(names)[:3]) + (" …" if len(names) > 3 else "")
            raise InputError(f"{len(names)} of its tensors {what}: {some}")


def _differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {name for name in one.keys() & other.keys() if one[name] != other[name]}


def _tied(known: dict[str, Any], network: nn.Module) -> dict[str, Any]:
    """What belongs under names that are not known, but mean a tensor that has a known one too."""
    tensors = network.state_dict(keep_vars=True)
    by_tensor = {id(tensors[name]): value for name, value in known.items() if name in tensors}
    left = {name: id(tensor) for name, tensor in tensors.items() if name not in known}
    return {name: by_tensor[one] for name, one in left.items() if one in by_tensor}


def _floats(tensor: Tensor, name: str) -> Tensor:
    if not tensor.is_floating_point():
        raise InputError(f"{name} holds {tensor.dtype} values")
    if not tensor.isfinite().all():
        raise InputError(f"{name} is not finite everywhere")
    return tensor.float()
