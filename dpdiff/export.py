"""A schedule as a few lines of Python for the program that is to run it.

Every snippet runs as it stands, but for the objects its comments name: ``pipe`` is a diffusers
pipeline, ``denoiser`` what :func:`dpdiff.load` returns, ``flags`` improved-diffusion's.
"""

from __future__ import annotations

from collections.abc import Callable
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from dpdiff.errors import InputError
from dpdiff.schedule import COMFYUI_HIGHEST
from dpdiff.scheduler_table import SCHEDULERS, taking

if TYPE_CHECKING:
    from dpdiff.denoiser import Denoiser
    from dpdiff.schedule import Schedule


def snippet(form: str, schedule: Schedule, denoiser: Denoiser | None = None) -> str:
    """The text for one of :data:`FORMATS`.

    Parameters
    ----------
    form : str
        Its name.
    schedule : Schedule
        What to write.
    denoiser : Denoiser, optional
        The model. ``sigmas``, ``k-diffusion`` and ``comfyui`` need its noise schedule;
        ``diffusers-scheduler`` writes its variance rule down.

    Raises
    ------
    InputError
        If the format needs a model and there is none, or the model is of another grid.

    Examples
    --------
    >>> from dpdiff.schedule import Schedule
    >>> print(snippet("improved-diffusion", Schedule([0, 2, 5, 10])).splitlines()[4])
    use_timesteps = [1, 4, 9]
    """
    if form in ABOUT_A_MODEL and denoiser is None:
        raise InputError(f"{form} needs the model's noise schedule: name the model")
    if denoiser is not None:
        schedule.check_denoiser(denoiser)
    if schedule.coefficients is not None and form not in WITH_COEFFICIENTS:
        raise InputError(
            f"a fitted solver is more than the list that {form} writes: --to "
            f"{', --to '.join(WITH_COEFFICIENTS)} hold its coefficients, and in Python "
            'schedule.with_sampler("2m") is a list of its steps'
        )
    return FORMATS[form](schedule, denoiser)


def _listing(name: str, values: list[float]) -> str:
    text = fill(", ".join(map(str, values)), 96, break_on_hyphens=False)
    if "\n" not in text and len(name) + len(text) < 90:
        return f"{name} = [{text}]"
    return f"{name} = [\n    " + text.replace("\n", "\n    ") + ",\n]"


def _diffusers(schedule: Schedule, denoiser: Denoiser | None) -> str:
    if denoiser is not None and denoiser.noise.betas is None:
        raise InputError(
            "only networks that are told an index take timesteps; --to sigmas is for this one"
        )
    caution = ""
    if schedule.timesteps[1] > 1:
        caution = """
# The list does not end at 0. There, DDPMScheduler adds noise to the final images unless its
# variance_type is fixed_small; --to diffusers-scheduler is right under every variance rule."""
    takers = fill(", ".join(taking("timesteps", "betas")), 96).replace("\n", "\n#   ")
    return f"""\
# 0-based and descending, {schedule.steps} timesteps for {schedule.steps} steps. `pipe` is your \
DDPMPipeline.
# set_timesteps(timesteps=...) is known to these schedulers of diffusers:
#   {takers}.
# A list assigned to DDIMScheduler.timesteps runs, and is wrong: --to diffusers-scheduler.{caution}
import torch

{_listing("timesteps", schedule.to_diffusers())}
pipe.scheduler.set_timesteps(timesteps=timesteps)  # pipe(...) would set its own: loop by hand
unet = pipe.unet
sample = torch.randn(4, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
with torch.no_grad():
    for t in pipe.scheduler.timesteps:
        sample = pipe.scheduler.step(unet(sample, t).sample, t, sample).prev_sample"""


def _scheduler(schedule: Schedule, denoiser: Denoiser | None) -> str:
    lists, rule = _listing("schedule", list(schedule.timesteps)), ""
    if denoiser is not None:
        rule = f', variance_type="{denoiser.rule.variance_type}"'
        if denoiser.rule.needs_error:
            lists += "\n" + _listing("error", denoiser.error[list(schedule.timesteps[1:])].tolist())
            rule += ", error=error"
    kind = schedule.provenance.get("sampler", "ancestral")
    if schedule.coefficients is not None:
        kind, rows = "fitted", "".join(f"    {list(row)},\n" for row in schedule.coefficients)
        lists += f"\ncoefficients = [\n{rows}]"
        rule += ", coefficients=coefficients"
    if kind != "ancestral":
        rule += f', sampler="{kind}"'
    return f"""\
# `pipe` is your pipeline. sampler="ddim" and sampler="2m" draw from the same steps.
from dpdiff.diffusers import ScheduleScheduler

{lists}
pipe.scheduler = ScheduleScheduler.from_config(
    pipe.scheduler, schedule=schedule{rule}
)
images = pipe(num_inference_steps={schedule.steps}).images"""


def _sigmas(schedule: Schedule, denoiser: Denoiser) -> str:
    """For the Euler sampler of the model's own family."""
    if denoiser.predicts == "flow":
        return _flow(schedule, denoiser)
    if denoiser.predicts.startswith("edm"):
        return _edm(schedule, denoiser)
    if denoiser.noise.betas is None:
        raise InputError(
            "no scheduler of diffusers runs such a list for this noise schedule: "
            "--to diffusers-scheduler does, and --to comfyui prints the bare list"
        )
    return _euler(schedule, denoiser)


def _flow(schedule: Schedule, denoiser: Denoiser) -> str:
    only = SCHEDULERS["FlowMatchEulerDiscreteScheduler"].only
    settings = ", ".join(f"{name}={value}" for name, value in only.items())
    settings = fill(settings, 96).replace("\n", "\n    ")
    return f"""\
# sigma = g, the flow time, exact: no shift comes after it. {schedule.steps} values for \
{schedule.steps} steps.
# `pipe` is your StableDiffusion3Pipeline or FluxPipeline; add the prompt to the last line.
from diffusers import FlowMatchEulerDiscreteScheduler

{_listing("sigmas", schedule.to_sigmas(denoiser.noise, zero="none"))}
pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
    pipe.scheduler.config,
    {settings},
)
run = dict(sigmas=sigmas, num_inference_steps={schedule.steps})  # pipe(prompt, **run).images"""


def _edm(schedule: Schedule, denoiser: Denoiser) -> str:
    return f"""\
# sigma, decreasing, {schedule.steps} values for {schedule.steps} steps. `pipe` has an \
EDMEulerScheduler: what that takes
# as sigmas are places between its sigma_max (0) and sigma_min (1), under sigma_schedule "karras".
import torch

{_listing("sigmas", schedule.to_sigmas(denoiser.noise, zero="none"))}
config = pipe.scheduler.config
assert config.sigma_schedule == "karras"
low, high = (sigma ** (1 / config.rho) for sigma in (config.sigma_min, config.sigma_max))
places = (high - torch.tensor(sigmas, dtype=torch.float64) ** (1 / config.rho)) / (high - low)
pipe.scheduler.set_timesteps(sigmas=places)  # then loop by hand, or pipe(prompt, sigmas=places)"""


def _euler(schedule: Schedule, denoiser: Denoiser) -> str:
    return f"""\
# sigma = g/f, decreasing, {schedule.steps + 1} values for {schedule.steps} steps: the last is 0. \
`pipe` is your DDPMPipeline.
# A learned variance plays no part: its channels are cut off. A StableDiffusionPipeline, or XL,
# needs no loop: with this scheduler in it, pipe(prompt, sigmas=sigmas).
import torch
from diffusers import EulerDiscreteScheduler

{_listing("sigmas", schedule.to_sigmas(denoiser.noise))}
unet, scheduler = pipe.unet, EulerDiscreteScheduler.from_config(pipe.scheduler.config)
scheduler.set_timesteps(sigmas=sigmas)
channels, size = unet.config.in_channels, unet.config.sample_size
sample = torch.randn(4, channels, size, size) * scheduler.init_noise_sigma
with torch.no_grad():
    for t in scheduler.timesteps:
        output = unet(scheduler.scale_model_input(sample, t), t).sample[:, :channels]
        sample = scheduler.step(output, t, sample).prev_sample"""


def _k_diffusion(schedule: Schedule, denoiser: Denoiser) -> str:
    wrappers = {"eps": "DiscreteEpsDDPMDenoiser", "v": "DiscreteVDDPMDenoiser"}
    if denoiser.predicts not in wrappers:
        raise InputError(
            f"k-diffusion wraps networks that predict eps or v, this one predicts "
            f"{denoiser.predicts}; --to sigmas prints the bare list"
        )
    # An infinite σ(T), whose place diffusers' 4096 takes in the list, is to be found by its own.
    kept = "" if denoiser.noise.f[-1] > 0 else ".clamp(min=2**-24)"
    return f"""\
# sigma = g/f, decreasing, {schedule.steps + 1} values for {schedule.steps} steps: the last is 0.
# `denoiser` is dpdiff.load(...). A learned variance plays no part: its channels are cut off.
import torch
from k_diffusion import external, sampling

{_listing("sigmas", schedule.to_sigmas(denoiser.noise))}
sigmas = torch.tensor(sigmas)
shape = denoiser.shape
model = external.{wrappers[denoiser.predicts]}(
    lambda x, t: denoiser.network(x, t).sample[:, : shape[0]],
    torch.tensor(denoiser.noise.f[1:] ** 2, dtype=torch.float32){kept},
    quantize=True,
)
with torch.no_grad():
    samples = sampling.sample_euler(model, torch.randn(4, *shape) * sigmas[0], sigmas)"""


def _comfyui(schedule: Schedule, denoiser: Denoiser) -> str:
    kind = "g, the flow time" if denoiser.predicts == "flow" else "g/f"
    # The node reads plain decimals; an exponent would become a number of its own.
    sigmas = schedule.to_sigmas(denoiser.noise, highest=COMFYUI_HIGHEST)
    numbers = ", ".join(f"{sigma:.8f}" for sigma in sigmas)
    return f"""\
# sigma = {kind}, decreasing, {schedule.steps + 1} values for {schedule.steps} steps: the last is 0.
# Paste the text into a ManualSigmas node and connect that to the sigmas of SamplerCustom. A node
# of your own returns the tensor.
import torch

text = "{numbers}"
sigmas = torch.FloatTensor([float(number) for number in text.split(", ")])"""


def _improved(schedule: Schedule, _: Denoiser | None) -> str:
    return f"""\
# 0-based and ascending. timestep_respacing cannot say them, since it divides the grid evenly, but
# SpacedDiffusion takes any. `flags` are those the model was trained with, without a respacing.
from improved_diffusion import script_util

{_listing("use_timesteps", schedule.to_diffusers()[::-1])}
script_util.space_timesteps = lambda steps, counts: use_timesteps
model, diffusion = script_util.create_model_and_diffusion(**flags)"""


def _python(schedule: Schedule, denoiser: Denoiser) -> str:
    """A fitted solver in the coordinates of k-diffusion: x/f, but x itself of a flow."""
    if schedule.coefficients is None:
        raise InputError("only fitted solvers have coefficients: try --to k-diffusion or comfyui")
    noise, down = denoiser.noise, schedule.timesteps[::-1]
    f = np.ones(noise.T + 1) if noise.is_flow else noise.f
    rows = [
        [row[0] * f[t] / f[s], *(c / f[s] for c in row[1:])]
        for row, t, s in zip(schedule.coefficients, down, down[1:], strict=False)
    ]
    shown = "".join(f"    [{', '.join(f'{number:.9g}' for number in row)}],\n" for row in rows)
    unit = "g, the flow time" if noise.is_flow else "g/f"
    return f"""\
# sigma = {unit}. `model(x, sigma)` returns the denoised x, as k-diffusion and ComfyUI wrap
# networks; x is noise, scaled by the first sigma.
import torch

{_listing("sigmas", schedule.to_sigmas(noise))}
rows = [
{shown}]


def sample_fitted(model, x, sigmas=sigmas, extra_args=None, callback=None, disable=None):
    history = []
    for row, sigma in zip(rows, sigmas):
        history.insert(0, model(x, sigma * x.new_ones(len(x)), **(extra_args or {{}})))
        x = row[0] * x + sum(c * denoised for c, denoised in zip(row[1:], history))
    return x"""


FORMATS: dict[str, Callable[[Schedule, Denoiser | None], str]] = {
    "diffusers": _diffusers,
    "diffusers-scheduler": _scheduler,
    "sigmas": _sigmas,
    "k-diffusion": _k_diffusion,
    "comfyui": _comfyui,
    "improved-diffusion": _improved,
    "python": _python,
    "json": lambda schedule, _: schedule.to_json(),
}
WITH_COEFFICIENTS = ("diffusers-scheduler", "python", "json")
ABOUT_A_MODEL = ("sigmas", "k-diffusion", "comfyui", "python")
