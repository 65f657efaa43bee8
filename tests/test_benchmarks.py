"""The benchmarks are too long to run here, but each must at least find what it imports."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scores

import dpdiff

SCRIPTS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_finds_its_imports(script):
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
