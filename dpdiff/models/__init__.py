"""Models on disk and on the hub: diffusers folders, the bundled ones among them."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dpdiff.costs.costs import Costs
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.models.vocabulary import PREDICTION_TYPES, VARIANCE_TYPES, their_word
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime.files import replacing

BUNDLED = ("digits", "fashion")
HOME = Path(__file__).parent
EXTRA = "dpdiff.json"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load(
    model: str | Path,
    *,
    flags: Mapping[str, Any] | str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Denoiser:
    """Load a denoiser.

    Parameters
    ----------
    model : str or Path
        ``"digits"`` or ``"fashion"``, the bundled models; or a diffusers folder, either a
        pipeline with ``unet/`` and ``scheduler/``, or a ``UNet2DModel`` with
        ``scheduler_config.json`` beside its config; or the id of such a folder on the Hugging
        Face hub, ``"owner/name"``, of which only configs and safetensors are fetched; or a
        ``.pt`` checkpoint of improved-diffusion or guided-diffusion, with its flags.
    flags : mapping, str or Path, optional
        What a ``.pt`` checkpoint was trained with: a mapping, a JSON file, a flag string as in
        ``"--image_size 64 --num_channels 128 …"``, or a preset for a published model:
        ``cifar10_hybrid``, ``cifar10_vlb``, ``imagenet64_hybrid``, ``imagenet64_vlb``,
        ``lsun_bedroom``.
    device : str or torch.device
        Where the weights go.

    Returns
    -------
    Denoiser
        In float32. Betas, prediction type, variance type and ``clip_sample`` are the
        scheduler's; the data's levels are 256 unless ``dpdiff.json`` in the folder says more.

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
    if Path(model).suffix == ".pt":
        from dpdiff.models.improved_diffusion import load_checkpoint

        return load_checkpoint(model, flags, device=device)
    if flags is not None:
        raise InputError(f"flags describe .pt checkpoints; the model {str(model)!r} is none")
    folder = _folder(model)
    unet, scheduler_folder = _layout(folder)
    scheduler = _json(scheduler_folder / "scheduler_config.json")
    extra = _json(folder / EXTRA) if (folder / EXTRA).exists() else {}
    prediction = scheduler.get("prediction_type", "epsilon")
    variance = scheduler.get("variance_type", "fixed_small")
    for name, value, known in (
        ("prediction_type", prediction, PREDICTION_TYPES),
        ("variance_type", variance, VARIANCE_TYPES),
    ):
        if value not in known:
            raise InputError(f"{folder}: {name} {value!r} is not one of {', '.join(known)}")
    clip = scheduler.get("clip_sample", True)
    odd = [name for name in ("thresholding", "rescale_betas_zero_snr") if scheduler.get(name)]
    if clip and scheduler.get("clip_sample_range", 1.0) != 1:
        odd.append("clip_sample_range")
    if odd:
        raise InputError(
            f"{folder}: its scheduler asks for {', '.join(odd)}, which a denoiser here does not "
            "have; if the model was trained without, set its value to the default in the config"
        )
    network = _network(unet).to(device)
    size, channels = network.config.sample_size, network.config.in_channels
    height, width = (size, size) if isinstance(size, int) else size
    return Denoiser(
        network,
        NoiseSchedule.from_diffusers(scheduler),
        predicts=PREDICTION_TYPES[prediction],
        variance=VARIANCE_TYPES[variance],
        shape=(channels, height, width),
        levels=extra.get("levels", 256),
        clip=clip,
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
    word for: the data's levels and whatever else is to be told about the model.

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

    rule = "learned_range" if denoiser.outputs_variance else denoiser.variance
    scheduler = DDPMScheduler(
        num_train_timesteps=denoiser.noise.T,
        trained_betas=denoiser.noise.betas.tolist(),
        prediction_type=their_word(PREDICTION_TYPES, denoiser.predicts),
        variance_type=their_word(VARIANCE_TYPES, rule),
        clip_sample=denoiser.clip,
    )
    network = copy.deepcopy(denoiser.network)
    for weights in network.parameters():
        weights.data = weights.data.half().contiguous()
    DDPMPipeline(unet=network, scheduler=scheduler).save_pretrained(folder)
    with replacing(Path(folder) / EXTRA) as file:
        file.write(json.dumps({"levels": denoiser.levels, **about}, indent=1).encode())


def _folder(model: str | Path) -> Path:
    folder = HOME / model if model in BUNDLED else Path(model)
    if folder.is_dir():
        return folder
    if isinstance(model, str) and HUB_ID.fullmatch(model) and not folder.parent.is_dir():
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


def _layout(folder: Path) -> tuple[Path, Path]:
    """Where network and scheduler config lie: in rooms of a pipeline, or side by side."""
    if (folder / "unet").is_dir():
        return folder / "unet", folder / "scheduler"
    return folder, folder


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _network(folder: Path) -> torch.nn.Module:
    from diffusers import UNet2DModel

    kind = _json(folder / "config.json").get("_class_name")
    if kind != "UNet2DModel":
        raise InputError(f"{folder} holds a {kind}; only UNet2DModel is read")
    try:
        return UNet2DModel.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"cannot load the network in {folder}: {error}") from error
