"""Folders and pipelines of diffusers as denoisers; weights are read whole, or not at all."""

from __future__ import annotations

import ast
import copy
import hashlib
import importlib
import inspect
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpdiff import scheduler_table
from dpdiff.conditioned import Conditioned, time_argument
from dpdiff.denoiser import Denoiser
from dpdiff.diffusers import configs, pipelines
from dpdiff.diffusers.pipelines import PIPELINES, Conditions, PipelineParts
from dpdiff.errors import InputError
from dpdiff.runtime import formats
from dpdiff.runtime.files import file_status
from dpdiff.variance import rule_named

OWN_FILE = "dpdiff.json"
INDEX = "model_index.json"
SCHEDULER_CONFIG = "scheduler_config.json"
CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
PARTS = {"unet", "scheduler"}
LARGEST = 2**15  # of all sizes in a config: pixels, channels, layers
# The same layers of attention, as diffusers called them until 2023.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# What a network that knows flow times 0 … 1 is told.
TO_ONE = re.compile(r"(torch.tensor\(\[)?\w+ / (1000|self.scheduler.config.num_train_timesteps)")
ADVICE = (
    "convert them once, where they are trusted, with diffusers: "
    "UNet2DModel.from_pretrained(folder).save_pretrained(folder, safe_serialization=True)"
)


def from_folder(folder: Path, given: Conditions, device: str | torch.device | None) -> Denoiser:
    """The denoiser in a folder, that of a pipeline or of a network with its scheduler's config."""
    index = read_config(folder / INDEX) if (folder / INDEX).exists() else {}
    name = index.get("_class_name")
    if name in PIPELINES:
        about = PIPELINES[name]
        network = _network(folder / about.part, about.network_class).to(device or "cpu")
        scheduler = read_config(folder / "scheduler" / SCHEDULER_CONFIG)
        path = folder / about.vae / CONFIG
        vae = read_config(path) if path.exists() else {}
        return about.denoiser(PipelineParts(name, network, scheduler, vae), given)
    unet, scheduler = layout(folder, index)
    extra = read_extra(folder)
    settings = configs.read_scheduler(read_config(scheduler / SCHEDULER_CONFIG), folder)
    network = read_network(unet).to(device or "cpu")
    return of_images(network, settings, folder, extra.get("levels", 256), given)


def from_pipeline(pipeline: Any, given: Conditions, device: str | torch.device | None) -> Denoiser:
    """The denoiser of a pipeline in memory, whose network is used as it is if it can be."""
    source = type(pipeline).__name__
    if not hasattr(pipeline, "scheduler"):
        raise InputError(f"a model is a name, a path or a pipeline; got a {source}")
    config = scheduler_config(pipeline.scheduler)
    if source in PIPELINES:
        about = PIPELINES[source]
        network = getattr(pipeline, about.part)
        if device is not None and torch.device(device) != network.device:
            network = copy.deepcopy(network).to(device)
        vae = getattr(getattr(pipeline, about.vae, None), "config", {})
        return about.denoiser(PipelineParts(source, network, config, vae, pipeline), given)
    network = getattr(pipeline, "unet", None)
    components = getattr(pipeline, "components", {"unet": network})
    if type(network).__name__ != "UNet2DModel" or components.keys() - PARTS:
        parts = {name: type(part) for name, part in components.items() if part is not None}
        raise not_known(source, type(pipeline), parts, config)
    settings = configs.read_scheduler(config, source)
    if device is not None or {w.dtype for w in network.parameters()} != {torch.float32}:
        network = copy.deepcopy(network).to(device=device, dtype=torch.float32)
    return of_images(network, settings, source, 256, given)


def scheduler_config(scheduler: Any) -> dict[str, Any]:
    """Its config and class; of one of ours, the class that it took the place of."""
    config = dict(scheduler.config)
    return config | {"_class_name": config.get("source") or type(scheduler).__name__}


def of_images(
    network: torch.nn.Module,
    settings: configs.SchedulerSettings,
    source: Any,
    levels: int | None,
    given: Conditions,
) -> Denoiser:
    """The denoiser of images that a ``UNet2DModel`` is, for one class if it knows classes."""
    shape = image_shape(network.config, source)
    outputs = shape[0] * (2 if rule_named(settings.variance).needs_output else 1)
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


def read_config(path: Path) -> dict[str, Any]:
    """A config as diffusers writes and reads them: infinities and repeats are no errors."""
    return scheduler_table.config_of(formats.read_json(path, strict=False))


def layout(folder: Path, index: Mapping[str, Any]) -> tuple[Path, Path]:
    """Where network and scheduler config lie: in rooms of a pipeline, or side by side.

    Raises
    ------
    InputError
        If the folder holds more than these two, as those of other pipelines do.
    """
    named = {n: part[-1] for n, part in index.items() if isinstance(part, list) and any(part)}
    rooms = dict.fromkeys(path.parent.name for path in folder.glob("*/config.json"))
    averaged = {name for name in rooms if name.startswith("unet_")}  # as unet_ema
    names = (rooms.keys() | named.keys()) - averaged
    if names - PARTS:
        parts = {name: _of_diffusers(named.get(name)) for name in names}
        path = folder / "scheduler" / SCHEDULER_CONFIG
        config = read_config(path) if path.exists() else {}
        raise not_known(folder, _of_diffusers(index.get("_class_name")), parts, config)
    if (folder / "unet").is_dir():
        return folder / "unet", folder / "scheduler"
    return folder, folder


def _of_diffusers(name: Any) -> Any:
    return getattr(importlib.import_module("diffusers"), str(name), None)


def not_known(
    source: Any, pipeline: Any, parts: Mapping[str, Any], config: Mapping[str, Any]
) -> InputError:
    """The refusal of a pipeline whose call is not known, and the lines that go round it.

    Parameters
    ----------
    source : str or Path
        What was to be loaded.
    pipeline : type or None
        Its class, whose own call tells what its network is called with.
    parts : mapping of str to type or None
        Its components and their classes.
    config : mapping
        Its scheduler's.
    """
    timed = [name for name, part in parts.items() if part and time_argument(part)]
    usual = [name for name in ("unet", "transformer", "prior") if name in parts]
    network = next(iter([name for name in usual if name in timed] + timed + usual), "unet")
    others = ", ".join(sorted(parts.keys() - {network, "scheduler"}))
    conditions, told = call_of(pipeline, network, parts.get(network))
    try:
        settings = configs.read_scheduler(config, source)
        noise, output = "dpdiff.NoiseSchedule.from_diffusers(pipe.scheduler)", settings.predicts
        if settings.noise.is_flow and TO_ONE.match(told):
            shift = scheduler_table.flow_shift(scheduler_table.described(config)[1])
            noise, told = f"dpdiff.NoiseSchedule.flow(1000, {shift}, time_scale=1)", ""
    except InputError:
        noise, output = "dpdiff.NoiseSchedule(f, g, time_inputs=…)", "…"
    held = "".join(f", {name}=…" for name in conditions)
    known, beside = ", ".join(PIPELINES), others or "nothing"
    return InputError(
        f"{source} has {beside} beside its {network}, and is none of the known pipelines: "
        f"{known}. In memory (pipe), hold what its network is conditioned on fixed, for one "
        "example and without a batch dimension, and wrap that: network = "
        f"dpdiff.Conditioned(pipe.{network}{held}); denoiser = dpdiff.Denoiser(network, {noise}, "
        f'predicts="{output}", variance="small", shape=…, levels=None)'
        + (f". The pipeline tells its network {told}: so must the time inputs" if told else "")
    )


def call_of(pipeline: Any, network: str, part: Any) -> tuple[list[str], str]:
    """The arguments with which a pipeline calls its network, and the time where it is computed."""
    parameters = inspect.signature(part.forward).parameters if part else {}
    order, time = [name for name in parameters if name != "self"], time_argument(part)
    ours = {*order[:1], time, "hidden_states", "sample", "return_dict"}
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(pipeline.__call__)))
    except (AttributeError, OSError, TypeError, SyntaxError):
        tree = ast.Module([], [])
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"self.{network}":
            given = dict(zip(order, node.args, strict=False))
            given |= {argument.arg: argument.value for argument in node.keywords if argument.arg}
            names = [n for n in given if n not in ours and not n.endswith("attention_kwargs")]
            return names, _computed(given.get(time), tree)
    empty, usual = inspect.Parameter.empty, inspect.Parameter.POSITIONAL_OR_KEYWORD
    required = [
        name for name in order if (p := parameters[name]).default is empty and p.kind is usual
    ]
    return [name for name in required if name not in ours], ""


def _computed(value: ast.AST | None, tree: ast.AST, depth: int = 3) -> str:
    """The text of a value, or of what its variable was made of, if there is arithmetic in it."""
    if value is None or any(isinstance(node, ast.BinOp) for node in ast.walk(value)):
        return ast.unparse(value) if value else ""
    while isinstance(value, ast.Call | ast.Attribute | ast.Subscript):
        value = value.func if isinstance(value, ast.Call) else value.value
    if not isinstance(value, ast.Name) or not depth:
        return ""
    made = (
        _computed(node.value, tree, depth - 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == value.id
    )
    return ([text for text in made if text] or [""])[-1]


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
    file_status(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _network(folder: Path, kind: str) -> torch.nn.Module:
    """A network of a class of diffusers, in the dtype of its file, whole or not at all."""
    if kind == "UNet2DModel":
        return read_network(folder)
    config = read_config(folder / CONFIG)
    if config.get("_class_name") != kind:
        raise InputError(f"{folder} holds a {config.get('_class_name')}, expected a {kind}")
    check_numbers(config, folder)
    network = getattr(importlib.import_module("diffusers"), kind)
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

    config = read_config(folder / CONFIG)
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


def _weights(folder: Path) -> Path:
    path = folder / WEIGHTS
    if not path.exists():
        others = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pth", ".ckpt"))
        if (folder / f"{WEIGHTS}.index.json").exists():
            others = ["weights in several files"]
        held = f"; it has {', '.join(others)}: {ADVICE}" if others else ""
        raise InputError(f"{folder} has no {WEIGHTS}{held}")
    file_status(path)
    return path


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
    known = inspect.signature(UNet2DModel).parameters  # diffusers leaves out the others too
    settings = {name: value for name, value in config.items() if name in known}
    _check_sizes(settings, tensors, source)
    try:
        with torch.device("meta"):
            return UNet2DModel(**settings)
    except Exception as error:  # of any kind: diffusers hardly checks what it is given
        raise InputError(f"{source} describes no network: {error}") from error


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
