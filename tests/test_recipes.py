"""What CONTRIBUTING says of adding things, done as it says, with toys.

The first recipe, a variance rule, is followed in test_architecture.py.
"""

from itertools import combinations, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from test_architecture import DATA, toy_model

import dpdiff
from dpdiff import Costs, NoiseSchedule, Schedule, scheduler_table
from dpdiff import data as image_data
from dpdiff.denoiser import Denoiser
from dpdiff.diffusers import ScheduleScheduler
from dpdiff.errors import InputError
from dpdiff.export import snippet
from dpdiff.sampling import SAMPLERS, Sampler, start, walk
from dpdiff.scheduler_table import SCHEDULERS, TIMESTEPS, Scheduler
from dpdiff.solvers import PairCosts, Table
from dpdiff.trajectory import trajectories as kinds
from dpdiff.trajectory.flow_costs import jump_table

QUIET = {"progress": False}


# --- a noise process ---


def trigonometric(cls, T):
    """``f = cos``, ``g = sin`` of an angle that grows evenly."""
    angle = 0.499 * np.pi * np.arange(1, T + 1) / T
    return cls(np.cos(angle), np.sin(angle))


def test_a_noise_process_is_one_class_method(monkeypatch, tmp_path):
    monkeypatch.setattr(NoiseSchedule, "trigonometric", classmethod(trigonometric), raising=False)
    noise = NoiseSchedule.trigonometric(12)
    model = Denoiser(lambda x, index: 0.3 * x, noise, predicts="v", shape=(5,))
    costs = dpdiff.measure(model, DATA, per_step=3, seed=4, **QUIET)
    schedule = dpdiff.solve(costs).schedule(4)
    direct = dpdiff.evaluate(model, DATA, schedule, seed=4, **QUIET)
    assert costs.bound(schedule).mean == pytest.approx(direct.mean, rel=1e-12)
    assert dpdiff.sample(model, schedule, n=2, **QUIET).isfinite().all()
    costs.save(tmp_path / "costs.npz")
    assert Costs.load(tmp_path / "costs.npz").noise.fingerprint == noise.fingerprint
    scheduler = ScheduleScheduler.from_denoiser(model, schedule)
    assert scheduler.noise.fingerprint == noise.fingerprint


# --- a scheduler of diffusers ---


class ToyScheduler(DDPMScheduler):
    """Says nothing of its betas, which are Stable Diffusion's."""

    def __init__(self, num_train_timesteps=50, prediction_type="v_prediction"):
        self.register_to_config(
            num_train_timesteps=num_train_timesteps, prediction_type=prediction_type
        )


def test_a_scheduler_is_one_row_of_the_table(monkeypatch):
    config = {"_class_name": "ToyScheduler", "num_train_timesteps": 50}
    with pytest.raises(InputError, match="ToyScheduler"):
        NoiseSchedule.from_diffusers(config)
    row = Scheduler(takes=TIMESTEPS, defaults={"beta_start": 0.01, "beta_end": 0.2})
    monkeypatch.setitem(SCHEDULERS, "ToyScheduler", row)
    noise = NoiseSchedule.from_diffusers(config)
    np.testing.assert_allclose(noise.betas, np.linspace(0.01, 0.2, 50))
    assert "Toy" in scheduler_table.taking("timesteps", "betas")
    schedule = Schedule([0, 10, 50])
    assert "Toy" in snippet("diffusers", schedule)
    stepping = ScheduleScheduler.from_config(config, schedule=schedule)
    assert stepping.timesteps.tolist() == [49, 9]


# --- a cost for trajectories ---


def worst(grams, gains, *grid):
    """A cost between nodes: the square of ``flow``, which spreads errors more evenly."""
    return Table(jump_table(grams, gains, *grid) ** 2, grid[-1])


class Turns(PairCosts):
    """A cost over pairs: ``flow``, and how unlike a step is to the one before."""

    def __init__(self, grams, gains, noise, nodes):
        self.timesteps, self.first = nodes, jump_table(grams, gains, noise, nodes)

    def from_node(self, t):
        r, s = np.arange(t + 1, self.T + 1)[:, None], np.arange(t)
        return self.first[t, :t] + 0.01 * abs((r - t) - (t - s))


@pytest.fixture(scope="module")
def paths():
    noise = NoiseSchedule.cosine(40)
    shrink = Denoiser(lambda x, index: 0.3 * x, noise, predicts="x0", shape=(2,))
    return dpdiff.trajectories(shrink, n=4, nodes=8, **QUIET)


def best_by_hand(paths, price):
    """Of all ways with three steps, as places of nodes."""
    last = len(paths.nodes) - 1
    ways = [(0, *inner, last) for inner in combinations(range(1, last), 2)]
    return tuple(paths.nodes[list(min(ways, key=price))].tolist())


def test_a_cost_of_trajectories_is_one_function_and_one_entry(monkeypatch, paths):
    monkeypatch.setitem(kinds.COSTS, "worst", ("ddim", worst))
    costs = paths.costs("worst")
    table = costs.rows(0, costs.T + 1)
    schedule = dpdiff.solve(costs).schedule(3)
    hand = best_by_hand(paths, lambda way: sum(table[t, s] for s, t in pairwise(way)))
    assert schedule.timesteps == hand
    assert schedule.provenance["sampler"] == "ddim"
    assert paths.resampled(3, 2, kind="worst").shape == (2, 4)


def test_a_cost_over_pairs_is_one_class_and_one_entry(monkeypatch, paths):
    monkeypatch.setitem(kinds.COSTS, "turns", ("2m", Turns))
    costs = paths.costs("turns")

    def price(way):
        total = costs.first[way[-1], way[-2]]
        for (s, t), (_, r) in pairwise(pairwise(way)):
            total += costs.first[t, s] + 0.01 * abs((r - t) - (t - s))
        return total

    schedule = dpdiff.solve(costs, 4).schedule(3)
    assert schedule.timesteps == best_by_hand(paths, price)
    assert schedule.provenance["sampler"] == "2m"


# --- a sampler ---


class Averaged(Sampler):
    """DDIM towards the mean of the last two predictions."""

    name, memory = "averaged", 2

    def step(self, denoiser, calls, s, noise):
        t, x, _ = calls[-1]
        x0 = sum(call.prediction.x0 for call in calls) / len(calls)
        f, g = denoiser.noise.f, denoiser.noise.g
        return f[s] * x0 + g[s] / g[t] * (x - f[t] * x0)


def test_a_sampler_is_one_class_and_one_entry(monkeypatch):
    monkeypatch.setitem(SAMPLERS, "averaged", Averaged())
    model, schedule = toy_model(), Schedule([0, 3, 7, 12], {"sampler": "averaged"})
    drawn = dpdiff.sample(model, schedule, n=2, **QUIET)  # the one that the schedule names

    x = start(model, 0, range(2))
    f, g = model.noise.f, model.noise.g
    before = []
    for t, s in [(12, 7), (7, 3), (3, 0)]:
        before.append(model(x, t).x0)
        x0 = sum(before[-2:]) / len(before[-2:])
        x = f[s] * x0 + g[s] / g[t] * (x - f[t] * x0)
    torch.testing.assert_close(drawn, x.float())
    states = walk(model, schedule, start(model, 0, range(2)))
    torch.testing.assert_close([*states][-1].x, x)

    scheduler = ScheduleScheduler.from_denoiser(model, schedule)  # in a pipeline
    sample = start(model, 0, range(2))
    for time in scheduler.timesteps:
        sample = scheduler.step(model.network(sample, time), time, sample).prev_sample
    torch.testing.assert_close(sample, x)


# --- a data format ---

numbers = SimpleNamespace(  # a module, data/numbers.py
    KNOWN="text files of numbers, an image a line",
    recognises=lambda path: path.suffix == ".txt",
    read=lambda path, split, shape, progress: (
        np.loadtxt(path, np.uint8, ndmin=2).reshape(-1, *shape),
        False,
    ),
)


def test_a_data_format_is_one_module_and_one_entry(monkeypatch, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 17, (20, 1, 2, 2))
    np.savetxt(tmp_path / "images.txt", pixels.reshape(20, 4), "%d")
    with pytest.raises(InputError, match="unknown kind"):
        dpdiff.images(tmp_path / "images.txt")
    monkeypatch.setattr(image_data, "READERS", [numbers, *image_data.READERS])
    images = dpdiff.images(tmp_path / "images.txt", shape=(1, 2, 2))
    np.testing.assert_array_equal(images, pixels)
    training, others = image_data.training_sets(tmp_path / "images.txt", (1, 2, 2))
    assert (len(training), len(others)) == (18, 2)
    with pytest.raises(InputError, match="text files of numbers"):
        dpdiff.images(tmp_path / "nothing")
