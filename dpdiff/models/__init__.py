"""Models on disk, on the hub and in memory: those of diffusers, the bundled ones among them."""

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
from dpdiff.diffusers import folders
from dpdiff.diffusers.folders import from_folder, from_pipeline
from dpdiff.diffusers.pipelines import conditions_of
from dpdiff.errors import InputError
from dpdiff.runtime import formats
from dpdiff.runtime.files import replacing
from dpdiff.scheduler_table import PREDICTION_TYPES, their_word

BUNDLED = ("digits", "fashion", "fashion-short", "fashion-linear")
HOME = Path(__file__).parent
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FETCHED = ["*.json", "*diffusion_pytorch_model*.safetensors"]  # not those of text encoders
UNUSED = ["*.fp16.safetensors", "*.non_ema.safetensors"]
CHECKPOINTS = (".pt", ".safetensors")
PICKLES = (".pth", ".ckpt", ".bin", ".pkl")


def load(
    model: Any,
    *,
    flags: Mapping[str, Any] | str | Path | None = None,
    key: str | None = None,
    device: str | torch.device | None = None,
    **conditions: Any,
) -> Denoiser:
    """Load a denoiser.

    Parameters
    ----------
    model : str, Path or pipeline
        ``"digits"``, ``"fashion"``, ``"fashion-short"`` or ``"fashion-linear"``, the bundled
        models; or a diffusers folder, either a pipeline, or a ``UNet2DModel`` with
        ``scheduler_config.json`` beside its config; or the id of such a folder on the Hugging
        Face hub, ``"owner/name"``, of which only configs and safetensors are fetched, and none of
        text encoders; or a ``.pt`` or ``.safetensors`` checkpoint of improved-diffusion or
        guided-diffusion, with its flags; or a pipeline of diffusers in memory. Pipelines are those
        of DDPM, DDIM and ScoreSdeVe, LDM, DiT, Stable Diffusion, its XL and 3, and Flux.
    flags : mapping, str or Path, optional
        What a ``.pt`` checkpoint was trained with: a mapping, a JSON file, a flag string as in
        ``"--image_size 64 --num_channels 128 …"``, or a preset for a published model:
        ``cifar10_hybrid``, ``cifar10_vlb``, ``imagenet64_hybrid``, ``imagenet64_vlb``,
        ``lsun_bedroom``.
    key : str, optional
        Where in a checkpoint the weights are, if it holds more: see ``dpdiff.models.read_weights``.
    device : str or torch.device, optional
        Where the weights go; by default the CPU, and where it is for a pipeline in memory.
    **conditions
        What a conditional model is asked for: see :class:`dpdiff.diffusers.pipelines.Conditions`.
        One class, one text and one guidance scale are one model, with schedules of its own.

    Returns
    -------
    Denoiser
        Of images, in float32: a pipeline's own network is used if it is so already, else a copy.
        Noise schedule, prediction type, variance type and ``clip_sample`` are the scheduler's;
        the data's levels are 256 unless ``dpdiff.json`` in the folder says more. Or of latents,
        which are continuous, in the network's own dtype: :func:`dpdiff.latents` makes them of
        images. One with guidance is for samples; its likelihood is refused.

    Raises
    ------
    InputError
        If there is no such model, the folder describes one that cannot be a denoiser here, or
        conditions are missing or are not for it.

    Examples
    --------
    >>> denoiser = load("digits")
    >>> denoiser.shape, denoiser.levels, denoiser.noise.T
    ((1, 8, 8), 17, 4000)
    """
    given = conditions_of(conditions)
    if not isinstance(model, str | Path):
        return from_pipeline(model, given, device)
    if Path(model).suffix in CHECKPOINTS and not os.path.isdir(model):
        from dpdiff.models.improved_diffusion import load_checkpoint

        given.check((), model)
        return load_checkpoint(model, flags, key=key, device=device or "cpu")
    if flags is not None or key is not None:
        raise InputError(f"flags and key describe checkpoints; the model {str(model)!r} is none")
    return from_folder(_folder(model), given, device)


def read_weights(path: str | Path, key: str | None = None) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint of a network of your own, for its ``load_state_dict``.

    Parameters
    ----------
    path : str or Path
        What ``torch.save`` wrote, of which no code is run, or ``.safetensors``.
    key : str, optional
        What the names of the weights begin with: ``ema.ema_model.model`` in the checkpoints of
        lucidrains' denoising-diffusion-pytorch, ``ema`` in DiT's, ``model_ema`` in k-diffusion's.

    Raises
    ------
    InputError
        If the file is damaged or holds more than tensors and numbers; or several state dicts, of
        which ``key`` names none: their names are told.

    Examples
    --------
    >>> network.load_state_dict(read_weights("model-20.pt", "ema.ema_model.model"))
    ... # doctest: +SKIP
    """
    try:
        return formats.read_state_dict(path, key)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


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
    kind = "learned_range" if denoiser.outputs_variance else denoiser.rule.variance_type
    scheduler = DDPMScheduler(
        num_train_timesteps=denoiser.noise.T,
        trained_betas=denoiser.noise.betas.tolist(),
        prediction_type=their_word(PREDICTION_TYPES["betas"], denoiser.predicts),
        variance_type=kind,
        clip_sample=denoiser.clip,
    )
    network = copy.deepcopy(denoiser.network)
    for weight in network.parameters():
        weight.data = weight.data.half().contiguous()
    DDPMPipeline(unet=network, scheduler=scheduler).save_pretrained(folder)
    folder = Path(folder)
    names = (
        f"unet/{folders.CONFIG}",
        f"unet/{folders.WEIGHTS}",
        f"scheduler/{folders.SCHEDULER_CONFIG}",
    )
    digests = {name: folders.file_digest(folder / name) for name in names}
    with replacing(folder / folders.OWN_FILE) as file:
        extra = {"levels": denoiser.levels, **about, "files": digests}
        file.write(formats.signed_json(extra).encode())


def _folder(model: str | Path) -> Path:
    folder = HOME / model if model in BUNDLED else Path(model)
    if os.path.isdir(folder):  # False also where a path is too long to be one
        return folder
    if folder.suffix == ".gguf":
        raise InputError(
            f"{model} holds quantised weights of one part of a pipeline: let diffusers put them in "
            "one, from_single_file(…, quantization_config=GGUFQuantizationConfig(…)), and load "
            "that pipeline"
        )
    if folder.suffix in PICKLES:
        raise InputError(
            f"{model}: files of this kind are programs, which are not run here. A state dict of "
            "improved-diffusion or guided-diffusion is read as .pt, with flags: rename it; a whole "
            "pipeline in one file, load with diffusers' from_single_file, and then that; any "
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
        return Path(snapshot_download(name, allow_patterns=FETCHED, ignore_patterns=UNUSED))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise InputError(
            f"{name!r} is no folder here, and cannot be fetched from the Hugging Face hub: {error}"
        ) from error
