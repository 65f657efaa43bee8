"""Schedules: what they hold, what they refuse, what they save."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.schedule import Schedule


@given(st.integers(1, 5000).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T))))
def test_baselines_hold_every_budget(case):
    T, steps = case
    for schedule in (Schedule.even(T, steps), Schedule.quadratic(T, steps)):
        assert schedule.T == T
        assert schedule.steps == steps  # the constructor has checked ends and order


def test_baselines_are_the_papers():
    even, quadratic = Schedule.even(4000, 32), Schedule.quadratic(4000, 32)
    assert even.timesteps[:3] == (0, 125, 250)  # no forced t = 1
    assert quadratic.timesteps[:4] == (0, 4, 16, 35)
    assert all(abs(t - 4000 * (i / 32) ** 2) <= 0.5 for i, t in enumerate(quadratic.timesteps))


def test_all_steps_are_all_steps():
    assert Schedule.even(50, 50) == Schedule.quadratic(50, 50) == Schedule(range(51))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([0], "at least"),
        ([1, 5], "begins at timestep 0"),
        ([0, 5, 5, 9], "increase strictly, got 5 followed by 5"),
        ([0, 7, 5, 9], "increase strictly"),
        ([0, 2.5, 9], "integers"),
    ],
)
def test_bad_nodes_are_refused(nodes, message):
    with pytest.raises(InputError, match=message):
        Schedule(nodes)


@pytest.mark.parametrize("steps", [0, 11, -1])
def test_budgets_outside_the_grid_are_refused(steps):
    with pytest.raises(InputError, match=r"1…10"):
        Schedule.even(10, steps)


def test_saving_keeps_everything(tmp_path):
    schedule = Schedule([0, 3, 10], {"seed": 4, "rule": "σ²"})
    schedule.save(tmp_path / "s.json")
    again = Schedule.load(tmp_path / "s.json")
    assert (again, again.provenance) == (schedule, schedule.provenance)


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "s.json"
    with pytest.raises(InputError, match="cannot read"):
        Schedule.load(path)
    Schedule([0, 3, 10]).save(path)
    whole = path.read_text()
    path.write_text(whole[:-20])
    with pytest.raises(InputError, match="cannot read"):
        Schedule.load(path)
    path.write_text(json.dumps(json.loads(whole) | {"version": 99}))
    with pytest.raises(InputError, match="version 99"):
        Schedule.load(path)
    path.write_text(whole.replace("3", "4"))
    with pytest.raises(InputError, match="changed after it was written"):
        Schedule.load(path)
    path.write_text("{}")
    with pytest.raises(InputError, match="not a schedule"):
        Schedule.load(path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "s.json"
    Schedule([0, 3, 10]).save(path)
    with pytest.raises(TypeError):
        Schedule([0, 4, 10], {"not": {"json"}}).save(path)
    assert Schedule.load(path).timesteps == (0, 3, 10)
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]
    with pytest.raises(InputError, match="cannot write"):
        Schedule([0, 4, 10]).save(tmp_path / "missing" / "s.json")


LINEAR = NoiseSchedule.linear(1000)
nodes = st.sets(st.integers(1, 999), max_size=40).map(lambda inner: (0, *sorted(inner), 1000))


@given(nodes)
def test_lists_of_other_tools_are_read_back(nodes):
    schedule = Schedule(nodes)
    timesteps = schedule.to_diffusers()
    assert Schedule.from_diffusers(timesteps, LINEAR) == schedule
    assert Schedule.from_diffusers(torch.tensor(timesteps) + 0.4, LINEAR) == schedule
    assert schedule.to_diffusers()[::-1] == sorted(timesteps)
    for zero in ("append", "none"):
        sigmas = schedule.to_sigmas(LINEAR, zero)
        assert Schedule.from_sigmas(sigmas, LINEAR, zero=zero) == schedule
        if 1 not in nodes or zero == "append":
            assert Schedule.from_sigmas(sigmas, LINEAR) == schedule


@given(nodes)
def test_sigmas_decrease_to_zero(nodes):
    schedule = Schedule(nodes)
    sigmas = schedule.to_sigmas(LINEAR)
    assert len(sigmas) == schedule.steps + 1
    assert sigmas[-1] == 0
    assert all(after < before for before, after in pairwise(sigmas))
    assert schedule.to_sigmas(LINEAR, "none") == sigmas[:-1]


@pytest.mark.parametrize("noise", [LINEAR, NoiseSchedule.cosine(4000, 0.0025)])
def test_sigmas_are_those_of_diffusers_euler(noise):
    from diffusers import EulerDiscreteScheduler

    schedule = Schedule.quadratic(noise.T, 12)
    sigmas = schedule.to_sigmas(noise)
    scheduler = EulerDiscreteScheduler(num_train_timesteps=noise.T, trained_betas=noise.betas)
    scheduler.set_timesteps(timesteps=schedule.to_diffusers())
    np.testing.assert_allclose(sigmas, scheduler.sigmas, rtol=1e-3)  # ᾱ is kept in float32 there
    scheduler.alphas_cumprod = torch.tensor(np.cumprod(1 - noise.betas))
    scheduler.set_timesteps(timesteps=schedule.to_diffusers())
    np.testing.assert_allclose(sigmas, scheduler.sigmas, rtol=1e-6)
    scheduler.set_timesteps(sigmas=sigmas)  # the other way: it finds the timesteps
    np.testing.assert_allclose(scheduler.timesteps, schedule.to_diffusers(), atol=1e-2)
    np.testing.assert_allclose(scheduler.sigmas, sigmas, rtol=1e-6)


def test_published_lists_can_be_read():
    """Align Your Steps for Stable Diffusion 1.5, as timesteps and as sigmas."""
    from diffusers.schedulers import AysSchedules

    noise = NoiseSchedule.from_betas(np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    timesteps = AysSchedules["StableDiffusionTimesteps"]
    one = Schedule.from_diffusers(timesteps, noise)
    other = Schedule.from_sigmas(AysSchedules["StableDiffusionSigmas"], noise)
    assert one.steps == other.steps == 10
    assert max(abs(a - b) for a, b in zip(one.timesteps, other.timesteps, strict=True)) <= 3
    with pytest.raises(InputError, match=r"between 0.02917 and 14.61.*got 700"):
        Schedule.from_sigmas(AysSchedules["StableDiffusionVideoSigmas"], noise)


@pytest.mark.parametrize(
    ("timesteps", "message"),
    [
        ([], "begins at T = 1000, where the network is told 999.*got none"),
        ([980, 500], "is told 999 .*got 980, timestep 981. start='move'"),
        ([1000, 500], "between 0 and 999, got 1000: subtract 1"),
        ([999, 500, -1], "got -1: leave it out"),
        ([999, -500, 20], "got -500: subtract"),
        ([999, 500, 500], "500 and then 500 are the same timestep 501 once rounded: leave one out"),
        ([999, 500.4, 499.6], "500.4 and then 499.6 are the same"),
        ([500, 999], "500 and then 999 rise"),
        ([999, float("nan")], "list of numbers"),
        ([999, float("inf")], "list of numbers"),
        (["first", "last"], "list of numbers"),
        (7, "list of numbers"),
    ],
)
def test_bad_lists_of_timesteps_are_refused(timesteps, message):
    with pytest.raises(InputError, match=message):
        Schedule.from_diffusers(timesteps, LINEAR)


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([], "got none"),
        ([0.0], "got none"),
        ([157.4, 1.2361, 1.236, 0.0], r"1.2361 and then 1.236 are the same timestep 300"),
        ([157.4, 0.0, 1.2], "between 0.01 and 157.4, and a list may end with 0; got 0"),
        ([1.236, 157.4], "rise"),
        ([20.0, 1.0, 0.0], "begins at T = 1000.*sigma is 157.4.*got 20"),
        ([157.4, -1.0], "got -1"),
        ([157.4, float("nan")], "got nan"),
        (["a"], "list of numbers"),
    ],
)
def test_bad_lists_of_sigmas_are_refused(sigmas, message):
    with pytest.raises(InputError, match=message):
        Schedule.from_sigmas(sigmas, LINEAR)


def test_sigmas_that_cannot_be_are_refused():
    schedule = Schedule([0, 1, 3])
    with pytest.raises(InputError, match=r"highest is a number above 0.62"):
        schedule.to_sigmas(NoiseSchedule.from_betas([0.1, 0.2, 1.0]), highest=0.5)
    with pytest.raises(InputError, match="the training grid at T = 1000"):
        schedule.to_sigmas(LINEAR)
    with pytest.raises(InputError, match="'append' or 'none'"):
        Schedule([0, 1000]).to_sigmas(LINEAR, "first")
