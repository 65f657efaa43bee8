"""Gaussian data, where the best denoiser, every cost and every sample are known in closed form."""

import math

import numpy as np
import pytest
import torch

from dpdiff.costs import measure
from dpdiff.denoiser import Denoiser
from dpdiff.evaluation import evaluate
from dpdiff.noise import NoiseSchedule
from dpdiff.sampling import sample
from dpdiff.schedule import Schedule
from dpdiff.solvers import solve

SPREAD = np.array([0.8, 0.5, 0.2])  # standard deviation of each dimension
T = 1000
NOISE = NoiseSchedule.linear(T)


def exact_network(x, index):
    """E[x_0 | x_t] of independent Gaussians, a linear shrinkage in every dimension."""
    f, g = (torch.tensor(c[index.numpy() + 1])[:, None] for c in (NOISE.f, NOISE.g))
    variance = torch.tensor(SPREAD**2)
    return f * variance / (f**2 * variance + g**2) * x


@pytest.fixture(scope="module")
def denoiser():
    return Denoiser(
        exact_network, NOISE, predicts="x0", variance="small", shape=(3,), levels=None, clip=False
    )


def residual(t):
    """m(t): the posterior variance of x_0 given x_t, summed over dimensions."""
    f2, g2 = NOISE.f[t] ** 2, NOISE.g[t] ** 2
    return (SPREAD**2 * g2 / (f2 * SPREAD**2 + g2)).sum()


def exact_bound(schedule, variance):
    """-ELBO in nats from the definitions of the edges alone."""
    f, g = NOISE.f, NOISE.g
    total = 0.5 * (g[T] ** 2 + f[T] ** 2 * SPREAD**2 - 1 - 2 * np.log(g[T])).sum()
    for t, s in schedule.jumps:
        m = residual(t)
        if s == 0:
            sigma2 = m / 3 if variance == "optimal" else g[t] ** 2
            total += 0.5 * (3 * np.log(2 * np.pi * sigma2) + m / sigma2)
            continue
        fresh = g[t] ** 2 - (f[t] / f[s]) ** 2 * g[s] ** 2
        small = g[s] ** 2 * fresh / g[t] ** 2
        moved = (f[s] * fresh / g[t] ** 2) ** 2 * m  # E‖difference of the means‖²
        sigma2 = {"small": small, "large": fresh, "optimal": small + moved / 3}[variance]
        total += 0.5 * (3 * np.log(sigma2 / small) + (3 * small + moved) / sigma2 - 3)
    return total


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).normal(size=(4000, 3)) * SPREAD


@pytest.mark.parametrize("variance", ["small", "large", "optimal"])
def test_bound_agrees_with_closed_form(denoiser, data, variance):
    schedule = Schedule([0, 20, 40, 80, 150, 300, 600, T])
    costs = measure(
        denoiser, data[:64], per_step=128, progress=False
    )  # for the optimal rule's m(t)
    costs.statistics["mse"][1:] = [residual(t) for t in range(1, T + 1)]
    scored = denoiser.with_variance(variance, costs)
    score = evaluate(scored, data, schedule, progress=False)
    expected = exact_bound(schedule, variance) / (3 * math.log(2))
    assert abs(score.mean - expected) < 4 * score.stderr
    assert score.stderr < 0.05


def test_measured_errors_agree_with_closed_form(denoiser, data):
    costs = measure(denoiser, data, per_step=200, batch_size=4000, progress=False)
    exact = np.array([residual(t) for t in range(1, T + 1)])
    deviation = (costs.mse[1:] - exact) / np.sqrt(costs.statistics["mse_var"][1:] / 200)
    # All timesteps share the 4,000 examples, so their deviations share that part.
    assert abs(deviation.mean()) < 4 * math.sqrt(200 / 4000)
    assert 0.9 < deviation.std() < 1.1


def test_gap_to_the_likelihood_closes_as_one_over_k():
    """One dimension, a first node whose decoder is exact: all that is lost is lost in the jumps."""
    first, variance = 20, 0.8**2
    snr = NOISE.f[1:] ** 2 / NOISE.g[1:] ** 2
    m = variance / (1 + variance * snr)
    costs = np.full((T + 1, T + 1), np.inf)
    costs[first, 0] = 0.5 * (math.log(2 * math.pi * m[first - 1]) + 1)
    for t in range(first + 1, T + 1):
        costs[t, 1:t] = 0.5 * (snr[: t - 1] - snr[t - 1]) * m[t - 1]
    f, g = NOISE.f[T], NOISE.g[T]
    prior = 0.5 * (g**2 + f**2 * variance - 1 - 2 * np.log(g))
    nats = solve(costs, max_steps=128).totals + prior
    gaps = nats[[32, 64, 128]] - 0.5 * (math.log(2 * math.pi * variance) + 1)
    slopes = np.diff(np.log2(gaps))
    assert ((slopes > -1.15) & (slopes < -0.9)).all(), (gaps, slopes)


def test_optimal_variance_makes_any_schedule_exact_for_isotropic_data():
    """Reverse jumps of isotropic Gaussians are Gaussian, so σ*² loses nothing, however few."""
    variance = 0.5**2

    def network(x, index):
        f, g = (torch.tensor(c[index.numpy() + 1])[:, None] for c in (NOISE.f, NOISE.g))
        return f * variance / (f**2 * variance + g**2) * x

    model = Denoiser(network, NOISE, predicts="x0", shape=(3,), levels=None, clip=False)
    data = np.random.default_rng(1).normal(size=(4000, 3)) * 0.5
    costs = measure(model, data[:8], per_step=128, progress=False)
    f2, g2 = NOISE.f[1:] ** 2, NOISE.g[1:] ** 2
    costs.statistics["mse"][1:] = 3 * variance * g2 / (f2 * variance + g2)
    exact = 0.5 * (math.log(2 * math.pi * variance) + 1) / math.log(2)
    for steps in (1, 2, 5, 20):
        score = evaluate(
            model.with_variance("optimal", costs), data, Schedule.even(T, steps), progress=False
        )
        assert abs(score.mean - exact) < 4 * score.stderr < 0.1


@pytest.mark.parametrize("sampler", ["small", "optimal", "ddim"])
def test_sample_moments_agree_with_the_linear_recursion(denoiser, data, sampler):
    """Every step is linear, so the variance of the samples follows from a recursion."""
    schedule = Schedule([0, 20, 200, 500, T])
    model = denoiser
    if sampler == "optimal":
        costs = measure(denoiser, data[:64], per_step=128, progress=False)
        costs.statistics["mse"][1:] = [residual(t) for t in range(1, T + 1)]
        model = denoiser.with_variance("optimal", costs)
    kind = "ddim" if sampler == "ddim" else "ancestral"
    drawn = sample(model, schedule, n=20_000, sampler=kind, batch_size=5000, progress=False).numpy()

    f, g, variance = NOISE.f, NOISE.g, np.ones(3)
    for t, s in reversed(schedule.jumps):
        shrink = f[t] * SPREAD**2 / (f[t] ** 2 * SPREAD**2 + g[t] ** 2)
        if s == 0:
            variance = shrink**2 * variance
        elif sampler == "ddim":
            factor = f[s] * shrink + g[s] * (1 - f[t] * shrink) / g[t]
            variance = factor**2 * variance
        else:
            fresh = g[t] ** 2 - (f[t] / f[s]) ** 2 * g[s] ** 2
            small, signal = g[s] ** 2 * fresh / g[t] ** 2, f[s] * fresh / g[t] ** 2
            factor = signal * shrink + (f[t] / f[s]) * g[s] ** 2 / g[t] ** 2
            extra = signal**2 * residual(t) / 3 if sampler == "optimal" else 0.0
            variance = factor**2 * variance + small + extra
    np.testing.assert_allclose(drawn.var(0), variance, rtol=5 * math.sqrt(2 / 20_000))
    assert (np.abs(drawn.mean(0)) < 5 * np.sqrt(variance / 20_000)).all()
