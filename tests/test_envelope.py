"""The envelope of lines against the reference, on costs that are hard on it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpdiff.solvers import reference
from dpdiff.solvers.envelope import Envelope, Lines, envelope_rows
from dpdiff.errors import InputError
from dpdiff.solvers.plan import solve


class LineCosts:
    """Lines, and the table they stand for."""

    def __init__(self, *arrays):
        self._lines = Lines(*(np.asarray(values, dtype=np.float64) for values in arrays))
        self.T = len(self._lines.x) - 1

    def lines(self):
        return self._lines

    def rows(self, start, stop):
        const, x, intercept, slope, first = self._lines
        t, s = np.arange(start, stop)[:, None], np.arange(stop)
        block = (const[t] + slope[s] * x[t]) + intercept[s]
        block[:, 0] = first[start:stop]
        block[s >= t] = np.inf
        return block


def diffusion_like(T, kind, noise, seed=0):
    """Costs as a diffusion model of 3,072 dimensions has them, with multiplicative noise in m."""
    rng, D, t = np.random.default_rng(seed), 3072, np.arange(T + 1)
    g2 = np.sin((0.01 + 0.98 * t / T) * np.pi / 2) ** 2
    snr = (1 - g2) / g2
    m = 0.05 * D * (1 + snr) ** -0.9 * np.exp(noise * rng.standard_normal(T + 1))
    first = D * (6 + 0.5 * np.log(g2 + 1e-3))
    if kind == "small":
        return LineCosts(-0.5 * snr * m, 0.5 * m, 0 * m, snr, first)
    if kind == "large":
        const = 0.5 * (D * (np.log(g2) - 1) + m / g2)
        return LineCosts(const, 0.5 * (D - m / g2) / g2, -0.5 * D * np.log(g2), g2, first)
    return LineCosts(t * m, m, 0 * m, -t, t * m)


NUMBERS = st.sampled_from([-2.0, 0.0, 1.0, 2.0, 3.0])
OPEN = st.sampled_from([-2.0, 0.0, 1.0, 2.0, np.inf])


@st.composite
def small_lines(draw):
    """Small whole numbers, so that ties abound and rounding does not exist."""
    T = draw(st.integers(1, 9))
    const, intercept, first = (
        draw(st.lists(OPEN, min_size=T + 1, max_size=T + 1)) for _ in range(3)
    )
    x, slope = (draw(st.lists(NUMBERS, min_size=T + 1, max_size=T + 1)) for _ in range(2))
    return LineCosts(const, x, intercept, sorted(slope, reverse=draw(st.booleans())), first)


@settings(max_examples=600, deadline=None)
@given(costs=small_lines())
def test_totals_and_paths_equal_the_references_ties_included(costs):
    plan, true = solve(costs), solve(costs, method="reference")
    assert plan.method == "envelope"
    np.testing.assert_array_equal(plan.forward, true.forward)
    np.testing.assert_array_equal(plan.totals, true.totals)
    possible = np.flatnonzero(true.totals < np.inf).tolist()
    assert plan.schedules(possible) == true.schedules(possible)
    sparse = Envelope(costs.lines(), costs.T, keep=0)
    assert sparse.paths(possible) == [list(true.schedule(k).timesteps) for k in possible]


@pytest.mark.parametrize("kind", ["small", "large", "weighted"])
@pytest.mark.parametrize("noise", [0, 0.05, 0.5])
def test_noisy_costs_equal_reference_and_sweep(kind, noise):
    costs = diffusion_like(400, kind, noise)
    true, swept, plan = (solve(costs, method=m) for m in ("reference", "sweep", "envelope"))
    np.testing.assert_array_equal(swept.forward, true.forward)
    np.testing.assert_allclose(plan.forward, true.forward, rtol=1e-12)
    table = costs.rows(0, 401)
    for steps in (1, 2, 3, 10, 50, 399, 400):
        total = sum(table[jump] for jump in plan.schedule(steps).jumps)
        assert total == pytest.approx(true.totals[steps], rel=1e-12)


def test_the_noisy_case_is_not_monge():
    # … so that solvers which need the quadrangle inequality would fail on it
    table = diffusion_like(400, "small", 0.05).rows(0, 401)
    t = np.arange(3, 401)
    s = t - 2
    gap = table[t, s] + table[t - 1, s - 1] - table[t, s - 1] - table[t - 1, s]
    assert 0.3 < (gap[s > 1] > 0).mean() < 0.7


@pytest.mark.parametrize("noise", [0, 0.3])
def test_checkpoints_give_the_same_paths_in_less_memory(noise):
    costs = diffusion_like(300, "small", noise)
    whole, sparse = Envelope(costs.lines(), 200), Envelope(costs.lines(), 200, keep=0)
    assert len(whole._kept) == 200
    assert len(sparse._kept) == 14
    budgets = [200, 1, 2, 15, 16, 17, 99, 16]
    assert sparse.paths(budgets) == whole.paths(budgets)
    np.testing.assert_array_equal(sparse.totals, whole.totals)
    np.testing.assert_array_equal(sparse.forward(), whole.forward())


def test_costs_change_sign_with_the_direction_of_the_slopes():
    costs = diffusion_like(50, "small", 0.2)
    const, x, intercept, slope, first = costs.lines()
    mirrored = LineCosts(const, -x, intercept, -slope, first)
    np.testing.assert_array_equal(solve(mirrored).totals, solve(costs).totals)


def test_values_that_no_jump_uses_are_not_read():
    costs = diffusion_like(30, "large", 0.1)
    arrays = [values.copy() for values in costs.lines()]
    for values in arrays:
        values[0] = np.nan
    arrays[2][-1] = arrays[3][-1] = np.nan
    np.testing.assert_array_equal(Envelope(Lines(*arrays), 30).totals, solve(costs).totals)


@pytest.mark.parametrize(
    ("name", "i", "bad", "message"),
    [
        ("const", 3, np.nan, "const of t = 3 is nan"),
        ("const", 5, -np.inf, "const of t = 5 is -inf"),
        ("x", 1, np.inf, "x of t = 1 is inf; it must be finite"),
        ("slope", 4, np.inf, "slope of s = 4 is inf"),
        ("intercept", 1, np.nan, "intercept of s = 1 is nan"),
        ("first", 5, -np.inf, "first of t = 5"),
    ],
)
def test_bad_numbers_are_refused_and_located(name, i, bad, message):
    costs = diffusion_like(5, "small", 0)
    getattr(costs.lines(), name)[i] = bad
    with pytest.raises(InputError, match=message):
        solve(costs)


def test_slopes_that_rise_and_fall_are_refused():
    with pytest.raises(InputError, match="rise or fall"):
        solve(LineCosts(*np.ones((3, 5)), [0, 1, 2, 1, 0], np.ones(5)))


def test_lengths_must_agree():
    with pytest.raises(InputError, match="one length"):
        Lines(np.ones(4), np.ones(4), np.ones(3), np.ones(4), np.ones(4)).checked()


def test_one_row_equals_the_recursion():
    costs = diffusion_like(60, "weighted", 0.4)
    best, _ = dp.reference(costs.rows(0, 61), 5)
    rows = list(envelope_rows(costs.lines().checked(), 3, 6, best[3]))
    np.testing.assert_allclose(rows, best[3:6], rtol=1e-13)
