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
    denoiser, images = dpdiff.load("digits"), dpdiff.images("digits", split="test")[:9]
    few, more = (dpdiff.Schedule.quadratic(4000, k) for k in (4, 16))
    named = ("learned_range", "dp", 4), ("learned_range", "all", 4000)
    cases = {named[0]: few}, {named[1]: more}
    bits, fewer = scores.scored({"learned_range": denoiser}, *cases, images, every=3)

    def once_more(schedule, shown):
        return dpdiff.evaluate(denoiser, shown, schedule, seed=scores.SEED, progress=False)

    lost = once_more(few, images[::3]).image_bits - once_more(more, images[::3]).image_bits
    np.testing.assert_allclose(fewer[named[0]] - fewer[named[1]], lost, atol=1e-6)
    np.testing.assert_allclose(bits[named[0]], once_more(few, images).image_bits, atol=1e-6)
    assert abs(bits[named[0]][::3] - fewer[named[0]])[1:].min() > 1e-3  # other noise
