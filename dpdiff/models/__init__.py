"""Models on disk and on the hub: diffusers folders, the bundled ones among them."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dpdiff.costs.costs import Costs
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.models import folders, weights
from dpdiff.models.vocabulary import PREDICTION_TYPES, VARIANCE_TYPES, their_word
from dpdiff.runtime import documents
from dpdiff.runtime.files import replacing

BUNDLED = ("digits", "fashion", "fashion-linear")
HOME = Path(__file__).parent
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PICKLES = (".pth", ".ckpt", ".bin", ".pkl")


def load(
    model: Any,
    *,
    flags: Mapping[str, Any] | str | Path | None = None,
    device: str | torch.device | None = None,
) -> Denoiser:
    """Load a denoiser.

    Parameters
    ----------
    model : str, Path or pipeline
        ``"digits"`` or ``"fashion"``, the bundled models; or a diffusers folder, either a
        pipeline with ``unet/`` and ``scheduler/``, or a ``UNet2DModel`` with
        ``scheduler_config.json`` beside its config; or the id of such a folder on the Hugging
        Face hub, ``"owner/name"``, of which only configs and safetensors are fetched; or a
        ``.pt`` checkpoint of improved-diffusion or guided-diffusion, with its flags; or a
        pipeline of diffusers in memory, whose ``unet`` and ``scheduler`` are used.
    flags : mapping, str or Path, optional
        What a ``.pt`` checkpoint was trained with: a mapping, a JSON file, a flag string as in
        ``"--image_size 64 --num_channels 128 …"``, or a preset for a published model:
        ``cifar10_hybrid``, ``cifar10_vlb``, ``imagenet64_hybrid``, ``imagenet64_vlb``,
        ``lsun_bedroom``.
    device : str or torch.device, optional
        Where the weights go; by default the CPU, and where it is for a pipeline in memory.

    Returns
    -------
    Denoiser
        In float32. A pipeline's own network is used if it is so already, else a copy. Betas,
        prediction type, variance type and ``clip_sample`` are the scheduler's; the data's levels
        are 256 unless ``dpdiff.json`` in the folder says more.

    Raises
    ------
    InputError
        If there is no such model, or the folder describes one that cannot be a denoiser here.

    Examples
    --------
    >>> denoiser = load("digits")
    >>> denoiser.shape, denoiser.levels, denoiser.noise.T
    ((1, 8, 8), 17, 4000)
    """
    if hasattr(model, "unet") and hasattr(model, "scheduler"):
        return _from_pipeline(model, device)
    if not isinstance(model, str | Path):
        raise InputError(f"a model is a name, a path or a pipeline; got a {type(model).__name__}")
    if Path(model).suffix == ".pt":
        from dpdiff.models.improved_diffusion import load_checkpoint

        return load_checkpoint(model, flags, device=device or "cpu")
    if flags is not None:
        raise InputError(f"flags describe .pt checkpoints; the model {str(model)!r} is none")
    folder = _folder(model)
    unet, scheduler = folders.layout(folder)
    extra = folders.read_extra(folder)
    config = documents.read(scheduler / folders.SCHEDULER)
    reading = folders.read_scheduler(config, folder)
    network = weights.read_network(unet).to(device or "cpu")
    return _denoiser(network, reading, folder, extra.get("levels", 256))


def _from_pipeline(pipeline: Any, device: str | torch.device | None) -> Denoiser:
    from diffusers import UNet2DModel

    source, network = type(pipeline).__name__, pipeline.unet
    folders.refuse_parts(set(getattr(pipeline, "components", ())), source)
    if not isinstance(network, UNet2DModel):
        raise InputError(
            f"the unet of the {source} is a {type(network).__name__}; only UNet2DModel is read: "
            "wrap any other network in dpdiff.Denoiser"
        )
    weights.refuse_conditional(network.config, source)
    scheduler = pipeline.scheduler
    config = dict(scheduler.config) | {"_class_name": type(scheduler).__name__}
    reading = folders.read_scheduler(config, source)
    kinds = {weight.dtype for weight in network.parameters()}
    if kinds != {torch.float32} or device is not None:
        network = copy.deepcopy(network).to(device=device, dtype=torch.float32)
    return _denoiser(network, reading, source, 256)


def _denoiser(
    network: torch.nn.Module, reading: folders.Reading, source: Any, levels: int | None
) -> Denoiser:
    shape = weights.image_shape(network.config, source)
    outputs = shape[0] * (2 if reading.variance == "learned_range" else 1)
    if network.config.out_channels != outputs:
        raise InputError(
            f"{source}: with the variance {reading.variance} the network gives {outputs} channels "
            f"for {shape[0]}; its config says {network.config.out_channels}"
        )
    return Denoiser(
        network,
        reading.noise,
        predicts=reading.predicts,
        variance=reading.variance,
        shape=shape,
        levels=levels,
        clip=reading.clip,
        sigma_data=reading.sigma_data,
    )


def load_costs(model: str | Path) -> Costs:
    """The costs that ship beside a model, measured on images that it was not fitted to.

    Parameters
    ----------
    model : str or Path
        A bundled name or a folder that holds ``costs.npz``.

    Returns
    -------
    Costs

    Raises
    ------
    InputError
        If the model does not exist or has no costs.

    Examples
    --------
    >>> load_costs("digits").T
    4000
    """
    return Costs.load(_folder(model) / "costs.npz")


def save(denoiser: Denoiser, folder: str | Path, **about: Any) -> None:
    """Write a diffusers pipeline folder: ``unet/``, ``scheduler/`` and ``model_index.json``.

    The weights are float16 safetensors. ``dpdiff.json`` beside them holds what diffusers has no
    word for: the data's levels, whatever else is to be told about the model, and the digests by
    which :func:`load` notices any change.

    Parameters
    ----------
    denoiser : Denoiser
        Its network must be a ``UNet2DModel``.
    folder : str or Path
        Made if it is missing.
    **about
        JSON values, stored in ``dpdiff.json``.
    """
    from diffusers import DDPMPipeline, DDPMScheduler

    if denoiser.noise.betas is None:
        raise InputError("only models whose noise schedule is made of betas are saved as folders")
    rule = "learned_range" if denoiser.outputs_variance else denoiser.variance
    scheduler = DDPMScheduler(
        num_train_timesteps=denoiser.noise.T,
        trained_betas=denoiser.noise.betas.tolist(),
        prediction_type=their_word(PREDICTION_TYPES, denoiser.predicts),
        variance_type=their_word(VARIANCE_TYPES, rule),
        clip_sample=denoiser.clip,
    )
    network = copy.deepcopy(denoiser.network)
    for weight in network.parameters():
        weight.data = weight.data.half().contiguous()
    DDPMPipeline(unet=network, scheduler=scheduler).save_pretrained(folder)
    folder = Path(folder)
    names = (f"unet/{weights.CONFIG}", f"unet/{weights.WEIGHTS}", f"scheduler/{folders.SCHEDULER}")
    digests = {name: folders.digest_of(folder / name) for name in names}
    with replacing(folder / folders.EXTRA) as file:
        extra = {"levels": denoiser.levels, **about, "files": digests}
        file.write(documents.signed(extra).encode())


def _folder(model: str | Path) -> Path:
    folder = HOME / model if model in BUNDLED else Path(model)
    if os.path.isdir(folder):  # False also where a path is too long to be one
        return folder
    if folder.suffix in PICKLES:
        raise InputError(
            f"{model}: files of this kind are programs, which are not run here. A state dict of "
            "improved-diffusion or guided-diffusion is read as .pt, with flags: rename it; any "
            "other, load with its own code and wrap the network in dpdiff.Denoiser"
        )
    if isinstance(model, str) and HUB_ID.fullmatch(model) and not os.path.isdir(folder.parent):
        return _from_hub(model)
    raise InputError(
        f"there is no model {str(model)!r}: give a bundled name ({', '.join(BUNDLED)}), "
        "a diffusers folder, a hub id (owner/name) or a .pt checkpoint"
    )


def _from_hub(name: str) -> Path:
    """The local copy of a hub folder, fetched if need be: configs and safetensors, no code."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise InputError(
            f"{name!r} is no folder here, and cannot be fetched from the Hugging Face hub: {error}"
        ) from error
