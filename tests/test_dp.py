"""The solvers against brute force, against each other, and against published cases."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpdiff.errors import InputError
from dpdiff.solvers import Sweep, jump_costs, recursion, solve
from dpdiff.solvers.sweep import MARGIN, WIDEST, last_jump

METHODS = ["reference", "sweep", "sweep32"]


def brute_force(costs, steps):
    """The least cost of all paths with a number of steps, and the path the tie rule names."""
    T, paths = len(costs) - 1, []
    for inner in combinations(range(1, T), steps - 1):
        nodes = (0, *inner, T)
        total = sum(float(costs[t, s]) for s, t in pairwise(nodes))
        last_nodes_first = tuple(-t for t in reversed(nodes))  # a larger s comes first
        paths.append((total, last_nodes_first, nodes))
    total, _, nodes = min(paths)
    return total, nodes if total < np.inf else None


@st.composite
def tables(draw, numbers):
    T = draw(st.integers(1, 9))
    size = (T + 1) ** 2
    values = draw(st.lists(numbers, min_size=size, max_size=size))
    return np.array(values, dtype=np.float64).reshape(T + 1, T + 1)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=150, deadline=None)
@given(costs=tables(st.sampled_from([-2.0, 0.0, 1.0, 2.0, 3.0, np.inf])))
def test_every_budget_against_all_paths_with_ties_and_infinities(method, costs):
    plan = solve(costs, method=method)
    for steps in range(1, len(costs)):
        total, nodes = brute_force(costs, steps)
        assert plan.totals[steps] == total
        if nodes is None:
            with pytest.raises(InputError, match="forbidden"):
                plan.schedule(steps)
        else:
            assert plan.schedule(steps).timesteps == nodes


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=100, deadline=None)
@given(costs=tables(st.floats(-1e6, 1e6)))
def test_every_budget_against_all_paths_on_any_numbers(method, costs):
    plan = solve(costs, method=method)
    for steps in range(1, len(costs)):
        total, _ = brute_force(costs, steps)
        slack = 1e-6 if method == "sweep32" else 1e-14
        assert plan.totals[steps] == pytest.approx(total, rel=slack, abs=slack * 1e7)
        jumps = plan.schedule(steps).jumps
        assert len(jumps) == steps
        assert sum(costs[jump] for jump in jumps) == pytest.approx(plan.totals[steps], abs=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_autoregressive_diffusion_published_totals(method):
    # Hoogeboom et al. 2022: one pass over s costs kl[s] for each of the t - s tokens it yields
    kl = np.array([5, 4, 3, 2.85, 2.8])
    costs = np.array([[kl[min(s, 4)] * (t - s) for s in range(6)] for t in range(6)])
    plan = solve(costs, method=method)
    np.testing.assert_allclose(plan.totals[1:], [25, 19, 18, 17.7, 17.65], rtol=1e-15)


def random_costs(T, seed=0, holes=0.3):
    rng = np.random.default_rng(seed)
    costs = rng.random((T + 1, T + 1))
    costs[rng.random(costs.shape) < holes] = np.inf
    costs[np.triu_indices(T + 1)] = np.inf
    return costs


@pytest.mark.parametrize("T", [1, 2, 3, 4, 5, 63, 64, 65, 128, 300, 523])
@pytest.mark.parametrize("share", [0, 0.1, 1])
def test_sweep_equals_reference_bit_by_bit(T, share):
    costs = random_costs(T, seed=T)
    steps = max(1, round(share * T))
    best, _ = recursion.reference(costs, steps)
    table = Sweep(jump_costs.Table(costs), steps)
    np.testing.assert_array_equal(table.forward(), best)
    np.testing.assert_array_equal(table.totals, best[:, T])


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_sweep_does_not_depend_on_the_number_of_threads(monkeypatch, threads):
    costs = random_costs(300, holes=0)
    best, _ = recursion.reference(costs, 200)
    monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", threads)
    table = Sweep(jump_costs.Table(costs), 200)
    assert table.strips.shape[0] == -(-200 // min(WIDEST, max(32, -(-200 // threads))))
    np.testing.assert_array_equal(table.forward(), best)


def test_reference_origins_are_the_largest_argmin():
    costs = np.round(random_costs(40, holes=0) * 3)
    costs[np.triu_indices(41)] = np.inf
    best, origin = recursion.reference(costs, 40)
    for k in range(1, 41):
        for t in range(k, 41):
            bids = best[k - 1, :t] + costs[t, :t]
            assert origin[k, t] == np.flatnonzero(bids == bids.min())[-1]


@pytest.mark.parametrize("method", ["sweep", "sweep32"])
def test_sweep_asks_for_each_row_once(method):
    costs = random_costs(200)

    class Counted(jump_costs.Table):
        asked: list = []  # noqa: RUF012

        def rows(self, start, stop):
            self.asked.append((start, stop))
            return super().rows(start, stop)

    counted = Counted(costs)
    plan = solve(counted, method=method)
    rows = [t for start, stop in counted.asked for t in range(start, stop)]
    assert sorted(rows[:201]) == list(range(201))
    assert len(rows) == (201 if method == "sweep" else 402)
    np.testing.assert_allclose(plan.totals, solve(costs).totals, rtol=1e-6)


def test_only_the_lower_triangle_is_read():
    costs = random_costs(70)
    messy = np.where(np.tri(71, k=-1, dtype=bool), costs, np.nan)
    for method in METHODS:
        np.testing.assert_array_equal(
            solve(messy, method=method).totals, solve(costs, method=method).totals
        )


def test_single_precision_totals_are_sums_in_double():
    costs = random_costs(300, holes=0) + 0.1
    exact, rough = solve(costs), solve(costs, method="sweep32")
    assert rough.method == "sweep32"
    for steps in (1, 2, 17, 150, 300):
        total = sum(costs[jump] for jump in rough.schedule(steps).jumps)
        assert rough.totals[steps] == pytest.approx(total, rel=1e-14)
    assert (rough.totals[1:] >= exact.totals[1:] * (1 - 1e-14)).all()
    np.testing.assert_allclose(rough.totals, exact.totals, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("t", "s"), [(1, 0), (100, 99), (70, 3)])
def test_nan_and_minus_infinity_are_refused_and_located(method, bad, t, s):
    costs = random_costs(100, holes=0)
    costs[t, s] = bad
    with pytest.raises(InputError, match=f"from t = {t} to s = {s} is {bad}"):
        solve(costs, method=method)


def test_the_jump_to_the_shortest_among_equals():
    assert last_jump(np.array([0.0, 1.0, 0.0]), np.array([2.0, 1.0, 3.0]), 2.0, 0) == 1
    # A total that no jump meets to the last bit: the least, and of equals the shortest jump.
    assert last_jump(np.array([0.0, 0.0, 1.0]), np.array([2.0, 2.0, 2.0]), 1.0, 0) == 1
    assert last_jump(np.array([0.0, 9.0]), np.array([2.0, 2.0]), 1.0, first=1) == 1
    assert last_jump(np.array([np.inf]), np.array([2.0]), 1.0, 0) == -1


@pytest.mark.parametrize("T", [1, 5, 64, 130])
def test_forward_and_backward_tables_meet(T):
    costs = np.round(random_costs(T, holes=0.1) * 8)
    plan = solve(costs)
    forward, backward = plan.forward, plan.backward
    assert forward.shape == backward.shape == (T + 1, T + 1)
    assert forward[0, 0] == backward[0, T] == 0
    np.testing.assert_array_equal(backward[1:, 0], plan.totals[1:])
    np.testing.assert_array_equal(forward[1:, T], plan.totals[1:])
    for steps in range(1, T + 1):
        through = forward[: steps + 1] + backward[steps::-1]
        np.testing.assert_array_equal(through.min(axis=1), plan.totals[steps])


def test_the_papers_second_algorithm_as_printed_returns_no_path():
    # It starts at t = K; C[k, T] is reached from t = T only.
    T, steps = 1000, 8
    t, s = np.ogrid[: T + 1, : T + 1]
    _, origin = recursion.reference(np.where(s < t, (t - s) ** 2.0, np.inf), steps)
    node, printed = steps, []
    for k in reversed(range(steps)):
        printed.append(int(node))
        node = origin[k, node]
    assert printed == [8, 7, 6, 5, 4, 3, 2, 0]


def test_rows_lie_apart_as_the_tiles_need():
    assert MARGIN * 8 % 64 == 0
    assert (MARGIN + WIDEST) * 4 % 4096 != 0
    assert recursion.BLOCK % 4 == 0
