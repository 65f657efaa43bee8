"""Flow costs against explicit jumps, plain double loops and closed forms; and what uses them."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import sharing
import torch
from conftest import ToyNetwork
from test_processes import family
from test_workers import run, torchrun
from tqdm import tqdm

import dpdiff
from benchmarks import rivals
from dpdiff import strides
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import Workers
from dpdiff.sampling import sample, start
from dpdiff.schedule import Schedule
from dpdiff.solvers import Constrained, best_paths, solve
from dpdiff.strides import chosen_nodes, node_grid
from dpdiff.trajectory import Comparison
from dpdiff.trajectory import run as teacher_run
from dpdiff.trajectory.comparison import nearer
from dpdiff.trajectory.flow_costs import Bands, bands_of, gram, jump_table
from dpdiff.trajectory.run import predictions, states

N = 14


@pytest.fixture(scope="module", params=["linear", "cosine"])
def model(request):
    noise = getattr(NoiseSchedule, request.param)(200)
    return Denoiser(
        ToyNetwork(T=200), noise, predicts="eps", variance="learned_range", shape=(1, 4, 4)
    )


@pytest.fixture(scope="module")
def paths(model):
    return dpdiff.trajectories(model, n=9, nodes=N, seed=3, batch_size=4, progress=False)


def explicit(paths, weights):
    """The costs from the definition: jump from every point of every run, look where it lands.

    ``weights(s)`` gives a matrix W, and the cost is the mean of ``eᵀ W e``.
    """
    model, nodes = paths.denoiser, paths.nodes
    f, g = model.noise.f, model.noise.g
    x = start(model, 3, np.arange(9))
    means = predictions(model, nodes, x)
    run, means = states(model, nodes, x, means).numpy(), means.double().numpy()
    table = np.full((N + 1, N + 1), np.inf)
    for i in range(1, N + 1):
        for j in range(i):
            t, s, total = nodes[i], nodes[j], 0.0
            for noise in range(9):
                mean = means[i - 1, noise]
                eps = (run[i, noise] - f[t] * mean) / g[t]
                e = run[j, noise] - (f[s] * mean + g[s] * eps if s else mean)
                total += e @ weights(s) @ e
            table[i, j] = total / 9
    return table


def flow_weight(paths, s):
    """The matrix ``Σ w_k u_k u_kᵀ`` with the bands' variances."""
    noise, bands, D = paths.denoiser.noise, paths.bands, paths.ends.shape[1]
    if s == 0:
        return np.eye(D)
    w = [v / (noise.f[s] ** 2 * v + noise.g[s] ** 2) for v in bands.variances]
    U = bands.directions
    return w[0] * (np.eye(D) - U @ U.T) + U * np.repeat(w[1:], bands.sizes[1:]) @ U.T


@pytest.mark.parametrize("kind", ["flow", "plain"])
def test_costs_are_those_of_explicit_jumps(paths, kind):
    dims = paths.ends.shape[1]
    weights = (lambda s: np.eye(dims)) if kind == "plain" else (lambda s: flow_weight(paths, s))
    expected, result = explicit(paths, weights), paths.costs(kind).table
    far = np.tri(N + 1, k=-2, dtype=bool)
    np.testing.assert_allclose(result[far], expected[far], rtol=1e-6, atol=1e-11)
    assert (np.diag(result, -1)[1:] < 1e-11).all()  # a jump that the teacher makes itself
    assert (result[np.triu_indices(N + 1)] == np.inf).all()
    assert result[far].max() > 1e-3


def test_aligned_costs_bound_the_errors_of_a_path_together(paths):
    """Added up over a path they are at least the error that jumps make in one sum."""
    np.testing.assert_allclose(paths.costs("aligned").table ** 2, paths.costs().table)
    model, nodes, bands = paths.denoiser, paths.nodes, paths.bands
    f, g = model.noise.f, model.noise.g
    x = start(model, 3, np.arange(9))
    means = predictions(model, nodes, x)
    run, means = states(model, nodes, x, means).numpy(), means.double().numpy()
    path, together = [0, 3, 8, N], 0.0
    for j, i in pairwise(path):
        s, t = nodes[j], nodes[i]
        eps = (run[i] - f[t] * means[i - 1]) / g[t]
        e = run[j] - (f[s] * means[i - 1] + g[s] * eps if s else means[i - 1])
        gains = bands.gains(model.noise, np.array([s]))[:, 0] if s else np.ones(len(bands.sizes))
        along = e @ bands.directions
        carried = np.sqrt(gains[0]) * (e - along @ bands.directions.T)
        together += carried + along * np.sqrt(np.repeat(gains[1:], bands.sizes[1:])) @ (
            bands.directions.T
        )
    error = np.sqrt(np.square(together).sum(1).mean())
    total = paths.costs("aligned").edge_costs(Schedule(nodes[path])).sum()
    assert 0.3 * total < error <= total * (1 + 1e-6)


def test_teacher_is_the_sampler(paths):
    """Its end points are those of `sample` with the same seed, up to single precision."""
    drawn = sample(paths.denoiser, paths.teacher, 9, seed=3, sampler="ddim", progress=False)
    np.testing.assert_allclose(drawn.flatten(1), paths.ends, atol=1e-5)


def test_gram_of_chunks_is_the_direct_product(monkeypatch):
    rng = np.random.default_rng(0)
    means = torch.from_numpy(rng.normal(size=(5, 30)).astype(np.float32))
    bands = bands_of(rng.normal(size=(7, 30)), 4)
    monkeypatch.setattr("dpdiff.trajectory.flow_costs.DIMENSIONS_AT_ONCE", 7)
    result, exact = gram(means, bands), means.double().numpy()
    np.testing.assert_allclose(result.sum(0), exact @ exact.T, rtol=1e-12, atol=1e-12)
    first = 0
    for b, size in enumerate(bands.sizes[1:], start=1):
        U = bands.directions[:, first : first + size]
        np.testing.assert_allclose(result[b], exact @ U @ U.T @ exact.T, rtol=1e-12, atol=1e-12)
        first += size


def test_bands_hold_all_directions_once():
    rng = np.random.default_rng(1)
    ends = rng.normal(size=(400, 6)) * [3, 2, 1, 0.5, 0.1, 0.1]
    bands = bands_of(ends, 5)
    variances = np.linalg.eigvalsh(np.cov(ends.T))
    assert bands.sizes.sum() == 6
    assert bands.sizes[0] == 2  # those below the floor
    np.testing.assert_allclose(bands.directions.T @ bands.directions, np.eye(4), atol=1e-12)
    total = (bands.variances * bands.sizes)[1:].sum()
    np.testing.assert_allclose(total, variances[2:].sum(), rtol=1e-12)
    np.testing.assert_allclose(bands.variances[0], 0.05 * variances.mean(), rtol=1e-12)
    centred = ends - ends.mean(0)
    np.testing.assert_allclose(bands.of(centred)[1:], bands.variances[1:] * 399 / 400)
    flat = bands_of(np.ones((4, 3)), 5)
    assert flat.sizes.tolist() == [3]


# Gaussian data in one dimension and in two: everything is known.


def gaussian_model(noise, variances):
    variances = torch.tensor(variances, dtype=torch.float64)

    def network(x, index):
        f, g = (torch.tensor(c[index.numpy() + 1])[:, None] for c in (noise.f, noise.g))
        return f * variances / (f**2 * variances + g**2) * x

    shape = (len(variances),)
    return Denoiser(network, noise, predicts="x0", shape=shape, levels=None, clip=False)


def end_errors(noise, variances, schedule):
    """``E (x_0 of the schedule - x_0 of the exact flow)²`` by direction, from linear algebra."""
    f, g = noise.f, noise.g
    exact = np.sqrt(variances / (f[-1] ** 2 * variances + g[-1] ** 2))
    factor = np.ones(len(variances))
    for t, s in reversed(schedule.jumps):
        shrink = f[t] * variances / (f[t] ** 2 * variances + g[t] ** 2)
        factor *= f[s] * shrink + g[s] * (1 - f[t] * shrink) / g[t]
    return (factor - exact) ** 2


def gaussian_gram(noise, variances, nodes):
    """E D_k D_l for every direction as a band of its own, along the exact flow; (dims, N, N)."""
    f, g = noise.f[nodes[1:]], noise.g[nodes[1:]]
    spread = f[:, None] ** 2 * variances + g[:, None] ** 2
    D = noise.prior_scale * f[:, None] * variances / np.sqrt(spread * spread[-1])
    return np.einsum("kb,lb->bkl", D, D)


def test_flow_cost_is_the_end_points_error_to_first_order():
    """√L(t, s), added up over a path, and the teacher's own error make that of the samples."""
    noise, variances = NoiseSchedule.linear(1000), np.array([0.6, 0.05])
    nodes = np.arange(1001)
    gains = Bands(variances, np.ones(2, int), np.eye(2)[:, 1:]).gains(noise, nodes[1:])
    grams = gaussian_gram(noise, variances, nodes)
    teacher = np.sqrt(end_errors(noise, variances, Schedule(nodes)))
    off = []
    for steps in (25, 50, 100):
        path = np.array(strides.arctan(noise, steps, 0.2).timesteps)
        exact = np.sqrt(end_errors(noise, variances, Schedule(path)))
        for b in range(2):
            table = jump_table(grams[b : b + 1], gains[b : b + 1], noise, nodes)
            predicted = np.sqrt(table[path[1:], path[:-1]]).sum() + teacher[b]
            off.append(abs(predicted / exact[b] - 1))
    assert max(off[:2]) < 0.1
    assert max(off[4:]) < 0.03


def test_costs_and_strides_are_the_same_in_every_familys_coordinates():
    nodes, variances = np.arange(41), np.array([0.6, 0.05])
    bands = Bands(variances, np.ones(2, int), np.eye(2)[:, 1:])
    results = []
    for name in ("vp", "ve", "flow"):
        noise = family(name)
        grams = gaussian_gram(noise, variances, nodes)
        table = jump_table(grams, bands.gains(noise, nodes[1:]), noise, nodes)
        results.append((table, strides.usual(noise, 6, 0.3), node_grid(noise, 9).tolist()))
    for table, usual, grid in results[1:]:
        np.testing.assert_allclose(table, results[0][0], rtol=1e-8, atol=1e-14)
        assert (usual, grid) == results[0][1:]


def test_best_path_of_one_variance_follows_the_arctan_law():
    noise, variance = NoiseSchedule.linear(1000), np.array([0.25])
    nodes = np.arange(1001)
    bands = Bands(variance, np.ones(1, int), np.zeros((1, 0)))
    grams = gaussian_gram(noise, variance, nodes)
    table = jump_table(grams, bands.gains(noise, nodes[1:]), noise, nodes)
    angle = np.arctan(np.exp(-noise.log_snr / 2) / 0.5)
    plan = solve(table, 32)
    for steps in (16, 32):
        turns = np.diff(angle[list(plan.schedule(steps).timesteps)])
        assert abs(turns / turns.mean() - 1)[1:].max() < 0.2
        stride = strides.arctan(noise, steps, 0.25)
        best, law, even = (
            end_errors(noise, variance, s)[0]
            for s in (plan.schedule(steps), stride, Schedule.even(1000, steps))
        )
        assert best < 1.1 * law
        assert law < 0.5 * even


def test_a_model_of_gaussian_data_gives_the_closed_forms_costs():
    noise, variances = NoiseSchedule.linear(100), np.array([0.6, 0.05])
    model = gaussian_model(noise, variances)
    paths = dpdiff.trajectories(model, n=2000, nodes=100, batch_size=2000, progress=False)
    result = solve(paths.costs("plain"), 10)
    exact = solve(
        jump_table(gaussian_gram(noise, variances, paths.nodes), np.ones((2, 100)), noise,
                   paths.nodes), 10
    )  # fmt: skip
    # The run's own steps are first order too: its points are not quite the flow's.
    np.testing.assert_allclose(result.totals[2:], exact.totals[2:], rtol=0.3)
    assert np.abs(np.subtract(result.schedule(6).timesteps, exact.schedule(6).timesteps)).max() <= 5


# Batches, workers, restarts


def same(one, other):
    return (
        (one.grams == other.grams).all()
        and (one.ends == other.ends).all()
        and (one.bands.directions == other.bands.directions).all()
    )


def test_it_goes_on_where_it_was_killed(model, paths, tmp_path, monkeypatch):
    folder, real = tmp_path / "parts", teacher_run.predictions
    calls = []

    def dying(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(teacher_run, "predictions", dying)
    settings = {"n": 9, "nodes": N, "seed": 3, "batch_size": 4, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        dpdiff.trajectories(model, resume=folder, **settings)
    assert len(list(folder.glob("*.part"))) == 2
    (folder / "0-000000.part").write_bytes(b"damaged")
    assert same(dpdiff.trajectories(model, resume=folder, **settings), paths)
    assert len(calls) == 3 + 2
    assert same(dpdiff.trajectories(model, resume=folder, **settings), paths)
    assert len(calls) == 5
    with pytest.raises(InputError, match="seed was 3 and is now 4"):
        dpdiff.trajectories(model, resume=folder, **settings | {"seed": 4})


@pytest.mark.parametrize(("count", "resume"), [(2, False), (4, True)])
def test_workers_find_what_one_finds(count, resume, tmp_path):
    alone = sharing.shared(None, Workers())
    folder = tmp_path / "parts" if resume else "none"
    run(torchrun(count), [sharing.__file__, tmp_path, folder])
    for rank in range(count):
        with np.load(tmp_path / f"{rank}.npz") as result:
            assert (result["grams"] == alone.grams).all()
            assert (result["ends"] == alone.ends).all()


def test_saved_and_read_again(paths, toy, tmp_path):
    paths.save(tmp_path / "paths.npz")
    read = type(paths).load(tmp_path / "paths.npz", paths.denoiser)
    assert same(read, paths)
    assert read.provenance == paths.provenance
    assert (read.costs().table == paths.costs().table).all()
    with pytest.raises(InputError, match="runs of model"):
        type(paths).load(tmp_path / "paths.npz", toy)


def test_memory_is_bounded_by_groups(model, paths, monkeypatch):
    monkeypatch.setattr(teacher_run, "LIMIT", 9 * 16 * 8 * N**2 // 3)
    few = dpdiff.trajectories(model, n=9, nodes=N, seed=3, batch_size=4, progress=False)
    assert [len(few.grams), len(paths.grams)] == [5, 9]  # blocks of 4, 4, 1 in groups of 3
    np.testing.assert_allclose(few.grams.sum(0), paths.grams.sum(0), rtol=1e-12)


# What uses the costs


def brute_force(table, steps):
    """All paths with so many jumps, cheapest first."""
    T = len(table) - 1
    result = []
    for inner in combinations(range(1, T), steps - 1):
        path = (0, *inner, T)
        result.append((sum(table[t, s] for s, t in pairwise(path)), path))
    return sorted(result)


@pytest.mark.parametrize("steps", [1, 2, 4, 9])
def test_best_paths_are_those_of_brute_force(steps):
    table = np.random.default_rng(steps).random((10, 10))
    expected, result = brute_force(table, steps)[:12], best_paths(table, steps, 12)
    assert [schedule.timesteps for _, schedule in result] == [path for _, path in expected]
    np.testing.assert_allclose([total for total, _ in result], [total for total, _ in expected])
    assert result[0][1] == solve(table).schedule(steps)


def test_forbidden_jumps_make_no_paths():
    table = np.full((4, 4), np.inf)
    table[1, 0] = table[3, 1] = table[2, 1] = 1.0
    assert [schedule.timesteps for _, schedule in best_paths(table, 2, 5)] == [(0, 1, 3)]
    assert best_paths(table, 3, 5) == []


def test_schedules_speak_of_timesteps(paths):
    costs = paths.costs()
    plan = solve(costs, 6)
    schedule = plan.schedule(5)
    assert set(schedule.timesteps) <= set(paths.nodes.tolist())
    assert schedule.T == 200
    np.testing.assert_allclose(costs.edge_costs(schedule).sum(), plan.totals[5])
    with pytest.raises(InputError, match=r"\[100\] are none of .* takes a list of nodes"):
        costs.edge_costs(Schedule([0, 100, 200]))
    with pytest.raises(InputError, match="list of nodes"):
        Constrained(costs, forbid=[3])
    inner = schedule.timesteps[2]
    assert inner not in solve(Constrained(costs, forbid=[inner]), 6).schedule(5).timesteps


def test_recommended_is_never_worse_than_a_rival(paths):
    chosen = paths.recommend(3, n=16, candidates=3, progress=False)
    means = {name: chosen.comparison.mean(name) for name in chosen.comparison.distances}
    assert means[chosen.name] == min(means.values())
    assert {"flow", "flow 2", "flow 3", "aligned", "plain", "even", "Karras"} <= set(means)
    assert chosen.schedule.steps == 3
    assert chosen.schedule.provenance["chosen"] == chosen.name
    with pytest.raises(InputError, match=r"nodes = 16"):
        paths.recommend(4, progress=False)


def moved_from(start, goal, noise, moves):
    """Steps moved towards a goal, where distances are known; and what was tried."""
    seen = []

    def distances(schedule, n):
        seen.append((schedule.timesteps, n))
        far = 1 + np.square(np.subtract(schedule.timesteps, goal)).sum()
        return (far + noise * len(seen))[:n]

    start, bar = Schedule(start), tqdm(disable=True)
    least = distances(start, len(noise))
    path, values = nearer(start, least, np.arange(0, 101, 2), distances, moves, bar)
    assert values.mean() == 1 + np.square(np.subtract(path.timesteps, goal)).sum()
    return path.timesteps, seen


def test_steps_are_moved_to_where_samples_are_nearest():
    goal = (0, 14, 32, 70, 100)
    path, seen = moved_from((0, 25, 50, 75, 100), goal, np.zeros(40), 200)
    assert path == goal
    assert len(seen) == len(set(seen))
    assert {n for _, n in seen} == {10, 40}
    path, seen = moved_from((0, 25, 50, 75, 100), goal, np.zeros(8), 7)
    assert len({timesteps for timesteps, _ in seen}) == 1 + 7
    assert sum(np.abs(np.subtract(path, goal))) < 11 + 18 + 5
    assert moved_from(goal, goal, np.zeros(8), 200)[0] == goal


def test_moves_that_chance_may_explain_do_not_stay():
    """The move gains in the mean, and noise by noise far more is lost or gained."""
    noise = np.array([-1e4, 1e4] * 4)
    assert moved_from((0, 16, 100), (0, 14, 100), noise, 40)[0] == (0, 16, 100)


def test_moved_steps_are_recommended_only_where_they_are_nearer(paths):
    plain, chosen = (paths.recommend(3, n=16, moves=m, progress=False) for m in (0, 30))
    assert "moved" not in plain.comparison.distances
    if chosen.name == "moved":
        gap, error = chosen.comparison.difference("moved", plain.name)
        assert gap < -error
    else:
        assert chosen.schedule == plain.schedule


def test_what_was_moved_is_recommended_if_it_is_nearer(paths, monkeypatch):
    """And distances from fewer noises are those of the first of them."""

    def moved(schedule, least, nodes, distances, moves, bar):
        assert moves == 7
        np.testing.assert_allclose(distances(schedule, 5), least[:5], rtol=1e-6)
        return Schedule(nodes[[0, 1, 2, -1]]), 0 * least

    monkeypatch.setattr("dpdiff.trajectory.trajectories.nearer", moved)
    best = paths.recommend(3, n=16, moves=7, progress=False)
    assert best.name == best.schedule.provenance["chosen"] == "moved"
    assert best.schedule == best.candidates["moved"] == Schedule(paths.nodes[[0, 1, 2, -1]])
    assert best.schedule.provenance["distance"] == best.comparison.mean("moved") == 0


def test_a_better_rival_is_recommended(paths):
    """A rival can win: here the teacher itself stands among flow's poorest paths."""
    best = paths.recommend(3, {"teacher": paths.teacher}, n=4, candidates=1, progress=False)
    assert best.name == "teacher"
    assert best.comparison.mean("teacher") == 0


def test_a_model_that_draws_one_thing_is_refused():
    noise = NoiseSchedule.cosine(20)
    model = Denoiser(lambda x, index: 0 * x, noise, predicts="x0", shape=(2,))
    paths = dpdiff.trajectories(model, n=3, nodes=20, progress=False)
    with pytest.raises(InputError, match="the same from every noise"):
        paths.recommend(2, progress=False)


def test_a_grid_of_all_timesteps_serves_all_budgets(model):
    paths = dpdiff.trajectories(model, n=3, nodes=200, progress=False)
    assert paths.recommend(150, {}, n=2, candidates=1, progress=False).schedule.steps == 150


def test_the_teacher_is_drawn_once_for_all_that_is_compared(model, monkeypatch):
    paths, real, calls = dpdiff.trajectories(model, n=2, nodes=N, progress=False), sample, []

    def counting(denoiser, schedule, *arguments, **options):
        calls.append(schedule)
        return real(denoiser, schedule, *arguments, **options)

    monkeypatch.setattr("dpdiff.trajectory.comparison.sample", counting)
    for steps in (2, 3, 4):
        even = {"even": Schedule.even(200, steps)}
        again = paths.compare(even, n=5, progress=False)
    assert calls.count(paths.teacher) == 1
    other = paths.compare(even, n=5, seed=9, progress=False)
    assert calls.count(paths.teacher) == 2
    assert (other.distances["even"] != again.distances["even"]).all()


def test_comparison_is_of_held_out_noises(paths):
    even = Schedule.even(200, 4)
    result = paths.compare({"even": even, "teacher": paths.teacher}, n=5, progress=False)
    ends, goal = (
        sample(paths.denoiser, s, 5, seed=4, sampler="ddim", progress=False).double().flatten(1)
        for s in (even, paths.teacher)
    )
    np.testing.assert_allclose(result.distances["even"], torch.linalg.norm(ends - goal, dim=1))
    assert result.mean("teacher") == 0
    assert result.best == "teacher"
    assert "even" in str(result)
    with pytest.raises(InputError, match="drew these"):
        paths.compare({"even": even}, seed=3)


def test_paired_standard_errors():
    rng = np.random.default_rng(0)
    common, extra = rng.exponential(size=4000), rng.exponential(size=4000)
    result = Comparison({"a": common + 0.1 * extra, "b": common}, seed=0)
    mean, stderr = result.difference("a", "b")
    assert abs(mean - 0.1) < 4 * stderr
    np.testing.assert_allclose(stderr, 0.1 / np.sqrt(4000), rtol=0.1)
    assert result.stderr("a") > 5 * stderr


def test_bootstrap_gives_other_schedules(paths):
    result = paths.resampled(4, resamples=30)
    assert result.shape == (30, 5)
    assert (result[:, 0] == 0).all()
    assert (result[:, -1] == 200).all()
    assert (np.diff(result) > 0).all()
    whole = paths.costs(weights=np.full(9, 2.0)).table[5, 3]
    np.testing.assert_allclose(whole, 2 * paths.costs().table[5, 3])
    assert (paths.resampled(4, resamples=30) == result).all()


def test_fewest_steps_is_the_first_that_is_near_enough(model):
    paths = dpdiff.trajectories(model, n=9, nodes=40, progress=False)
    plan = solve(paths.costs(), 10)
    shares = [
        paths.compare({"flow": plan.schedule(k)}, 32, progress=False).mean("flow") / paths.spread
        for k in range(1, 11)
    ]
    within = (shares[3] + shares[4]) / 2
    steps = paths.fewest_steps(within, progress=False)
    assert shares[steps - 1] <= within < shares[steps - 2]
    with pytest.raises(InputError, match="more nodes"):
        paths.fewest_steps(shares[9] / 2, progress=False)


# Grids and strides


@pytest.mark.parametrize("count", [2, 3, 20, 150, 200])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_nodes_rise_from_zero_to_the_end(name, count):
    nodes = node_grid(getattr(NoiseSchedule, name)(200), count)
    assert len(nodes) == count + 1
    assert nodes[[0, 1, -1]].tolist() == [0, 1, 200]
    assert (np.diff(nodes) > 0).all()


@pytest.mark.parametrize("nodes", [1, 201, [0, 5, 4, 200], [1, 5, 200], [0, 5], [0, 0.5, 200]])
def test_wrong_nodes_are_refused(nodes):
    with pytest.raises(InputError, match="node"):
        chosen_nodes(NoiseSchedule.linear(200), nodes)


@pytest.mark.parametrize("steps", [1, 2, 4, 60, 100])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_strides_are_schedules_of_so_many_steps(name, steps):
    noise = getattr(NoiseSchedule, name)(100)
    everything = strides.usual(noise, steps, 0.3)
    everything["entropy"] = strides.entropy(noise, steps, noise.g**2)
    for stride, schedule in everything.items():
        assert (schedule.steps, schedule.T) == (steps, 100), stride


def test_strides_are_even_in_what_they_say():
    noise = NoiseSchedule.linear(100_000)
    sigma = np.exp(-np.maximum(noise.log_snr, -10) / 2)
    t = [list(s.timesteps) for s in strides.usual(noise, 9, 0.3).values()][2:]
    for coordinate, nodes in (
        (np.log(sigma[t[0][1:]]), t[0]),
        (sigma[t[1][1:]] ** (1 / 7), t[1]),
        (np.arctan(sigma[t[2]] / 0.3**0.5), t[2]),
    ):
        gaps = np.diff(coordinate)
        assert abs(gaps / gaps.mean() - 1).max() < 0.02, nodes


# Published rivals


def test_greedy_nearest_states_are_not_the_best_path():
    """Optimal Stepsize keeps the nearest state at every node, and may miss the best end."""
    noise = NoiseSchedule.cosine(200)
    model = Denoiser(ToyNetwork(T=200), noise, variance="learned_range", shape=(1, 4, 4))
    nodes, misses = node_grid(noise, 9), 0
    for seed in range(6):
        x, far = start(model, seed, np.arange(1)), {}
        goal = predictions(model, nodes, x)[0, 0]
        for inner in combinations(nodes[1:-1].tolist(), 3):
            path = Schedule([0, *inner, 200])
            end = predictions(model, np.array(path.timesteps), x)[0, 0]
            far[path] = float(torch.dist(end, goal))
        theirs = rivals.optimal_stepsize(model, [4], nodes, 1, seed)[4]
        assert far[theirs] >= min(far.values())
        misses += far[theirs] > 1.01 * min(far.values())
    assert misses >= 1
    costs = dpdiff.trajectories(model, n=2, nodes=nodes, progress=False).costs()
    for steps in range(1, 10):  # ours is the least sum of its own costs, always
        cheapest = brute_force(costs.table, steps)[0][1]
        assert solve(costs, steps).schedule(steps) == Schedule(nodes[list(cheapest)])


def test_gits_follows_its_formula(model):
    """Its recursion against all paths, its costs against single jumps."""
    result = rivals.gits(model, [1, 3], 2, seed=0)
    nodes = np.array(strides.karras(model.noise, 60).timesteps)
    costs = rivals.euler_distances(model, nodes, 2, seed=0)

    def total(path):
        jumps = list(pairwise(path))[::-1]  # from the noise down
        return sum(1.15**i * costs[t, s] for i, (s, t) in enumerate(jumps))

    best = min(((0, a, b, 60) for a, b in combinations(range(1, 60), 2)), key=total)
    assert result[3] == Schedule(nodes[list(best)])
    assert result[1].timesteps == (0, 200)
    plain = dpdiff.trajectories(model, n=2, nodes=nodes, progress=False).costs("plain").table
    f = model.noise.f[nodes]
    below = np.tri(61, k=-1, dtype=bool)
    assert (costs[below] * (1 - 1e-6) <= (np.sqrt(plain + 1e-12) / f)[below] + 1e-9).all()
