"""The variance that ancestral sampling loses: closed forms, brute force, and a bound."""

from itertools import combinations

import numpy as np
import pytest
from test_trajectories import gaussian_model

import dpdiff
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.schedule import Schedule
from dpdiff.trajectory import VarianceLoss, variance_loss
from dpdiff.trajectory.ancestral import Residuals, _growth

NOISE = NoiseSchedule.linear(1000)
VARIANCES = np.array([0.04, 0.25, 0.64])
RULES = ["small", "large", "learned_range", "optimal"]
V = 0.3  # of a learned variance: between the small one, at 0, and the large one, at 1


def residual(t):
    """C(t), the posterior variance of each dimension."""
    f2, g2 = NOISE.f[t, None] ** 2, NOISE.g[t, None] ** 2
    return VARIANCES * g2 / (f2 * VARIANCES + g2)


def exact_loss(nodes, rule):
    errors = residual(nodes)
    errors[0] = 0
    model, growth = gaussian_model(NOISE, VARIANCES), None
    if rule == "learned_range":
        growth = np.array([np.ones(24), *(_growth(model, t, np.array([V])) for t in nodes[1:])])
    result = Residuals(VARIANCES, errors.T, errors.mean(1), growth)
    return VarianceLoss(model, nodes, np.ones(3, int), result, rule)


def sampled_variances(schedule, rule):
    """Variance of ancestral samples by dimension, from the sampler's linear steps."""
    f, g = NOISE.f, NOISE.g
    variance = f[-1] ** 2 * VARIANCES + g[-1] ** 2
    for t, s in reversed(schedule.jumps):
        shrink = f[t] * VARIANCES / (f[t] ** 2 * VARIANCES + g[t] ** 2)
        if s == 0:
            return shrink**2 * variance
        fresh = g[t] ** 2 - (f[t] / f[s]) ** 2 * g[s] ** 2
        small, signal = g[s] ** 2 * fresh / g[t] ** 2, f[s] * fresh / g[t] ** 2
        between = small * (g[t] ** 2 / g[s] ** 2) ** V
        extra = {"small": small, "large": fresh, "learned_range": between}.get(rule)
        if rule == "optimal":
            extra = small + signal**2 * residual(np.array([t])).mean()
        factor = signal * shrink + (f[t] / f[s]) * g[s] ** 2 / g[t] ** 2
        variance = factor**2 * variance + extra


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("inner", [[], [400], [20, 200, 500], list(range(10, 1000, 10))])
def test_losses_add_up_to_what_samples_lack(rule, inner):
    nodes = np.r_[0, np.arange(10, 1001, 10)]
    schedule = Schedule([0, *inner, 1000])
    loss = exact_loss(nodes, rule)
    left = sampled_variances(schedule, rule)
    np.testing.assert_allclose(VARIANCES - loss.lost(schedule), left, rtol=1e-9, atol=1e-12)
    distance = np.square(np.sqrt(VARIANCES) - np.sqrt(left)).sum()
    if (left > 1e-3 * VARIANCES).all():
        np.testing.assert_allclose(loss.distance(schedule), distance, rtol=1e-9)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_best_is_that_of_brute_force(rule, steps):
    nodes = np.r_[0, 2, 10, 30, 60, 100, 150, 220, 300, 400, 520, 680, 1000]
    loss = exact_loss(nodes, rule)
    everything = [
        Schedule([0, *inner, 1000]) for inner in combinations(nodes[1:-1].tolist(), steps - 1)
    ]
    distances = [loss.distance(schedule) for schedule in everything]
    result = loss.best(steps)
    assert result.distance <= min(distances) * (1 + 1e-9)
    assert result.schedule == everything[int(np.argmin(distances))]
    assert result.bound <= result.distance * (1 + 1e-9)
    assert result.schedule.steps == steps
    np.testing.assert_allclose(loss.distance(result.schedule), result.distance)


@pytest.mark.parametrize("steps", [4, 8, 16])
def test_it_beats_the_strides(steps):
    nodes = np.r_[0, np.arange(1, 1001, 9)]
    for rule in ("small", "optimal"):
        loss, result = exact_loss(nodes, rule), exact_loss(nodes, rule).best(steps)
        gap = 1 - result.bound / result.distance
        assert gap < 0.05
        for stride in (Schedule.even(1000, steps), Schedule.quadratic(1000, steps)):
            near = nodes[[abs(nodes - t).argmin() for t in stride.timesteps]]
            assert result.distance < loss.distance(Schedule(near))


def test_measured_on_a_model_of_gaussian_data():
    model = gaussian_model(NOISE, VARIANCES)
    paths = dpdiff.trajectories(model, n=500, nodes=64, batch_size=500, progress=False)
    data = np.random.default_rng(0).normal(size=(4000, 3)) * np.sqrt(VARIANCES)
    for images in (data, None):
        loss = variance_loss(paths, images, n=4000, rule="small", progress=False)
        expected = np.sort(residual(paths.nodes[1:]).T, axis=0)
        order = np.argsort(loss.variances)
        assert loss.sizes.tolist() == [0, 1, 1, 1] or loss.sizes.tolist() == [1, 1, 1]
        order = order[loss.sizes[order] > 0]
        np.testing.assert_allclose(loss.residuals.errors[order, 1:], expected, rtol=0.15)
        best = exact_loss(paths.nodes, "small").best(6)
        result = loss.best(6)
        exact = exact_loss(paths.nodes, "small").distance(result.schedule)
        assert exact < 1.03 * best.distance


def test_learned_variance_between_its_ends(toy):
    """A v that is 0, or 1, everywhere is the small or the large rule."""
    nodes = np.r_[0, np.arange(100, 4001, 100)]
    errors = np.linspace(0, 0.2, 41)[None]
    for v, rule in ((0.0, "small"), (1.0, "large")):
        growth = np.array([np.ones(24), *(_growth(toy, t, np.array([v])) for t in nodes[1:])])
        result = Residuals(np.array([0.3]), errors, errors[0], growth)
        learned, fixed = (
            VarianceLoss(toy, nodes, np.array([16]), result, r) for r in ("learned_range", rule)
        )
        np.testing.assert_allclose(learned.losses, fixed.losses, rtol=1e-6, atol=1e-9)


def test_every_rule_on_a_network(toy):
    paths = dpdiff.trajectories(toy, n=4, nodes=16, progress=False)
    for rule in RULES:
        result = variance_loss(paths, n=6, rule=rule, progress=False).best(4)
        assert result.schedule.steps == 4
        assert 0 <= result.bound <= result.distance * (1 + 1e-9)
    with pytest.raises(InputError, match="variance rule"):
        variance_loss(paths, n=6, rule="medium", progress=False)
