"""Folders and pipelines of diffusers as denoisers; weights are read whole, or not at all."""

from __future__ import annotations

import copy
import hashlib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpdiff.conditioned import Conditioned
from dpdiff.denoiser import Denoiser
from dpdiff.diffusers import configs, pipelines
from dpdiff.diffusers.pipelines import PIPELINES, Conditions, Pipeline, PipelineParts
from dpdiff.errors import InputError
from dpdiff.runtime import formats
from dpdiff.runtime.files import regular

OWN_FILE = "dpdiff.json"
INDEX = "model_index.json"
SCHEDULER_CONFIG = "scheduler_config.json"
PARTS = {"unet", "scheduler"}


def pipeline_name(folder: Path) -> str | None:
    """The class of the pipeline in a folder, if it tells one."""
    index = formats.read_json(folder / INDEX) if (folder / INDEX).exists() else {}
    name = index.get("_class_name")
    return name if isinstance(name, str) else None


def layout(folder: Path, known: Iterable[str]) -> tuple[Path, Path]:
    """Where network and scheduler config lie: in rooms of a pipeline, or side by side.

    Raises
    ------
    InputError
        If the folder holds more than these two, as those of other pipelines do.
    """
    index = formats.read_json(folder / INDEX) if (folder / INDEX).exists() else {}
    named = {name for name, part in index.items() if isinstance(part, list) and any(part)}
    rooms = {path.parent.name for path in folder.glob("*/config.json")}
    rooms -= {name for name in rooms if name.startswith("unet_")}  # averaged weights, as unet_ema
    refuse_parts(named | rooms, folder, known)
    if (folder / "unet").is_dir():
        return folder / "unet", folder / "scheduler"
    return folder, folder


def refuse_parts(names: set[str], source: Any, known: Iterable[str]) -> None:
    """Refuse a pipeline that is more than a U-Net on images and its scheduler."""
    others = sorted(names - PARTS)
    if others:
        raise InputError(
            f"{source} has {', '.join(others)} beside its unet, and is no pipeline that is known "
            f"here ({', '.join(known)}): hold what its network is conditioned on fixed, "
            "dpdiff.Conditioned(network, …), and wrap that in dpdiff.Denoiser"
        )


def read_extra(folder: Path) -> dict[str, Any]:
    """What ``dpdiff.json`` says of a model; of one that was saved here, all files are checked.

    Raises
    ------
    InputError
        If the file, or one whose digest it holds, is damaged.
    """
    path = folder / OWN_FILE
    if not path.exists():
        return {}
    extra = formats.read_json(path)
    if formats.DIGEST_NAME in extra:
        extra = formats.check_digest(extra, path)
    if "levels" not in extra:
        raise InputError(f"{path} does not say the data's levels: null or a number, such as 256")
    levels = extra["levels"]
    if levels is not None and (type(levels) is not int or not 2 <= levels <= 2**16):
        raise InputError(f"{path}: levels is null or an integer from 2 to 65536, got {levels!r}")
    files = extra.get("files", {})
    if not isinstance(files, dict):
        raise InputError(f"{path}: files are names with their digests, got {files!r}")
    for name, digest in files.items():
        if file_digest(folder / name) != digest:
            raise InputError(
                f"{folder / name} is damaged, or was changed after dpdiff wrote it: fetch or save "
                f"the model anew, or remove {OWN_FILE} if the change was meant"
            )
    return extra


def file_digest(path: Path) -> str:
    """SHA-256 of an ordinary file."""
    regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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

    config = formats.read_json(folder / CONFIG)
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


def from_pipeline(pipeline: Any, given: Conditions, device: str | torch.device | None) -> Denoiser:
    """The denoiser of a pipeline in memory, whose network is used as it is if it can be."""
    source = type(pipeline).__name__
    if source in PIPELINES:
        parts = parts_of(pipeline)
        if device is not None and torch.device(device) != parts.network.device:
            parts = parts._replace(network=copy.deepcopy(parts.network).to(device))
        return PIPELINES[source].denoiser(parts, given)
    if not (hasattr(pipeline, "unet") and hasattr(pipeline, "scheduler")):
        raise InputError(f"a model is a name, a path or a pipeline; got a {source}")
    network = pipeline.unet
    refuse_parts(set(getattr(pipeline, "components", ())), source, PIPELINES)
    if type(network).__name__ != "UNet2DModel":
        raise InputError(
            f"the unet of the {source} is a {type(network).__name__}; only UNet2DModel is read "
            "there. Wrap any other network in dpdiff.Denoiser; known pipelines: "
            + ", ".join(PIPELINES)
        )
    settings = configs.read_scheduler(scheduler_config(pipeline.scheduler), source)
    kinds = {weight.dtype for weight in network.parameters()}
    if kinds != {torch.float32} or device is not None:
        network = copy.deepcopy(network).to(device=device, dtype=torch.float32)
    return of_images(network, settings, source, 256, given)


def parts_of(pipeline: Any) -> PipelineParts:
    """What is used of a known pipeline in memory."""
    kind = PIPELINES[type(pipeline).__name__]
    return PipelineParts(
        type(pipeline).__name__,
        getattr(pipeline, kind.part),
        scheduler_config(pipeline.scheduler),
        vae_config(getattr(pipeline, kind.vae, None)),
        pipeline,
    )


def scheduler_config(scheduler: Any) -> dict[str, Any]:
    """Its config and class; of one of ours, the class that it took the place of."""
    config = dict(scheduler.config)
    return config | {"_class_name": config.get("source") or type(scheduler).__name__}


def vae_config(vae: Any) -> Mapping[str, Any]:
    return {} if vae is None else vae.config


def from_folder(folder: Path, given: Conditions, device: str | torch.device | None) -> Denoiser:
    """The denoiser in a folder, that of a pipeline or of a network with its scheduler's config."""
    name = pipeline_name(folder)
    if name in PIPELINES:
        kind = PIPELINES[name]
        network = _network(folder / kind.part, kind).to(device or "cpu")
        scheduler = formats.read_json(folder / "scheduler" / SCHEDULER_CONFIG)
        path = folder / kind.vae / CONFIG
        vae = formats.read_json(path) if path.exists() else {}
        return kind.denoiser(PipelineParts(name, network, scheduler, vae), given)
    unet, scheduler = layout(folder, PIPELINES)
    extra = read_extra(folder)
    settings = configs.read_scheduler(formats.read_json(scheduler / SCHEDULER_CONFIG), folder)
    network = read_network(unet).to(device or "cpu")
    return of_images(network, settings, folder, extra.get("levels", 256), given)


def _network(folder: Path, kind: Pipeline) -> torch.nn.Module:
    """A network of any class of diffusers, in the dtype of its file, whole or not at all."""
    if kind.network_class == "UNet2DModel":
        return read_network(folder)
    config = formats.read_json(folder / CONFIG)
    if config.get("_class_name") != kind.network_class:
        raise InputError(
            f"{folder} holds a {config.get('_class_name')}, expected a {kind.network_class}"
        )
    check_numbers(config, folder)
    network = getattr(importlib.import_module("diffusers"), kind.network_class)
    try:
        network, about = network.from_pretrained(
            folder, use_safetensors=True, torch_dtype="auto", output_loading_info=True
        )
    except Exception as error:  # a damaged file leads its reader to errors of any kind
        raise InputError(f"cannot load the network in {folder}: {error}") from error
    wrong = [name for names in about.values() for name in names]
    if wrong:
        raise InputError(f"cannot load the network in {folder}: tensors do not fit: {wrong[:3]}")
    return network.eval()


def of_images(
    network: torch.nn.Module,
    settings: configs.SchedulerSettings,
    source: Any,
    levels: int | None,
    given: Conditions,
) -> Denoiser:
    """The denoiser of images that a ``UNet2DModel`` is, for one class if it knows classes."""
    shape = image_shape(network.config, source)
    outputs = shape[0] * (2 if settings.variance == "learned_range" else 1)
    if network.config.out_channels != outputs:
        raise InputError(
            f"{source}: with the variance {settings.variance} the network gives {outputs} channels "
            f"for {shape[0]}; its config says {network.config.out_channels}"
        )
    asked, noise = network, settings.noise
    if settings.predicts == "score":  # as the score networks of Song et al.: images in [0, 1]
        asked, noise = pipelines.Halves(network), noise.scaled(0.5)
    count = classes(network.config, source)
    given.check(("class_label",) if count else (), source)
    if count:
        asked = Conditioned(asked, class_labels=given.label(count, source))
    return Denoiser(
        asked,
        noise,
        predicts=settings.predicts,
        variance=settings.variance,
        shape=shape,
        levels=levels,
        clip=settings.clip,
        sigma_data=settings.sigma_data,
    )
