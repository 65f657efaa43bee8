"""Schedules for DPM-Solver++(2M) against diffusers' own steps, all paths, and Gaussian data."""

from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import ToyNetwork
from diffusers import DPMSolverMultistepScheduler
from test_processes import family
from test_trajectories import flow_weight, gaussian_gram

import dpdiff
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.sampling import start
from dpdiff.solvers import PairCosts, solve
from dpdiff.strides import node_grid
from dpdiff.trajectory import SecondOrderCosts
from dpdiff.trajectory.flow_costs import Bands, jump_table
from dpdiff.trajectory.run import predictions, states

N = 12


@pytest.fixture(scope="module", params=["linear", "cosine"])
def paths(request):
    noise = getattr(NoiseSchedule, request.param)(200)
    model = Denoiser(
        ToyNetwork(T=200), noise, predicts="eps", variance="learned_range", shape=(1, 4, 4)
    )
    return dpdiff.trajectories(model, n=7, nodes=N, seed=3, progress=False)


def total(first, steps, path):
    """The cost of a path of indices that rises from 0 to N, added up step by step."""
    nodes = zip(path, path[1:], path[2:], strict=False)
    return first[path[-1], path[-2]] + sum(steps[t][r - t - 1, s] for s, t, r in nodes)


def test_costs_are_those_of_diffusers_steps(paths):
    """From the teacher's own states, in double precision."""
    noise, nodes = paths.denoiser.noise, paths.nodes
    x = start(paths.denoiser, 3, np.arange(7))
    means = predictions(paths.denoiser, nodes, x)
    run, means = states(paths.denoiser, nodes, x, means), means.double()
    triples, count = paths.costs("2m"), 0
    costs = {t: triples.from_node(t) for t in range(1, N)}
    solver = DPMSolverMultistepScheduler(
        noise.T, trained_betas=noise.betas, prediction_type="sample"
    )
    for s, t, r in combinations(range(N + 1), 3):
        outputs = [means[r - 1], means[t - 1]]
        sigmas = noise.g[nodes[[r, t, s]]] / noise.f[nodes[[r, t, s]]]
        solver.sigmas, solver._step_index = torch.from_numpy(sigmas), 1
        if s:
            landing = solver.multistep_dpm_solver_second_order_update(outputs, sample=run[t])
        else:
            landing = solver.dpm_solver_first_order_update(outputs[1], sample=run[t])
        error = (landing - (run[s] if s else means[0])).numpy()
        cost = np.einsum("ni,ij,nj->", error, flow_weight(paths, nodes[s]), error) / 7
        np.testing.assert_allclose(costs[t][r - t - 1, s], cost, rtol=1e-6, atol=1e-11)
        count += cost > 1e-4
    assert count > 100


def test_schedules_are_the_best_of_all(paths):
    triples = paths.costs("2m")
    plan = solve(triples)
    costs = {t: triples.from_node(t) for t in range(1, N)}
    for steps in range(1, N + 1):
        every = [(0, *inner, N) for inner in combinations(range(1, N), steps - 1)]
        totals = [total(triples.first, costs, path) for path in every]
        best = every[int(np.argmin(totals))]
        assert plan.schedule(steps).timesteps == tuple(paths.nodes[list(best)])
        np.testing.assert_allclose(plan.totals[steps], min(totals), rtol=1e-12)
    assert plan.totals[0] == np.inf
    np.testing.assert_allclose(plan.totals[1], paths.costs().table[N, 0])


def test_schedules_are_the_same_in_every_familys_coordinates():
    nodes, variances = np.arange(41), np.array([0.6, 0.05])
    bands = Bands(variances, np.ones(2, int), np.eye(2)[:, 1:])
    results = []
    for name in ("vp", "ve", "flow"):
        noise = family(name)
        grams = gaussian_gram(noise, variances, nodes)
        costs = SecondOrderCosts(grams, bands.gains(noise, nodes[1:]), noise, nodes)
        results.append(solve(costs, 8))
    for plan in results[1:]:
        np.testing.assert_allclose(plan.totals, results[0].totals, rtol=1e-6)
        assert plan.schedule(6) == results[0].schedule(6)


def end_error(noise, variance, schedule):
    """``|x_0 of 2M - x_0 of the exact flow|`` from x_T = 1 for Gaussian data of one dimension."""
    f, g, depth = noise.f, noise.g, noise.log_snr / 2
    x, before, last = 1.0, 0.0, None
    for t, s in reversed(schedule.jumps):
        mean = f[t] * variance / (f[t] ** 2 * variance + g[t] ** 2) * x
        slope = 0.0
        if last is not None and s:
            slope = (depth[s] - depth[t]) / (2 * (depth[t] - depth[last]))
        ahead = mean + slope * (mean - before)
        x = f[s] * ahead + g[s] * (x - f[t] * ahead) / g[t] if s else mean
        before, last = mean, t
    return abs(x - np.sqrt(variance / (f[-1] ** 2 * variance + g[-1] ** 2)))


def test_gaussian_data_are_drawn_better_than_with_flows_steps():
    noise, variance = NoiseSchedule.linear(1000), np.array([0.25])
    nodes = node_grid(noise, 250)
    bands = Bands(variance, np.ones(1, int), np.zeros((1, 0)))
    grams, gains = gaussian_gram(noise, variance, nodes), bands.gains(noise, nodes[1:])
    own = solve(SecondOrderCosts(grams, gains, noise, nodes), 12)
    flow = solve(jump_table(grams, gains, noise, nodes), 12)
    ratios = [
        end_error(noise, 0.25, own.schedule(k))
        / end_error(noise, 0.25, dpdiff.Schedule(nodes[list(flow.schedule(k).timesteps)]))
        for k in (4, 6, 8, 12)
    ]
    # With more steps 2M is as near to the flow as the teacher itself: there is nothing to follow.
    assert max(ratios) < 0.5


class Drawn(PairCosts):
    """Random costs over pairs of a few nodes; some are infinite."""

    def __init__(self, N, seed, holes):
        rng = np.random.default_rng(seed)
        self.timesteps = np.concatenate([[0], np.cumsum(rng.integers(1, 9, N))])
        self.table = np.where(rng.random((N + 1,) * 3) < holes, np.inf, rng.random((N + 1,) * 3))
        self.first = self.table[0]

    def from_node(self, t):
        return self.table[t + 1 :, t, :t]


@pytest.mark.parametrize(("N", "holes"), [(1, 0), (2, 0), (5, 0), (7, 0.2), (7, 0.6)])
def test_pairs_against_all_paths(N, holes):
    for seed in range(10):
        costs = Drawn(N, seed, holes)
        plan = solve(costs)
        steps = {t: costs.from_node(t) for t in range(1, N)}
        for k in range(1, N + 1):
            every = [(0, *inner, N) for inner in combinations(range(1, N), k - 1)]
            totals = [total(costs.first, steps, path) for path in every]
            np.testing.assert_allclose(plan.totals[k], min(totals), rtol=1e-14)
            if min(totals) < np.inf:
                best = every[int(np.argmin(totals))]
                assert plan.schedule(k).timesteps == tuple(costs.timesteps[list(best)])
            else:
                with pytest.raises(InputError, match="forbidden"):
                    plan.schedule(k)


def test_a_plan_over_pairs_has_the_face_of_any_other(paths):
    plan = solve(paths.costs("2m"), 3)
    assert (plan.T, plan.max_steps, plan.method, plan.unit.name) == (N, 3, "pairs", "cost")
    assert plan.schedules([2, 3]) == [plan.schedule(2), plan.schedule(3)]
    assert plan.fewest_steps(within=np.inf) == 1
    np.testing.assert_array_equal(plan.values, plan.totals)
    for steps in (0, 4, 2.5):
        with pytest.raises(InputError, match="steps"):
            plan.schedule(steps)
    for wrong in ({"max_steps": 0}, {"max_steps": N + 1}, {"max_steps": 2.5}, {"method": "sweep"}):
        with pytest.raises(InputError, match=r"max_steps|solver of their own"):
            solve(paths.costs("2m"), **wrong)
    for table in ("forward", "backward"):
        with pytest.raises(InputError, match="no table"):
            getattr(plan, table)
