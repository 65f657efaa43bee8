"""Every scheduler class of the installed diffusers, at its defaults and at published settings.

What is read is right by diffusers' own numbers, or it is refused by name: nothing is silent.
"""

import inspect
import json
from collections import Counter
from contextlib import suppress

import diffusers
import numpy as np
import pytest
import torch

from dpdiff import InputError, NoiseSchedule, Schedule
from dpdiff.diffusers import UnevenDDIMScheduler
from dpdiff.diffusers.configs import read_scheduler
from dpdiff.runtime import formats
from dpdiff.scheduler_table import SCHEDULERS, config_of, described

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
V0 = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SETTINGS = [
    {},
    # betas: DDPM, improved DDPM, Stable Diffusion and what samplers make of its steps
    {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 4000},
    {"beta_schedule": "linear", "beta_end": 0.015, "num_train_timesteps": 500},
    {"trained_betas": np.linspace(0.001, 0.05, 200).tolist(), "num_train_timesteps": 200},
    {"prediction_type": "sample"},
    {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"},
    SD,
    SD | {"timestep_spacing": "leading", "steps_offset": 1},
    SD | {"timestep_spacing": "trailing"},
    SD | {"timestep_spacing": "linspace", "prediction_type": "v_prediction"},
    SD | {"use_karras_sigmas": True},
    SD | {"use_exponential_sigmas": True},
    SD | {"use_beta_sigmas": True},
    SD | {"use_lu_lambdas": True},
    SD | {"final_sigmas_type": "sigma_min"},
    SD | {"clip_sample": False, "set_alpha_to_one": False},
    SD | V0 | {"timestep_spacing": "trailing"},
    {"lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2"},
    {"thresholding": True},
    {"variance_type": "learned_range"},
    {"clip_sample": True, "clip_sample_range": 2.0},
    {"skip_prk_steps": True},
    # flows of betas' classes: Wan, SANA
    FLOW,
    FLOW | {"flow_shift": 3.0},
    FLOW | {"flow_shift": 5.0, "final_sigmas_type": "zero"},
    FLOW | {"flow_shift": 3.0, "use_karras_sigmas": True},
    {"prediction_type": "flow_prediction"},
    # continuous times
    {"timestep_type": "continuous", "prediction_type": "v_prediction"},
    SD
    | {"timestep_type": "continuous", "prediction_type": "v_prediction"}
    | {"use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 700.0},
    # flows: SD3, Flux, LTX, HunyuanVideo, Mochi, ACE-Step
    *({"shift": shift} for shift in (1.0, 2.0, 3.0, 5.0, 7.0, 17.0)),
    *({"shift": shift, "num_train_timesteps": 500} for shift in (1.0, 2.5, 3.0, 4.0)),
    {"shift": 3.0, "use_dynamic_shifting": True},
    {"use_dynamic_shifting": True, "shift_terminal": 0.1},
    {"shift": 3.0, "use_dynamic_shifting": True, "time_shift_type": "linear"},
    {"shift": 3.0, "use_karras_sigmas": True},
    {"shift": 3.0, "use_exponential_sigmas": True},
    {"shift": 3.0, "use_beta_sigmas": True},
    {"invert_sigmas": True},
    # EDM, Playground, CosXL; variance-exploding
    *({"sigma_max": high} for high in (10.0, 120.0, 500.0)),
    *({"sigma_min": low, "sigma_max": 50.0} for low in (0.01, 0.03, 0.3)),
    {"sigma_data": 1.0, "prediction_type": "v_prediction"},
    {"sigma_schedule": "exponential", "sigma_max": 120.0},
    {"rho": 5.0},
    {"num_train_timesteps": 300, "sigma_max": 30.0},
    {"num_train_timesteps": 1100, "snr": 0.1},
    {"sampling_eps": 1e-4},
    {"final_sigmas_type": "sigma_min"},
    {"snr_shift_scale": 1.0},
]


def classes():
    """Names of all schedulers of the installed diffusers that are no stand-ins for missing ones."""
    for name in sorted(dir(diffusers)):
        kind = getattr(diffusers, name)
        if name.endswith("Scheduler") and inspect.isclass(kind) and not hasattr(kind, "_backends"):
            yield name


KNOWN = [name for name in classes() if name in SCHEDULERS]
UNKNOWN = [name for name in classes() if name not in SCHEDULERS and name[:4] != "Flax"]


def settings_of(name):
    known = inspect.signature(getattr(diffusers, name)).parameters
    own = [settings for settings in SETTINGS if settings.keys() <= known.keys()]
    return own[:10] if name.startswith("KDPM2") else own  # these take seconds to be made


def check_noise(scheduler, noise):
    """Held against what the scheduler itself has computed, which is in float32."""
    process, settings = described(config_of(scheduler))
    if process == "betas":
        signal = np.array(scheduler.alphas_cumprod, dtype=float)
        signal[-1] = (
            0 if signal[-1] < 2e-7 and settings.get("rescale_betas_zero_snr") else signal[-1]
        )
        np.testing.assert_allclose(noise.f[1:] ** 2, signal, rtol=1e-3, atol=1e-9)
        assert noise.time_inputs.tolist() == list(range(len(signal)))
    elif process == "levels":
        finite = np.array(scheduler.sigmas[:-1], dtype=float)
        told = np.array(scheduler.timesteps, dtype=float)
        np.testing.assert_allclose(told, np.log(finite) / 4, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(noise.time_inputs, np.log(noise.sigmas[1:]) / 4)
    elif process == "flow":
        np.testing.assert_allclose(noise.f + noise.g, 1)
        np.testing.assert_allclose(noise.time_inputs, settings["num_train_timesteps"] * noise.g[1:])
        if settings["_class_name"].startswith("FlowMatch") and "use_dynamic_shifting" not in str(
            [k for k, v in settings.items() if v]
        ):
            own = np.array(scheduler.sigmas, dtype=float)
            np.testing.assert_allclose(noise.g[1:], own[own > 0][::-1][-noise.T :], rtol=1e-4)
    elif process == "edm":  # one of the classes has a level more between the same ends
        own = np.array(scheduler.sigmas[:-1].flip(0), dtype=float)
        places = np.linspace(0, 1, noise.T)
        theirs = np.interp(places, np.linspace(0, 1, len(own)), np.log(own))
        np.testing.assert_allclose(np.log(noise.sigmas[1:]), theirs, atol=0.01)
        theirs = np.array(scheduler.timesteps.flip(0), dtype=float)
        np.testing.assert_allclose(theirs, np.log(own) / 4, atol=1e-4)
        np.testing.assert_allclose(noise.time_inputs, np.log(noise.sigmas[1:]) / 4)
    else:
        np.testing.assert_allclose(noise.sigmas[1:], np.sort(scheduler.discrete_sigmas), rtol=1e-4)


def check_steps(scheduler, noise, start):
    """The scheduler's own eight steps, as it makes them for a pipeline."""
    dynamic = scheduler.config.get("use_dynamic_shifting")
    scheduler.set_timesteps(8, **({"mu": 1.0} if dynamic else {}))
    schedule = Schedule.from_diffusers(scheduler, start=start)
    nodes = np.array(schedule.timesteps[:0:-1])
    gaps = np.abs(np.diff(noise.time_inputs, prepend=noise.time_inputs[0]))
    near = 1 * (noise.time_inputs[-1] > 100) + np.maximum(gaps, np.append(gaps[1:], 0))[nodes - 1]
    told = np.array(scheduler.timesteps, dtype=float)
    assert len(told) == schedule.steps == 8
    assert (np.abs(noise.time_inputs[nodes - 1] - told) <= 1.01 * near).all()
    if hasattr(scheduler, "sigmas"):
        theirs = np.array(scheduler.sigmas[:-1], dtype=float)
        own = np.where(np.isinf(noise.sigmas), 4096, noise.sigmas)
        steps = np.abs(np.diff(np.log(own[1:])))
        widest = np.maximum(np.append(steps, steps[-1]), np.append(steps[0], steps))[nodes - 1]
        ratio = np.log(theirs) - np.log(own[nodes])
        assert (np.abs(ratio) <= 0.51 * widest + 2.1e-3).all()


def check_step(scheduler, noise):
    """One step of our own scheduler in its place predicts the same x̂_0."""
    name = type(scheduler).__name__
    ours = UnevenDDIMScheduler.from_config(scheduler, schedule=Schedule([0, noise.T // 3, noise.T]))
    settings = read_scheduler(config_of(scheduler), name)
    x, output = torch.randn(2, 1, 2, 2), 0.3 * torch.randn(2, 1, 2, 2)
    t = noise.T // 3
    got = ours.step(output, ours.timesteps[1], x).pred_original_sample
    f, g = noise.f[t], noise.g[t]
    with suppress(AttributeError, TypeError, IndexError):
        scheduler.set_timesteps(timesteps=[int(noise.time_inputs[t - 1])])
    if name not in (
        "DDPMScheduler",
        "DDPMParallelScheduler",
        "DDIMScheduler",
        "DDIMParallelScheduler",
    ):
        return settings
    if name.startswith("DDIM"):
        scheduler.set_timesteps(noise.T)
    channels = 2 if settings.variance == "learned_range" else 1
    if channels == 1:
        theirs = scheduler.step(output, t - 1, x).pred_original_sample
        torch.testing.assert_close(got, theirs, rtol=1e-3, atol=1e-4)
    assert f > 0 or g == 1
    return settings


def verdict(scheduler, name, given):
    """What is read of a scheduler, in memory and from a file, checked; or why not."""
    text = json.dumps({"_class_name": name, **given})
    raw = formats.parsed_json(text, name, strict=False)
    try:
        noise = NoiseSchedule.from_diffusers(scheduler)
        read = read_scheduler(config_of(scheduler), name)
    except InputError as error:
        with pytest.raises(InputError):  # alike from a file
            read_scheduler(raw, name)
        return f"refused: {error}"
    again = read_scheduler(raw, name)
    assert again.noise.fingerprint == noise.fingerprint == read.noise.fingerprint
    assert again[1:] == read[1:]
    check_noise(scheduler, noise)
    if read.predicts in ("eps", "x0", "v"):
        check_step(scheduler, noise)
    try:
        check_steps(scheduler, noise, None)
    except InputError as error:
        if "start='move'" not in str(error):
            return f"noise read, steps refused: {error}"
        check_steps(scheduler, noise, "keep")
        return "right with start="
    return "right"


REFUSALS = (
    *("thresholding", "clip_sample_range", "flow_prediction", "invert_sigmas", "rise"),
    *("more than once a step", "are the same timestep", "is not one of"),
    "sigmas lie between",  # a flow's Karras steps, which some classes give levels up to 157
)


@pytest.mark.parametrize("name", KNOWN)
def test_it_is_read_rightly_or_refused_by_name(name, record_property):
    count, tried = Counter(), settings_of(name)
    assert len(tried) >= 10 or name in FEW, (name, len(tried))
    for settings in tried:
        with suppress(ValueError, NotImplementedError):  # what the class itself refuses
            scheduler = getattr(diffusers, name)(**settings)
            said = verdict(scheduler, name, settings)
            assert said.startswith("right") or any(reason in said for reason in REFUSALS), (
                settings,
                said,
            )
            count[said.split(":")[0]] += 1
    assert sum(count.values()) >= min(10, len(tried)) - 2, count
    record_property("count", dict(count))


FEW = {"FlowMatchHeunDiscreteScheduler", "ScoreSdeVeScheduler"}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_refused_by_name(name):
    config = {"_class_name": name, "num_train_timesteps": 1000, "beta_schedule": "linear"}
    for read in (NoiseSchedule.from_diffusers, lambda c: read_scheduler(c, "here")):
        with pytest.raises(InputError, match=f"the scheduler {name} is not known"):
            read(config)
