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
from dpdiff.scheduler_table import PREDICTION_TYPES, our_word, their_word
from dpdiff.variance import RULES, rule_named, rules_by_word

OWN_SOURCE = "dpdiff"  # the source of settings that no config of diffusers describes
# Settings that change what a network's output means, and the value that does not.
NEUTRAL = {"thresholding": False, "predict_epsilon": True}
ODD = (
    "its scheduler asks for {}, which a denoiser here does not have; if the model was trained "
    "without, set its value to the default in the config"
)


class SchedulerSettings(NamedTuple):
    """What a scheduler says of a network: its noise, and what its output means."""

    noise: NoiseSchedule
    predicts: str
    variance: str
    clip: bool
    sigma_data: float = 0.5

    def input_scale(self, t: int, like: Tensor) -> Any:
        """What ``x_t`` is multiplied with before the network sees it."""
        scales = self.noise.at_trained(t, like)
        return parameterization_named(self.predicts, self.sigma_data).input_scale(*scales)

    def spread_error(self, schedule: Schedule, error: Sequence[float] | None) -> np.ndarray | None:
        """m(t)/D, known at the schedule's steps; of rules that need it."""
        rule = self.variance
        if not rule_named(rule).needs_error:
            return None
        if len(error or ()) != schedule.steps:
            raise InputError(
                f"the {rule} variance needs m(t)/D at each of the schedule's steps; measure the "
                f'costs and use from_denoiser(denoiser.with_variance("{rule}", costs), schedule)'
            )
        spread = np.full(self.noise.T + 1, np.nan)
        spread[list(schedule.timesteps[1:])] = error
        return spread


def read_scheduler(config: Mapping[str, Any], source: Any) -> SchedulerSettings:
    """What a scheduler's config says; where it is silent, its class's default.

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
        process, settings = scheduler_table.described(config)
        predicts = PREDICTION_TYPES[process][settings["prediction_type"]]
        odd = [name for name, value in NEUTRAL.items() if settings.get(name, value) != value]
        if odd:
            raise InputError(ODD.format(", ".join(odd)))
        noise = NoiseSchedule.from_diffusers(config)
        if process != "betas":  # no variance, and no clipping, belongs to these samplers
            sigma_data = scheduler_table.positive({"sigma_data": 0.5} | settings, "sigma_data")
            return SchedulerSettings(noise, predicts, "small", False, sigma_data)
        rule = settings.get("variance_type") or "fixed_small"
        variance = our_word("variance_type", rule, rules_by_word())
        return SchedulerSettings(noise, predicts, variance, _clips(settings))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _clips(settings: Mapping[str, Any]) -> bool:
    clip = settings["clip_sample"]
    if not isinstance(clip, bool | None):
        raise InputError(f"clip_sample is true or false, got {clip!r}")
    if clip and settings["clip_sample_range"] != 1:
        raise InputError(ODD.format("clip_sample_range"))
    return bool(clip)


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
    noise, clip, words = denoiser.noise, {"clip_sample": denoiser.clip}, PREDICTION_TYPES["betas"]
    if noise.betas is not None and denoiser.predicts in words.values():
        output = {"prediction_type": their_word(words, denoiser.predicts)}
        return {"source": "DDPMScheduler", "trained_betas": noise.betas.tolist()} | output | clip
    grid = {name: values.tolist() for name, values in noise.arrays().items()}
    about = {"predicts": denoiser.predicts, "sigma_data": denoiser.sigma_data}
    return {"source": OWN_SOURCE, "noise": grid} | about | clip


def of_settings(about: Mapping[str, Any], rule: str | None) -> SchedulerSettings:
    """What settings say, under a variance rule in diffusers' words or ours."""
    words = rules_by_word() | {name: name for name in RULES}
    if rule not in (None, *words):
        raise InputError(f"variance_type is one of {', '.join(words)}; got {rule!r}")
    if about["source"] == OWN_SOURCE:
        noise = NoiseSchedule.from_arrays({k: np.array(v) for k, v in about["noise"].items()})
        output = (about["predicts"], "small", about["clip_sample"], about["sigma_data"])
        settings = SchedulerSettings(noise, *output)
    else:
        config = {**about, "_class_name": about["source"]}
        settings = read_scheduler(config, "the scheduler's config")
    check_parameterization(settings.predicts, settings.sigma_data, settings.noise)
    return settings._replace(variance=words[rule or "fixed_small"])
