"""Schedulers in stock diffusers pipelines draw what dpdiff.sample draws."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler
from test_architecture import Halfway

import dpdiff
from dpdiff import InputError, Schedule, models, variance
from dpdiff.diffusers import AncestralScheduler, UnevenDDIMScheduler
from dpdiff.export import snippet
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import random_streams
from dpdiff.sampling import DDIM, Ancestral, Call

UNEVEN = Schedule([0, 90, 240, 900, 1000, 2600, 4000])
RULES = ("small", "large", "learned_range", "optimal")
N = 3


@pytest.fixture(scope="module")
def denoiser():
    return dpdiff.load("digits")


@pytest.fixture(scope="module")
def costs():
    return dpdiff.load_costs("digits")


@pytest.fixture
def pipe(denoiser):
    return quiet(DDPMPipeline(denoiser.network, stock(denoiser)))


def stock(denoiser):
    """The scheduler that ships with the model."""
    return DDPMScheduler.from_pretrained(models.HOME / "digits", subfolder="scheduler")


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def same_noise(monkeypatch):
    """Stock pipelines and our schedulers take dpdiff.sample's noise, in the same order."""

    def feed(schedule, seed=0):
        left = [*reversed(schedule.timesteps[1:])]

        def drawn(shape, **_):
            return torch.from_numpy(
                random_streams.gaussian(seed, left.pop(0), range(shape[0]), shape[1:])
            )

        for module in ("pipelines.ddpm.pipeline_ddpm", "pipelines.ddim.pipeline_ddim"):
            monkeypatch.setattr(f"diffusers.{module}.randn_tensor", drawn)
        monkeypatch.setattr("dpdiff.diffusers.schedulers.randn_tensor", drawn)
        return left

    return feed


def ruled(denoiser, rule, costs):
    return denoiser.with_variance(rule, costs if rule == "optimal" else None)


def as_image(samples):
    """What a pipeline makes of samples in [-1, 1]."""
    return (samples / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("rule", RULES)
def test_stock_pipeline_draws_what_sample_draws(pipe, denoiser, costs, same_noise, rule):
    ours = ruled(denoiser, rule, costs)
    pipe.scheduler = AncestralScheduler.from_denoiser(ours, UNEVEN)
    left = same_noise(UNEVEN)
    images = pipe(batch_size=N, num_inference_steps=UNEVEN.steps, output_type="pt").images
    assert left == []  # all noise was asked for
    expected = dpdiff.sample(ours, UNEVEN, n=N, progress=False)
    assert expected.std() > 0.1
    np.testing.assert_allclose(images, as_image(expected), atol=1e-5)


def test_a_new_rule_is_exported_and_pipelines_take_it(monkeypatch, pipe, denoiser, same_noise):
    monkeypatch.setitem(variance.RULES, "halfway", Halfway())
    ours = denoiser.with_variance("halfway")
    *lines, last = snippet("diffusers-scheduler", UNEVEN, ours).splitlines()
    exec(compile("\n".join(lines), "snippet", "exec"), {"pipe": pipe})
    assert last.endswith("pipe(num_inference_steps=6).images")
    same_noise(UNEVEN)
    images = pipe(batch_size=N, num_inference_steps=UNEVEN.steps, output_type="pt").images
    expected, large = (
        dpdiff.sample(one, UNEVEN, n=N, progress=False)
        for one in (ours, denoiser.with_variance("large"))
    )
    np.testing.assert_allclose(images, as_image(expected), atol=1e-5)
    assert np.abs(as_image(large) - as_image(expected)).max() > 0.05


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_stock_ddim_pipeline_draws_what_sample_draws(denoiser, same_noise, eta):
    pipe = quiet(DDIMPipeline(denoiser.network, stock(denoiser)))
    pipe.scheduler = UnevenDDIMScheduler.from_config(pipe.scheduler.config, schedule=UNEVEN)
    same_noise(UNEVEN)
    steps = UNEVEN.steps
    images = pipe(batch_size=N, eta=eta, num_inference_steps=steps, output_type="pt").images
    expected = dpdiff.sample(denoiser, UNEVEN, n=N, sampler=DDIM(eta), progress=False)
    np.testing.assert_allclose(images, as_image(expected), atol=1e-5)


@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
@pytest.mark.parametrize("clip", [False, True])
def test_every_parameterisation_steps_alike(toy, costs, monkeypatch, predicts, clip):
    """One step at a time, in float64, from one state."""
    ours = replace(toy, predicts=predicts, clip=clip)
    x = torch.from_numpy(random_streams.gaussian(0, 4000, range(N), ours.shape)).double()
    drawing, following = (
        kind.from_denoiser(ours, UNEVEN) for kind in (AncestralScheduler, UnevenDDIMScheduler)
    )
    for t, s in UNEVEN.jumps:
        noise = torch.from_numpy(random_streams.gaussian(1, t, range(N), ours.shape)).double()
        monkeypatch.setattr("dpdiff.diffusers.schedulers.randn_tensor", lambda *_, n=noise, **__: n)
        output = ours.network(x.float(), torch.full((N,), t - 1)).double()
        call = [Call(t, x, ours(x, t))]
        step = drawing.step(output, torch.tensor(t - 1), x)
        torch.testing.assert_close(step.prev_sample, Ancestral().step(ours, call, s, noise))
        torch.testing.assert_close(step.pred_original_sample, ours(x, t).x0)
        moved = following.step(output, t - 1, x, eta=0.5, return_dict=False)[0]
        torch.testing.assert_close(moved, DDIM(0.5).step(ours, call, s, noise))


def test_half_precision_is_computed_with_in_single(toy):
    scheduler = AncestralScheduler.from_denoiser(toy, UNEVEN)
    x = torch.from_numpy(random_streams.gaussian(0, 4000, range(N), toy.shape))
    output = toy.network(x, torch.full((N,), 3999))
    single = scheduler.step(output, 3999, x.half().float(), torch.manual_seed(0)).prev_sample
    half = scheduler.step(output, 3999, x.half(), torch.manual_seed(0)).prev_sample
    assert half.dtype == torch.float16
    torch.testing.assert_close(half, single.half())


@pytest.mark.parametrize("rule", RULES)
def test_saved_pipelines_keep_scheduler_and_schedule(pipe, denoiser, costs, tmp_path, rule):
    pipe.scheduler = AncestralScheduler.from_denoiser(ruled(denoiser, rule, costs), UNEVEN)
    before = pipe.scheduler
    pipe.save_pretrained(tmp_path)
    for after in (
        DDPMPipeline.from_pretrained(tmp_path).scheduler,
        AncestralScheduler.from_pretrained(tmp_path, subfolder="scheduler"),
    ):
        assert isinstance(after, AncestralScheduler)
        assert after.schedule == UNEVEN
        assert after.timesteps.tolist() == UNEVEN.to_diffusers()
        assert after.noise.fingerprint == before.noise.fingerprint
        assert after.config.variance_type == before.config.variance_type
        np.testing.assert_array_equal(after.config.error, before.config.error)


def test_ddim_pipelines_replace_whatever_they_are_built_with(denoiser):
    """Why the docstring says to assign the scheduler afterwards."""
    pipe = DDIMPipeline(denoiser.network, UnevenDDIMScheduler.from_denoiser(denoiser, UNEVEN))
    assert type(pipe.scheduler) is DDIMScheduler


def test_config_of_a_stock_scheduler_says_the_rest(denoiser):
    scheduler = AncestralScheduler.from_config(stock(denoiser).config, schedule=UNEVEN.timesteps)
    assert scheduler.noise.fingerprint == denoiser.noise.fingerprint
    assert (scheduler.config.prediction_type, scheduler.config.variance_type) == (
        "v_prediction",
        "learned_range",
    )
    assert len(scheduler) == 4000


def test_the_pipelines_number_of_steps_is_checked(pipe, denoiser):
    pipe.scheduler = AncestralScheduler.from_denoiser(denoiser, UNEVEN)
    with pytest.raises(InputError, match="pass num_inference_steps=6"):
        pipe()
    with pytest.raises(InputError, match="asks for 7"):
        pipe(num_inference_steps=7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": None}, "which schedule"),
        ({"schedule": [0, 5, 1000]}, "ends at 1000, the training grid at T = 4000"),
        ({"schedule": [0, 5, 5, 4000]}, "increase strictly"),
        ({"variance_type": "learned"}, "variance_type is one of fixed_small"),
        ({"prediction_type": "flow"}, "prediction_type 'flow' is not one of epsilon"),
        ({"variance_type": "optimal"}, r"needs m\(t\)"),
        ({"variance_type": "optimal", "error": [1.0]}, r"needs m\(t\)"),
        ({"thresholding": True}, "thresholding"),
        ({"rescale_betas_zero_snr": True, "prediction_type": "epsilon"}, "holds no signal"),
        ({"clip_sample_range": 2.0}, "clip_sample_range"),
    ],
)
def test_settings_that_would_be_overlooked_are_refused(denoiser, settings, message):
    with pytest.raises(InputError, match=message):
        AncestralScheduler.from_config(
            stock(denoiser).config, **({"schedule": [0, 90, 4000]} | settings)
        )


def test_steps_outside_the_schedule_are_refused(toy):
    x, output = torch.zeros(2, 1, 4, 4), torch.zeros(2, 2, 4, 4)
    ancestral = AncestralScheduler.from_denoiser(toy, UNEVEN)
    with pytest.raises(InputError, match=r"timestep 90 is not in .* \[3999, 2599, "):
        ancestral.step(output, 90, x)
    with pytest.raises(InputError, match=r"shape \(2, 1, 4, 4\)"):
        ancestral.step(output[:, :1], 3999, x)  # the rule needs the network's variance
    ddim = UnevenDDIMScheduler.from_denoiser(toy, UNEVEN)
    with pytest.raises(InputError, match="use_clipped_model_output"):
        ddim.step(output, 3999, x, use_clipped_model_output=False)
    with pytest.raises(InputError, match="eta lies in"):
        ddim.step(output, 3999, x, eta=1.5)


@pytest.mark.parametrize("module", ["dpdiff", "dpdiff.cli", "dpdiff.export"])
def test_importing_loads_nothing_heavy(module):
    heavy = "{'torch', 'diffusers', 'numba', 'sklearn', 'matplotlib', 'scipy'}"
    code = f"import sys, {module}; print(*({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


# What diffusers' own schedulers make of these lists: the reasons given in the snippets.


def last_step(rule, timesteps, v=0.5):
    """Standard deviation over g(τ_1) of what stock DDPMScheduler adds to the final images."""
    noise = NoiseSchedule.linear(1000)
    scheduler = DDPMScheduler(trained_betas=noise.betas, variance_type=rule)
    scheduler.set_timesteps(timesteps=timesteps)
    output = torch.zeros(64, 2 if rule == "learned_range" else 1, 32, 32)
    output[:, 1:] = 2 * v - 1
    final = scheduler.step(output, timesteps[-1], torch.zeros(64, 1, 32, 32), torch.manual_seed(0))
    return float(final.prev_sample.std() / noise.g[timesteps[-1] + 1])


def test_stock_ddpm_adds_noise_to_final_images_unless_the_list_ends_at_zero():
    assert last_step("fixed_large", [999, 300, 40]) == pytest.approx(1, rel=0.02)
    # learned_range: between log g² and the log of a floor, 1e-20, by which it avoids log 0
    g = NoiseSchedule.linear(1000).g[41]
    floor = last_step("learned_range", [999, 300, 40], v=0.9)
    assert floor == pytest.approx(g**0.9 * 1e-10**0.1 / g, rel=0.02)
    assert last_step("fixed_small", [999, 300, 40]) < 1e-6
    for rule in ("fixed_small", "fixed_large", "learned_range"):
        assert last_step(rule, [999, 300, 0]) == 0


@pytest.mark.parametrize("rule", ["small", "large", "learned_range"])
def test_stock_ddpm_agrees_when_the_list_ends_at_zero(denoiser, monkeypatch, rule):
    """On the bundled model; else its images are off, at worst by more than the data's range."""

    def stock_samples(schedule):
        kind = {"small": "fixed_small", "large": "fixed_large"}.get(rule, rule)
        scheduler = DDPMScheduler.from_config(stock(denoiser).config, variance_type=kind)
        scheduler.set_timesteps(timesteps=schedule.to_diffusers())
        x = torch.from_numpy(random_streams.gaussian(0, schedule.T, range(64), denoiser.shape))
        for t, s in reversed(schedule.jumps):
            noise = torch.from_numpy(random_streams.gaussian(0, s, range(64), denoiser.shape))
            monkeypatch.setattr(
                "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, n=noise, **__: n
            )
            output = denoiser.network(x, torch.full((64,), t - 1)).sample
            output = output if rule == "learned_range" else output[:, :1]
            x = scheduler.step(output, t - 1, x).prev_sample
        return x

    ours = denoiser.with_variance(rule)
    for schedule, agree in ((Schedule([0, 1, *UNEVEN.timesteps[1:]]), True), (UNEVEN, False)):
        with torch.inference_mode():
            off = stock_samples(schedule) - dpdiff.sample(ours, schedule, n=64, progress=False)
        if agree or rule == "small":
            assert off.abs().max() < 1e-4
        else:
            assert off.std() > 0.04


def test_stock_ddim_goes_elsewhere_when_steps_are_uneven():
    """It reads ᾱ at t - T // K, not at the list's next timestep."""
    noise = NoiseSchedule.linear(1000)
    scheduler = DDIMScheduler(trained_betas=noise.betas, clip_sample=False)
    scheduler.set_timesteps(3)
    scheduler.timesteps = torch.tensor([999, 300, 40])
    one = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    x = scheduler.step(0 * one, 999, noise.f[1000] * one).prev_sample  # x̂_0 = 1, no noise
    assert float(x[0, 0, 0, 0]) == pytest.approx(noise.f[1000 - 333], rel=1e-3)
    assert float(x[0, 0, 0, 0]) != pytest.approx(noise.f[301], rel=0.1)
