"""The explorer: its data and JavaScript say what the package computes, and need no network."""

import base64
import io
import json
import re
import runpy
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dpdiff
from dpdiff.costs.smoothing import smoother
from dpdiff.strides import axis

BOOK = Path(__file__).resolve().parent.parent / "book"
STATIC = BOOK / "static"
RUNNER = Path(__file__).resolve().parent / "explorer_in_node.js"
MODULE = runpy.run_path(str(BOOK / "explorer.py"))
MODELS = tuple(MODULE["MODELS"])
NODE = shutil.which("node")
JUMPS = [(1, 0), (150, 0), (2, 1), (150, 1), (150, 149), (77, 30), (99, 98)]
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return request.param


@pytest.fixture(scope="module")
def data(model):
    return MODULE["read"](model)


@pytest.fixture(scope="module")
def costs(model):
    return dpdiff.load_costs(model).smoothed()


@pytest.fixture(scope="module")
def packed(data):
    with np.load(io.BytesIO(base64.b64decode(data["costs"]))) as file:
        arrays = dict(file)
    about, betas = json.loads(str(arrays.pop("about"))), arrays.pop("betas")
    assert (about["format"], about["version"]) == ("dpdiff-costs", 1)
    noise = dpdiff.NoiseSchedule.from_betas(betas)
    return dpdiff.Costs(
        noise, tuple(about["shape"]), about["variance"], arrays, about["provenance"]
    )


def some_schedules(T, count=40):
    """Even, quadratic and random ones, those with extreme last jumps among them."""
    rng = np.random.default_rng(0)
    inner = [
        np.sort(rng.choice(T - 1, rng.integers(1, 20), replace=False)) + 1 for _ in range(count)
    ]
    nodes = [(0, *map(int, middle), T) for middle in inner] + [(0, T), (0, 1, T), (0, T - 1, T)]
    named = [getattr(dpdiff.Schedule, kind)(T, 8) for kind in ("even", "quadratic")]
    return [dpdiff.Schedule(path) for path in nodes] + named


def total(costs, schedule):
    return costs.unit(costs.edge_costs(schedule).sum())


def node(**request):
    """What the JavaScript answers."""
    command = [NODE, str(RUNNER)]
    text = json.dumps({"static": str(STATIC), **request})
    run = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


# ---- the data ----


def test_packed_costs_score_as_the_models_do_to_the_printed_digit(costs, packed):
    for rule in costs.variances:
        ours, theirs = costs.with_variance(rule), packed.with_variance(rule)
        for schedule in some_schedules(costs.T):
            expected, bits = total(ours, schedule), total(theirs, schedule)
            assert bits == pytest.approx(expected, abs=1e-5, rel=1e-6), (rule, schedule.timesteps)
            if expected < 10:  # what anybody would place
                assert f"{bits:.3f}" == f"{expected:.3f}", (rule, schedule.timesteps)


def test_every_path_is_the_solvers(data, costs):
    plan = dpdiff.solve(costs, max_steps=len(data["gaps"]))
    assert len(data["gaps"]) == MODULE["LARGEST"]
    for steps, gaps in enumerate(data["gaps"], start=1):
        assert (0, *np.cumsum(gaps).tolist()) == plan.schedule(steps).timesteps, steps


def test_scores_and_costs_are_of_the_bundled_model(data, packed, model):
    assert data["held_out"] == MODULE["held_out"](model)
    measured = json.loads(json.dumps(dpdiff.load_costs(model).provenance))
    # Few timesteps come with a width of their own: what lies between is interpolated already.
    assert packed.provenance == {"smoothing_width": 0.2} | measured


def picture(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_images_are_drawn_by_the_schedule_beside_them(data, model, sampler):
    denoiser, drawn = dpdiff.load(model), data["samples"][sampler]["dp"]
    schedule = dpdiff.Schedule((0, *np.cumsum(data["gaps"][3]).tolist()))
    levels = min(denoiser.levels, 17)
    again = MODULE["draw"](denoiser, schedule, sampler, data["images"], levels).astype(int)
    # Another machine may round a pixel to the next level.
    assert np.abs(again - picture(drawn["4"])).max() <= 255 / (levels - 1) + 1
    assert np.abs(again - picture(drawn["8"])).max() > 64


def test_every_sampled_budget_has_its_images(data, costs, model):
    width = data["images"] * (costs.shape[2] + 1) - 1
    for drawn in data["samples"].values():
        assert ("all" in drawn) == (model in MODULE["WHOLE"])
        for kind in ("even", "quadratic", "dp"):
            assert [int(steps) for steps in drawn[kind]] == list(MODULE["SAMPLED"][model])
            assert {picture(text).shape for text in drawn[kind].values()} == {
                (costs.shape[1], width)
            }


# ---- the JavaScript ----


@needs_node
def test_the_page_scores_bundled_models_as_dpdiff_does(costs, model):
    schedules = [s for s in some_schedules(costs.T) if total(costs, s) < 10]
    scores = node(file={"bundled": model}, scores=[s.timesteps for s in schedules])["scores"]
    expected = [total(costs, schedule) for schedule in schedules]
    assert len(schedules) > 20
    assert [f"{bits:.3f}" for bits in scores] == [f"{bits:.3f}" for bits in expected]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A reader's costs: a noisy learned variance on a short grid; the file, and the costs."""
    T, J, rng = 150, 10, np.random.default_rng(1)
    noise, t = dpdiff.NoiseSchedule.linear(T), np.linspace(0, 1, T + 1)
    mse = 40 * t**1.5 * rng.uniform(0.9, 1.1, T + 1)
    points = (1 + np.cos(np.pi * (np.arange(J) + 0.5) / J)) / 2 * 5 * t[:, None]
    statistics = {
        "mse": mse,
        "decoder_fixed": 60 + 300 * t**0.7,
        "decoder_optimal": 55 + 320 * t**0.8,
        "decoder_learned_range": 50 + 300 * t**0.75,
        "penalty": 48 * (0.4 * points + np.exp(-0.4 * points) - 1),
        "error": mse[:, None] * np.exp(-0.4 * points),
        "prior": np.array(0.25),
    }
    for name in ("mse", "decoder_fixed", "decoder_optimal", "decoder_learned_range"):
        statistics[name + "_var"] = np.ones(T + 1)
    statistics["prior_var"] = np.array(1.0)
    for name in ("penalty_var", "error_var", "penalty_error_cov"):
        statistics[name] = np.ones((T + 1, J), np.float32)
    about = {"per_step": 4, "model": "é"}  # beyond ASCII, as names can be
    costs = dpdiff.Costs(noise, (3, 4, 4), "learned_range", statistics, about)
    path = tmp_path_factory.mktemp("own") / "costs.npz"
    costs.save(path)
    return path, costs


@needs_node
@pytest.mark.parametrize("rule", ["small", "large", "learned_range", "optimal"])
@pytest.mark.parametrize("smooth", [False, True])
def test_a_readers_file_is_solved_as_dpdiff_solves_it(own, rule, smooth):
    path, costs = own
    costs = (costs.smoothed(0.2) if smooth else costs).with_variance(rule)
    schedules = some_schedules(costs.T)
    answer = node(
        file=str(path), variance=rule, smooth=smooth, jumps=JUMPS, solve=64,
        scores=[schedule.timesteps for schedule in schedules],
    )  # fmt: skip
    np.testing.assert_allclose(answer["jumps"], costs.jump_costs(*np.array(JUMPS).T), rtol=1e-9)
    expected = [total(costs, schedule) for schedule in schedules]
    np.testing.assert_allclose(answer["scores"], expected, rtol=1e-9)
    plan = dpdiff.solve(costs, max_steps=64)
    assert len(answer["paths"]) == 64
    for steps, nodes in enumerate(answer["paths"], start=1):
        assert tuple(nodes) == plan.schedule(steps).timesteps, steps


@needs_node
def test_averaged_squares_stay_positive_as_dpdiffs_do(own, tmp_path):
    """Where a line would fall below zero, beside a value that stands out."""
    _, costs = own
    statistics = {name: values.copy() for name, values in costs.statistics.items()}
    statistics["mse"][[3, 148]] *= 1e8
    costs = replace(costs, statistics=statistics)
    x = axis(costs.noise)
    assert (smoother(x, 0.2) @ costs.mse[1:] < 0).any()
    costs.save(tmp_path / "costs.npz")
    answer = node(file=str(tmp_path / "costs.npz"), variance="small", smooth=True, jumps=JUMPS)
    expected = costs.smoothed(0.2).with_variance("small").jump_costs(*np.array(JUMPS).T)
    np.testing.assert_allclose(answer["jumps"], expected, rtol=1e-9)


@needs_node
def test_statistics_as_json_are_read_as_the_page_tells(own, tmp_path):
    _, costs = own
    shown = re.search(r"```python\n(.*?)```", (BOOK / "explorer.md").read_text(), re.DOTALL)[1]
    names = {"betas": costs.noise.betas, "mse": costs.mse}
    names["decoder"] = costs.statistics["decoder_fixed"]
    exec(shown.replace("costs.json", str(tmp_path / "costs.json")).replace("32", "4"), names)
    answer = node(file=str(tmp_path / "costs.json"), solve=8)
    assert answer["variances"] == ["small", "large"]
    plan = dpdiff.solve(costs.with_variance("small"), max_steps=8)
    assert [tuple(nodes) for nodes in answer["paths"]] == [
        plan.schedule(steps).timesteps for steps in range(1, 9)
    ]


@needs_node
def test_costs_of_a_flow_are_read_too(tmp_path):
    denoiser = dpdiff.Denoiser(
        lambda x, time: 0.1 * x, dpdiff.NoiseSchedule.flow(60), "flow", shape=(4,), levels=None,
        variance="small", identity="toy",
    )  # fmt: skip
    images = np.random.default_rng(0).normal(size=(8, 4))
    costs = dpdiff.measure(denoiser, images, per_step=8, progress=False)
    costs.save(tmp_path / "costs.npz")
    answer = node(file=str(tmp_path / "costs.npz"), solve=8)
    plan = dpdiff.solve(costs, max_steps=8)
    for steps, nodes in enumerate(answer["paths"], start=1):
        assert tuple(nodes) == plan.schedule(steps).timesteps, steps


def without(document, name):
    return {key: value for key, value in document.items() if key != name}


@needs_node
@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda d: b"PK\x03\x04 and nothing else, not even a directory", "no .npz file"),
        (lambda d: b"{", "no valid JSON"),
        (lambda d: json.dumps(without(d, "mse")).encode(), 'has no "mse"'),
        (lambda d: json.dumps(without(d, "shape")).encode(), 'has no "shape"'),
        (lambda d: json.dumps(without(d, "decoder_fixed")).encode(), "decoder_fixed"),
        (lambda d: json.dumps(d | {"mse": d["mse"][1:]}).encode(), "should be 5, for t = 0 … 4"),
        (lambda d: json.dumps(d | {"betas": [0.1, 0.2, 0, 0.4]}).encode(), "betas"),
        (lambda d: json.dumps(d | {"version": 3}).encode(), "version 3"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, spoil, complaint):
    sound = {"shape": [1, 2, 2], "betas": [0.1, 0.2, 0.3, 0.4], "mse": [0, 1, 2, 3, 4]}
    sound["decoder_fixed"] = [0, 1, 2, 3, 4]
    (tmp_path / "sound").write_text(json.dumps(sound))
    assert len(node(file=str(tmp_path / "sound"), solve=4)["paths"]) == 4
    (tmp_path / "spoilt").write_bytes(spoil(sound))
    assert complaint in node(file=str(tmp_path / "spoilt"))["error"]


@needs_node
def test_an_unpacked_file_and_one_that_is_cut_off(own, tmp_path):
    path, costs = own
    whole = path.read_bytes()
    for size in (50, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:size])
        assert re.search("cut off", node(file=str(tmp_path / "cut"))["error"])
    with np.load(path) as arrays:
        np.savez(tmp_path / "stored.npz", **arrays)
        np.savez(tmp_path / "other.npz", x=arrays["mse"])
    scores = node(file=str(tmp_path / "stored.npz"), scores=[[0, 50, 150]])["scores"]
    assert scores == pytest.approx([total(costs, dpdiff.Schedule([0, 50, 150]))], rel=1e-9)
    assert "Costs.save" in node(file=str(tmp_path / "other.npz"))["error"]


@needs_node
def test_even_and_quadratic_steps_are_dpdiffs():
    asked = [(4000, k, power) for k in (1, 2, 7, 63, 256) for power in (1, 2)] + [(10, 8, 2)]
    kinds = {1: dpdiff.Schedule.even, 2: dpdiff.Schedule.quadratic}
    expected = [list(kinds[power](T, steps).timesteps) for T, steps, power in asked]
    assert node(spaced=asked)["spaced"] == expected


# ---- the pages ----


def test_the_page_is_small_and_needs_nothing_from_elsewhere():
    assert sum(path.stat().st_size for path in STATIC.glob("explorer*")) < 5e6
    small = [path for path in STATIC.glob("explorer*") if path.stem[9:] not in MODELS]
    for path in (*small, BOOK / "explorer.md"):
        links = re.findall(r"https?://[^\s\"'`)]+", path.read_text())
        assert set(links) <= {"http://www.w3.org/2000/svg"}, path.name
        assert path.suffix != ".js" or len(path.read_text().splitlines()) <= 250, path.name


@pytest.mark.parametrize("page", ["explorer.md", "welcome.md"])
def test_scripts_that_a_page_loads_exist(page):
    loaded = re.findall(r'"\.\./_static/(explorer[\w.-]+)"', (BOOK / page).read_text())
    assert len(loaded) > 5
    assert all((STATIC / name).exists() for name in loaded)
