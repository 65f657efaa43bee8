"""Our schedulers and diffusers' own, class by class: what they mean and what they can be given."""

import inspect
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline
from tiny_pipelines import CONDITIONS, pipeline, unet2d

import dpdiff
from dpdiff import Denoiser, InputError, NoiseSchedule, Schedule, scheduler_table
from dpdiff.diffusers import AncestralScheduler, UnevenDDIMScheduler
from dpdiff.diffusers.configs import read_scheduler
from dpdiff.export import snippet

KNOWN = list(scheduler_table.SCHEDULERS)
# What stands for a class whose own requirements are missing has "_backends".
INSTALLED = [name for name in KNOWN if not hasattr(getattr(diffusers, name), "_backends")]
NODES = [0, 60, 220, 500]


def short(name):
    return name.removesuffix("Scheduler")


def given(name):
    """What set_timesteps of an installed scheduler can be given."""
    parameters = inspect.signature(getattr(diffusers, name).set_timesteps).parameters
    return {argument for argument in ("timesteps", "sigmas") if argument in parameters}


# --- the table ---


@pytest.mark.parametrize("name", INSTALLED)
def test_the_table_tells_what_every_scheduler_takes(name):
    assert given(name) == set(scheduler_table.SCHEDULERS[name].takes)


@pytest.mark.parametrize("name", INSTALLED)
def test_the_table_has_the_classes_own_defaults(name):
    """What a config leaves out means the same here as to diffusers."""
    own = dict(getattr(diffusers, name)().config)
    _, settings = scheduler_table.described({"_class_name": name})
    for setting in settings.keys() & own.keys():
        assert settings[setting] == own[setting], setting
    assert settings.get("clip_sample", False) == own.get("clip_sample", False)


def test_the_readme_has_the_table():
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    rows = {"`timesteps=`": "timesteps", "`sigmas=`": "sigmas", "neither: use ours": None}
    for what, argument in rows.items():
        names = [
            f"{name} ({meaning})" if meaning else name
            for name, meaning in scheduler_table.taking(argument).items()
        ]
        assert f"| {what} | {', '.join(names)} |" in readme


def test_a_scheduler_is_added_in_one_place(monkeypatch):
    class Newest(diffusers.DDPMScheduler):
        """Of next year."""

    row = scheduler_table.Scheduler(
        takes={"timesteps": ""}, defaults={"beta_end": 0.01, "clip_sample": True}
    )
    with pytest.raises(InputError, match="Newest is not known"):
        NoiseSchedule.from_diffusers(Newest())
    monkeypatch.setitem(scheduler_table.SCHEDULERS, "Newest", row)
    bare = read_scheduler({"_class_name": "Newest"}, "test")
    assert bare.noise.betas[-1] == 0.01
    assert bare.clip
    schedule = Schedule.even(1000, 4)
    ours = UnevenDDIMScheduler.from_config(Newest(), schedule=schedule)
    assert ours.config["source"] == "Newest"
    pipe = DDPMPipeline(unet2d(), None)
    pipe.scheduler = Newest()
    denoiser = dpdiff.load(pipe)
    assert denoiser.clip
    assert "Newest" in snippet("diffusers", schedule, denoiser)


@pytest.mark.parametrize("name", scheduler_table.taking("timesteps"))
def test_timesteps_are_taken_as_they_are(name):
    scheduler = getattr(diffusers, name + "Scheduler")()
    noise = NoiseSchedule.from_diffusers(scheduler)
    nodes = [*NODES, noise.T][::-1]
    time_inputs = noise.time_inputs[np.array(nodes[:-1]) - 1]
    scheduler.set_timesteps(timesteps=time_inputs.tolist())
    timesteps = list(dict.fromkeys(scheduler.timesteps.double().tolist()))  # Heun's come twice
    np.testing.assert_allclose(timesteps, time_inputs)
    if hasattr(scheduler, "sigmas"):
        sigmas = list(dict.fromkeys(scheduler.sigmas.tolist()))
        np.testing.assert_allclose(sigmas, [*noise.sigmas[nodes[:-1]], 0], rtol=1e-4)


@pytest.mark.parametrize("name", scheduler_table.taking("sigmas"))
def test_sigmas_are_taken_as_the_table_says(name):
    settings = {"use_flow_sigmas": True} if name == "UniPCMultistep" else {}
    scheduler = getattr(diffusers, name + "Scheduler")(**settings)
    noise = NoiseSchedule.from_diffusers(scheduler)
    sigmas = Schedule([*NODES, noise.T]).to_sigmas(noise)
    if name == "EDMEuler":
        scheduler.set_timesteps(sigmas=torch.tensor([0.0, 0.25, 1.0]))
        low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
        sigmas = [80.0, (high + 0.25 * (low - high)) ** 7, 0.002, 0.0]
    else:
        scheduler.set_timesteps(
            sigmas=np.array(sigmas[:-1] if "Flow" in name or settings else sigmas)
        )
    np.testing.assert_allclose(scheduler.sigmas, sigmas, rtol=1e-5)


def test_a_flow_scheduler_shifts_the_sigmas_it_is_given():
    """Why the exported snippet sets the shift to 1."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=[1.0, 0.5])
    np.testing.assert_allclose(scheduler.sigmas, [1, 0.75, 0])


# --- ours, made of any ---


def source(name):
    """A scheduler that is known, with settings that matter."""
    settings = {"edm": {"sigma_max": 20.0}, "flow": {"shift": 3.0}, "score": {"sigma_max": 9.0}}
    family = scheduler_table.SCHEDULERS[name].process
    return getattr(diffusers, name)(**settings.get(family, {"beta_schedule": "squaredcos_cap_v2"}))


@pytest.mark.parametrize("name", INSTALLED)
def test_a_scheduler_of_any_class_gives_ours_its_process(name, tmp_path):
    theirs = source(name)
    read = read_scheduler(dict(theirs.config) | {"_class_name": name}, "test")
    schedule = Schedule([*NODES, read.noise.T])
    ours = UnevenDDIMScheduler.from_config(theirs, schedule=schedule)
    ours.save_pretrained(tmp_path)
    saved = AncestralScheduler.from_pretrained(tmp_path)
    again = AncestralScheduler.from_config(ours.config, schedule=[*NODES, 900, read.noise.T])
    for one in (ours, saved, again):
        assert one.noise.fingerprint == read.noise.fingerprint
        assert (one.reading.predicts, one.reading.sigma_data) == (read.predicts, read.sigma_data)
        assert one.init_noise_sigma == read.noise.prior_scale
    time_inputs = read.noise.time_inputs[[t - 1 for t in schedule.timesteps[:0:-1]]]
    np.testing.assert_allclose(ours.timesteps, time_inputs, rtol=1e-6)
    assert saved.schedule == schedule
    assert again.schedule.steps == 5
    swapped = getattr(diffusers, name).from_config(ours.config)  # as diffusers swaps schedulers
    assert {k: v for k, v in swapped.config.items() if k in theirs.config and k[0] != "_"} == {
        k: v for k, v in theirs.config.items() if k[0] != "_"
    }


def test_a_config_that_does_not_tell_its_class_is_refused_unless_it_has_betas():
    for name in ("FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "ScoreSdeVeScheduler"):
        with pytest.raises(InputError, match="pass the scheduler itself"):
            AncestralScheduler.from_config(source(name).config, schedule=[0, 1000])
    AncestralScheduler.from_config(source("DDPMScheduler").config, schedule=[0, 1000])


PROCESSES = {
    "eps": NoiseSchedule.linear(50),
    "x0": NoiseSchedule.cosine(50).scaled(0.5),
    "v": NoiseSchedule.cosine(50),
    "flow": NoiseSchedule.flow(50, shift=3.0),
    "score": NoiseSchedule.from_sigmas(np.geomspace(0.01, 30, 50)),
    "edm": NoiseSchedule.edm(50),
    "edm_v": NoiseSchedule.edm(50),
}


@pytest.mark.parametrize("predicts", PROCESSES)
@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_a_pipelines_loop_is_sample(predicts, sampler, monkeypatch, tmp_path):
    """Scaled, asked at the scheduler's timesteps, stepped; noise is dpdiff.sample's own."""
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 1, 3, padding=1)

    class Told(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x, time):
            return self.inner(x) * torch.cos(time.float() / 7).reshape(-1, 1, 1, 1)

    noise = PROCESSES[predicts]
    denoiser = Denoiser(Told(), noise, predicts, shape=(1, 4, 4), levels=None, sigma_data=0.7)
    schedule = Schedule([0, 3, 20, 31, 50])
    kind = UnevenDDIMScheduler if sampler == "ddim" else AncestralScheduler
    kind.from_denoiser(denoiser, schedule).save_pretrained(tmp_path)
    scheduler = kind.from_pretrained(tmp_path)
    gaussian = dpdiff.runtime.random_streams.gaussian
    left = [
        torch.from_numpy(gaussian(0, t, range(2), (1, 4, 4))) for t in schedule.timesteps[:0:-1]
    ]
    monkeypatch.setattr("dpdiff.diffusers.schedulers.randn_tensor", lambda *_, **__: left.pop(0))
    with torch.inference_mode():
        x = left.pop(0) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            output = denoiser.network(scheduler.scale_model_input(x, t), t.expand(2))
            x = scheduler.step(output, t, x).prev_sample
    expected = dpdiff.sample(denoiser, schedule, n=2, sampler=sampler, progress=False)
    assert expected.isfinite().all()
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)


def test_partial_runs():
    noise, schedule = PROCESSES["flow"], Schedule([0, 3, 20, 31, 50])
    denoiser = Denoiser(lambda x, t: x, noise, "flow", shape=(2,), levels=None)
    scheduler = UnevenDDIMScheduler.from_denoiser(denoiser, schedule)
    assert [scheduler.strength(t) for t in (3, 19, 20, 31, 49, 50)] == [
        0.25,
        0.25,
        0.5,
        0.75,
        0.75,
        1,
    ]
    with pytest.raises(InputError, match="first step is at 3 > 2"):
        scheduler.strength(2)
    x, eps = torch.ones(4, 2), torch.full((4, 2), 0.5)
    t = scheduler.timesteps[1:2]
    expected = noise.f[31] * x + noise.g[31] * eps
    torch.testing.assert_close(scheduler.add_noise(x, eps, t), expected)
    torch.testing.assert_close(scheduler.scale_noise(x, t.repeat(4), eps), expected)


def test_a_strength_means_as_many_steps_to_every_pipeline():
    """They cut K·strength off, or K - K·strength."""
    for steps in range(1, 120):
        nodes = Schedule(range(steps + 1))
        noise = NoiseSchedule.cosine(steps)
        scheduler = UnevenDDIMScheduler.from_denoiser(
            Denoiser(lambda x, t: x, noise, "x0", shape=(2,)), nodes
        )
        for count in range(1, steps + 1):
            strength = scheduler.strength(count)
            assert int(steps * strength) == count
            assert int(max(steps - min(steps * strength, steps), 0)) == steps - count


# --- stock samplers with exported lists ---


def loop(scheduler, network, x):
    with torch.inference_mode():
        for t in scheduler.timesteps:
            scaled = getattr(scheduler, "scale_model_input", lambda x, t: x)(x, t)
            output = network(scaled, t.expand(len(x))).sample
            x = scheduler.step(output, t, x).prev_sample
    return x


def exported(pipe, schedule, **conditions):
    """A pipeline with the scheduler of the exported lines, a denoiser, and its DDIM samples."""
    denoiser = dpdiff.load(pipe, **conditions)
    lines = snippet("sigmas", schedule, denoiser)
    assert max(map(len, lines.splitlines())) <= 100
    names = {"pipe": pipe}
    exec(compile(lines, "snippet", "exec"), names)
    gaussian = dpdiff.runtime.random_streams.gaussian(0, schedule.T, range(2), denoiser.shape)
    expected = dpdiff.sample(denoiser, schedule, n=2, sampler="ddim", progress=False)
    return names, torch.from_numpy(gaussian), expected


FEW = Schedule([0, 100, 300, 700, 1000])


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("dynamic", [False, True])
def test_flow_models_run_the_exported_sigmas(shift, dynamic):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        shift=shift, use_dynamic_shifting=dynamic, shift_terminal=0.02
    )
    pipe = DDPMPipeline(unet2d(in_channels=1, out_channels=1), None)
    pipe.scheduler = scheduler
    names, x, expected = exported(pipe, FEW)
    pipe.scheduler.set_timesteps(sigmas=names["sigmas"])
    noise = NoiseSchedule.from_diffusers(scheduler)
    np.testing.assert_allclose(pipe.scheduler.sigmas[:-1], noise.g[list(FEW.timesteps[:0:-1])])
    samples = loop(pipe.scheduler, pipe.unet, x)
    torch.testing.assert_close(samples, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edm_models_run_the_exported_places(prediction):
    scheduler = diffusers.EDMEulerScheduler(prediction_type=prediction)
    pipe = DDPMPipeline(unet2d(in_channels=1, out_channels=1), None)
    pipe.scheduler = scheduler
    names, x, expected = exported(pipe, FEW)
    np.testing.assert_allclose(pipe.scheduler.sigmas[:-1], names["sigmas"], rtol=1e-5)
    samples = loop(pipe.scheduler, pipe.unet, 80 * x)
    torch.testing.assert_close(samples, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_euler_runs_the_exported_sigmas_as_ddim(prediction):
    """In σ = g/f a DDIM step is an Euler step; x there is x_t / f, and timesteps lie between."""
    scheduler = diffusers.DDPMScheduler(
        1000, clip_sample=False, prediction_type=prediction, variance_type="fixed_small"
    )
    pipe = DDPMPipeline(unet2d(in_channels=1, out_channels=1), scheduler)
    names, x, expected = exported(pipe, FEW)
    euler, noise = names["scheduler"], NoiseSchedule.from_diffusers(scheduler)
    assert names["sigmas"] == FEW.to_sigmas(noise)
    euler.set_timesteps(sigmas=names["sigmas"])  # anew: the lines have run
    samples = loop(euler, pipe.unet, x / noise.f[1000])
    torch.testing.assert_close(samples, expected, rtol=1e-3, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize("kind", ["StableDiffusion3Pipeline", "FluxPipeline"])
def test_flow_pipelines_take_the_exported_sigmas(kind):
    pytest.importorskip("transformers")
    from dpdiff.diffusers.pipelines import packed, unpacked

    pipe, conditions = pipeline(kind), CONDITIONS[kind]
    names, x, expected = exported(pipe, FEW, **conditions)
    batch = {k: v.expand(2, *v.shape) for k, v in conditions.items() if "embeds" in k}
    flux = kind == "FluxPipeline"
    sizes = {"height": 16, "width": 24} if flux else {}
    latents = names["pipe"](
        **batch,
        **names["run"],
        **sizes,
        guidance_scale=3.0,
        latents=packed(x) if flux else x,
        output_type="latent",
    ).images
    latents = unpacked(latents, 4, 6) if flux else latents
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)


def test_what_no_stock_scheduler_runs_is_refused():
    noise = NoiseSchedule.from_sigmas(np.geomspace(0.01, 30, 1000))
    score = Denoiser(lambda x, t: x, noise, "score", shape=(2,))
    with pytest.raises(InputError, match="no scheduler of diffusers runs such a list"):
        snippet("sigmas", FEW, score)
    with pytest.raises(InputError, match="told an index"):
        snippet("diffusers", FEW, score)
    assert "sigma = g/f" in snippet("comfyui", FEW, score)
    flow = Denoiser(lambda x, t: x, NoiseSchedule.flow(1000), "flow", shape=(2,))
    assert "sigma = g, the flow time" in snippet("comfyui", FEW, flow)
