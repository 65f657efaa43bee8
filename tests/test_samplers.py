"""Samplers that remember, against diffusers' and explicit loops; Heun's as a user's own."""

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMPipeline,
    DPMSolverMultistepScheduler,
    LMSDiscreteScheduler,
    UniPCMultistepScheduler,
)

import dpdiff
from dpdiff import Denoiser, NoiseSchedule, Schedule
from dpdiff.diffusers import ScheduleScheduler
from dpdiff.models import HOME
from dpdiff.noise import per_example
from dpdiff.runtime.random_streams import gaussian
from dpdiff.sampling import AdamsBashforth, DPMSolver2M, Sampler, UniPC, sample, walk

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


def theirs(scheduler, noise, nodes):
    """A scheduler of diffusers at these nodes, its sigmas exact."""
    sigmas = noise.g if noise.is_flow else noise.g / noise.f
    scheduler.set_timesteps(len(nodes) - 1)
    scheduler.timesteps = torch.tensor(nodes[:-1]) - 1
    scheduler.sigmas = torch.from_numpy(sigmas[nodes])
    return scheduler


def test_ab2_equals_diffusers_lms_of_order_two():
    """But for the last step, where theirs goes on in a straight line and ours lands on x̂_0."""
    noise = NoiseSchedule.linear(1000)
    ours = Denoiser(network, noise, predicts="x0", shape=SHAPE)
    lms = theirs(LMSDiscreteScheduler(prediction_type="sample"), noise, [*UNEVEN.timesteps[::-1]])
    x = noise_at_T()
    states = [*walk(ours, UNEVEN, x, "ab2")]
    y = x / noise.f[-1]
    for t, state in zip(UNEVEN.timesteps[:0:-1], states[:-1], strict=False):
        lms.scale_model_input(y, t - 1)
        y = lms.step(ours(noise.f[t] * y, t).x0, t - 1, y, order=2).prev_sample
        torch.testing.assert_close(state.x, noise.f[state.t] * y, rtol=1e-5, atol=1e-5)
    assert torch.equal(states[-1].x, states[-1].x0)


def explicit_ab2(denoiser, schedule, x):
    """``dx/dτ = u`` of flows and ``dy/dσ = ε`` of others: a line through two slopes, integrated."""
    f, g, flow = denoiser.noise.f, denoiser.noise.g, denoiser.noise.is_flow
    before = None
    for t, s in reversed(schedule.jumps):
        x0 = denoiser(x, t).x0
        if s == 0:
            return x0
        ε = (x - f[t] * x0) / g[t]
        slope, begin, end = (ε - x0, g[t], g[s]) if flow else (ε, g[t] / f[t], g[s] / f[s])
        move = (end - begin) * slope
        if before:
            bend = (slope - before[0]) / (begin - before[1])
            move = move + bend * (end - begin) ** 2 / 2
        x, before = x + move if flow else f[s] * (x / f[t] + move), (slope, begin)


@pytest.mark.parametrize("noise", [NoiseSchedule.cosine(1000), FLOW, NoiseSchedule.edm(1000)])
def test_ab2_goes_on_in_a_straight_line_of_slopes(noise):
    ours = Denoiser(network, noise, predicts="x0", shape=SHAPE, clip=False)
    x = noise.prior_scale * noise_at_T()
    drawn = [*walk(ours, UNEVEN, x, AdamsBashforth())][-1].x
    torch.testing.assert_close(drawn, explicit_ab2(ours, UNEVEN, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("noise", [NoiseSchedule.linear(1000), NoiseSchedule.edm(1000)])
@pytest.mark.parametrize("schedule", [UNEVEN, LONG], ids=["uneven", "long"])
def test_unipc_equals_diffusers_on_the_same_nodes(schedule, noise):
    ours = Denoiser(network, noise, predicts="x0", shape=SHAPE)
    check_unipc(ours, schedule, UniPCMultistepScheduler(prediction_type="sample"))


def test_unipc_equals_diffusers_on_flows():
    f = 1 - np.arange(1, 1001) / 1001  # some signal is left at T: there theirs would be NaN
    ours = Denoiser(network, NoiseSchedule(f, 1 - f), predicts="x0", shape=SHAPE)
    check_unipc(
        ours, UNEVEN, UniPCMultistepScheduler(prediction_type="sample", use_flow_sigmas=True)
    )


def check_unipc(ours, schedule, scheduler):
    noise, x = ours.noise, noise_at_T()
    total = 1.0 if noise.is_flow else np.sqrt(noise.f**2 + noise.g**2)
    unipc = theirs(scheduler, noise, [*schedule.timesteps[::-1]])
    assert (unipc.config.solver_order, unipc.config.solver_type) == (2, "bh2")
    states = walk(ours, schedule, x, UniPC())
    scale = np.broadcast_to(total, noise.f.shape)
    z = x / scale[-1]
    for t, state in zip(schedule.timesteps[:0:-1], states, strict=True):
        z = unipc.step(ours(scale[t] * z, t).x0, t - 1, z).prev_sample
        torch.testing.assert_close(state.x, scale[state.t] * z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["ab2", "unipc", "2m"])
def test_second_order_halves_steps_and_quarters_errors(name):
    """On Gaussian data, whose flow is known, over nodes even in log SNR and far from both ends."""
    noise, variance = NoiseSchedule.linear(1000), 0.25

    def gaussian(x, index):
        f, g = (per_example(v[index.numpy() + 1], x) for v in (noise.f, noise.g))
        return f * variance / (f**2 * variance + g**2) * x

    ours = Denoiser(gaussian, noise, predicts="x0", shape=SHAPE, clip=False)
    total = np.sqrt(noise.f**2 * variance + noise.g**2)
    errors = []
    for steps in (20, 40):
        nodes = np.linspace(200, 1000, steps).round().astype(int)
        *_, before, _ = walk(ours, Schedule([0, *nodes]), noise_at_T(), name)
        goal = noise_at_T() * total[before.t] / total[1000]
        errors.append(float((before.x - goal).norm()))
    assert errors[0] / errors[1] > 3


def test_second_order_where_no_signal_is_left_at_T():
    noise = NoiseSchedule.from_betas(np.r_[NoiseSchedule.linear(1000).betas[:-1], 1.0])
    ours = Denoiser(network, noise, predicts="v", shape=SHAPE)
    for name in ("ab2", "unipc", "2m"):
        drawn = sample(ours, UNEVEN, 3, sampler=name, progress=False)
        fine = sample(ours, Schedule.quadratic(1000, 250), 3, sampler=name, progress=False)
        first = sample(ours, UNEVEN, 3, sampler="ddim", progress=False)
        assert (drawn - fine).norm() < (first - fine).norm()


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
    assert f"/{3 * (2 * UNEVEN.steps - 1)} [" in said  # one example each


@pytest.mark.parametrize("sampler", ["2m", "ddim", "ab2", "unipc", Heun()])
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
