"""OLSS and PAS against explicit least squares, and on Gaussian data, where both are exact."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import ToyNetwork
from test_processes import family

import dpdiff
from dpdiff import Denoiser, InputError, NoiseSchedule, Schedule
from dpdiff.noise import per_example
from dpdiff.runtime.random_streams import gaussian
from dpdiff.sampling import SAMPLERS, Call, straight_scale
from dpdiff.trajectory.rivals import PAS, olss, pas, teacher_runs, turns

N, T = 12, 200
THREE = Schedule([0, 20, 110, 200])


class Counting(ToyNetwork):
    """How many examples it was asked of."""

    asked = 0

    def forward(self, x, index):
        self.asked += len(x)
        return super().forward(x, index)


@pytest.fixture(scope="module")
def model():
    noise = NoiseSchedule.linear(T)
    return Denoiser(Counting(T=T), noise, variance="learned_range", shape=(1, 4, 4))


@pytest.fixture(scope="module")
def runs(model):
    grid = np.linspace(0, T, N + 1).round().astype(int)
    return teacher_runs(model, 5, sorted({*grid.tolist(), *THREE.timesteps}), seed=3, batch_size=2)


def columns(model, runs, point, called):
    """What OLSS projects onto, from the definition: a row for every noise and dimension."""
    f, g, at = model.noise.f, model.noise.g, [*runs.nodes].index
    found = [runs.points[at(point)]]
    for t in called:
        mean = runs.predictions[at(t) - 1].double()
        found.append((runs.points[at(t)].double() - f[t] * mean) / g[t])
    return np.stack([one.double().numpy().ravel() for one in found], axis=1)


def goal(runs, s):
    return runs.points[[*runs.nodes].index(s)].double().numpy().ravel()


def test_runs_are_the_teachers(model, runs):
    drawn = dpdiff.sample(model, Schedule(runs.nodes), 5, seed=3, sampler="2m", progress=False)
    torch.testing.assert_close(runs.points[0], drawn.flatten(1), rtol=1e-4, atol=1e-5)
    assert torch.equal(runs.points[0], runs.predictions[0])
    assert runs.calls == 5 * (len(runs.nodes) - 1)


def test_olss_coefficients_are_least_squares(model, runs):
    rival = olss(model, THREE, runs)
    assert rival.calls == runs.calls
    called = []
    for (t, s), row in zip(pairwise(THREE.timesteps[::-1]), rival.sampler.rows, strict=True):
        called.append(t)
        expected = np.linalg.lstsq(columns(model, runs, T, called), goal(runs, s), rcond=None)[0]
        np.testing.assert_allclose(row, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_olss_path_is_the_longest_steps_within_the_least_limit(model, runs, steps):
    def error(called, s):
        basis, aim = columns(model, runs, called[-1], called), goal(runs, s)
        return np.square(basis @ np.linalg.lstsq(basis, aim, rcond=None)[0] - aim).mean()

    def greedy(limit):
        path = [T]
        for left in range(steps - 1, -1, -1):
            landings = runs.nodes[left : [*runs.nodes].index(path[-1])] if left else [0]
            fits = [s for s in landings if error(path, s) <= limit]
            if not fits:
                return None
            path.append(fits[0])
        return path

    found = olss(model, steps, runs).schedule.timesteps[::-1]
    least = max(error(found[: i + 1], s) for i, s in enumerate(found[1:]))
    assert greedy(least * (1 + 1e-6)) == [*found]
    assert greedy(least * (1 - 1e-3)) is None


def linear_model(noise, variances):
    """Of Gaussian data: x̂_0 is its mean given x_t, and every flow ends at a multiple of x_T."""
    variances = torch.tensor(variances)

    def mean(x, time):
        t = torch.searchsorted(torch.from_numpy(noise.time_inputs).to(time.dtype), time) + 1
        f, g = (per_example(v[t.numpy()], x) for v in (noise.f, noise.g))
        return f * variances / (f**2 * variances + g**2) * x

    return Denoiser(mean, noise, predicts="x0", shape=(4,), clip=False)


@pytest.mark.parametrize("name", ["vp", "ve", "flow"])
def test_olss_is_exact_on_gaussian_data_of_two_variances(name):
    """All of the teacher's points are in the span of x_T and the first estimate."""
    model = linear_model(family(name), [0.5, 0.5, 0.02, 0.02])
    for steps in (2, Schedule([0, 20, 40])):
        runs = teacher_runs(model, 4, nodes=40)
        rival = olss(model, steps, runs)
        check_ends(model, runs, rival)


@pytest.mark.parametrize("base", ["ddim", "ab2"])
@pytest.mark.parametrize("name", ["vp", "ve", "flow"])
def test_pas_is_exact_on_gaussian_data_of_one_variance(name, base):
    """Every step goes along x_T, and its length alone is wrong."""
    model = linear_model(family(name), [0.3] * 4)
    runs = teacher_runs(model, 4, nodes=40)
    rival = pas(model, Schedule([0, 10, 20, 40]), runs, base=base, tolerance=0, directions=1)
    assert rival.calls == runs.calls + 4 * 3
    assert all(len(c) == 1 for c in rival.sampler.coordinates.values())
    check_ends(model, runs, rival)


def check_ends(model, runs, rival):
    """From noises that nothing was fitted to."""
    teacher, own, ddim = (
        dpdiff.sample(model, schedule, 8, seed=1, sampler=sampler, progress=False)
        for schedule, sampler in (
            (Schedule(runs.nodes), "2m"),
            (rival.schedule, rival.sampler),
            (rival.schedule, "ddim"),
        )
    )
    torch.testing.assert_close(own, teacher, rtol=1e-3, atol=1e-4)
    assert (ddim - teacher).norm() > 100 * (own - teacher).norm()


@pytest.mark.parametrize("name", ["ddim", "2m", "ab2"])
def test_pas_without_coordinates_is_its_base(model, name):
    expected = dpdiff.sample(model, THREE, 4, sampler=name, progress=False)
    for coordinates in ({}, {t: [0.0, 0.0] for t in THREE.timesteps}):
        sampler = PAS(THREE, SAMPLERS[name], coordinates)
        drawn = dpdiff.sample(model, THREE, 4, sampler=sampler, progress=False)
        assert torch.equal(drawn, expected)


@torch.no_grad()
def test_pas_coordinates_are_least_squares_on_the_students_way(model, runs):
    rival = pas(model, THREE, runs, tolerance=0)
    a, bare = straight_scale(model.noise), PAS(THREE, SAMPLERS["ddim"], {})
    x, calls = runs.points[-1].reshape(-1, 1, 4, 4), []
    for t, s in pairwise(THREE.timesteps[::-1]):
        calls.append(Call(t, x, model(x, t)))
        plain = bare.step(model, calls, s, x)
        units, reach = turns(model, calls, s, plain, 4)
        k = units.shape[2]
        assert k == min(4, len(calls) + 1)
        torch.testing.assert_close(units.mT @ units, torch.eye(k).double().expand(5, k, k))
        basis = (a[s] * reach[:, None, None] * units).flatten(0, 1).numpy()
        missing = goal(runs, s) - plain.double().numpy().ravel()
        expected = np.linalg.lstsq(basis, missing, rcond=None)[0]
        np.testing.assert_allclose(rival.sampler.coordinates[t], expected, rtol=1e-5, atol=1e-7)
        x = rival.sampler.step(model, calls, s, x)


@torch.no_grad()
def test_pas_turns_along_its_own_step_and_where_it_has_gone(model):
    x = torch.from_numpy(gaussian(0, T, range(3), (1, 4, 4)))
    calls, a = [Call(T, x, model(x, T))], straight_scale(model.noise)
    ddim = SAMPLERS["ddim"]
    for t, s in ((T, 110), (110, 20)):
        x = ddim.step(model, [calls[-1]], s, x)
        units, reach = turns(model, calls, s, x, 3)
        step = x.flatten(1).double() / a[s] - calls[-1].x.flatten(1).double() / a[t]
        torch.testing.assert_close(units[..., 0] * reach[:, None], step, rtol=1e-6, atol=1e-9)
        calls.append(Call(s, x, model(x, s)))
    way = (calls[1].x / a[110] - calls[0].x / a[T]).flatten(1).double()
    assert ((units[..., 1:] * way[..., None]).sum(1) > 0).all()


def test_a_step_that_needs_no_correction_has_none(model, runs):
    assert pas(model, THREE, runs, tolerance=1e9).sampler.coordinates == {}
    kept = pas(model, THREE, runs, tolerance=1e-5).sampler.coordinates
    assert 0 < len(kept) <= 3


@pytest.mark.parametrize("base", ["ddim", "2m", "ab2"])
def test_pas_comes_nearer_than_its_base(model, runs, base):
    rival = pas(model, THREE, runs, base=base)
    teacher, own, plain = (
        dpdiff.sample(model, schedule, 16, seed=9, sampler=sampler, progress=False)
        for schedule, sampler in (
            (Schedule(runs.nodes), "2m"),
            (THREE, rival.sampler),
            (THREE, base),
        )
    )
    assert (own - teacher).norm() < (plain - teacher).norm()


def test_calls_are_counted(model):
    before = model.network.asked
    runs = teacher_runs(model, 3, nodes=10)
    assert model.network.asked - before == runs.calls
    rivals = [pas(model, Schedule(runs.nodes[[0, 3, 10]]), runs), olss(model, 2, runs)]
    assert model.network.asked - before == rivals[0].calls == runs.calls + 6
    assert rivals[1].calls == runs.calls
    for rival in rivals:
        assert rival.schedule.provenance["calls"] == rival.calls


def test_ends_are_clipped_where_the_denoiser_clips(model, runs):
    assert model.clip
    for rival in (olss(model, 3, runs), pas(model, THREE, runs)):
        drawn = dpdiff.sample(model, rival.schedule, sampler=rival.sampler, progress=False)
        assert drawn.abs().max() <= 1


def test_what_does_not_fit_is_refused(model, runs):
    with pytest.raises(InputError, match=r"timesteps \[21\] are no nodes"):
        olss(model, Schedule([0, 21, 200]), runs)
    with pytest.raises(InputError, match="too few for 90 steps"):
        olss(model, 90, runs)
    for rival in (olss(model, THREE, runs), pas(model, THREE, runs)):
        with pytest.raises(InputError, match="was fitted to the timesteps"):
            dpdiff.sample(model, Schedule([0, 20, 200]), 2, sampler=rival.sampler, progress=False)
        with pytest.raises(InputError, match="sampler is one of"):
            dpdiff.sample(model, rival.schedule, 2, progress=False)
