"""Our schedulers and diffusers' own, class by class: what they mean and what they can be given."""

import inspect
from contextlib import suppress
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


def test_the_guide_has_the_table():
    guide = (Path(__file__).parent.parent / "book/guide/exports.md").read_text()
    rows = {"`timesteps=`": "timesteps", "`sigmas=`": "sigmas", "neither: use ours": None}
    for what, argument in rows.items():
        names = [
            f"{name} ({meaning})" if meaning else name
            for name, meaning in scheduler_table.taking(argument).items()
        ]
        assert f"| {what} | {', '.join(names)} |" in guide


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


SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PUBLISHED = {  # settings of published models, and of their samplers
    "defaults": {},
    "Stable Diffusion": SD | {"timestep_spacing": "leading", "steps_offset": 1},
    "trailing": SD | {"timestep_spacing": "trailing"},
    "Karras": SD | {"use_karras_sigmas": True},
    "exponential": SD | {"use_exponential_sigmas": True},
    "beta": SD | {"use_beta_sigmas": True},
    "Lu": SD | {"use_lu_lambdas": True},
    "v, no signal at T": SD
    | {"prediction_type": "v_prediction"}
    | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    "to the lowest sigma": SD | {"final_sigmas_type": "sigma_min"},
    "logarithmic": SD | {"interpolation_type": "log_linear"},
    "cosine, clipped": {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    "SANA": {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"},
    "Wan": {"use_flow_sigmas": True, "flow_shift": 1.0, "prediction_type": "flow_prediction"},
    "SD3": {"shift": 3.0},
    "Flux": {"use_dynamic_shifting": True, "shift": 3.0},
    "LTX": {"shift_terminal": 0.1, "use_dynamic_shifting": True},
    "flow, Karras": {"use_karras_sigmas": True, "shift": 1.0},
    "flow, beta": {"use_beta_sigmas": True, "shift": 1.0},
    "EDM": {"sigma_min": 0.01, "sigma_max": 20.0},
    "EDM, exponential": {"sigma_schedule": "exponential", "sigma_max": 500.0, "sigma_min": 0.3},
    "EDM, v": {"prediction_type": "v_prediction", "sigma_data": 1.0, "sigma_max": 80.0},
}


def published(name):
    """Schedulers of a class at all settings that it has, with these."""
    kind = getattr(diffusers, name)
    known = inspect.signature(kind).parameters
    for title, settings in PUBLISHED.items():
        if settings.keys() <= known.keys():
            with suppress(ValueError):  # settings that do not go together there
                yield title, kind(**settings), settings


def stepped(scheduler, argument, noise, nodes):
    """Timesteps and sigmas after a list was given; None where the scheduler refuses it."""
    mu = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
    mu = mu if "mu" in inspect.signature(scheduler.set_timesteps).parameters else {}
    if argument == "timesteps":
        values = noise.time_inputs[nodes - 1].tolist()
    else:
        ends = type(scheduler).__name__ == "EulerDiscreteScheduler"
        sigmas = Schedule([0, *nodes[::-1]]).to_sigmas(noise)
        values = np.array(sigmas if ends else sigmas[:-1])
    try:
        scheduler.set_timesteps(**{argument: values}, **mu)
    except (ValueError, TypeError):
        return None
    told = list(dict.fromkeys(scheduler.timesteps.double().tolist()))  # Heun's come twice
    sigmas = list(dict.fromkeys(getattr(scheduler, "sigmas", torch.zeros(0)).tolist()))
    return np.array(told), np.array(sigmas)[: len(nodes)]


TAKERS = [
    (name, argument)
    for argument in ("timesteps", "sigmas")
    for name, row in scheduler_table.SCHEDULERS.items()
    if argument in row.takes and name != "EDMEulerScheduler"
]


@pytest.mark.parametrize(("name", "argument"), TAKERS)
def test_lists_are_stepped_through_as_the_table_says(name, argument):
    """With the settings it asks for, as given; with others, which all exist, refused or not."""
    only, counts = scheduler_table.SCHEDULERS[name].only, {"as given": 0, "otherwise": 0}
    for title, scheduler, settings in published(name):
        noise = NoiseSchedule.from_diffusers(scheduler)
        nodes = np.array([*NODES, noise.T])[:0:-1]
        as_given = all(scheduler.config.get(key, value) == value for key, value in only.items())
        result = stepped(scheduler, argument, noise, nodes)
        right = result is not None and len(result[0]) == len(nodes)
        if right:
            cut = 1.01 if name.startswith("UniPC") else 0.01  # flow times, cut off to integers
            right = np.allclose(result[0], noise.time_inputs[nodes - 1], rtol=1e-4, atol=cut)
            finite = noise.sigmas[nodes] < np.inf
            if len(result[1]):
                right &= np.allclose(result[1][finite], noise.sigmas[nodes][finite], rtol=1e-4)
        if as_given:
            assert right, (title, settings)
        counts["as given" if as_given else "otherwise"] += 1
    assert counts["as given"] > 0


def test_what_the_table_asks_for_is_asked_for_a_reason():
    """Every setting that it names changes a list, or has it refused."""
    lists = {"timesteps": [900.0, 700.0, 100.0], "sigmas": np.array([0.9, 0.7, 0.1])}
    for name, row in scheduler_table.SCHEDULERS.items():
        kind, other = getattr(diffusers, name), {"shift": 3.0, "flow_shift": 3.0}
        other |= {"shift_terminal": 0.3, "interpolation_type": "log_linear"}
        other |= {"timestep_type": "continuous", "sigma_schedule": "exponential"}
        for setting, value in row.only.items():
            changed = other.get(setting, not value)
            outcomes = []
            for settings in (row.only, {**row.only, setting: changed}):
                for argument in row.takes:
                    extra = {"mu": 1.0} if settings.get("use_dynamic_shifting") else {}
                    values = torch.tensor(lists[argument]) if "EDM" in name else lists[argument]
                    try:
                        v = {"prediction_type": "v_prediction"} if name[:5] == "Euler" else {}
                        scheduler = kind(**settings, **v)
                        scheduler.set_timesteps(**{argument: values}, **extra)
                        outcomes.append([scheduler.timesteps.tolist(), scheduler.sigmas.tolist()])
                    except (ValueError, TypeError) as error:
                        outcomes.append(type(error))
            assert outcomes[: len(row.takes)] != outcomes[len(row.takes) :], (name, setting)


def test_edm_takes_places_between_its_sigmas():
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(sigmas=torch.tensor([0.0, 0.25, 1.0]))
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    sigmas = [80.0, (high + 0.25 * (low - high)) ** 7, 0.002, 0.0]
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
        assert (one.settings.predicts, one.settings.sigma_data) == (read.predicts, read.sigma_data)
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
