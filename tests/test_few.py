"""A measurement of a few timesteps: unbiased, sure of itself as far as it may be, restartable."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

import dpdiff
from dpdiff.costs import design, law
from dpdiff.costs.costs import Costs
from dpdiff.costs.fit import Sample
from dpdiff.costs.measurement import measure
from dpdiff.costs.uncertainty import uncertainty
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.solvers.plan import solve

T, D = 300, 3
NOISE = NoiseSchedule.linear(T)
SPREAD = np.array([0.8, 0.5, 0.2])
MEANS = np.array([-0.6, 0.6])  # of the mixture, which has a width of 0.1
KNOTS = design.spread(NOISE, 49)


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


def exact_mse():
    f2, g2 = NOISE.f[1:, None] ** 2, NOISE.g[1:, None] ** 2
    return np.append(0, (SPREAD**2 * g2 / (f2 * SPREAD**2 + g2)).sum(1))


@pytest.fixture(scope="module", params=["gaussian", "mixture"])
def repeated(request):
    """Many measurements of other images with other noise, and the truth."""
    kind, found = request.param, []
    for seed in range(20):
        images = data(kind, 40, seed)
        found.append(measure(model(kind), images, calls=1200, seed=seed, progress=False))
    truth = measure(model(kind), data(kind, 1500, 99), calls=145_000, seed=99, progress=False)
    if kind == "gaussian":
        np.testing.assert_allclose(truth.mse[1:], exact_mse()[1:], rtol=0.1)
    return found, truth


def test_design():
    stage = design.few(NoiseSchedule.cosine(4000), 5000, 4000, seed=0)
    assert 0.95 * 4000 < stage.calls <= 4000
    assert (stage.timesteps[[0, -1]] == [1, 4000]).all()
    assert (stage.rows(1) == stage.rows(4000)).all()
    assert len(set(stage.rows(1))) == stage.images
    again = design.next_round(stage, stage.images, 5000, seed=0)
    assert again.images == stage.images
    assert not set(again.rows(1)) & set(stage.rows(1))
    assert design.few(NoiseSchedule.cosine(40), 9, 400, seed=0) is None
    with pytest.raises(InputError, match="at least 50 calls"):
        design.few(NOISE, 9, 49, seed=0)


FEW_IMAGES = pytest.mark.xfail(
    strict=False,
    reason="with a dozen images, fits along log SNR are off by up to 13 % of m(t) in places, and "
    "stated 95 % regrets hold in fewer than 90 of 100 cases: known, and not yet mended",
)


@FEW_IMAGES
def test_it_is_unbiased_within_its_error(repeated):
    found, truth = repeated
    some = KNOTS[::6]
    drawn = np.log([costs.mse[some] for costs in found])
    error = drawn.std(0, ddof=1) / np.sqrt(len(found))
    assert (np.abs(drawn.mean(0) - np.log(truth.mse[some])) < 4 * error + 0.02).all()
    stated = np.log1p(
        np.mean(
            [c.mse_variance[some] / c.provenance["per_step"] / c.mse[some] ** 2 for c in found], 0
        )
    )
    assert (np.sqrt(stated) > 0.7 * drawn.std(0, ddof=1)).all()


@FEW_IMAGES
@pytest.mark.parametrize("rule", ["small", "optimal"])
def test_stated_regrets_hold(repeated, rule):
    found, truth = repeated
    truth, budgets = truth.with_variance(rule), (4, 8, 16)
    best, held = solve(truth).totals, []
    for costs in found:
        costs = costs.with_variance(rule)
        for one in uncertainty(costs, budgets, count=24).schedules:
            lost = truth.edge_nats(one.schedule).sum() - best[one.steps]
            held.append(lost / truth.unit.size <= one.regret95 + 1e-4)  # of the truth's own noise
            assert one.regret <= one.regret95
            assert (one.low <= one.high).all()
    assert np.mean(held) >= 0.9


def test_stated_errors_of_bounds(repeated):
    found, _ = repeated
    schedule = dpdiff.Schedule.quadratic(T, 12)
    bits = [costs.bound(schedule) for costs in found]
    assert np.mean([b.stderr for b in bits]) == pytest.approx(
        np.std([b.mean for b in bits]), rel=0.4
    )
    gap = found[0].difference(schedule, dpdiff.Schedule.even(T, 12))
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


@pytest.mark.parametrize("rule", ["small", "large"])
def test_the_law_of_many_steps(rule):
    costs = dpdiff.load_costs("digits").smoothed().with_variance(rule)
    budgets = np.array([32, 64, 128, 256])
    exact, (limit, c) = solve(costs, 256).values[budgets], law._constants(costs)
    foreseen = law.totals(costs, budgets)
    np.testing.assert_allclose(foreseen - limit, exact - limit, rtol=0.05)
    assert (exact - limit)[-1] * 256 == pytest.approx(c, rel=0.05)


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
