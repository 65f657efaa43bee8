"""Pipelines, in memory and in folders, and what they become: denoisers of images or of latents."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.models import calls, folders, weights
from dpdiff.models.conditioned import Conditioned
from dpdiff.models.conditions import Conditions
from dpdiff.models.kinds import Kind, Parts
from dpdiff.models.pipelines import KINDS
from dpdiff.runtime import documents


def from_pipeline(pipeline: Any, given: Conditions, device: str | torch.device | None) -> Denoiser:
    """The denoiser of a pipeline in memory, whose network is used as it is if it can be."""
    source = type(pipeline).__name__
    if source in KINDS:
        parts = parts_of(pipeline)
        if device is not None and torch.device(device) != parts.network.device:
            parts = parts._replace(network=copy.deepcopy(parts.network).to(device))
        return KINDS[source].denoiser(parts, given)
    if not (hasattr(pipeline, "unet") and hasattr(pipeline, "scheduler")):
        raise InputError(f"a model is a name, a path or a pipeline; got a {source}")
    network = pipeline.unet
    folders.refuse_parts(set(getattr(pipeline, "components", ())), source, KINDS)
    if type(network).__name__ != "UNet2DModel":
        raise InputError(
            f"the unet of the {source} is a {type(network).__name__}; only UNet2DModel is read "
            f"there. Wrap any other network in dpdiff.Denoiser; known pipelines: {', '.join(KINDS)}"
        )
    reading = folders.read_scheduler(scheduler_config(pipeline.scheduler), source)
    kinds = {weight.dtype for weight in network.parameters()}
    if kinds != {torch.float32} or device is not None:
        network = copy.deepcopy(network).to(device=device, dtype=torch.float32)
    return of_images(network, reading, source, 256, given)


def parts_of(pipeline: Any) -> Parts:
    """What is used of a known pipeline in memory."""
    kind = KINDS[type(pipeline).__name__]
    return Parts(
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
    name = folders.pipeline_name(folder)
    if name in KINDS:
        kind = KINDS[name]
        network = _network(folder / kind.part, kind).to(device or "cpu")
        scheduler = documents.read(folder / "scheduler" / folders.SCHEDULER)
        path = folder / kind.vae / weights.CONFIG
        vae = documents.read(path) if path.exists() else {}
        return kind.denoiser(Parts(name, network, scheduler, vae), given)
    unet, scheduler = folders.layout(folder, KINDS)
    extra = folders.read_extra(folder)
    reading = folders.read_scheduler(documents.read(scheduler / folders.SCHEDULER), folder)
    network = weights.read_network(unet).to(device or "cpu")
    return of_images(network, reading, folder, extra.get("levels", 256), given)


def _network(folder: Path, kind: Kind) -> torch.nn.Module:
    """A network of any class of diffusers, in the dtype of its file, whole or not at all."""
    if kind.network_class == "UNet2DModel":
        return weights.read_network(folder)
    config = documents.read(folder / weights.CONFIG)
    if config.get("_class_name") != kind.network_class:
        raise InputError(
            f"{folder} holds a {config.get('_class_name')}, expected a {kind.network_class}"
        )
    weights.check_numbers(config, folder)
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
    reading: folders.Reading,
    source: Any,
    levels: int | None,
    given: Conditions,
) -> Denoiser:
    """The denoiser of images that a ``UNet2DModel`` is, for one class if it knows classes."""
    shape = weights.image_shape(network.config, source)
    outputs = shape[0] * (2 if reading.variance == "learned_range" else 1)
    if network.config.out_channels != outputs:
        raise InputError(
            f"{source}: with the variance {reading.variance} the network gives {outputs} channels "
            f"for {shape[0]}; its config says {network.config.out_channels}"
        )
    asked, noise = network, reading.noise
    if reading.predicts == "score":  # as the score networks of Song et al.: images in [0, 1]
        asked, noise = calls.Halves(network), noise.scaled(0.5)
    classes = weights.classes(network.config, source)
    given.check(("class_label",) if classes else (), source)
    if classes:
        asked = Conditioned(asked, class_labels=given.label(classes, source))
    return Denoiser(
        asked,
        noise,
        predicts=reading.predicts,
        variance=reading.variance,
        shape=shape,
        levels=levels,
        clip=reading.clip,
        sigma_data=reading.sigma_data,
    )
