"""diffusers folders: which parts they have, and what their schedulers say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dpdiff.errors import InputError
from dpdiff.models.vocabulary import PREDICTION_TYPES, VARIANCE_TYPES
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import documents
from dpdiff.runtime.files import regular

EXTRA = "dpdiff.json"
INDEX = "model_index.json"
SCHEDULER = "scheduler_config.json"
PARTS = {"unet", "scheduler"}

#: Schedulers whose betas mean the variance-preserving process that is known here.
SCHEDULERS = (
    *("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DDPMParallelScheduler"),
    *("DDIMParallelScheduler", "DDIMInverseScheduler", "DEISMultistepScheduler"),
    *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"),
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"),
    *("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "LMSDiscreteScheduler"),
)
# Settings that change what a network's output means, and the values that do not.
NEUTRAL = {
    "thresholding": (False,),
    "rescale_betas_zero_snr": (False,),
    "use_flow_sigmas": (False,),
    "predict_epsilon": (True,),
    "timestep_type": ("discrete",),
}


class Reading(NamedTuple):
    """What a scheduler says of a network: its noise, and what its output means."""

    noise: NoiseSchedule
    predicts: str
    variance: str
    clip: bool


def layout(folder: Path) -> tuple[Path, Path]:
    """Where network and scheduler config lie: in rooms of a pipeline, or side by side.

    Raises
    ------
    InputError
        If the folder holds more than these two, as that of a latent diffusion model does.
    """
    index = documents.read(folder / INDEX) if (folder / INDEX).exists() else {}
    named = {name for name, part in index.items() if isinstance(part, list) and any(part)}
    rooms = {path.parent.name for path in folder.glob("*/config.json")}
    rooms -= {name for name in rooms if name.startswith("unet_")}  # averaged weights, as unet_ema
    refuse_parts(named | rooms, folder)
    if (folder / "unet").is_dir():
        return folder / "unet", folder / "scheduler"
    return folder, folder


def refuse_parts(names: set[str], source: Any) -> None:
    """Refuse a pipeline that is more than a U-Net on images and its scheduler."""
    others = sorted(names - PARTS)
    if others:
        raise InputError(
            f"{source} has {', '.join(others)} beside its unet: its network does not denoise "
            "images themselves (a latent diffusion model denoises codes), so bits/dim of images "
            "cannot be told"
        )


def read_scheduler(config: Mapping[str, Any], source: Any) -> Reading:
    """What a scheduler's config says.

    Parameters
    ----------
    config : mapping
        With the scheduler's class as ``_class_name``.
    source : str or Path
        Where it is from, for errors.

    Raises
    ------
    InputError
        If its class is not known here, or one of its settings means what is not.
    """
    kind = config.get("_class_name")
    if kind not in SCHEDULERS:
        raise InputError(
            f"{source}: the scheduler {kind} is not known, so its numbers have no meaning here; "
            f"known are {', '.join(SCHEDULERS)}"
        )
    prediction = config.get("prediction_type", "epsilon")
    variance = config.get("variance_type") or "fixed_small"
    for name, value, known in (
        ("prediction_type", prediction, PREDICTION_TYPES),
        ("variance_type", variance, VARIANCE_TYPES),
    ):
        if not isinstance(value, str) or value not in known:
            raise InputError(f"{source}: {name} {value!r} is not one of {', '.join(known)}")
    clip = config.get("clip_sample", True)
    if not isinstance(clip, bool):
        raise InputError(f"{source}: clip_sample is true or false, got {clip!r}")
    _refuse_odd(config, clip, source)
    try:
        noise = NoiseSchedule.from_diffusers(config)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    return Reading(noise, PREDICTION_TYPES[prediction], VARIANCE_TYPES[variance], clip)


def _refuse_odd(config: Mapping[str, Any], clip: bool, source: Any) -> None:
    odd = [k for k, values in NEUTRAL.items() if config.get(k) not in (None, *values)]
    if clip and config.get("clip_sample_range", 1.0) != 1:
        odd.append("clip_sample_range")
    if odd:
        raise InputError(
            f"{source}: its scheduler asks for {', '.join(odd)}, which a denoiser here does not "
            "have; if the model was trained without, set its value to the default in the config"
        )


def read_extra(folder: Path) -> dict[str, Any]:
    """What ``dpdiff.json`` says of a model; of one that was saved here, all files are checked.

    Raises
    ------
    InputError
        If the file, or one whose digest it holds, is damaged.
    """
    path = folder / EXTRA
    if not path.exists():
        return {}
    extra = documents.read(path)
    if documents.DIGEST in extra:
        extra = documents.check_digest(extra, path)
    if "levels" not in extra:
        raise InputError(f"{path} does not say the data's levels: null or a number, such as 256")
    levels = extra["levels"]
    if levels is not None and (type(levels) is not int or not 2 <= levels <= 2**16):
        raise InputError(f"{path}: levels is null or an integer from 2 to 65536, got {levels!r}")
    files = extra.get("files", {})
    if not isinstance(files, dict):
        raise InputError(f"{path}: files are names with their digests, got {files!r}")
    for name, digest in files.items():
        if digest_of(folder / name) != digest:
            raise InputError(
                f"{folder / name} is damaged, or was changed after dpdiff wrote it: fetch or save "
                f"the model anew, or remove {EXTRA} if the change was meant"
            )
    return extra


def digest_of(path: Path) -> str:
    """SHA-256 of an ordinary file."""
    regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
