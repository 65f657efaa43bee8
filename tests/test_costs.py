"""The table made from statistics, against direct computation."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import dpdiff.noising
from dpdiff.costs import Costs, measure
from dpdiff.costs.costs import FORMAT, VERSION
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.evaluation import evaluate
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import formats, random_streams
from dpdiff.schedule import Schedule
from dpdiff.solvers import solve


@pytest.fixture(scope="module")
def costs(toy, toy_images):
    return measure(toy, toy_images, seed=3, per_step=128, progress=False)


def outputs(toy, images, t, seed):
    """x_0, x̂_0 and v at one timestep, from the same noisy images to the last bit."""
    f, g = toy.noise.f[t], toy.noise.g[t]
    x0 = images.astype(float) / 8 - 1
    noise = random_streams.gaussian(seed, t, range(len(images)), images.shape[1:])
    x_t = f * x0 + g * noise
    with torch.no_grad():
        out = toy.network(torch.tensor(x_t, dtype=torch.float32), torch.full((len(images),), t - 1))
    eps, raw = out.double().numpy()[:, :1], out.double().numpy()[:, 1:]
    return x0, ((x_t - g * eps) / f).clip(-1, 1), (raw + 1) / 2


def test_learned_table_equals_a_double_loop_over_pixels(toy, toy_images, costs):
    """KL divergences between explicit Gaussians, jump by jump, at T = 4000."""
    rng = np.random.default_rng(0)
    f2 = np.concatenate([[1.0], np.cumprod(1 - toy.noise.betas)])
    worst = 0.0
    for t in [2, 3, 50, 4000, *rng.integers(4, 4000, 12)]:
        x0, mean, v = outputs(toy, toy_images, t, seed=3)
        sources = np.unique(np.concatenate([[1, t - 1], rng.integers(1, t, 12)]))
        row = costs.rows(t, t + 1)[0]
        for s in sources:
            g2_t, g2_s = 1 - f2[t], 1 - f2[s]
            fresh = g2_t - f2[t] / f2[s] * g2_s
            small = g2_s * fresh / g2_t
            log_model = v * np.log(fresh) + (1 - v) * np.log(small)
            # Nichol & Dhariwal interpolate log β and log β̃; a(t, s) is their difference.
            distance = (np.sqrt(f2[s]) * fresh / g2_t * (x0 - mean)) ** 2
            kl = 0.5 * (log_model - np.log(small) + (small + distance) / np.exp(log_model) - 1)
            direct = kl.reshape(len(x0), -1).sum(1).mean()
            worst = max(worst, abs(direct - row[s]) / (toy.dims * math.log(2)))
    assert worst < 1e-9


@pytest.mark.parametrize("variance", ["small", "large", "learned_range", "optimal"])
def test_path_sums_equal_direct_evaluation(toy, toy_images, costs, variance):
    costs = costs.with_variance(variance)
    denoiser = toy.with_variance(variance, costs)
    optimal = solve(costs, max_steps=12).schedule(12)
    for schedule in (Schedule.even(4000, 12), Schedule.quadratic(4000, 12), optimal):
        direct = evaluate(denoiser, toy_images, schedule, seed=3, progress=False)
        np.testing.assert_allclose(costs.bound(schedule)[0], direct.mean, rtol=1e-9)
        np.testing.assert_allclose(
            costs.edge_costs(schedule) / (16 * math.log(2)), direct.edge_bits, rtol=1e-8, atol=1e-12
        )


@pytest.mark.parametrize("variance", ["small", "large"])
def test_lines_are_the_table(costs, variance):
    costs = costs.with_variance(variance)
    const, x, intercept, slope, first = costs.lines()
    for t in (2, 40, 900, 4000):
        row = costs.rows(t, t + 1)[0]
        ours = const[t] + intercept[1:t] + slope[1:t] * x[t]
        np.testing.assert_allclose(ours, row[1:t], rtol=1e-9, atol=1e-9)
        assert first[t] == row[0]


def test_weighted_cost(costs):
    row = costs.weighted().rows(70, 71)[0]
    np.testing.assert_allclose(row[:70], (70 - np.arange(70)) * costs.mse[70])
    assert row[70] == np.inf


def test_learned_range_contains_the_fixed_rules(toy, toy_images):
    """A network whose v is 0 or 1 everywhere costs what small and large cost."""
    for v, rule in ((0.0, "small"), (1.0, "large")):
        constant = replace(
            toy,
            network=lambda x, i, v=v: torch.cat([0.1 * x, torch.full_like(x, 2 * v - 1)], 1),
        )
        costs = measure(constant, toy_images[:2], per_step=128, progress=False)
        t, s = np.array([4000, 300, 2]), np.array([17, 299, 1])
        np.testing.assert_allclose(
            costs.jump_costs(t, s), costs.with_variance(rule).jump_costs(t, s), rtol=1e-8
        )


def test_optimal_variance_is_the_best_scalar(toy, toy_images, costs):
    """Moving log σ² of a jump either way makes it costlier."""
    t, s = 800, 300
    x0, mean, _ = outputs(toy, toy_images, t, seed=3)
    gap, m = toy.noise.snr_gap(t, s), ((x0 - mean) ** 2).sum() / len(x0)

    def cost(u):
        return 0.5 * (toy.dims * (u + math.expm1(-u)) + gap * m * math.exp(-u))

    best = math.log1p(gap * m / toy.dims)
    least = costs.with_variance("optimal").rows(t, t + 1)[0, s]
    np.testing.assert_allclose(least, cost(best), rtol=1e-12)
    assert cost(best) < min(cost(best + 0.01), cost(best - 0.01))


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_batches_change_only_rounding(toy, toy_images, batch_size):
    small_grid = replace(toy, noise=NoiseSchedule.cosine(50, first_beta=0.0025))
    one, other = (
        measure(small_grid, toy_images, per_step=4, batch_size=b, progress=False)
        for b in (16, batch_size)
    )
    for name, values in one.statistics.items():
        np.testing.assert_allclose(other.statistics[name], values, rtol=1e-5, atol=1e-7)


def test_standard_error_is_that_of_repeated_measurements(toy, toy_images):
    """The spread over seeds must agree with the error that each single run states."""
    small_grid = replace(toy, noise=NoiseSchedule.cosine(20, first_beta=0.0025))
    schedule = Schedule.even(20, 6)
    for variance in ("small", "optimal", "learned_range"):
        scores = []
        for seed in range(40):
            costs = measure(small_grid, toy_images, seed=seed, per_step=128, progress=False)
            scores.append(costs.with_variance(variance).bound(schedule))
        means, errors = np.array(scores).T
        # The images are the same in every run, so only the noise varies: the stated error,
        # which includes the images, may exceed the spread but not fall short of it.
        assert 0.4 * errors.mean() < means.std() < 1.3 * errors.mean()


def test_each_timestep_sees_its_share(monkeypatch, toy):
    """With fewer images a step than there are, the whole set is used."""
    seen = []
    real = dpdiff.noising.prepare

    def spy(denoiser, images, t, rows, seed):
        seen.extend(rows)
        return real(denoiser, images, t, rows, seed)

    monkeypatch.setattr("dpdiff.noising.prepare", spy)
    small_grid = replace(toy, noise=NoiseSchedule.cosine(20))
    measure(small_grid, np.zeros((10, 1, 4, 4), dtype=int), per_step=3, progress=False)
    assert sorted(seen) == sorted(list(range(10)) * 6)


def test_saving_keeps_everything(costs, tmp_path):
    costs.save(tmp_path / "c.npz")
    again = Costs.load(tmp_path / "c.npz")
    assert (again.rows(3000, 3050) == costs.rows(3000, 3050)).all()
    assert again.provenance == costs.provenance


def test_bad_files_are_refused(costs, tmp_path):
    path = tmp_path / "c.npz"
    with pytest.raises(InputError, match="No such file"):
        Costs.load(path)
    costs.save(path)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="cannot be read"):
            Costs.load(path)
    formats.write_arrays(path, {"format": "dpdiff-costs", "version": 99}, {})
    with pytest.raises(InputError, match="version 99"):
        Costs.load(path)
    np.save(tmp_path / "c.npy", np.zeros(3))
    with pytest.raises(InputError, match="cannot be read"):
        Costs.load(tmp_path / "c.npy")


@pytest.mark.parametrize(
    ("name", "forged"),
    [
        ("log_f2", np.full(20, np.nan)),
        ("log_f2", np.full(20, np.inf)),
        ("log_f2", np.zeros(19)),
        ("log_f2", np.zeros((20, 1))),
        ("log_f2", np.linspace(0, 1, 20, dtype=np.float32)),
        ("log_g2", np.full(20, np.inf)),
        ("log_g2", np.full(20, -np.inf)),
        ("log_g2", np.linspace(1, 0, 20)),
        ("log_g2", np.zeros(0)),
        ("time_inputs", np.full(20, np.nan)),
        ("time_inputs", np.arange(21)),
        ("scales", np.array([1.0])),
        ("scales", np.array([1.0, np.nan])),
        ("scales", np.array([0.0, 1.0])),
        ("betas", np.full(20, 0.1)),
    ],
)
def test_costs_of_an_impossible_grid_are_refused(toy, tmp_path, name, forged):
    grid = NoiseSchedule.from_sigmas(np.geomspace(0.1, 10, 20))
    images, path = np.zeros((3, 1, 4, 4), dtype=int), tmp_path / "c.npz"
    measure(replace(toy, noise=grid), images, per_step=3, progress=False).save(path)
    about, arrays = formats.read_arrays(path, FORMAT, VERSION)
    formats.write_arrays(path, about, arrays | {name: forged})
    with pytest.raises(InputError, match="holds no costs"):
        Costs.load(path)


def test_costs_of_another_model_are_refused(toy, costs):
    other = Denoiser(lambda x, i: x, toy.noise, shape=(1, 4, 4), levels=17)
    with pytest.raises(InputError, match="measured on model"):
        other.with_variance("optimal", costs)


def test_schedule_of_another_grid_is_refused(costs):
    with pytest.raises(InputError, match="ends at 10, the training grid at T = 4000"):
        costs.edge_costs(Schedule([0, 10]))


def test_a_schedule_of_one_step_is_the_decoder_alone(costs):
    (edge,) = costs.edge_costs(Schedule([0, costs.T]))
    assert edge == costs.decoder_costs[-1]
    assert np.isfinite(costs.bound(Schedule([0, costs.T]))).all()
