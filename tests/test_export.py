"""Every line that `dpdiff export` prints is run: against diffusers, else against stand-ins."""

import json
import re
import sys
from dataclasses import replace
from itertools import pairwise
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline

import dpdiff
from dpdiff import InputError, Schedule, models
from dpdiff.cli import main
from dpdiff.diffusers import AncestralScheduler
from dpdiff.export import FORMATS, snippet
from dpdiff.sampling import start

STEPS = 5
QUADRATIC = Schedule.quadratic(4000, STEPS)


@pytest.fixture(scope="module")
def denoiser():
    return dpdiff.load("digits")


@pytest.fixture
def pipe(denoiser):
    pipe = DDPMPipeline.from_pretrained(models.HOME / "digits")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def printed(capsys):
    def run(*arguments):
        assert main(["export", *map(str, arguments)]) == 0
        return capsys.readouterr().out

    return run


def execute(code, **given):
    """Run a snippet with the objects that its comments name; all of its lines fit a page."""
    assert max(map(len, code.splitlines())) <= 100
    for name in given:
        assert f"`{name}`" in code, name
    torch.manual_seed(0)
    exec(compile(code, "snippet", "exec"), given)
    return SimpleNamespace(**given)


def test_diffusers(printed, pipe):
    code = printed(f"quadratic:{STEPS}", "--to", "diffusers")
    result = execute(code, pipe=pipe)
    assert result.timesteps == pipe.scheduler.timesteps.tolist() == QUADRATIC.to_diffusers()
    assert result.sample.shape == (4, 1, 8, 8)
    assert result.sample.isfinite().all()
    assert "adds noise to the final images" in code  # the list ends at 159
    assert "adds noise" not in printed("even:4000", "--to", "diffusers")


@pytest.mark.parametrize("rule", [None, "small", "large", "learned_range", "optimal"])
def test_diffusers_scheduler(printed, pipe, denoiser, rule):
    text, variance = ("dp:6" if rule == "small" else "even:6"), ["--variance", rule]
    result = execute(
        printed(text, "--to", "diffusers-scheduler", *(variance if rule else [])), pipe=pipe
    )
    assert len(result.images) == 1
    costs, schedule = dpdiff.load_costs("digits"), Schedule.even(4000, 6)
    if rule == "small":
        schedule = dpdiff.solve(costs.smoothed().with_variance(rule)).schedule(6)
    ours = denoiser.with_variance(rule or "learned_range", costs)
    expected = AncestralScheduler.from_denoiser(ours, schedule).config
    for name in ("schedule", "variance_type", "error", "prediction_type", "trained_betas"):
        assert pipe.scheduler.config[name] == expected[name], name


def test_diffusers_scheduler_leaves_the_pipelines_own_rule(printed, pipe, tmp_path):
    path = tmp_path / "s.json"
    QUADRATIC.save(path)
    code = printed(path, "--to", "diffusers-scheduler")
    assert "variance_type" not in code
    execute(code, pipe=pipe)
    assert pipe.scheduler.schedule == QUADRATIC
    assert pipe.scheduler.config.variance_type == "learned_range"


def test_sigmas_in_euler(printed, pipe, denoiser):
    result = execute(printed(f"quadratic:{STEPS}", "--to", "sigmas"), pipe=pipe)
    assert result.sigmas == QUADRATIC.to_sigmas(denoiser.noise)
    np.testing.assert_allclose(result.scheduler.sigmas, result.sigmas, rtol=1e-6)
    np.testing.assert_allclose(result.scheduler.timesteps, QUADRATIC.to_diffusers(), atol=0.1)
    assert result.sample.shape == (4, 1, 8, 8)
    assert result.sample.abs().max() < 3  # images, not noise of size sigma


def stand_in(monkeypatch, package, **modules):
    monkeypatch.setitem(sys.modules, package, parent := ModuleType(package))
    for name, content in modules.items():
        setattr(parent, name, module := SimpleNamespace(**content))
        monkeypatch.setitem(sys.modules, f"{package}.{name}", module)


def test_k_diffusion(printed, denoiser, monkeypatch):
    """A stand-in with the names and signatures of k-diffusion 0.1.1; Euler in one line."""

    class Wrapper:
        def __init__(self, model, alphas_cumprod, quantize):
            self.model, self.sigmas = model, ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5
            assert quantize

        def __call__(self, x, sigma):  # x̂_0 of a network that predicts v
            t = (sigma.log() - self.sigmas.log()).abs().argmin().expand(len(x))
            scale = (1 + sigma**2) ** -0.5
            asked.append(int(t[0]))
            return x * scale**2 - sigma * scale * self.model(x * scale, t)

    def sample_euler(model, x, sigmas):
        for high, low in pairwise(sigmas):
            x = x + (x - model(x, high)) / high * (low - high)
        return x

    asked = []
    external = {"DiscreteVDDPMDenoiser": Wrapper}
    stand_in(monkeypatch, "k_diffusion", external=external, sampling={"sample_euler": sample_euler})
    result = execute(printed(f"quadratic:{STEPS}", "--to", "k-diffusion"), denoiser=denoiser)
    assert asked == QUADRATIC.to_diffusers()
    assert result.sigmas.shape == (STEPS + 1,)
    assert result.sigmas[-1] == 0
    assert result.samples.shape == (4, 1, 8, 8)
    assert result.samples.abs().max() < 3


def test_comfyui(printed, denoiser):
    result = execute(printed(f"quadratic:{STEPS}", "--to", "comfyui"))
    assert result.sigmas.dtype == torch.float32
    np.testing.assert_allclose(result.sigmas, QUADRATIC.to_sigmas(denoiser.noise), rtol=1e-6)
    assert re.fullmatch(r"(\d+\.\d+, )+0\.0+", result.text)  # no exponents


def test_improved_diffusion(printed, denoiser, monkeypatch):
    """A stand-in that respaces as SpacedDiffusion does: betas from ratios of kept ᾱ."""

    def create_model_and_diffusion(timestep_respacing):
        kept = set(script_util.space_timesteps(4000, timestep_respacing or [4000]))
        alphas, betas, last = np.cumprod(1 - denoiser.noise.betas), [], 1.0
        for i in sorted(kept):
            betas.append(1 - alphas[i] / last)
            last = alphas[i]
        return "model", betas

    content = {"create_model_and_diffusion": create_model_and_diffusion, "space_timesteps": None}
    stand_in(monkeypatch, "improved_diffusion", script_util=content)
    script_util = sys.modules["improved_diffusion.script_util"]
    flags = {"timestep_respacing": ""}
    code = printed(f"quadratic:{STEPS}", "--to", "improved-diffusion")
    result = execute(code, flags=flags)
    assert result.use_timesteps == QUADRATIC.to_diffusers()[::-1]
    nodes = list(QUADRATIC.timesteps[1:])
    np.testing.assert_allclose(
        np.cumprod(1 - np.array(result.diffusion)), denoiser.noise.f[nodes] ** 2
    )


def test_json_is_a_schedule_file(printed, tmp_path):
    path = tmp_path / "s.json"
    path.write_text(printed(f"quadratic:{STEPS}", "--to", "json"))
    assert Schedule.load(path) == QUADRATIC
    about = Schedule(QUADRATIC.timesteps, {"seed": 3})
    about.save(path)
    assert json.loads(printed(path, "--to", "json"))["provenance"] == {"seed": 3}


def test_files_of_other_models_need_no_model(printed, tmp_path, capsys):
    path = tmp_path / "s.json"
    Schedule([0, 7, 40, 1000]).save(path)
    for form in ("diffusers", "improved-diffusion", "diffusers-scheduler", "json"):
        assert printed(path, "--to", form)
    for form in ("sigmas", "comfyui", "k-diffusion"):  # by default the bundled model's, T = 4000
        assert main(["export", str(path), "--to", form]) == 2
        assert "the schedule ends at 1000, the training grid at T = 4000" in capsys.readouterr().err


@pytest.mark.parametrize("form", FORMATS)
def test_bad_schedules_are_refused_in_one_line(capsys, form):
    for text in ("missing.json", "even:4001"):
        assert main(["export", text, "--to", form]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("dpdiff: error: ")
        assert printed.err.count("\n") == 1


def test_k_diffusion_has_no_wrapper_for_x0(denoiser):
    with pytest.raises(InputError, match="predict eps or v"):
        snippet("k-diffusion", QUADRATIC, replace(denoiser, predicts="x0"))
    with pytest.raises(InputError, match="name the model"):
        snippet("sigmas", QUADRATIC)


@pytest.mark.parametrize("name", ["digits", "flow"])
def test_a_fitted_solver_as_plain_python(name):
    """Against ``dpdiff.sample``, with the denoiser behind k-diffusion's and ComfyUI's wrapping."""
    model = dpdiff.load("digits")
    if name == "flow":
        model = dpdiff.Denoiser(
            lambda x, time: 0.4 * x, dpdiff.NoiseSchedule.flow(100), predicts="flow", shape=(3,)
        )
    solver = dpdiff.fit(model, 4, 200, progress=False)
    space: dict = {}
    exec(snippet("python", solver, model), space)
    noise = model.noise
    f = np.ones(noise.T + 1) if noise.is_flow else noise.f

    def wrapped(x, sigma):
        t = solver.timesteps[::-1][[round(float(s), 5) for s in space["sigmas"]].index(
            round(float(sigma[0]), 5)
        )]  # fmt: skip
        return model(f[t] * x, t).x0

    x = start(model, 3, np.arange(2))
    ours = dpdiff.sample(model, solver, 2, seed=3, progress=False)
    with torch.no_grad():
        theirs = space["sample_fitted"](wrapped, x / f[-1])
    np.testing.assert_allclose(theirs.clamp(-1, 1), ours, rtol=1e-4, atol=1e-4)


def test_a_fitted_solver_is_no_list():
    model = dpdiff.load("digits")
    solver = dpdiff.Schedule([0, 90, 4000], {}, [[0.5, 0.5], [0.0, 1.0, 0.0]])
    for form in FORMATS:
        if form in ("diffusers-scheduler", "python", "json"):
            assert "0.5" in snippet(form, solver, model)
        else:
            with pytest.raises(InputError, match="more than the list"):
                snippet(form, solver, model)
    assert "use_timesteps" in snippet("improved-diffusion", solver.with_sampler("2m"))
