"""Samplers that remember: 2M against diffusers and its paper, Heun's as one of the user's own."""

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DPMSolverMultistepScheduler

import dpdiff
from dpdiff import Denoiser, NoiseSchedule, Schedule
from dpdiff.diffusers import ScheduleScheduler
from dpdiff.models import HOME
from dpdiff.runtime.random_streams import gaussian
from dpdiff.sampling import DPMSolver2M, Sampler, sample, walk

SHAPE = (2, 3)
UNEVEN = Schedule([0, 7, 30, 100, 220, 450, 700, 1000])
LONG = Schedule.quadratic(1000, 20)  # where diffusers no longer lowers the order at the end
FLOW = NoiseSchedule.flow(1000)


def network(x, index):
    time = index.to(x.dtype).reshape(-1, 1, 1) / 1000
    return 0.6 * x + 0.2 * torch.sin(3 * x) * (1 - time)


def noise_at_T(n=3, seed=0):
    return torch.from_numpy(gaussian(seed, 1000, range(n), SHAPE)).double()


def explicit_2m(denoiser, schedule, x):
    """Lu et al. (DPM-Solver++, algorithm 2), in their symbols."""
    noise, before = denoiser.noise, None
    with np.errstate(divide="ignore"):
        λ = np.log(noise.f / noise.g)
    for t, s in reversed(schedule.jumps):
        x0 = denoiser(x, t).x0
        h, D = λ[s] - λ[t], x0
        if before is not None and s > 0 and np.isfinite(λ[before[0]]):
            r = (λ[t] - λ[before[0]]) / h
            D = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before[1]
        x = noise.g[s] / noise.g[t] * x - noise.f[s] * np.expm1(-h) * D
        before = (t, x0)
    return x


@pytest.mark.parametrize("schedule", [UNEVEN, LONG], ids=["uneven", "long"])
@pytest.mark.parametrize("clip", [False, True])
def test_2m_equals_diffusers_on_the_same_nodes(schedule, clip):
    noise = NoiseSchedule.linear(1000)
    ours = Denoiser(network, noise, shape=SHAPE, clip=clip)
    theirs = DPMSolverMultistepScheduler(trained_betas=noise.betas, prediction_type="sample")
    theirs.set_timesteps(timesteps=schedule.to_diffusers())
    x = noise_at_T()
    for t in schedule.timesteps[:0:-1]:
        x = theirs.step(ours(x, t).x0, t - 1, x).prev_sample
    mine = sample(ours, schedule, 3, x_T=noise_at_T().float(), sampler="2m", progress=False)
    torch.testing.assert_close(mine, x.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("noise", [NoiseSchedule.cosine(1000), FLOW, NoiseSchedule.edm(1000)])
def test_2m_is_its_papers_in_any_process(noise):
    ours = Denoiser(network, noise, predicts="x0", shape=SHAPE, clip=False)
    x = noise.prior_scale * noise_at_T()
    drawn = [*walk(ours, UNEVEN, x, DPMSolver2M())][-1].x
    torch.testing.assert_close(drawn, explicit_2m(ours, UNEVEN, x), rtol=1e-10, atol=1e-10)


class Heun(Sampler):
    """Karras et al. (2022), algorithm 1: every node but the first is visited twice."""

    name, memory = "heun", 2

    def timesteps(self, schedule):
        first, *others = super().timesteps(schedule)
        return (first, *(t for t in others for _ in range(2)))

    def step(self, denoiser, calls, s, noise):
        f, g = denoiser.noise.f, denoiser.noise.g
        t, x, (x0, _) = calls[-1]
        if t == s:  # correct the step that has led here
            t, x, (before, _) = calls[-2]
            steepness = (
                (x / f[t] - before) / (g[t] / f[t]),
                (calls[-1].x / f[s] - x0) / (g[s] / f[s]),
            )
            slope = 0.5 * (steepness[0] + steepness[1])
        else:
            slope = (x / f[t] - x0) / (g[t] / f[t])
        return f[s] * (x / f[t] + (g[s] / f[s] - g[t] / f[t]) * slope)


def explicit_heun(denoiser, schedule, x):
    σ, f = denoiser.noise.g / denoiser.noise.f, denoiser.noise.f

    def slope(y, t):
        return (y - denoiser(f[t] * y, t).x0) / σ[t]

    y = x / f[-1]
    for t, s in reversed(schedule.jumps):
        first = slope(y, t)
        end = y + (σ[s] - σ[t]) * first
        y = y + (σ[s] - σ[t]) * 0.5 * (first + slope(end, s)) if s > 0 else end
    return y


def test_a_sampler_of_ones_own_may_call_twice():
    ours = Denoiser(network, NoiseSchedule.linear(1000), predicts="x0", shape=SHAPE, clip=False)
    x = noise_at_T()
    states = [*walk(ours, UNEVEN, x, Heun())]
    assert len(states) == 2 * UNEVEN.steps - 1
    torch.testing.assert_close(states[-1].x, explicit_heun(ours, UNEVEN, x))
    drawn = sample(ours, UNEVEN, 3, sampler=Heun(), x_T=x.float(), progress=False)
    torch.testing.assert_close(drawn, states[-1].x.float(), rtol=1e-4, atol=1e-5)


def test_bars_count_network_calls(capfd):
    ours = Denoiser(network, NoiseSchedule.linear(1000), predicts="x0", shape=SHAPE)
    sample(ours, UNEVEN, 3, sampler=Heun(), batch_size=2)
    said = capfd.readouterr().err
    assert "100%" in said
    assert f"/{2 * (2 * UNEVEN.steps - 1)} [" in said


@pytest.mark.parametrize("sampler", ["2m", "ddim", Heun()], ids=["2m", "ddim", "heun"])
def test_a_pipeline_draws_what_sample_draws(sampler, monkeypatch):
    denoiser, schedule = dpdiff.load("digits"), Schedule([0, 60, 400, 1400, 4000])
    pipe = DDPMPipeline.from_pretrained(HOME / "digits")
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = ScheduleScheduler.from_config(
        pipe.scheduler, schedule=schedule, sampler=sampler
    )
    x = torch.from_numpy(gaussian(0, 4000, range(3), denoiser.shape))
    monkeypatch.setattr("diffusers.pipelines.ddpm.pipeline_ddpm.randn_tensor", lambda *_, **__: x)
    for _ in range(2):  # a second run remembers nothing of the first
        drawn = pipe(batch_size=3, num_inference_steps=4, output_type="pt").images
        ours = sample(denoiser, schedule, 3, sampler=sampler, progress=False)
        expected = (ours / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(torch.as_tensor(drawn), expected, rtol=1e-4, atol=1e-4)


def test_a_schedule_is_drawn_from_as_it_was_made():
    denoiser = dpdiff.load("digits")
    made = Schedule((*UNEVEN.timesteps[:-1], 4000), {"sampler": "2m"})
    default, named = (
        sample(denoiser, made, 2, sampler=name, progress=False) for name in (None, "2m")
    )
    assert torch.equal(default, named)
    assert not torch.equal(default, sample(denoiser, made, 2, sampler="ddim", progress=False))
