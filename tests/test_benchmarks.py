"""The benchmarks are too long to run here, but each must at least find what it imports."""

import json
import subprocess
import sys
from pathlib import Path

import house
import numpy as np
import pytest
import scores
import torch

import dpdiff

SCRIPTS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_finds_its_imports(script):
    if script.stem == "alone":
        pytest.importorskip("resource")
    code = f"import sys; sys.path.insert(0, {str(script.parent)!r}); import {script.stem}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_scores_compare_images_with_themselves_under_the_same_noise():
    """What the optimal schedule loses on every third image, computed once more."""
    noise = dpdiff.NoiseSchedule.cosine(40)
    denoiser = dpdiff.Denoiser(lambda x, index: x, noise, shape=(2,), variance="small")
    images = np.random.default_rng(0).integers(256, size=(9, 2))
    few, every = dpdiff.Schedule.quadratic(40, 4), dpdiff.Schedule(range(41))
    case = "small", "dp", 4
    bits = scores.scored({"small": denoiser}, {case: few}, images, every=3)

    def once_more(schedule, shown):
        return dpdiff.evaluate(denoiser, shown, schedule, seed=scores.SEED, progress=False)

    steps = [once_more(schedule, images[::3]).image_bits for schedule in (few, every)]
    np.testing.assert_allclose(bits["small", "all", 40], steps[1], atol=1e-6)
    lost = bits["small", "dp_minus_all", 4]
    np.testing.assert_allclose(lost, steps[0] - steps[1], atol=1e-6)
    np.testing.assert_allclose(bits[case], once_more(few, images).image_bits, atol=1e-6)
    assert abs(bits[case][::3] - steps[0])[1:].min() > 1e-3  # other noise
    last = scores.scored({"small": denoiser}, {case: few}, images[6:], every=3, first_row=6)
    for key, values in last.items():
        np.testing.assert_allclose(values, bits[key][-len(values) :], atol=1e-6)


def test_a_run_that_goes_on_writes_the_table_of_a_single_run(tmp_path, monkeypatch):
    def by_brightness(ruled, few, images, every, *, first_row, workers):
        assert first_row % every == 0
        light = images.reshape(len(images), -1).mean(1)
        bits = {key: light + key[2] for key in few}
        fewer = {(rule, "all", 4000): light[::every] for rule in ruled}
        return bits | fewer | {(rule, "dp_minus_all", 8): light[::every] ** 2 for rule in ruled}

    def run(folder, *options):
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr(scores, "RESULTS", folder)
        monkeypatch.setattr(sys, "argv", ["scores.py", "digits", *options])
        scores.main()
        return json.loads((folder / "digits.json").read_text())

    def one_schedule(costs, raw):
        return {(rule, "dp", 8): dpdiff.Schedule.even(4000, 8) for rule in costs.variances}

    monkeypatch.setattr(scores, "schedules", one_schedule)
    monkeypatch.setattr(scores, "scored", by_brightness)
    single = run(tmp_path / "single", "--images", "42", "--every", "3")
    monkeypatch.setattr(scores, "CHUNK", 10)
    run(tmp_path / "grown", "--images", "12", "--every", "3")
    grown = run(tmp_path / "grown", "--images", "42", "--every", "3")
    assert (grown["images"], grown["images_for_all_steps"]) == (42, 14)
    for rule, by_kind in single["bits_per_dim"].items():
        for kind, cells in by_kind.items():
            for steps, cell in cells.items():
                assert grown["bits_per_dim"][rule][kind][steps] == pytest.approx(cell, abs=1e-5)
    with pytest.raises(SystemExit, match="has every 3, this run 2"):
        run(tmp_path / "grown", "--images", "44", "--every", "2")


@pytest.mark.parametrize("parts", [(9,), (2, 3, 4), (8, 1)])
def test_a_table_of_scores_that_grew_is_that_of_all_images(parts):
    rng = np.random.default_rng(0)
    bits = {
        (rule, kind, 8): rng.normal(3, 1, n)
        for rule in ("small", "large")
        for kind, n in (("even", 18), ("all", 9))
    }
    table, row = {}, 0
    for size in parts:
        part = {key: np.split(values, 9)[row : row + size] for key, values in bits.items()}
        part = {key: np.concatenate(values) for key, values in part.items()}
        table = scores.grown(table, part, 2 * row, row)
        row += size
    for (rule, kind, steps), values in bits.items():
        expected = [values.mean(), values.std(ddof=1) / np.sqrt(len(values))]
        np.testing.assert_allclose(table[rule][kind][str(steps)], expected, atol=1e-6)


ROOMS = '''"""Says
something."""

from math import (
    pi,
)

from toyhouse import cellar


def call(network, x):  # a comment
    """Says what."""
    return [cellar.lower(network, part, text=("one", # two
                                              "three")) for part in (x, x)]


def unused():
    return pi
'''


def test_house_counts_lines_and_the_functions_of_a_call(tmp_path, monkeypatch):
    package = tmp_path / "toyhouse"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "rooms.py").write_text(ROOMS)
    (package / "cellar.py").write_text("def lower(network, x, text):\n    return network(x)\n")
    sums = {"files": 3, "lines of code": 11, "lines of imports": 4, "functions": 3}
    assert house.size(package) == sums
    monkeypatch.syspath_prepend(tmp_path)
    from toyhouse import rooms

    network = torch.nn.Identity()
    entered, frames = house.passed(package, network, lambda: rooms.call(network, torch.ones(1)))
    assert entered == frames == {("rooms.py", "call"), ("cellar.py", "lower")}
