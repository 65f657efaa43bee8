"""What a user gets from solve: the plan, its errors, and constrained schedules."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dpdiff
from dpdiff.errors import InputError
from dpdiff.schedule import Schedule
from dpdiff.solvers import Constrained, JumpCosts, Lines, Subset, Table, Unit, solve

SQUARES = np.subtract.outer(np.arange(7), np.arange(7)) ** 2.0


def test_a_plan_by_hand():
    plan = solve(SQUARES)
    assert (plan.T, plan.max_steps, plan.method) == (6, 6, "sweep")
    np.testing.assert_array_equal(plan.totals, [np.inf, 36, 18, 12, 10, 8, 6])
    assert plan.schedule(3) == Schedule((0, 2, 4, 6))
    assert plan.schedules([1, 6]) == [Schedule((0, 6)), Schedule.even(6, 6)]


def test_max_steps_limits_budgets_and_changes_nothing_else():
    plan = solve(SQUARES, max_steps=3)
    np.testing.assert_array_equal(plan.totals, solve(SQUARES).totals[:4])
    assert plan.forward.shape == plan.backward.shape == (4, 7)
    with pytest.raises(InputError, match=r"1…3, got 4"):
        plan.schedule(4)


def test_fewest_steps_is_the_first_budget_within_the_allowance():
    plan = solve(SQUARES)
    assert [plan.fewest_steps(within=a) for a in (0, 1.9, 2, 6, 100)] == [6, 6, 5, 3, 1]
    with pytest.raises(InputError, match="zero or more"):
        plan.fewest_steps(within=np.nan)


class InNats(JumpCosts):
    """Costs with a unit, made on demand."""

    timesteps = np.arange(7)
    unit = Unit("dimes", size=10, offset=1)

    def jump_costs(self, t, s):
        return (t - s) ** 2.0


def test_units_come_from_the_costs():
    plan = solve(InNats())
    np.testing.assert_allclose(plan.values, (plan.totals + 1) / 10)
    assert plan.fewest_steps(within=0.25) == 5
    constrained = solve(Constrained(InNats(), max_jump=5))
    np.testing.assert_allclose(constrained.values, (constrained.totals + 1) / 10)
    assert (plan.unit.name, solve(SQUARES).unit.name) == ("dimes", "cost")
    np.testing.assert_array_equal(solve(SQUARES).values, solve(SQUARES).totals)


@pytest.mark.parametrize("method", ["sweep", "reference"])
def test_rows_on_demand_equal_the_table(method):
    made, given_ = solve(InNats(), method=method), solve(SQUARES, method=method)
    np.testing.assert_array_equal(made.totals, given_.totals)
    assert made.schedules(range(1, 7)) == given_.schedules(range(1, 7))


@pytest.mark.parametrize("variance", ["small", "large"])
def test_methods_agree_on_the_bundled_models_measured_costs(variance):
    costs = dpdiff.load_costs("digits").with_variance(variance)
    plan, swept = solve(costs, 48), solve(costs, 48, method="sweep")
    assert (plan.method, swept.method) == ("envelope", "sweep")
    np.testing.assert_allclose(plan.totals, swept.totals, rtol=1e-12)
    np.testing.assert_array_equal(swept.totals[:3], solve(costs, 2, method="reference").totals)
    for steps in (1, 2, 8, 48):
        assert costs.edge_costs(plan.schedule(steps)).sum() == pytest.approx(
            plan.totals[steps], rel=1e-12
        )


def test_an_unreachable_budget_is_infinite_and_said_to_be_so():
    costs = SQUARES.copy()
    costs[5] = np.inf  # node 5 is cut off
    plan = solve(costs)
    assert plan.totals[6] == np.inf
    with pytest.raises(InputError, match="no schedule has 6 steps"):
        plan.schedule(6)
    with pytest.raises(InputError, match="every path"):
        solve(np.full((4, 4), np.inf)).fewest_steps()


@pytest.mark.parametrize("steps", [0, 7, -1])
def test_budgets_outside_the_grid_are_refused(steps):
    with pytest.raises(InputError, match="1…6"):
        solve(SQUARES).schedule(steps)
    with pytest.raises(InputError, match="1…6"):
        solve(SQUARES, max_steps=steps)


@pytest.mark.parametrize("steps", [2.5, "3", None])
def test_budgets_are_whole_numbers(steps):
    with pytest.raises(InputError, match="whole number"):
        solve(SQUARES).schedule(steps)


@pytest.mark.parametrize(
    "costs", [np.zeros((3, 4)), np.zeros(3), np.zeros((1, 1)), "costs", [[1, 2], [3]], [[1j]]]
)
def test_what_is_not_a_square_table_is_refused(costs):
    with pytest.raises(InputError, match=r"\(T\+1, T\+1\)|square array"):
        solve(costs)


def test_methods_that_do_not_exist_or_apply_are_refused():
    with pytest.raises(InputError, match="method is one of auto"):
        solve(SQUARES, method="magic")
    with pytest.raises(InputError, match="use method='sweep'"):
        solve(SQUARES, method="envelope")


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_tables_of_other_number_types(dtype):
    table = (SQUARES % 3).astype(dtype)
    np.testing.assert_array_equal(solve(table).totals, solve(table.astype(float)).totals)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_constraints_against_all_paths(data):
    T = data.draw(st.integers(2, 8))
    costs = np.random.default_rng(data.draw(st.integers(0, 99))).random((T + 1, T + 1))
    low, high = data.draw(st.integers(1, 3)), data.draw(st.integers(1, T))
    must = data.draw(st.lists(st.integers(0, T), max_size=2))
    never = data.draw(st.lists(st.integers(1, T - 1), max_size=2))
    begin = [0, *sorted(set(data.draw(st.lists(st.integers(1, T), max_size=2))))]
    plan = solve(
        Constrained(costs, min_jump=low, max_jump=high, require=must, forbid=never, prefix=begin)
    )
    for steps in range(1, T + 1):
        totals = [np.inf]
        for inner in combinations(range(1, T), steps - 1):
            nodes = (0, *inner, T)
            if (
                all(low <= t - s <= high for s, t in pairwise(nodes))
                and set(must) <= set(nodes)
                and not set(never) & set(nodes)
                and list(nodes[: len(begin)]) == begin
            ):
                totals.append(sum(costs[t, s] for s, t in pairwise(nodes)))
        assert plan.totals[steps] == pytest.approx(min(totals), rel=1e-14)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"forbid": [6]}, "cannot be forbidden"),
        ({"forbid": [0]}, "cannot be forbidden"),
        ({"require": [7]}, r"timesteps \[7\] .* lie in 0…6"),
        ({"prefix": [1, 2]}, "starts at 0"),
        ({"prefix": [0, 3, 3]}, "increases"),
        ({"prefix": []}, "starts at 0"),
    ],
)
def test_impossible_wishes_are_refused(wish, message):
    with pytest.raises(InputError, match=message):
        Constrained(SQUARES, **wish)


@pytest.mark.parametrize("kind", ["table", "lines", "demand"])
def test_a_subset_knows_some_timesteps_alone(kind):
    line = np.arange(7.0)
    costs = {"table": SQUARES, "lines": Lines(line**2, line, line**2, -2 * line, line**2)}.get(
        kind, InNats()
    )
    some = np.array([0, 1, 3, 4, 6])
    few, table = Subset(costs, some), SQUARES[np.ix_(some, some)]
    plan, same = solve(few), solve(Table(table, some))
    np.testing.assert_allclose(plan.totals, same.totals)
    assert plan.schedules(range(1, 5)) == same.schedules(range(1, 5))
    assert plan.method == ("envelope" if kind == "lines" else "sweep")
    assert plan.unit.name == ("dimes" if kind == "demand" else "cost")
    np.testing.assert_array_equal(few.edge_costs(Schedule([0, 3, 6])), [9, 9])
    twice = Subset(few, [0, 3, 6])
    assert solve(twice).schedule(2).timesteps == (0, 3, 6)
    with pytest.raises(InputError, match=r"timesteps \[2, 5\] are none"):
        few.edge_costs(Schedule([0, 2, 5, 6]))
    with pytest.raises(InputError, match="ends at 4"):
        few.edge_costs(Schedule([0, 4]))
    for wrong in ([0, 3, 3], [1, 3, 6], [0], [0, 3, 1]):
        with pytest.raises(InputError, match="rises from 0"):
            Subset(costs, wrong)
        with pytest.raises(InputError, match="rise from 0"):
            Table(np.zeros((3, 3)), wrong)


def test_constraints_on_a_subset_speak_of_timesteps():
    some = np.array([0, 5, 20, 40, 50, 90, 100])
    costs = Table(np.subtract.outer(some, some) ** 2.0, some)
    wish = {"min_jump": 10, "max_jump": 50, "require": [40], "forbid": [20]}
    plan = solve(Constrained(costs, **wish))
    nodes = [0, 5, 40, 50, 90, 100]
    for steps in range(1, 7):
        allowed = [np.inf]
        for inner in combinations(nodes[1:-1], steps - 1):
            path = (0, *inner, 100)
            if 40 in path and all(10 <= t - s <= 50 for s, t in pairwise(path)):
                allowed.append(sum((t - s) ** 2 for s, t in pairwise(path)))
        assert plan.totals[steps] == min(allowed)
    assert plan.totals[4] < plan.totals[3] < np.inf
    begun = solve(Constrained(costs, prefix=[0, 5, 50]))
    assert begun.schedule(3).timesteps == (0, 5, 50, 100)
    with pytest.raises(InputError, match=r"timesteps \[30\] are none"):
        Constrained(costs, forbid=[30])


def test_constraints_leave_the_costs_alone_and_ask_for_the_sweep():
    costs = Constrained(SQUARES, min_jump=2)
    assert solve(costs).method == "sweep"
    assert solve(costs).totals[3] == 12
    assert solve(SQUARES).totals[6] == 6
