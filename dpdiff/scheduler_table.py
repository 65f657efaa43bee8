"""diffusers' schedulers: what their configs mean, what they take, and their words for ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dpdiff import grids
from dpdiff.errors import InputError

PREDICTION_TYPES = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCE_TYPES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
    "learned_range": "learned_range",
}


def their_word(types: dict[str, str], ours: str) -> str:
    """diffusers' first word for one of ours; ours where it has none.

    Examples
    --------
    >>> their_word(PREDICTION_TYPES, "v"), their_word(VARIANCE_TYPES, "optimal")
    ('v_prediction', 'optimal')
    """
    return next((theirs for theirs, word in types.items() if word == ours), ours)


# set_timesteps(timesteps=…): 0-based, or the flow's time times T.
TAKE_TIMESTEPS = (
    *("DDPM", "DDPMParallel", "DPMSolverMultistep", "DPMSolverSinglestep", "HeunDiscrete"),
    *("LCM", "TCD", "EulerDiscrete", "FlowMatchEulerDiscrete"),
)
# set_timesteps(sigmas=…), and what the numbers mean.
TAKE_SIGMAS = {
    "EulerDiscrete": "g/f, and 0 at the end",
    "FlowMatchEulerDiscrete": "g before the scheduler's own shift, without a 0",
    "UniPCMultistep": "g before its own shift, and only with use_flow_sigmas",
    "EDMEuler": "places between sigma_max (0) and sigma_min (1), not sigmas",
}
# Neither: dpdiff.diffusers.schedulers has schedulers to put in their place.
TAKE_NEITHER = (
    *("DDIM", "DDIMParallel", "DDIMInverse", "PNDM", "DEISMultistep", "EulerAncestralDiscrete"),
    *("KDPM2Discrete", "KDPM2AncestralDiscrete", "LMSDiscrete", "DPMSolverSDE", "SASolver"),
    *("EDMDPMSolverMultistep", "FlowMatchHeunDiscrete", "ScoreSdeVe"),
)


LONGEST_GRID = 1_000_000  # timesteps of a grid that a config may ask for

# diffusers' scheduler classes by what their numbers mean.
FAMILIES = {
    "betas": (
        *("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DDPMParallelScheduler"),
        *("DDIMParallelScheduler", "DDIMInverseScheduler", "DEISMultistepScheduler"),
        *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"),
        *("DPMSolverSDEScheduler", "SASolverScheduler", "LCMScheduler", "TCDScheduler"),
        *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"),
        *("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "LMSDiscreteScheduler"),
    ),
    "edm": ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"),
    "flow": ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"),
    "score": ("ScoreSdeVeScheduler",),
}


def config_of(scheduler: Any) -> dict[str, Any]:
    """The config of a scheduler, or a config as it is, with the class's name."""
    if isinstance(scheduler, Mapping):
        return dict(scheduler)
    if not isinstance(getattr(scheduler, "config", None), Mapping):
        raise InputError(
            f"a noise schedule is read from a scheduler of diffusers or its config, got a "
            f"{type(scheduler).__name__}"
        )
    return dict(scheduler.config) | {"_class_name": type(scheduler).__name__}


def family_of(config: Mapping[str, Any]) -> str:
    """``betas``, ``edm``, ``flow`` or ``score``; betas where no class is named.

    Examples
    --------
    >>> family_of({"_class_name": "EDMEulerScheduler"})
    'edm'
    """
    name = config.get("_class_name", FAMILIES["betas"][0])
    for kind, names in FAMILIES.items():
        if name in names:
            return "flow" if kind == "betas" and config.get("use_flow_sigmas") else kind
    known = ", ".join(name for names in FAMILIES.values() for name in names)
    raise InputError(
        f"the scheduler {name} is not known, so its numbers have no meaning here; known are {known}"
    )


def grid_length(config: Mapping[str, Any]) -> int:
    """T of a scheduler's config of diffusers."""
    T = config.get("num_train_timesteps", 1000)
    if type(T) is not int or not 1 <= T <= LONGEST_GRID:
        raise InputError(f"num_train_timesteps is an integer in 1…{LONGEST_GRID:,}, got {T!r}")
    return T


def positive_setting(config: Mapping[str, Any], name: str, default: float) -> float:
    """A number above 0 of a scheduler's config."""
    value = config.get(name, default)
    if type(value) not in (int, float) or not 0 < value < 1e9:
        raise InputError(f"{name} is a number above 0, got {value!r}")
    return value


def config_betas(config: Mapping[str, Any]) -> np.ndarray:
    """The betas that a scheduler's config of diffusers describes.

    Raises
    ------
    InputError
        If it names a beta schedule that is not known here, or numbers that make none.

    Examples
    --------
    >>> config_betas({"num_train_timesteps": 3, "beta_start": 0.1, "beta_end": 0.3})
    array([0.1, 0.2, 0.3])
    """
    if config.get("trained_betas") is not None:
        betas = grids.checked_numbers(config["trained_betas"], "betas")
    else:
        betas = _named_betas(config)
    return grids.without_signal(betas) if config.get("rescale_betas_zero_snr") else betas


def _named_betas(config: Mapping[str, Any]) -> np.ndarray:
    T = grid_length(config)
    first, last = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    if not all(type(beta) in (int, float) and 0 < beta <= 1 for beta in (first, last)):
        raise InputError(f"beta_start and beta_end lie in (0, 1], got {first!r} and {last!r}")
    kind = config.get("beta_schedule", "linear")
    if kind == "linear":
        return np.linspace(first, last, T)
    if kind == "scaled_linear":
        return np.linspace(first**0.5, last**0.5, T) ** 2
    if kind == "squaredcos_cap_v2":
        return grids.cosine_betas(T)
    if kind == "sigmoid":
        return first + (last - first) / (1 + np.exp(-np.linspace(-6, 6, T)))
    raise InputError(
        f"beta_schedule {kind!r} is not known; known are linear, scaled_linear, "
        "squaredcos_cap_v2, sigmoid and a list of trained_betas"
    )


def config_sigmas(config: Mapping[str, Any]) -> np.ndarray:
    """The noise levels of an EDM or variance-exploding scheduler's config, rising."""
    T = grid_length(config)
    exploding = config.get("_class_name") == "ScoreSdeVeScheduler"
    low = positive_setting(config, "sigma_min", 0.01 if exploding else 0.002)
    high = positive_setting(config, "sigma_max", 1348.0 if exploding else 80.0)
    if exploding or config.get("sigma_schedule", "karras") == "exponential":
        return np.geomspace(low, high, T)
    if config.get("sigma_schedule", "karras") != "karras":
        raise InputError(f"sigma_schedule is karras or exponential, got {config['sigma_schedule']}")
    return grids.karras_sigmas(T, low, high, positive_setting(config, "rho", 7.0))


def config_shift(config: Mapping[str, Any]) -> float:
    """The shift of a flow's grid. One that depends on the picture's size is left out.

    Flow models take every time, so the shift only says where the grid is fine.
    """
    if config.get("invert_sigmas"):
        raise InputError("invert_sigmas runs from noise at 0 to data at 1, which is not known here")
    if config.get("use_dynamic_shifting"):
        return 1.0
    return positive_setting(config, "flow_shift" if config.get("use_flow_sigmas") else "shift", 1.0)


# Settings that change what a network's output means, and the values that do not.
NEUTRAL = {
    "thresholding": (False,),
    "predict_epsilon": (True,),
    "timestep_type": ("discrete",),
}


# What prediction_type means outside the family of betas.
PREDICTIONS_BY_FAMILY = {
    "edm": {"epsilon": "edm", "v_prediction": "edm_v"},
    "flow": {"flow_prediction": "flow"},
    "score": {"epsilon": "score"},
}
