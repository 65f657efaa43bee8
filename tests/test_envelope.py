"""The envelope of lines against the reference, on costs that are hard on it."""

from __future__ import annotations

import numpy as np
import pytest
from cases import synthetic_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from dpdiff.errors import InputError
from dpdiff.solvers import Envelope, Lines, recursion, solve
from dpdiff.solvers.envelope import envelope_rows, falling


def lines_of(*arrays):
    return Lines(*(np.asarray(values, dtype=np.float64) for values in arrays))


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
    return lines_of(const, x, intercept, sorted(slope, reverse=draw(st.booleans())), first)


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
    costs = synthetic_lines(400, kind, noise)
    true, swept, plan = (solve(costs, method=m) for m in ("reference", "sweep", "envelope"))
    np.testing.assert_array_equal(swept.forward, true.forward)
    np.testing.assert_allclose(plan.forward, true.forward, rtol=1e-12)
    table = costs.rows(0, 401)
    for steps in (1, 2, 3, 10, 50, 399, 400):
        total = sum(table[jump] for jump in plan.schedule(steps).jumps)
        assert total == pytest.approx(true.totals[steps], rel=1e-12)


def test_the_noisy_case_is_not_monge():
    # … so that solvers which need the quadrangle inequality would fail on it
    table = synthetic_lines(400, "small", 0.05).rows(0, 401)
    t = np.arange(3, 401)
    s = t - 2
    gap = table[t, s] + table[t - 1, s - 1] - table[t, s - 1] - table[t - 1, s]
    assert 0.3 < (gap[s > 1] > 0).mean() < 0.7


@pytest.mark.parametrize("noise", [0, 0.3])
def test_checkpoints_give_the_same_paths_in_less_memory(noise):
    costs = synthetic_lines(300, "small", noise)
    whole, sparse = Envelope(costs.lines(), 200), Envelope(costs.lines(), 200, keep=0)
    assert len(whole._kept) == 200
    assert len(sparse._kept) == 14
    budgets = [200, 1, 2, 15, 16, 17, 99, 16]
    assert sparse.paths(budgets) == whole.paths(budgets)
    np.testing.assert_array_equal(sparse.totals, whole.totals)
    np.testing.assert_array_equal(sparse.forward(), whole.forward())


def test_costs_change_sign_with_the_direction_of_the_slopes():
    costs = synthetic_lines(50, "small", 0.2)
    const, x, intercept, slope, first = costs.lines()
    mirrored = lines_of(const, -x, intercept, -slope, first)
    np.testing.assert_array_equal(solve(mirrored).totals, solve(costs).totals)


def test_values_that_no_jump_uses_are_not_read():
    costs = synthetic_lines(30, "large", 0.1)
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
    costs = synthetic_lines(5, "small", 0)
    getattr(costs.lines(), name)[i] = bad
    with pytest.raises(InputError, match=message):
        solve(costs)


def test_slopes_that_rise_and_fall_are_refused():
    with pytest.raises(InputError, match="rise or fall"):
        solve(lines_of(*np.ones((3, 5)), [0, 1, 2, 1, 0], np.ones(5)))


def test_lengths_must_agree():
    with pytest.raises(InputError, match="one length"):
        falling(Lines(np.ones(4), np.ones(4), np.ones(3), np.ones(4), np.ones(4)))


def test_one_row_equals_the_recursion():
    costs = synthetic_lines(60, "weighted", 0.4)
    best, _ = recursion.reference(costs.rows(0, 61), 5)
    rows = list(envelope_rows(falling(costs.lines()), 3, 6, best[3]))
    np.testing.assert_allclose(rows, best[3:6], rtol=1e-13)
