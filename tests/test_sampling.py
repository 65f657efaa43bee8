"""Samplers against diffusers, step by step with the same noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import random_streams
from dpdiff.sampling import DDIM, Ancestral, Call, sample
from dpdiff.schedule import Schedule

NOISE = NoiseSchedule.linear(1000)
SHAPE = (1, 4, 4)


def network(x, index):
    return 0.3 * torch.sin(2 * x) + 0.2 * (index / 1000).reshape(-1, 1, 1, 1)


def denoiser(predicts, variance, clip):
    net = network
    if variance == "learned_range":

        def net(x, index):
            return torch.cat([network(x, index), 0.8 * torch.cos(x)], dim=1)

    return Denoiser(net, NOISE, predicts=predicts, variance=variance, shape=SHAPE, clip=clip)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
@pytest.mark.parametrize("variance", ["small", "large", "learned_range"])
def test_ancestral_steps_equal_diffusers(monkeypatch, variance, predicts, clip):
    from diffusers import DDPMScheduler

    names = {"small": "fixed_small", "large": "fixed_large", "learned_range": "learned_range"}
    kinds = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
    scheduler = DDPMScheduler(
        trained_betas=NOISE.betas,
        variance_type=names[variance],
        prediction_type=kinds[predicts],
        clip_sample=clip,
    )
    schedule = Schedule([0, 1, 7, 100, 450, 1000])
    scheduler.set_timesteps(timesteps=schedule.to_diffusers())
    scheduler.alphas_cumprod = torch.tensor(NOISE.f[1:] ** 2)  # kept in float32 otherwise
    ours = denoiser(predicts, variance, clip)
    x = torch.from_numpy(random_streams.gaussian(0, 1000, range(3), SHAPE)).double()
    for t, s in reversed(schedule.jumps):
        noise = torch.from_numpy(random_streams.gaussian(0, s, range(3), SHAPE))
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, n=noise, **k: n
        )
        output = ours.network(x.float(), torch.full((3,), t - 1))
        theirs = scheduler.step(output, t - 1, x).prev_sample
        mine = Ancestral().step(ours, [Call(t, x, ours(x, t))], s, noise)
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
        x = mine


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_steps_equal_diffusers(eta, clip):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        trained_betas=NOISE.betas, clip_sample=clip, set_alpha_to_one=True, steps_offset=99
    )
    scheduler.set_timesteps(10)  # the uniform grid 999, 899 … 99
    ours, schedule = denoiser("eps", "small", clip), Schedule.even(1000, 10)
    assert scheduler.timesteps.tolist() == schedule.to_diffusers()
    scheduler.alphas_cumprod = torch.tensor(NOISE.f[1:] ** 2)  # kept in float32 otherwise
    x = torch.from_numpy(random_streams.gaussian(0, 1000, range(3), SHAPE)).double()
    for t, s in reversed(schedule.jumps):
        noise = torch.from_numpy(random_streams.gaussian(0, s, range(3), SHAPE))
        theirs = scheduler.step(
            network(x.float(), torch.full((3,), t - 1)),
            t - 1,
            x,
            eta=eta,
            use_clipped_model_output=True,
            variance_noise=noise if eta else None,
        ).prev_sample
        mine = DDIM(eta).step(ours, [Call(t, x, ours(x, t))], s, noise)
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
        x = mine


def test_ddim_with_eta_one_is_ancestral_with_the_small_variance():
    ours = denoiser("eps", "small", True)
    schedule = Schedule.quadratic(1000, 9)
    one = sample(ours, schedule, n=4, sampler=DDIM(1.0), progress=False)
    other = sample(ours, schedule, n=4, progress=False)
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_samples_do_not_depend_on_batches_or_company():
    ours, schedule = denoiser("eps", "large", True), Schedule.even(1000, 5)
    many = sample(ours, schedule, n=7, seed=3, progress=False)
    few = sample(ours, schedule, n=4, seed=3, batch_size=3, progress=False)
    np.testing.assert_allclose(few, many[:4], atol=1e-6)
    assert not np.allclose(few, sample(ours, schedule, n=4, seed=4, progress=False), atol=1e-2)


@pytest.mark.parametrize("shape", [(5,), (2, 16), (3, 8, 8), (1, 2, 4, 4)])
def test_any_shape_works(shape):
    ours = Denoiser(lambda x, index: 0.1 * x, NOISE, shape=shape)
    drawn = sample(ours, Schedule.even(1000, 3), n=2, progress=False)
    assert drawn.shape == (2, *shape)
    assert drawn.abs().max() <= 1


def test_bad_arguments_are_refused():
    ours, schedule = denoiser("eps", "large", True), Schedule.even(1000, 5)
    with pytest.raises(InputError, match="grid at T = 1000"):
        sample(ours, Schedule.even(999, 5))
    with pytest.raises(InputError, match="eta"):
        DDIM(1.5)
    for arguments in ({"n": 0}, {"batch_size": 0}, {"sampler": "euler"}, {"sampler": 3}):
        with pytest.raises(InputError, match=next(iter(arguments))):
            sample(ours, schedule, **arguments)


def test_a_broken_network_is_named_with_its_timestep():
    def nan_at_200(x, index):
        return torch.where(index.reshape(-1, 1, 1, 1) == 199, torch.nan, x)

    ours = replace(denoiser("eps", "large", True), network=nan_at_200)
    with pytest.raises(InputError, match="not finite at timestep 200"):
        sample(ours, Schedule.even(1000, 5), n=2, progress=False)
    ours = replace(ours, network=lambda x, index: x[:, :, :3])
    with pytest.raises(InputError, match=r"timestep 1000 .*\(2, 1, 3, 4\)"):
        sample(ours, Schedule.even(1000, 5), n=2, progress=False)
