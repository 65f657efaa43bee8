"""The configs of our schedulers for diffusers, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.models.folders import Reading, read_scheduler
from dpdiff.models.vocabulary import PREDICTION_TYPES, VARIANCE_TYPES, their_word
from dpdiff.noise import NoiseSchedule, configs
from dpdiff.readings import check_reading, reading_named
from dpdiff.schedule import Schedule

RULES = VARIANCE_TYPES | {"optimal": "optimal"}
OWN = "dpdiff"  # the source of what comes from a denoiser that no config of diffusers describes


def of(config: Any) -> dict[str, Any]:
    """The settings of a scheduler or a config, with its class's name as ``source``."""
    settings = configs.config_of(config)
    source = settings.get("source") or settings.get("_class_name")
    if source is None and not {"beta_schedule", "trained_betas"} & settings.keys():
        raise InputError(
            "this config does not tell the class that gives it its meaning: pass the scheduler "
            "itself, from_config(pipe.scheduler, schedule=…)"
        )
    plain = {name: value for name, value in settings.items() if not name.startswith("_")}
    return plain | {"source": source or "DDPMScheduler"}


def of_denoiser(denoiser: Denoiser) -> dict[str, Any]:
    """The settings of a denoiser, in diffusers' words where there are some."""
    noise, clip = denoiser.noise, {"clip_sample": denoiser.clip}
    if noise.betas is not None and denoiser.predicts in PREDICTION_TYPES.values():
        words = {"prediction_type": their_word(PREDICTION_TYPES, denoiser.predicts)}
        return {"source": "DDPMScheduler", "trained_betas": noise.betas.tolist()} | words | clip
    grid = {name: values.tolist() for name, values in noise.arrays().items()}
    about = {"predicts": denoiser.predicts, "sigma_data": denoiser.sigma_data}
    return {"source": OWN, "noise": grid} | about | clip


def reading(about: Mapping[str, Any], rule: str | None) -> Reading:
    """What settings say, under a variance rule in diffusers' words.

    What they do not say of clipping is not done, as by the scheduler that they come from.
    """
    if rule not in (None, *RULES):
        raise InputError(f"variance_type is one of {', '.join(RULES)}; got {rule!r}")
    clip = about.get("clip_sample", False)
    if about.get("source") == OWN:
        arrays = {name: np.array(values) for name, values in about["noise"].items()}
        noise = NoiseSchedule.from_arrays(arrays)
        model = Reading(noise, about["predicts"], "small", clip, about["sigma_data"])
    else:
        config = {**about, "_class_name": about["source"], "clip_sample": clip}
        model = read_scheduler(config, "the scheduler's config")
    check_reading(model.predicts, model.sigma_data, model.noise)
    return model._replace(variance=RULES[rule or "fixed_small"])


def their_rule(rule: str) -> str:
    """diffusers' word for a variance rule."""
    return their_word(VARIANCE_TYPES, rule)


def spread_error(
    model: Reading, schedule: Schedule, error: Sequence[float] | None
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


def input_scale(model: Reading, t: int, like: Tensor) -> Any:
    """What ``x_t`` is multiplied with before the network sees it."""
    scales = model.noise.at_trained(t, like)
    return reading_named(model.predicts, model.sigma_data).input_scale(*scales)
