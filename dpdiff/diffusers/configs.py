"""What a scheduler's config says of a network: its noise, its output, its variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from dpdiff import scheduler_table
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.parameterization import check_parameterization, parameterization_named
from dpdiff.schedule import Schedule
from dpdiff.scheduler_table import (
    NEUTRAL,
    PREDICTION_TYPES,
    PREDICTIONS_BY_FAMILY,
    VARIANCE_TYPES,
    their_word,
)

RULES_BY_WORD = VARIANCE_TYPES | {"optimal": "optimal"}
OWN_SOURCE = (
    "dpdiff"  # the source of what comes from a denoiser that no config of diffusers describes
)


def settings_of(config: Any) -> dict[str, Any]:
    """The settings of a scheduler or a config, with its class's name as ``source``."""
    settings = scheduler_table.config_of(config)
    source = settings.get("source") or settings.get("_class_name")
    if source is None and not {"beta_schedule", "trained_betas"} & settings.keys():
        raise InputError(
            "this config does not tell the class that gives it its meaning: pass the scheduler "
            "itself, from_config(pipe.scheduler, schedule=…)"
        )
    plain = {name: value for name, value in settings.items() if not name.startswith("_")}
    return plain | {"source": source or "DDPMScheduler"}


def settings_of_denoiser(denoiser: Denoiser) -> dict[str, Any]:
    """The settings of a denoiser, in diffusers' words where there are some."""
    noise, clip = denoiser.noise, {"clip_sample": denoiser.clip}
    if noise.betas is not None and denoiser.predicts in PREDICTION_TYPES.values():
        words = {"prediction_type": their_word(PREDICTION_TYPES, denoiser.predicts)}
        return {"source": "DDPMScheduler", "trained_betas": noise.betas.tolist()} | words | clip
    grid = {name: values.tolist() for name, values in noise.arrays().items()}
    about = {"predicts": denoiser.predicts, "sigma_data": denoiser.sigma_data}
    return {"source": OWN_SOURCE, "noise": grid} | about | clip


def scheduler_settings(about: Mapping[str, Any], rule: str | None) -> SchedulerSettings:
    """What settings say, under a variance rule in diffusers' words.

    What they do not say of clipping is not done, as by the scheduler that they come from.
    """
    if rule not in (None, *RULES_BY_WORD):
        raise InputError(f"variance_type is one of {', '.join(RULES_BY_WORD)}; got {rule!r}")
    clip = about.get("clip_sample", False)
    if about.get("source") == OWN_SOURCE:
        arrays = {name: np.array(values) for name, values in about["noise"].items()}
        noise = NoiseSchedule.from_arrays(arrays)
        model = SchedulerSettings(noise, about["predicts"], "small", clip, about["sigma_data"])
    else:
        config = {**about, "_class_name": about["source"], "clip_sample": clip}
        model = read_scheduler(config, "the scheduler's config")
    check_parameterization(model.predicts, model.sigma_data, model.noise)
    return model._replace(variance=RULES_BY_WORD[rule or "fixed_small"])


def their_rule(rule: str) -> str:
    """diffusers' word for a variance rule."""
    return their_word(VARIANCE_TYPES, rule)


def spread_error(
    model: SchedulerSettings, schedule: Schedule, error: Sequence[float] | None
) -> np.ndarray | None:
    """m(t)/D on the whole grid, known at the schedule's steps; of the optimal variance alone."""
    if model.variance != "optimal":
        return None
    if len(error or ()) != schedule.steps:
        raise InputError(
            "the optimal variance needs m(t)/D at each of the schedule's steps; measure the "
            'costs and use from_denoiser(denoiser.with_variance("optimal", costs), schedule)'
        )
    spread = np.full(model.noise.T + 1, np.nan)
    spread[list(schedule.timesteps[1:])] = error
    return spread


def input_scale(model: SchedulerSettings, t: int, like: Tensor) -> Any:
    """What ``x_t`` is multiplied with before the network sees it."""
    scales = model.noise.at_trained(t, like)
    return parameterization_named(model.predicts, model.sigma_data).input_scale(*scales)


class SchedulerSettings(NamedTuple):
    """What a scheduler says of a network: its noise, and what its output means."""

    noise: NoiseSchedule
    predicts: str
    variance: str
    clip: bool
    sigma_data: float = 0.5


def read_scheduler(config: Mapping[str, Any], source: Any) -> SchedulerSettings:
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
        kind = scheduler_table.family_of(config)
        predicts = _predicts(kind, config)
        _refuse_odd(config)
        noise = NoiseSchedule.from_diffusers(config)
        if kind != "betas":  # no variance, and no clipping, belongs to these samplers
            sigma_data = scheduler_table.positive_setting(config, "sigma_data", 0.5)
            return SchedulerSettings(noise, predicts, "small", False, sigma_data)
        variance = config.get("variance_type") or "fixed_small"
        _check_word("variance_type", variance, VARIANCE_TYPES)
        return SchedulerSettings(noise, predicts, VARIANCE_TYPES[variance], _clips(config))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _predicts(kind: str, config: Mapping[str, Any]) -> str:
    """What the output estimates, in our words."""
    default = "flow_prediction" if kind == "flow" else "epsilon"
    prediction, known = (
        config.get("prediction_type", default),
        PREDICTIONS_BY_FAMILY.get(kind, PREDICTION_TYPES),
    )
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


ODD = (
    "its scheduler asks for {}, which a denoiser here does not have; if the model was trained "
    "without, set its value to the default in the config"
)
