"""The explorer's data are what the package computes, and its page is whole without a network."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import dpdiff

BOOK = Path(__file__).resolve().parent.parent / "book"
MODULE = runpy.run_path(str(BOOK / "explorer.py"))
DATA = MODULE["read"]()
LARGEST = 256


@pytest.fixture(scope="module")
def costs():
    return dpdiff.load_costs("digits").smoothed()


@pytest.fixture(scope="module")
def plan(costs):
    return dpdiff.solve(costs, max_steps=LARGEST)


def nodes(kind, steps):
    return (0, *np.cumsum(DATA["gaps"][kind][steps - 1]).tolist())


def test_every_path_is_the_solvers(plan):
    for steps, schedule in enumerate(plan.schedules(range(1, LARGEST + 1)), start=1):
        assert nodes("dp", steps) == schedule.timesteps, steps


def test_bits_are_those_of_the_costs(costs, plan):
    np.testing.assert_allclose(DATA["bits"]["dp"], plan.values[1:], atol=6e-5)
    for kind in ("even", "quadratic"):
        for steps in (2, 8, 37, 256):
            schedule = getattr(dpdiff.Schedule, kind)(costs.T, steps)
            assert nodes(kind, steps) == schedule.timesteps
            assert DATA["bits"][kind][steps - 1] == pytest.approx(
                costs.bound(schedule)[0], abs=6e-5
            )
    every = costs.bound(dpdiff.Schedule(range(costs.T + 1)))[0]
    assert DATA["all_bits"] == pytest.approx(every, abs=6e-5)


def test_no_schedule_beats_the_optimal_one():
    bits = {kind: np.array(curve) for kind, curve in DATA["bits"].items()}
    assert {len(curve) for curve in bits.values()} == {LARGEST}
    assert (bits["dp"] <= np.minimum(bits["even"], bits["quadratic"]) + 1e-4).all()
    assert (np.diff(bits["dp"]) <= 0).all()


def test_the_map_shows_the_costs(costs):
    shown = DATA["map"]
    assert [len(row) for row in shown["rows"]] == list(range(1, 101))
    step = (shown["high"] - shown["low"]) / 35
    for i, j in [(0, 0), (50, 0), (50, 50), (99, 3), (99, 99)]:
        found = shown["low"] + step * int(shown["rows"][i][j], 36)
        t, s = (i + 1) * costs.T // 100, j * costs.T // 100
        assert found == pytest.approx(np.log10(costs.rows(t, t + 1)[0, s]), abs=0.51 * step + 1e-3)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_digits_are_drawn_by_the_schedule_beside_them(plan, sampler):
    again = MODULE["draw"](dpdiff.load("digits"), plan.schedule(5), sampler)
    levels = [
        np.array([int(c, 17) for c in text])
        for text in (
            again,
            DATA["samples"][sampler]["dp"]["5"],
            DATA["samples"][sampler]["dp"]["6"],
        )
    ]
    # Another machine may round a pixel to the next level.
    assert np.abs(levels[0] - levels[1]).max() <= 1
    assert np.abs(levels[0] - levels[2]).max() > 1


def test_every_sampled_budget_has_its_digits():
    assert DATA["sampled"] == list(MODULE["SAMPLED"])
    for drawn in DATA["samples"].values():
        assert len(drawn["all"]) == 8 * 64
        for kind in ("even", "quadratic", "dp"):
            assert [int(steps) for steps in drawn[kind]] == DATA["sampled"]
            assert {len(text) for text in drawn[kind].values()} == {8 * 64}


def test_costs_and_scores_are_of_the_bundled_model(costs):
    assert DATA["costs"] == json.loads(json.dumps(costs.provenance))
    assert DATA["held_out"] == MODULE["held_out"]()


def test_the_page_is_small_and_needs_nothing_from_elsewhere():
    static = BOOK / "static"
    assert sum(path.stat().st_size for path in static.glob("explorer*")) < 1e6
    for path in (static / "explorer.js", static / "explorer.css", BOOK / "explorer.md"):
        links = re.findall(r"https?://[^\s\"'`)]+", path.read_text())
        assert set(links) <= {"http://www.w3.org/2000/svg"}, path.name
