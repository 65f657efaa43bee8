"""Standard errors and sample sizes, against measurements that are simulated again and again."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import dpdiff
from dpdiff.cli import main
from dpdiff.costs import Costs, statistics, uncertainty
from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.schedule import Schedule

T, D, N = 12, 4, 50
NOISE = NoiseSchedule.cosine(T, first_beta=0.0025)
MODEL = Denoiser(
    lambda x, i: x, NOISE, variance="learned_range", shape=(D,), levels=None, clip=False
)
RULES = ["small", "large", "learned_range", "optimal"]
ONE = Schedule([0, 2, 4, 7, 10, 12])


def simulated(seed, per_step=N):
    """Costs of a network whose errors and variances are drawn anew for every image."""
    rng = np.random.default_rng(seed)
    t = np.repeat(np.arange(1, T + 1), per_step)
    x0 = torch.from_numpy(rng.normal(size=(len(t), D)))
    quality = rng.gamma(4, size=(len(t), 1))  # some images are harder than others
    scale = NOISE.g[t][:, None] ** 0.7 * 0.3 * np.sqrt(quality)
    mean = x0 + torch.from_numpy(scale * rng.normal(size=(len(t), D)))
    v = torch.from_numpy(0.3 + 0.1 * quality + 0.1 * rng.normal(size=(len(t), D)))
    outcome = t, x0, Prediction(mean, v)
    values = statistics.per_image(MODEL, *outcome)
    mse = values["mse"].reshape(T, -1).mean(1).repeat_interleave(per_step)
    values |= statistics.decoders(MODEL, *outcome, mse)
    moments = statistics.moments({k: x.numpy() for k, x in values.items()}, T)
    moments = {k: np.concatenate([np.zeros_like(x[:1]), x]) for k, x in moments.items()}
    moments |= {"prior": np.float64(1), "prior_var": np.float64(0)}
    return Costs(NOISE, (D,), "learned_range", moments, {"per_step": per_step})


@pytest.fixture(scope="module")
def repeated():
    return [simulated(seed) for seed in range(400)]


def spread(repeated, rule, measured):
    """Spread of a number over the repetitions, and the mean of its stated standard error."""
    estimates = np.array([measured(costs.with_variance(rule)) for costs in repeated])
    return estimates[:, 0].std(ddof=1), np.sqrt((estimates[:, 1] ** 2).mean())


@pytest.mark.parametrize("rule", RULES)
def test_standard_errors_of_bounds(repeated, rule):
    real, stated = spread(repeated, rule, lambda costs: costs.bound(ONE))
    assert stated == pytest.approx(real, rel=0.12)  # a spread of 400 is known to 3.5 %


@pytest.mark.parametrize("rule", RULES)
def test_shared_jumps_cancel(repeated, rule):
    """Both visit the same timesteps but one: only that one, and where it is left out, counts."""
    other = Schedule([0, 2, 4, 7, 8, 12])
    real, stated = spread(repeated, rule, lambda costs: costs.difference(ONE, other))
    costs = repeated[0].with_variance(rule)
    single = np.hypot(costs.bound(ONE)[1], costs.bound(other)[1])
    if rule == "learned_range":  # 12 lands on 10 and on 8, and how both vary is not kept
        assert real * 0.95 < stated < 2 * real + single
    else:
        assert stated == pytest.approx(real, rel=0.12)
        assert stated < single


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "other", [[0, 1, 3, 5, 8, 12], [0, 4, 12], [0, 7, 12], [0, 2, 4, 7, 11, 12]], ids=str
)
def test_differences_are_never_stated_too_exactly(repeated, rule, other):
    real, stated = spread(repeated, rule, lambda costs: costs.difference(ONE, Schedule(other)))
    assert stated > 0.9 * real


@pytest.mark.parametrize("rule", RULES)
def test_mean_is_the_difference_of_the_scores(repeated, rule):
    costs = repeated[0].with_variance(rule)
    for nodes in ([0, 12], [0, 1, 12], [0, 4, 12], [0, 2, 4, 7, 11, 12]):
        other = Schedule(nodes)
        mean, stderr = costs.difference(ONE, other)
        assert mean == pytest.approx(costs.bound(ONE)[0] - costs.bound(other)[0], abs=1e-12)
        back = costs.difference(other, ONE)
        assert back == pytest.approx((-mean, stderr))
    assert costs.difference(ONE, Schedule(ONE.timesteps)) == (0, 0)
    with pytest.raises(InputError, match="ends at 10, the training grid at T = 12"):
        costs.difference(ONE, Schedule([0, 10]))


def test_disjoint_schedules_add_their_variances(repeated):
    costs = repeated[0].with_variance("large")
    one, other = Schedule([0, 3, 6, 12]), Schedule([0, 2, 5, 6, 12])  # 6 -> 3 and 6 -> 5
    variances = [costs.bound(s)[1] ** 2 for s in (one, other)]
    _, stderr = costs.difference(one, other)
    assert stderr**2 < sum(variances)  # 12 -> 6 cancels


@pytest.fixture
def small_model(monkeypatch):
    def network(x, index):
        return torch.cat([0.3 * torch.sin(2 * x), torch.cos(3 * x)], 1)

    model = Denoiser(network, NOISE, variance="learned_range", shape=(1, 2, 2), levels=17)
    images = np.random.default_rng(0).integers(0, 17, (60, 1, 2, 2))
    monkeypatch.setattr(dpdiff, "load", lambda *a, **k: model)
    monkeypatch.setattr(dpdiff, "images", lambda *a, **k: images)
    return model, images


def test_the_command_measures_until_it_is_sure(small_model, tmp_path, capsys):
    arguments = ["--steps", "3", "5", "--out", str(tmp_path)]
    assert main(["optimize", *arguments]) == 0
    printed = capsys.readouterr().out
    costs = Costs.load(tmp_path / "costs.npz")
    assert f"for {costs.provenance['calls']:,} network calls" in printed
    assert "ms a network call" in printed
    assert "3 steps: less than 0." in printed
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".json", ".npz"]
    assert main(["measure", "--calls", "240", "--out", str(tmp_path / "few.npz")]) == 0
    assert Costs.load(tmp_path / "few.npz").provenance["calls"] == 240
    for wrong in (["--regret", "0"], ["--regret", "nan"], ["--calls", "100", "--per-step", "9"]):
        assert main(["measure", *wrong, "--out", str(tmp_path / "few.npz")]) == 2


@pytest.mark.parametrize("rule", RULES)
def test_stated_regrets_of_dense_measurements_hold(repeated, rule):
    """Against the mean of all repetitions, which is 20 times as sure."""
    means = {
        name: np.mean([c.statistics[name] for c in repeated], 0)
        for name in repeated[0].statistics
        if not name.endswith(("_var", "_cov"))
    }
    truth = replace(repeated[0], statistics=repeated[0].statistics | means).with_variance(rule)
    best, held = dpdiff.solve(truth).totals, []
    for costs in repeated[:20]:
        for one in uncertainty(costs.with_variance(rule), (3, 5), count=30, width=0).schedules:
            lost = (truth.edge_costs(one.schedule).sum() - best[one.steps]) / truth.unit.size
            held.append(lost <= one.regret95 + 1e-4)
    assert np.mean(held) >= 0.9


def test_budgets_are_checked_before_anything_is_measured(small_model, tmp_path, capsys):
    assert main(["optimize", "--steps", "13", "--out", str(tmp_path)]) == 2
    assert "error: the number of steps lies in 1…12, got 13" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_table_marks_what_cannot_be_told_apart(tmp_path, capsys):
    about = {"per_step": 4, "images": 4, "model": "simulated"}
    costs = replace(simulated(0, per_step=4), variance="large", provenance=about)
    costs.save(tmp_path / "costs.npz")
    arguments = ["--steps", "1", "4", "6", "8", "--out", str(tmp_path)]
    assert main(["solve", str(tmp_path / "costs.npz"), *arguments]) == 0
    printed = capsys.readouterr().out
    plan, marked = dpdiff.solve(costs.smoothed()), {}
    for steps in (1, 4, 6, 8, 12):
        strides = [make(T, steps) for make in (Schedule.even, Schedule.quadratic)]
        second = min(strides, key=lambda stride: costs.bound(stride)[0])
        mean, stderr = costs.difference(plan.schedule(steps), second)
        marked["all" if steps == T else str(steps)] = abs(mean) < 2 * stderr
    rows = {line.split()[0]: line.endswith("~") for line in printed.splitlines() if line.split()}
    assert {name: rows[name] for name in marked} == marked
    assert {*marked.values()} == {True, False}
    assert "less than two standard errors" in printed
