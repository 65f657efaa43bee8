"""diffusers folders: which parts they have, and what their schedulers say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dpdiff.errors import InputError
from dpdiff.models.vocabulary import PREDICTION_TYPES, VARIANCE_TYPES
from dpdiff.noise import NoiseSchedule, configs
from dpdiff.runtime import documents
from dpdiff.runtime.files import regular

EXTRA = "dpdiff.json"
INDEX = "model_index.json"
SCHEDULER = "scheduler_config.json"
PARTS = {"unet", "scheduler"}

# Settings that change what a network's output means, and the values that do not.
NEUTRAL = {
    "thresholding": (False,),
    "predict_epsilon": (True,),
    "timestep_type": ("discrete",),
}


# What prediction_type means outside the family of betas.
WORDS = {
    "edm": {"epsilon": "edm", "v_prediction": "edm_v"},
    "flow": {"flow_prediction": "flow"},
    "score": {"epsilon": "score"},
}
ODD = (
    "its scheduler asks for {}, which a denoiser here does not have; if the model was trained "
    "without, set its value to the default in the config"
)


class Reading(NamedTuple):
    """What a scheduler says of a network: its noise, and what its output means."""

    noise: NoiseSchedule
    predicts: str
    variance: str
    clip: bool
    sigma_data: float = 0.5


def pipeline_name(folder: Path) -> str | None:
    """The class of the pipeline in a folder, if it tells one."""
    index = documents.read(folder / INDEX) if (folder / INDEX).exists() else {}
    name = index.get("_class_name")
    return name if isinstance(name, str) else None


def layout(folder: Path, known: Iterable[str]) -> tuple[Path, Path]:
    """Where network and scheduler config lie: in rooms of a pipeline, or side by side.

    Raises
    ------
    InputError
        If the folder holds more than these two, as those of other pipelines do.
    """
    index = documents.read(folder / INDEX) if (folder / INDEX).exists() else {}
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
    if "_class_name" not in config:
        raise InputError(f"{source}: its scheduler's config does not name a class")
    try:
        kind = configs.family(config)
        predicts = _predicts(kind, config)
        _refuse_odd(config)
        noise = NoiseSchedule.from_diffusers(config)
        if kind != "betas":  # no variance, and no clipping, belongs to these samplers
            sigma_data = configs.positive(config, "sigma_data", 0.5)
            return Reading(noise, predicts, "small", False, sigma_data)
        variance = config.get("variance_type") or "fixed_small"
        _check_word("variance_type", variance, VARIANCE_TYPES)
        return Reading(noise, predicts, VARIANCE_TYPES[variance], _clips(config))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _predicts(kind: str, config: Mapping[str, Any]) -> str:
    """What the output estimates, in our words."""
    default = "flow_prediction" if kind == "flow" else "epsilon"
    prediction, known = config.get("prediction_type", default), WORDS.get(kind, PREDICTION_TYPES)
    _check_word("prediction_type", prediction, known)
    return known[prediction]


def _check_word(name: str, value: Any, known: Mapping[str, str]) -> None:
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name} {value!r} is not one of {', '.join(known)}")


def _clips(config: Mapping[str, Any]) -> bool:
    clip = config.get("clip_sample", True)
    if not isinstance(clip, bool):
        raise InputError(f"clip_sample is true or false, got {clip!r}")
    if clip and config.get("clip_sample_range", 1.0) != 1:
        raise InputError(ODD.format("clip_sample_range"))
    return clip


def _refuse_odd(config: Mapping[str, Any]) -> None:
    odd = [k for k, values in NEUTRAL.items() if config.get(k) not in (None, *values)]
    if odd:
        raise InputError(ODD.format(", ".join(odd)))


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
