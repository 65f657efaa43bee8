"""Smoothing: exact on lines, honest about noise, and better schedules for it."""

import numpy as np
import pytest

from dpdiff.costs import Costs
from dpdiff.costs.smoothing import chosen_width, positive, smoother
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.solvers import solve

T = 1000
NOISE = NoiseSchedule.linear(T)


def test_straight_lines_stay_as_they_are():
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(size=50))[::-1]
    y = np.stack([2 * x - 1, -x], axis=1)
    np.testing.assert_allclose(smoother(x, 0.1) @ y, y, atol=1e-9)


def test_each_value_is_a_weighted_least_squares_line():
    rng = np.random.default_rng(1)
    x, y = np.sort(rng.uniform(size=40)), rng.normal(size=40)
    smooth = smoother(x, 0.3) @ y
    for i in (0, 7, 20, 39):
        weights = np.clip(1 - (np.abs(x - x[i]) / 0.3) ** 3, 0, None) ** 1.5  # their square roots
        design = np.stack([np.ones(40), x - x[i]], axis=1) * weights[:, None]
        line = np.linalg.lstsq(design, y * weights, rcond=None)[0]
        assert smooth[i] == pytest.approx(line[0], abs=1e-9)


def costs_of(m):
    """Costs with this m(t) and the decoder of data whose posterior variance it is, D = 3."""
    decoder = 1.5 * (1 + np.log(2 * np.pi * np.maximum(m, 1e-9) / 3))
    statistics = {
        "mse": m,
        "mse_var": 64 * (0.1 * m) ** 2,
        "decoder_fixed": decoder,
        "decoder_fixed_var": 0 * m,
        "decoder_optimal": decoder,
        "decoder_optimal_var": 0 * m,
        "prior": np.array(0.0),
    }
    return Costs(NOISE, (3,), "small", statistics, {"per_step": 64})


@pytest.fixture(scope="module")
def exact():
    """m(t) of Gaussian data with its best denoiser."""
    f2, g2 = NOISE.f**2, NOISE.g**2
    return costs_of(3 * 0.25 * g2 / (f2 * 0.25 + g2))


@pytest.fixture(scope="module")
def noisy(exact):
    """The same with 10 % of multiplicative noise, as some dozens of images leave."""
    return costs_of(exact.mse * np.random.default_rng(2).normal(1, 0.1, T + 1))


def test_noise_falls_and_little_else(exact, noisy):
    def deviation(costs):
        return np.sqrt(np.mean((costs.mse[1:] / exact.mse[1:] - 1) ** 2))

    assert deviation(noisy.smoothed()) < 0.4 * deviation(noisy)
    assert deviation(exact.smoothed()) < 0.005


@pytest.mark.parametrize("steps", [16, 64, 128])
def test_schedules_lose_less_when_chosen_on_smoothed_costs(exact, noisy, steps):
    best = solve(exact, max_steps=128).totals[steps]

    def loss(costs):
        return exact.edge_costs(solve(costs, max_steps=128).schedule(steps)).sum() - best

    assert 0 <= loss(noisy.smoothed()) < 0.6 * loss(noisy)


def test_promises_become_honest(exact, noisy):
    """The total of a plan on noisy costs is too low; on smoothed costs it is about right."""
    truth = solve(exact, max_steps=64).totals[64]
    raw, smooth = (solve(c, max_steps=64).totals[64] for c in (noisy, noisy.smoothed()))
    assert raw < truth
    assert abs(smooth - truth) < 0.5 * abs(raw - truth)


def test_a_last_step_without_any_signal_is_no_trouble():
    noise = NoiseSchedule.from_betas([*NOISE.betas[:-1], 1.0])
    costs = Costs(noise, (3,), "small", costs_of(np.ones(T + 1)).statistics, {"per_step": 2})
    np.testing.assert_allclose(costs.smoothed().mse[1:], 1)


def test_a_grid_of_one_step_stays_as_it_is():
    statistics = {k: v[:2] if v.ndim else v for k, v in costs_of(np.ones(T + 1)).statistics.items()}
    costs = Costs(NoiseSchedule.from_betas([0.5]), (3,), "small", statistics, {"per_step": 2})
    assert costs.smoothed().mse[1] == costs.smoothed(0.2).mse[1] == 1
    for width in (-1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="width of smoothing"):
            costs.smoothed(width)


def test_residuals_decide_the_width(exact):
    """Leaps that the standard errors do not explain stay; leaps that they explain go."""
    rng = np.random.default_rng(3)
    known = (0.05 * exact.mse[1:]) ** 2
    x = np.log(NOISE.f[1:] ** 2 / NOISE.g[1:] ** 2)
    noisy = exact.mse[1:] * rng.normal(1, 0.05, T)
    assert chosen_width(x, noisy, known, 0.2) >= 0.1
    assert chosen_width(x, noisy * np.exp(0.3 * rng.normal(size=T)), known, 0.2) == 0


def test_squared_errors_never_fall_below_zero():
    rng, x = np.random.default_rng(4), np.linspace(0, 1, 60)
    y = rng.exponential(size=60) ** 4 * (rng.random(60) < 0.3)
    assert (smoother(x, 0.1) @ y).min() < 0
    assert positive(x, y, 0.1).min() >= 0
