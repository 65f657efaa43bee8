"""Fitted solvers against raw least squares, diffusers' own steps, all paths, and Gaussian data."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import ToyNetwork
from diffusers import DDPMPipeline, DPMSolverMultistepScheduler
from test_processes import family

import dpdiff
from dpdiff import sampling
from dpdiff.denoiser import Denoiser
from dpdiff.diffusers import ScheduleScheduler
from dpdiff.errors import InputError
from dpdiff.models import HOME
from dpdiff.noise import NoiseSchedule
from dpdiff.sampling import sample, start
from dpdiff.schedule import Schedule
from dpdiff.solvers import PairCosts, solve
from dpdiff.trajectory.fine_runs import affordable, fine_runs, fit
from dpdiff.trajectory.fitted_costs import FittedCosts, ddim_costs, run_grams
from dpdiff.trajectory.fitting import (
    STRENGTHS,
    chosen_row,
    fit_rows,
    multistep_rows,
    products,
    run_matrix,
    shrunk_rows,
    squared_errors,
    step,
)
from dpdiff.trajectory.flow_costs import Bands, gram, jump_table

N, n = 12, 7


def toy_model(schedule="cosine", **settings):
    noise = getattr(NoiseSchedule, schedule)(200)
    rest = {"predicts": "eps", "variance": "learned_range", "shape": (1, 4, 4)} | settings
    return Denoiser(ToyNetwork(T=200), noise, **rest)


@pytest.fixture(scope="module", params=[("linear", 1), ("cosine", 2)], ids=["linear", "cosine 2M"])
def runs(request):
    schedule, order = request.param
    return fine_runs(
        toy_model(schedule), n=n, nodes=N, order=order, seed=3, batch_size=4, progress=False
    )


def raw_points(runs):
    """The teacher's points and predictions, by the index of a node."""
    x = torch.cat([block.x_T for block in runs.blocks])
    means = torch.cat([block.means for block in runs.blocks], dim=1).double().numpy()
    rows = multistep_rows(runs.denoiser.noise, runs.nodes, runs.order)
    way, history = [x.double().numpy()], []
    for row, mean in zip(rows, means[::-1], strict=True):
        history = [mean, *history]
        old = zip(row[1:], history, strict=False)
        way.append(row[0] * way[-1] + sum(c * d for c, d in old))
    return np.array(way[::-1]), means


def weight_root(runs, s):
    """A matrix W with ``‖W e‖²`` the weighted square of an error at timestep s."""
    noise, bands, dims = runs.denoiser.noise, runs.bands, runs.denoiser.dims
    if s == 0:
        return np.eye(dims)
    w = np.sqrt([v / (noise.f[s] ** 2 * v + noise.g[s] ** 2) for v in bands.variances])
    U = bands.directions
    return w[0] * (np.eye(dims) - U @ U.T) + U * np.repeat(w[1:], bands.sizes[1:]) @ U.T


def least_square(columns, aim):
    scale = np.linalg.norm(columns, axis=0)
    theta = np.linalg.lstsq(columns / scale, aim, rcond=1e-14)[0]
    return np.square(aim - columns / scale @ theta).sum()


def family_model(name):
    """Two narrow Gaussians' denoiser, smooth and not linear, in one family's coordinates."""
    noise = family(name)

    def network(x, index):
        t = index.long() + 1
        f, g = (torch.from_numpy(v)[t].to(x.dtype)[:, None] for v in (noise.f, noise.g))
        y, total = x / f, (g / f) ** 2 + 0.04
        clean = 0.6 * torch.tanh(0.6 * y / total)
        return clean + 0.04 / total * (y - clean)

    return Denoiser(network, noise, predicts="x0", shape=(3,), levels=None, identity=name)


@torch.inference_mode()
def walk(denoiser, timesteps, rows, x):
    """The prediction and the point after every step of a table of rows."""
    history = []
    for t, row in zip(list(timesteps)[:0:-1], rows, strict=True):
        prediction = denoiser(x, int(t)).x0.float()
        history = [prediction.to(x.dtype), *history]
        x = step(row, x, history)
        yield prediction, x


def drawn(model, solver, x):
    """Where a solver leads to."""
    *_, last = sampling.walk(model, solver, x)
    return last.x


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("order", [1, 2])
def test_rows_are_the_stock_solvers(order):
    model = toy_model("linear", clip=False)
    schedule = Schedule((0, 20, 90, 140, 200))
    rows = multistep_rows(model.noise, schedule.timesteps, order)
    assert [len(row) for row in rows] == [2, *[1 + order] * 3]
    x = start(model, 5, np.arange(3)).float()
    *_, (_, ours) = walk(model, schedule.timesteps, rows, x)
    if order == 1:
        theirs = sample(model, schedule, 3, seed=5, sampler="ddim", progress=False)
    else:
        solver = DPMSolverMultistepScheduler(
            200, trained_betas=model.noise.betas, prediction_type="sample"
        )
        solver.set_timesteps(timesteps=schedule.to_diffusers())
        theirs = x
        for t in solver.timesteps:
            mean = model(theirs, int(t) + 1).x0
            theirs = solver.step(mean, t, theirs).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


def test_a_matrix_holds_every_point_of_a_run(runs):
    points, means = raw_points(runs)
    matrix = run_matrix(runs.nodes, multistep_rows(runs.denoiser.noise, runs.nodes, runs.order))
    basis = np.concatenate([points[-1:], means])
    np.testing.assert_allclose(np.tensordot(matrix, basis, 1), points, rtol=1e-9, atol=1e-12)
    near = torch.cat([block.point(int(runs.nodes[5])) for block in runs.blocks])
    np.testing.assert_allclose(near, points[5], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(torch.cat([b.point(0) for b in runs.blocks]), means[0])


# ---------------------------------------------------------------- costs and paths


def test_costs_are_those_of_raw_least_squares(runs):
    points, means = raw_points(runs)
    shape = (-1, runs.denoiser.dims)
    for t in range(1, N + 1):
        costs = runs.costs.from_node(t) if t < N else None
        for s in range(t):
            W = weight_root(runs, runs.nodes[s])
            aim, x, mean = (
                (v.reshape(shape) @ W).ravel() for v in (points[s], points[t], means[t - 1])
            )
            scale = np.square(aim).sum() / n
            first = least_square(np.stack([x, mean], axis=1), aim) / n
            np.testing.assert_allclose(runs.costs.first[t, s], first, rtol=1e-6, atol=1e-11 * scale)
            for r in range(t + 1, N + 1):
                old = (means[r - 1] @ W).ravel()
                cost = least_square(np.stack([x, mean, old], axis=1), aim) / n
                np.testing.assert_allclose(costs[r - t - 1, s], cost, rtol=1e-6, atol=1e-11 * scale)
    assert np.isinf(runs.costs.first[np.triu_indices(N + 1)]).all()
    # A teacher's own step costs nothing, whatever its order: its numbers are among the choices.
    np.testing.assert_allclose(np.diag(runs.costs.from_node(5)[:1, 4:5]), 0, atol=1e-9)


def test_costs_of_ddim_are_those_of_the_jump_table():
    runs = fine_runs(toy_model("linear"), n=n, nodes=N, order=1, seed=3, progress=False)
    noise, gains = runs.denoiser.noise, runs.bands.gains(runs.denoiser.noise, runs.nodes[1:])
    table = jump_table(runs.grams[:, 1:, 1:], gains, noise, runs.nodes)
    ours = ddim_costs(runs.grams, runs.blocks[0].matrix, gains, noise, runs.nodes)
    np.testing.assert_allclose(ours, table, rtol=1e-6, atol=1e-10)


class AnyCosts(PairCosts):
    """Costs of triples with no structure at all."""

    def __init__(self, count, seed):
        rng = np.random.default_rng(seed)
        self.timesteps = np.arange(count + 1) * 10
        self.first = rng.exponential(size=(count + 1, count + 1))
        self.steps = {t: rng.exponential(size=(count - t, t)) for t in range(1, count)}

    def from_node(self, t):
        return self.steps[t]


def total(costs, path):
    """The cost of a path of indices that rises from 0, added up step by step."""
    triples = zip(path, path[1:], path[2:], strict=False)
    steps = sum(costs.from_node(t)[r - t - 1, s] for s, t, r in triples)
    return costs.first[path[-1], path[-2]] + steps


@pytest.mark.parametrize("seed", range(6))
def test_the_recursion_finds_the_best_of_all_paths(seed):
    count, costs = 8, AnyCosts(8, seed)
    plan = solve(costs)
    for steps in range(1, count + 1):
        every = [(0, *inner, count) for inner in combinations(range(1, count), steps - 1)]
        best = min(every, key=lambda path: total(costs, path))
        np.testing.assert_allclose(plan.totals[steps], total(costs, best), rtol=1e-12)
        assert plan.schedule(steps).timesteps == tuple(10 * i for i in best)


def test_paths_of_a_model_are_the_best_of_all(runs):
    for steps in (1, 2, 3, 5):
        every = [(0, *inner, N) for inner in combinations(range(1, N), steps - 1)]
        best = min(every, key=lambda path: total(runs.costs, path))
        assert runs.paths(steps)["pairs"].timesteps == tuple(runs.nodes[list(best)])


# ---------------------------------------------------------------- the fit


def test_products_are_weighted_by_the_gains(runs, monkeypatch):
    monkeypatch.setattr("dpdiff.trajectory.fitting.NUMBERS", 50)  # a few dimensions at a time
    vectors = list(torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0)))
    for s in (0, 70):
        gains = runs.bands.gains(runs.denoiser.noise, np.array([s]))[:, 0] if s else None
        turned = np.stack(vectors, axis=1) @ weight_root(runs, s)
        expected = turned @ turned.transpose(0, 2, 1)
        np.testing.assert_allclose(products(vectors, runs.bands, gains), expected, rtol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 0.03, 2.0])
def test_rows_are_ridge_regressions(strength):
    rng = np.random.default_rng(0)
    vectors, prior = rng.normal(size=(20, 3)) * [100, 1, 0.01], np.array([0.5, -1.0, 2.0])
    aim = rng.normal(size=20)
    both = np.column_stack([vectors, aim])
    pull = np.diag(np.sqrt(strength) * np.linalg.norm(vectors, axis=0))
    expected = np.linalg.lstsq(np.vstack([vectors, pull]), np.r_[aim, pull @ prior], rcond=None)
    row = shrunk_rows(both.T @ both, prior, strength)
    np.testing.assert_allclose(row, expected[0], rtol=1e-7)


def test_strengths_are_chosen_on_noises_left_out():
    rng = np.random.default_rng(1)
    data = rng.normal(size=(6, 4, 3))  # 6 noises, 4 dimensions, 2 vectors and an aim of noise
    grams, prior = data.transpose(0, 2, 1) @ data, np.zeros(2)
    row, strength, lost = chosen_row(grams, prior, STRENGTHS)
    means = {}
    for candidate in STRENGTHS:
        each = []
        for i in range(6):
            others = np.delete(grams, i, axis=0).sum(0)
            theta = shrunk_rows(others, prior, candidate)
            each.append(np.square(data[i, :, 2] - data[i, :, :2] @ theta).sum())
        means[candidate] = np.mean(each)
    assert strength == min(means, key=means.get) > 1e-3  # there is nothing to learn
    np.testing.assert_allclose(lost.mean(), means[strength])
    np.testing.assert_array_equal(row, shrunk_rows(grams.sum(0), prior, strength))
    assert chosen_row(grams, prior, [np.inf])[0].tolist() == [0, 0]


def test_vectors_that_repeat_others_are_no_trouble():
    gram_of = np.ones((1, 3, 3)) * 4.0
    row = shrunk_rows(gram_of, np.array([0.2, 0.3]), 0.0)[0]
    np.testing.assert_allclose(row.sum(), 1, rtol=1e-3)
    assert np.isfinite(shrunk_rows(np.zeros((1, 3, 3)), np.zeros(2), 0.0)).all()


def test_every_row_is_best_where_the_steps_before_have_led(runs):
    """Raw least squares on a way that is walked anew."""
    steps = runs.nodes[[0, 3, 6, 9, N]]
    fit = fit_rows(runs.denoiser, steps, runs.blocks, runs.bands, strengths=[0.0])
    x = torch.cat([block.x_T for block in runs.blocks]).reshape(n, 1, 4, 4)
    points, _ = raw_points(runs)
    past, before = [], x
    for i, (mean, after) in enumerate(walk(runs.denoiser, steps, fit.rows, x)):
        past, place = [mean, *past], [9, 6, 3, 0][i]
        W = weight_root(runs, runs.nodes[place])
        vectors = [(v.flatten(1).double().numpy() @ W).ravel() for v in (before, *past)]
        aim = (points[place] @ W).ravel()
        found = np.square(aim - (after.flatten(1).double().numpy() @ W).ravel()).sum()
        best = least_square(np.stack(vectors, axis=1), aim)
        np.testing.assert_allclose(found, best, rtol=1e-3, atol=1e-9)
        before = after


def test_gaussian_data_are_met_exactly():
    """With as many numbers at hand as the data have variances, the last step has no error."""
    variances = np.array([0.5, 0.2, 0.05])

    def network(x, index):
        t = index.long() + 1
        f, g = (torch.from_numpy(v)[t].to(x.dtype)[:, None] for v in (noise.f, noise.g))
        spread = torch.from_numpy(variances).to(x.dtype)
        return f * spread / (f**2 * spread + g**2) * x

    noise = NoiseSchedule.linear(1000)
    model = Denoiser(network, noise, predicts="x0", shape=(3,), levels=None, identity="gaussian")
    runs = fine_runs(model, n=16, nodes=100, progress=False)
    solver = runs.fit_best(3)
    ends = drawn(model, solver, start(model, 9, np.arange(64)).float())
    fine = np.arange(1001)
    *_, (_, goal) = walk(
        model, fine, multistep_rows(noise, fine, 2), start(model, 9, np.arange(64))
    )
    far = np.linalg.norm(ends - goal, axis=1).mean()
    assert far < 3e-3
    timesteps = solver.timesteps
    *_, (_, stock) = walk(
        model, timesteps, multistep_rows(noise, timesteps, 2), start(model, 9, np.arange(64))
    )
    assert far < 0.05 * np.linalg.norm(stock - goal, axis=1).mean()


def test_fits_are_the_same_in_every_familys_coordinates():
    solvers, ends = [], []
    for name in ("vp", "ve", "flow"):
        model = family_model(name)
        solver = fine_runs(model, n=12, nodes=30, progress=False).fit_best(4)
        solvers.append(solver)
        ends.append(drawn(model, solver, start(model, 4, np.arange(20))))
    for solver, x in zip(solvers[1:], ends[1:], strict=True):
        assert solver.timesteps == solvers[0].timesteps
        torch.testing.assert_close(x, ends[0], rtol=1e-3, atol=1e-4)


def test_batches_change_nothing(runs):
    one = replace_blocks(runs, 2).fit_best(4)
    np.testing.assert_allclose(
        np.concatenate(one.coefficients),
        np.concatenate(runs.fit_best(4).coefficients),
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip
    assert one.timesteps == runs.fit_best(4).timesteps


def replace_blocks(runs, size):
    return fine_runs(
        runs.denoiser,
        n=n,
        nodes=N,
        order=runs.order,
        seed=runs.seed,
        batch_size=size,
        progress=False,
    )


def test_grams_add_up_over_batches(runs):
    x = torch.cat([block.x_T for block in runs.blocks])
    means = torch.cat([block.means for block in runs.blocks], dim=1)
    np.testing.assert_allclose(run_grams(x, means, runs.bands), runs.grams, rtol=1e-12)
    own = sum(gram(means[:, i], runs.bands) for i in range(n)) / n
    np.testing.assert_allclose(runs.grams[:, 1:, 1:], own, rtol=1e-9, atol=1e-9)


def test_fitted_steps_are_nearer_than_2m_on_other_noises():
    model = toy_model("cosine")
    runs = fine_runs(model, n=16, nodes=40, progress=False)
    solver = runs.fit_best(4)
    x = start(model, 1, np.arange(64))
    goals = [b.means[0] for b in fine_runs(model, n=64, nodes=100, seed=1, progress=False).blocks]

    def far(rows, timesteps):
        *_, (_, ends) = walk(model, timesteps, rows, x)
        return np.linalg.norm(ends.flatten(1) - torch.cat(goals), axis=1).mean()

    stock = min(
        far(multistep_rows(model.noise, path.timesteps, 2), path.timesteps)
        for path in runs.paths(4).values()
    )
    fitted = far([np.array(row) for row in solver.coefficients], solver.timesteps)
    assert fitted < 0.8 * stock
    assert abs(fitted / solver.provenance["left_out"] - 1) < 0.5


# ---------------------------------------------------------------- what is asked of it


def test_history_and_strengths_are_options(runs):
    schedule = Schedule(runs.nodes[[0, 3, 6, 9, N]])
    assert [len(row) for row in runs.fit(schedule).coefficients] == [2, 3, 4, 5]
    assert [len(row) for row in runs.fit(schedule, history=2).coefficients] == [2, 3, 3, 3]
    stock = runs.fit(schedule, strengths=[np.inf]).coefficients
    for row, own in zip(
        stock, multistep_rows(runs.denoiser.noise, schedule.timesteps, 2), strict=True
    ):
        np.testing.assert_array_equal(row[: len(own)], own)
        assert not any(row[len(own) :])


def test_the_teacher_knows_its_own_error():
    model = toy_model("cosine")
    errors = [
        fine_runs(model, n=8, nodes=24, order=order, progress=False).own_error(4)
        for order in (1, 2)
    ]
    assert 0 < errors[1][0] < errors[0][0]
    assert errors[1][1] > 0


def test_solvers_say_where_they_come_from():
    model = toy_model("linear")
    for one in (model, replace(model, clip=False)):
        solver = fine_runs(one, n=3, nodes=12, seed=6, progress=False).fit_best(2)
        about = solver.provenance
        assert about["fingerprint"] == one.fingerprint
        assert (about["clip"], about["sampler"], about["seed"]) == (one.clip, "fitted", 6)
    with pytest.raises(InputError, match="its timesteps mean other noise"):
        solver.check_noise(toy_model("cosine").noise)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([[0.5, 0.5]], "2 steps have as many rows"),
        ([[0.5, 0.5, 0.1], [0, 1]], "row 0 of a solver holds 2 to 2 finite numbers"),
        ([[0.5, 0.5], [0]], "row 1 of a solver holds 2 to 3"),
        ([[0.5, float("nan")], [0, 1]], "finite"),
    ],
)
def test_numbers_that_make_no_solver_are_refused(rows, complaint):
    with pytest.raises(InputError, match=complaint):
        Schedule((0, 5, 10), {}, rows)


def test_solvers_are_equal_by_their_numbers():
    one = Schedule((0, 10), {"seed": 1}, [[0.0, 1.0]])
    assert one == Schedule((0, 10), {}, [(0, 1)])
    assert one != Schedule((0, 10), {}, [[0.1, 1.0]])
    assert one != Schedule((0, 10))
    assert len({one, Schedule((0, 10), {}, [[0, 1]])}) == 1


def test_steps_are_those_of_the_rows(runs):
    solver, model = runs.fit_best(3), runs.denoiser
    x = start(model, 8, np.arange(4)).float()
    *_, (_, by_rows) = walk(model, solver.timesteps, list(map(np.array, solver.coefficients)), x)
    torch.testing.assert_close(drawn(model, solver, x), by_rows.clamp(-1, 1))
    assert by_rows.abs().max() > 1
    free = replace(model, clip=False)
    assert drawn(free, solver, x).abs().max() > 1


def test_solvers_are_saved_and_read(runs, tmp_path):
    solver = runs.fit_best(3)
    solver.save(tmp_path / "solver.json")
    again = Schedule.load(tmp_path / "solver.json")
    assert again == solver
    assert again.provenance == solver.provenance
    text = (tmp_path / "solver.json").read_text()
    (tmp_path / "changed.json").write_text(text.replace("fitted", "filled"))
    with pytest.raises(InputError, match="was changed"):
        Schedule.load(tmp_path / "changed.json")


class Counting(ToyNetwork):
    """Counts the examples it is called with."""

    calls = 0

    def forward(self, x, index):
        Counting.calls += len(x)
        return super().forward(x, index)


@pytest.mark.parametrize(("steps", "calls"), [(4, 1024), (1, 200), (5, 400)])
def test_no_more_calls_are_made_than_are_paid_for(steps, calls):
    model = replace(toy_model("linear"), network=Counting(T=200))
    Counting.calls = 0
    solver = fit(model, steps, calls, progress=False)
    assert solver.steps == steps
    n, nodes = affordable(steps, calls, 200)
    assert n * (nodes + steps - 1) <= Counting.calls <= n * (nodes + 2 * steps - 2) <= calls


def test_too_few_calls_are_refused():
    with pytest.raises(InputError, match="4 steps are fitted with 152 network calls or more"):
        fit(toy_model("linear"), 4, 151, progress=False)
    assert fit(toy_model("linear"), 4, 152, progress=False).provenance["n"] == 4


def test_predictions_may_be_kept_on_disk(runs, tmp_path):
    settings = {"n": n, "nodes": N, "order": runs.order, "seed": 3, "batch_size": 4}
    other = fine_runs(runs.denoiser, **settings, resume=tmp_path, progress=False)
    assert len(list(tmp_path.glob("*.part"))) == 2
    np.testing.assert_array_equal(other.grams, runs.grams)
    assert other.fit_best(4) == runs.fit_best(4)


def test_wrong_requests_are_refused(runs):
    with pytest.raises(InputError, match="are no nodes of these runs"):
        runs.fit(Schedule((0, 1, 77, 200)))
    with pytest.raises(InputError, match="history is an integer"):
        runs.fit(Schedule(runs.nodes), history=0)
    with pytest.raises(InputError, match="serve 1…12 steps, got 13"):
        runs.paths(13)
    with pytest.raises(InputError, match="n is at least 2"):
        fine_runs(runs.denoiser, n=1, nodes=N, progress=False)
    with pytest.raises(InputError, match="the order is 1"):
        fine_runs(runs.denoiser, n=2, nodes=N, order=3, progress=False)


def test_a_single_band_is_enough():
    bands = Bands(np.array([0.5]), np.array([16]), np.zeros((16, 0)))
    vectors = list(torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0)))
    whole = products(vectors, bands, None)
    np.testing.assert_allclose(products(vectors, bands, np.array([2.0])), 2 * whole)
    errors = squared_errors(whole, np.zeros((3, 1)))
    np.testing.assert_allclose(errors, np.square(vectors[1].double().numpy()).sum(1))


def test_costs_never_fall_below_zero(runs):
    assert isinstance(runs.costs, FittedCosts)
    for t in range(1, N):
        assert (runs.costs.from_node(t) >= 0).all()


# ---------------------------------------------------------------- in pipelines


@pytest.fixture(scope="module")
def digits():
    denoiser = dpdiff.load("digits")
    return denoiser, fine_runs(denoiser, n=6, nodes=24, seed=0, progress=False).fit_best(4)


def test_a_stock_pipeline_draws_what_sample_draws(digits, monkeypatch, tmp_path):
    denoiser, solver = digits
    pipe = DDPMPipeline.from_pretrained(HOME / "digits")
    pipe.set_progress_bar_config(disable=True)
    x = start(denoiser, 5, np.arange(3)).float()
    monkeypatch.setattr("diffusers.pipelines.ddpm.pipeline_ddpm.randn_tensor", lambda *_, **__: x)
    solver.save(tmp_path / "solver.json")
    expected = sample(denoiser, solver, 3, seed=5, progress=False) / 2 + 0.5
    for schedule in (solver, Schedule.load(tmp_path / "solver.json")):
        pipe.scheduler = ScheduleScheduler.from_config(pipe.scheduler, schedule=schedule)
        drawn = pipe(batch_size=3, num_inference_steps=4, output_type="pt").images
        torch.testing.assert_close(torch.as_tensor(drawn), expected, rtol=1e-4, atol=1e-4)
    again = ScheduleScheduler.from_config(dict(pipe.scheduler.config))  # as saved pipelines do
    assert again.schedule == solver
    assert again.sampler.name == "fitted"


def test_a_solver_is_refused_where_it_does_not_fit(digits):
    denoiser, solver = digits
    with pytest.raises(InputError, match="fitted to model"):
        sample(replace(denoiser, levels=256), solver, 1)
    with pytest.raises(InputError, match="fitted with clip = True"):
        sample(replace(denoiser, clip=False), solver, 1)
    with pytest.raises(InputError, match="clip_sample is False"):
        ScheduleScheduler.from_denoiser(replace(denoiser, clip=False), solver)
    x = torch.zeros(1, *denoiser.shape)
    with pytest.raises(InputError, match="begins at T"):
        sample(denoiser, solver, 1, x_0=x, begin=solver.timesteps[2], progress=False)
    with pytest.raises(InputError, match="no coefficients"):
        sample(denoiser, Schedule.even(4000, 4), 1, sampler="fitted")
    free = Schedule(solver.timesteps, {}, solver.coefficients)  # what the refusal advises
    assert sample(dpdiff.load("fashion-short"), free, 1, progress=False).isfinite().all()
    on_its_nodes = sample(denoiser, solver, 2, sampler="2m", progress=False)
    stock = sample(denoiser, Schedule(solver.timesteps), 2, sampler="2m", progress=False)
    assert torch.equal(on_its_nodes, stock)
