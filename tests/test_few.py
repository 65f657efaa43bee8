"""A measurement of a few timesteps: unbiased, sure of itself as far as it may be, restartable."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import dpdiff
from dpdiff import strides
from dpdiff.costs import Costs, Sample, measure, measurement, uncertainty
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.solvers import solve
from tests import asymptotics

T, D = 300, 3
NOISE = NoiseSchedule.linear(T)
SPREAD = np.array([0.8, 0.5, 0.2])
MEANS = np.array([-0.6, 0.6])  # of the mixture, which has a width of 0.1
KNOTS = strides.spread(NOISE, 49)


def mixture_network(x, index):
    """E[x_0 | x_t] of two narrow Gaussians in every dimension."""
    f, g = (torch.tensor(c[index.numpy() + 1])[:, None] for c in (NOISE.f, NOISE.g))
    total = (f * 0.1) ** 2 + g**2
    ways = [-((x - f * mean) ** 2) / (2 * total) for mean in MEANS]
    share = torch.softmax(torch.stack(ways), 0)
    return sum(
        p * (mean + f * 0.01 / total * (x - f * mean)) for p, mean in zip(share, MEANS, strict=True)
    )


def gaussian_network(x, index):
    f, g = (torch.tensor(c[index.numpy() + 1])[:, None] for c in (NOISE.f, NOISE.g))
    return f * torch.tensor(SPREAD**2) / (f**2 * torch.tensor(SPREAD**2) + g**2) * x


def data(kind, count, seed):
    rng = np.random.default_rng(seed)
    if kind == "gaussian":
        return rng.normal(size=(count, D)) * SPREAD
    return rng.choice(MEANS, (count, D)) + 0.1 * rng.normal(size=(count, D))


def model(kind):
    network = gaussian_network if kind == "gaussian" else mixture_network
    return Denoiser(
        network, NOISE, predicts="x0", variance="small", shape=(D,), levels=None, clip=False
    )


def exact_mse(kind="gaussian"):
    """m(t): in closed form, or by a sum over x_t of one dimension."""
    f, g = NOISE.f[1:, None], NOISE.g[1:, None]
    if kind == "gaussian":
        return np.append(0, (SPREAD**2 * g**2 / (f**2 * SPREAD**2 + g**2)).sum(1))
    total = (f * 0.1) ** 2 + g**2
    x = np.linspace(-1, 1, 4001) * (0.6 * f + 9 * np.sqrt(total))
    shares = np.stack([np.exp(-((x - f * mean) ** 2) / (2 * total)) for mean in MEANS])
    guesses = np.stack([mean + f * 0.01 / total * (x - f * mean) for mean in MEANS])
    chance = shares.sum(0)
    shares /= np.maximum(chance, 1e-300)
    best = (shares * guesses).sum(0)
    left = 0.01 * g**2 / total + (shares * guesses**2).sum(0) - best**2
    return np.append(0, D * (chance * left).sum(1) / chance.sum(1))


def exact(kind, like):
    """The costs that an endless measurement would give; the decoder is a Gaussian's density."""
    m, g2 = exact_mse(kind), NOISE.g[1:] ** 2
    fixed = D / 2 * np.log(2 * np.pi * g2) + m[1:] / (2 * g2)
    optimal = D / 2 * np.log(2 * np.pi * m[1:] / D) + D / 2
    decoders = {"decoder_fixed": np.append(0, fixed), "decoder_optimal": np.append(0, optimal)}
    statistics = {**like.statistics, "mse": m, **decoders}
    return replace(like, statistics=statistics, sample=None)


@pytest.fixture(scope="module", params=["gaussian", "mixture"])
def repeated(request):
    """Many measurements of other images with other noise, and the truth."""
    kind, runs = request.param, []
    for seed in range(20):
        images = data(kind, 40, seed)
        runs.append(measure(model(kind), images, calls=1200, seed=seed, progress=False))
    assert all(costs.sample.images == 20 for costs in runs)  # none was taken for a rough network
    return runs, exact(kind, runs[0])


def test_the_truth_is_what_many_images_approach():
    for kind in ("gaussian", "mixture"):
        many = measure(model(kind), data(kind, 900, 99), calls=45_000, progress=False)
        truth = exact(kind, many)
        for name in ("mse", "decoder_fixed", "decoder_optimal"):
            one, other = many.statistics[name][KNOTS], truth.statistics[name][KNOTS]
            np.testing.assert_allclose(one, other, rtol=0.2 if name == "mse" else 0, atol=0.35)


def test_design():
    stage = measurement.few_timesteps(NoiseSchedule.cosine(4000), 5000, 4000, seed=0)
    assert 0.95 * 4000 < stage.calls <= 4000
    assert (stage.timesteps[[0, -1]] == [1, 4000]).all()
    assert (stage.rows(1) == stage.rows(4000)).all()
    assert len(set(stage.rows(1))) == stage.images
    again = measurement.next_round(stage, stage.images, 5000, seed=0)
    assert again.images == stage.images
    assert not set(again.rows(1)) & set(stage.rows(1))
    assert measurement.few_timesteps(NoiseSchedule.cosine(40), 9, 400, seed=0) is None
    with pytest.raises(InputError, match="at least 50 calls"):
        measurement.few_timesteps(NOISE, 9, 49, seed=0)


def test_it_is_unbiased_within_its_error(repeated):
    runs, truth = repeated
    some = KNOTS[::6]
    drawn = np.log([costs.mse[some] for costs in runs])
    error = drawn.std(0, ddof=1) / np.sqrt(len(runs))
    assert (np.abs(drawn.mean(0) - np.log(truth.mse[some])) < 4 * error + 0.02).all()
    stated = [np.var([np.log(d.mse[some]) for d in c.replicates(20, only=some)], 0) for c in runs]
    ratio = np.sqrt(np.mean(stated, 0)) / drawn.std(0, ddof=1)
    assert ratio.min() > 0.6  # twenty repetitions tell a spread to a sixth
    assert 0.75 < ratio.mean() < 1.5


@pytest.mark.parametrize("rule", ["small", "optimal"])
def test_stated_regrets_hold(repeated, rule):
    """In nine of ten measurements; and on average they say no more than three times too much."""
    runs, truth = repeated
    truth, budgets = truth.with_variance(rule), (4, 8, 16)
    best, lost, stated = solve(truth, 16).totals, [], []
    for costs in runs:
        for one in uncertainty(costs.with_variance(rule), budgets, count=24).schedules:
            lost.append((truth.edge_costs(one.schedule).sum() - best[one.steps]) / truth.unit.size)
            stated.append((one.regret, one.regret95))
            assert one.regret <= one.regret95
            assert (one.low <= one.high).all()
    lost, (regrets, limits) = np.array(lost), np.array(stated).T
    assert np.mean(lost <= limits) >= 0.9
    assert 0.7 < regrets.mean() / lost.mean() < 3


def test_stated_errors_of_bounds(repeated):
    runs, _ = repeated
    schedule = dpdiff.Schedule.quadratic(T, 12)
    bits = [costs.bound(schedule) for costs in runs]
    assert np.mean([b.stderr for b in bits]) == pytest.approx(
        np.std([b.mean for b in bits]), rel=0.4
    )
    gap = runs[0].difference(schedule, dpdiff.Schedule.even(T, 12))
    assert 0 < gap.stderr < np.hypot(bits[0].stderr, bits[0].stderr)


def test_it_goes_through_a_file(repeated, tmp_path):
    costs = repeated[0][0]
    costs.save(tmp_path / "costs.npz")
    again = Costs.load(tmp_path / "costs.npz")
    assert (again.sample.timesteps == costs.sample.timesteps).all()
    for name, values in costs.sample.values.items():
        assert (again.sample.values[name] == values).all(), name
    assert again.bound(dpdiff.Schedule.even(T, 5)) == costs.bound(dpdiff.Schedule.even(T, 5))
    assert again.smoothed() is again


def test_rounds_end_when_the_regret_is_reached(tmp_path):
    images = data("mixture", 4000, 5)
    settings = {"regret": 0.02, "budgets": (8,), "progress": False}
    costs = measure(model("mixture"), images, **settings)
    worst = uncertainty(costs, (8,)).schedules[0].regret95
    assert worst <= 0.02
    assert costs.provenance["calls"] == costs.sample.images * len(costs.sample.timesteps)
    again = measure(model("mixture"), images, **settings, resume=tmp_path / "parts")
    parts = sorted((tmp_path / "parts").glob("*.part"))
    assert len(parts) > 10
    for part in parts[::3]:
        part.unlink()
    third = measure(model("mixture"), images, **settings, resume=tmp_path / "parts")
    for one in (again, third):
        for name, values in costs.statistics.items():
            assert (one.statistics[name] == values).all(), name
    few = measure(model("mixture"), images[:21], regret=1e-9, budgets=(8,), progress=False)
    assert few.sample.images == 20  # all but one, which makes no round


@pytest.mark.parametrize(
    ("amount", "message"),
    [
        ({"calls": 9, "per_step": 3}, "calls and per_step"),
        ({"regret": 0}, "regret is a positive"),
        ({"regret": float("nan")}, "regret is a positive"),
        ({"calls": 30}, "at least 50 calls"),
        ({"per_step": 1}, "at least two images"),
    ],
)
def test_amounts_that_make_no_sense(amount, message):
    with pytest.raises(InputError, match=message):
        measure(model("gaussian"), data("gaussian", 50, 0), **amount, progress=False)


def test_leaps_are_told_from_noise():
    rng = np.random.default_rng(0)
    values = (
        exact_mse()[KNOTS][:, None] * rng.gamma(4, 0.25, (1, 40)) * rng.gamma(8, 1 / 8, (49, 40))
    )
    smooth = Sample(NOISE, KNOTS, {"mse": values})
    leaps = Sample(NOISE, KNOTS, {"mse": values * np.exp(0.2 * rng.normal(size=(49, 1)))})
    assert smooth.roughness < 0.05 < 0.1 < leaps.roughness < 0.4
    assert leaps.width <= 0.1 < smooth.width


@pytest.mark.parametrize("rule", ["small", "large", "learned_range", "optimal"])
@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_the_law_of_many_steps(name, rule):
    """Also where fashion's excess stops falling: its grid has no more steps to give."""
    costs = dpdiff.load_costs(name).smoothed().with_variance(rule)
    budgets = np.array([32, 64, 128, 256])
    exact, (limit, c) = solve(costs, 256).values[budgets], asymptotics._constants(costs)
    foreseen = asymptotics.totals(costs, budgets)
    off = (foreseen - limit) / (exact - limit) - 1
    if name == "fashion" and rule in ("small", "optimal"):
        assert -0.07 < off[0] < -0.05  # 32 steps are too few: jumps are not short there
        off = off[1:]
    assert (np.abs(off) < 0.05).all()
    if name == "digits":
        assert (exact - limit)[-1] * 256 == pytest.approx(c, rel=0.05)
    elif rule in ("small", "optimal"):
        assert (exact - limit)[-1] * 256 > 1.3 * c
    with pytest.raises(InputError, match="2…4000 steps"):
        asymptotics.totals(costs, [1])


def test_densities_are_shared_out_as_a_search_finds():
    roots = np.random.default_rng(0).exponential(size=30) ** 2
    for jumps in (1, 2, 9, 25, 29, 30):
        low, high = 1e-9, 1e9  # ρ = min(1, √q/λ)
        for _ in range(200):
            middle = np.sqrt(low * high)
            low, high = (
                (middle, high) if np.minimum(1, roots / middle).sum() > jumps else (low, middle)
            )
        density = np.minimum(1, roots / low)
        wanted = (roots**2 / density).sum() / 4
        assert asymptotics._least_waste(roots, jumps) == pytest.approx(wanted, rel=1e-6)
    assert asymptotics._least_waste(roots, 31) == np.inf


def test_a_rough_network_is_never_worse_than_even(capsys):
    """It is recognised, measured at every timestep, and its costs are not smoothed."""
    path = Path(__file__).parent.parent / "benchmarks" / "rough.py"
    spec = importlib.util.spec_from_file_location("rough", path)
    rough = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rough)
    model = rough.trained(400)
    costs = measure(model, rough.waves(500, 1), progress=False)
    assert "so all 1,000 are measured, with 16 images each" in capsys.readouterr().err
    assert costs.sample is None
    assert costs.smoothed().provenance["smoothing_width"] == 0
    for steps, row in rough.gains(model, costs, (8, 64), rough.waves(60, 2)).items():
        more, stderr = row["chosen"]
        assert more < 2 * stderr, steps


def test_it_says_that_images_ran_out_before_the_regret_was_reached(capsys):
    images = data("gaussian", 12, 0)
    measure(model("gaussian"), images, regret=1e-6, budgets=(8,), progress=True)
    assert "all 12 images are used, so it ends here, above the 1e-06" in capsys.readouterr().err
