"""diffusers' schedulers, a row a class: what their settings mean and what they can be given.

A class that is new here is a new entry of :data:`SCHEDULERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dpdiff import grids
from dpdiff.errors import InputError

# What prediction_type means, by noise process.
PREDICTION_TYPES = {
    "betas": {"epsilon": "eps", "sample": "x0", "v_prediction": "v"},
    "levels": {"v_prediction": "v"},
    "edm": {"epsilon": "edm", "v_prediction": "edm_v"},
    "flow": {"flow_prediction": "flow"},
    "score": {"epsilon": "score"},
}
# What most classes of a noise process have where a config is silent.
DEFAULTS: dict[str, dict[str, Any]] = {
    "betas": {
        "num_train_timesteps": 1000,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "prediction_type": "epsilon",
        "clip_sample": False,
        "clip_sample_range": 1.0,
        "flow_shift": 1.0,
    },
    "edm": {
        "num_train_timesteps": 1000,
        "sigma_min": 0.002,
        "sigma_max": 80.0,
        "sigma_data": 0.5,
        "sigma_schedule": "karras",
        "rho": 7.0,
        "prediction_type": "epsilon",
    },
    "flow": {"num_train_timesteps": 1000, "shift": 1.0, "prediction_type": "flow_prediction"},
    "score": {
        "num_train_timesteps": 2000,
        "sigma_min": 0.01,
        "sigma_max": 1348.0,
        "sigma_schedule": "exponential",
        "prediction_type": "epsilon",
    },
}
CLIPPED = {"clip_sample": True}
STABLE = {"beta_start": 0.00085, "beta_end": 0.012}
VIDEO = STABLE | CLIPPED | {"beta_schedule": "scaled_linear", "snr_shift_scale": 3.0}
OWN = ("snr_shift_scale", "timestep_type")  # settings that other classes leave out
CONTINUOUS = ("continuous", "v_prediction")  # Stable Video Diffusion: it is told log σ / 4


@dataclass(frozen=True)
class Scheduler:
    """One class of diffusers' schedulers.

    Parameters
    ----------
    process : {"betas", "edm", "flow", "score"}
        The noise process that its settings describe.
    takes : mapping
        The arguments with which its ``set_timesteps`` can be given a schedule, ``timesteps`` and
        ``sigmas``, and what the numbers mean where they are not a network's time inputs. Of a
        class that takes neither, :mod:`dpdiff.diffusers` has schedulers to put in its place.
    only : mapping
        The settings with which it steps through such a list as it is. With others it refuses the
        list, or goes another way and says nothing.
    defaults : mapping
        Its own defaults, where they are not those of its process.
    """

    process: str = "betas"
    takes: Mapping[str, str] = field(default_factory=dict)
    only: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


TIMESTEPS = {"timesteps": ""}
NAMED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
AS_GIVEN = dict.fromkeys(NAMED, False)
INDICES_AS_GIVEN = AS_GIVEN | {"use_flow_sigmas": False}
UNSHIFTED = AS_GIVEN | {"use_dynamic_shifting": False, "shift_terminal": None}
FLOW = Scheduler(
    "flow",
    takes={
        "timesteps": "flow time times T, and only where it shifts nothing",
        "sigmas": "g before the scheduler's own shift, without a 0",
    },
    only=UNSHIFTED | {"shift": 1.0, "invert_sigmas": False},
)
SCHEDULERS = {
    "DDPMScheduler": Scheduler(takes=TIMESTEPS, defaults=CLIPPED),
    "DDPMParallelScheduler": Scheduler(takes=TIMESTEPS, defaults=CLIPPED),
    "DPMSolverMultistepScheduler": Scheduler(
        takes=TIMESTEPS, only=INDICES_AS_GIVEN | {"use_lu_lambdas": False}
    ),
    "DPMSolverSinglestepScheduler": Scheduler(takes=TIMESTEPS, only=INDICES_AS_GIVEN),
    "HeunDiscreteScheduler": Scheduler(takes=TIMESTEPS, only=AS_GIVEN, defaults=STABLE),
    "LCMScheduler": Scheduler(
        takes=TIMESTEPS, defaults=STABLE | {"beta_schedule": "scaled_linear"}
    ),
    "TCDScheduler": Scheduler(
        takes=TIMESTEPS, defaults=STABLE | {"beta_schedule": "scaled_linear"}
    ),
    "EulerDiscreteScheduler": Scheduler(
        takes=TIMESTEPS | {"sigmas": "g/f, and 0 at the end"},
        only=AS_GIVEN | {"interpolation_type": "linear", "timestep_type": "discrete"},
        defaults={"timestep_type": "discrete"},
    ),
    "FlowMatchEulerDiscreteScheduler": FLOW,
    "FlowMatchLCMScheduler": FLOW,
    "UniPCMultistepScheduler": Scheduler(
        takes={"sigmas": "g before its own shift, and only with use_flow_sigmas"},
        only=UNSHIFTED | {"flow_shift": 1.0, "use_flow_sigmas": True},
    ),
    "EDMEulerScheduler": Scheduler(
        "edm",
        takes={"sigmas": "places between sigma_max (0) and sigma_min (1), not sigmas"},
        only={"sigma_schedule": "karras"},
    ),
    "DDIMScheduler": Scheduler(defaults=CLIPPED),
    "DDIMParallelScheduler": Scheduler(defaults=CLIPPED),
    "DDIMInverseScheduler": Scheduler(defaults=CLIPPED),
    "CogVideoXDDIMScheduler": Scheduler(defaults=VIDEO),
    "CogVideoXDPMScheduler": Scheduler(defaults=VIDEO),
    "PNDMScheduler": Scheduler(),
    "DEISMultistepScheduler": Scheduler(),
    "EulerAncestralDiscreteScheduler": Scheduler(),
    "KDPM2DiscreteScheduler": Scheduler(defaults=STABLE),
    "KDPM2AncestralDiscreteScheduler": Scheduler(defaults=STABLE),
    "LMSDiscreteScheduler": Scheduler(),
    "DPMSolverMultistepInverseScheduler": Scheduler(),
    "DPMSolverSDEScheduler": Scheduler(defaults=STABLE),
    "SASolverScheduler": Scheduler(),
    "EDMDPMSolverMultistepScheduler": Scheduler("edm"),
    "FlowMatchHeunDiscreteScheduler": Scheduler("flow"),
    "ScoreSdeVeScheduler": Scheduler("score"),
}
LONGEST_GRID = 1_000_000  # timesteps of a grid that a config may ask for


def their_word(types: Mapping[str, str], ours: str) -> str:
    """diffusers' first word for one of ours; ours where it has none.

    Examples
    --------
    >>> their_word(PREDICTION_TYPES["betas"], "v"), their_word(PREDICTION_TYPES["flow"], "v")
    ('v_prediction', 'v')
    """
    return next((theirs for theirs, word in types.items() if word == ours), ours)


def our_word(name: str, value: Any, types: Mapping[str, str]) -> str:
    """Our word for one of diffusers', which is the value of that setting."""
    if not isinstance(value, str) or value not in types:
        raise InputError(f"{name} {value!r} is not one of {', '.join(types)}")
    return types[value]


def taking(argument: str | None, process: str | None = None) -> dict[str, str]:
    """The classes that take ``timesteps`` or ``sigmas``, or neither, and what the numbers mean.

    Examples
    --------
    >>> taking("sigmas", "edm")
    {'EDMEuler': 'places between sigma_max (0) and sigma_min (1), not sigmas'}
    """
    return {
        name.removesuffix("Scheduler"): row.takes.get(argument, "")
        for name, row in SCHEDULERS.items()
        if process in (None, row.process) and (argument in row.takes if argument else not row.takes)
    }


def config_of(scheduler: Any) -> dict[str, Any]:
    """The config of a scheduler, or a config, with its class's name as ``_class_name``."""
    if isinstance(scheduler, Mapping):
        name = scheduler.get("_class_name")
        own = {"_class_name": name[-1]} if isinstance(name, list | tuple) and name else {}
        return dict(scheduler) | own  # of somebody's own code, it is [file, class]
    if not isinstance(getattr(scheduler, "config", None), Mapping):
        raise InputError(
            f"a noise schedule is read from a scheduler of diffusers or its config, got a "
            f"{type(scheduler).__name__}"
        )
    return dict(scheduler.config) | {"_class_name": type(scheduler).__name__}


def described(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The noise process of a config, and all its settings: what is silent is the class's default.

    Examples
    --------
    >>> process, settings = described({"_class_name": "LCMScheduler"})
    >>> process, settings["beta_schedule"]
    ('betas', 'scaled_linear')
    """
    name = config.get("_class_name", "DDPMScheduler")
    if not isinstance(name, str) or name not in SCHEDULERS:
        raise InputError(
            f"the scheduler {name} is not known, so its numbers have no meaning here; known are "
            + ", ".join(SCHEDULERS)
        )
    row = SCHEDULERS[name]
    settings = {**DEFAULTS[row.process], **row.defaults, **config}
    settings = {k: v for k, v in settings.items() if k not in OWN or k in row.defaults}
    process = row.process
    if process in ("flow", "score"):
        settings |= {"prediction_type": DEFAULTS[process]["prediction_type"]}  # of no other kind
    elif settings.get("use_flow_sigmas"):
        process = "flow"
    elif (settings.get("timestep_type"), settings["prediction_type"]) == CONTINUOUS:
        process = "levels"
    our_word("prediction_type", settings["prediction_type"], PREDICTION_TYPES[process])
    return process, settings


def grid_length(settings: Mapping[str, Any], T: int | None = None) -> int:
    """A wanted number of timesteps, or the scheduler's own, which of a process of one is 1000.

    Such flow models are told the flow time itself, any in 0 … 1.
    """
    own = settings["num_train_timesteps"]
    if type(own) is not int or not 1 <= own <= LONGEST_GRID:
        raise InputError(f"num_train_timesteps is an integer in 1…{LONGEST_GRID:,}, got {own!r}")
    if T is not None and (type(T) is not int or not 1 <= T <= LONGEST_GRID):
        raise InputError(f"T is an integer in 1…{LONGEST_GRID:,}, got {T!r}")
    return T or (1000 if own == 1 else own)


def positive(settings: Mapping[str, Any], name: str) -> float:
    """A setting that is a number above 0."""
    value = settings[name]
    if type(value) not in (int, float) or not 0 < value < 1e9:
        raise InputError(f"{name} is a number above 0, got {value!r}")
    return value


def betas(settings: Mapping[str, Any]) -> np.ndarray:
    """β_1 … β_T of a scheduler.

    Raises
    ------
    InputError
        If it names a beta schedule that is not known here, or numbers that make none.

    Examples
    --------
    >>> config = {"num_train_timesteps": 3, "beta_start": 0.1, "beta_end": 0.3}
    >>> betas(described(config)[1])
    array([0.1, 0.2, 0.3])
    """
    if settings.get("trained_betas") is not None:
        numbers = grids.checked_numbers(settings["trained_betas"], "betas")
    else:
        numbers = _named_betas(settings)
    if "snr_shift_scale" in settings:
        numbers = grids.shifted_betas(numbers, positive(settings, "snr_shift_scale"))
    return grids.without_signal(numbers) if settings.get("rescale_betas_zero_snr") else numbers


def _named_betas(settings: Mapping[str, Any]) -> np.ndarray:
    T, kind = grid_length(settings), settings["beta_schedule"]
    first, last = settings["beta_start"], settings["beta_end"]
    if not all(type(beta) in (int, float) and 0 < beta <= 1 for beta in (first, last)):
        raise InputError(f"beta_start and beta_end lie in (0, 1], got {first!r} and {last!r}")
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


def sigmas(settings: Mapping[str, Any], T: int) -> np.ndarray:
    """The rising noise levels of an EDM or variance-exploding scheduler."""
    kind = settings["sigma_schedule"]
    low, high = positive(settings, "sigma_min"), positive(settings, "sigma_max")
    if kind == "exponential":
        return np.geomspace(low, high, T)
    if kind == "karras":
        return grids.karras_sigmas(T, low, high, positive(settings, "rho"))
    raise InputError(f"sigma_schedule is karras or exponential, got {kind}")


def levels(settings: Mapping[str, Any], T: int | None) -> np.ndarray:
    """The rising noise levels g/f of a scheduler of betas, or the wider ones of its samplers."""
    signal = np.cumprod(1 - betas(settings))
    own = np.sqrt(1 / np.maximum(signal, 2.0**-24) - 1)
    low, high = settings.get("sigma_min"), settings.get("sigma_max")
    if T is None and not (any(settings.get(name) for name in NAMED) and (low or high)):
        return own
    ends = {"sigma_min": low or own[0].item(), "sigma_max": high or own[-1].item()}
    return sigmas(ends | {"sigma_schedule": "karras", "rho": 7.0}, T or len(own))


def flow_shift(settings: Mapping[str, Any]) -> float:
    """The shift of a flow's grid. One that depends on the picture's size is left out.

    Flow models take every time, so the shift only says where the grid is fine.
    """
    if settings.get("invert_sigmas"):
        raise InputError("invert_sigmas runs from noise at 0 to data at 1, which is not known here")
    if settings.get("use_dynamic_shifting"):
        return 1.0
    return positive(settings, "flow_shift" if settings.get("use_flow_sigmas") else "shift")
