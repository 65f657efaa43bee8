"""The command line does what the five lines do."""

import json
import subprocess
import sys

import numpy as np
import pytest

import dpdiff
from dpdiff.cli import main
from dpdiff.plotting.image_grid import image_grid


@pytest.fixture(scope="module")
def optimized(tmp_path_factory):
    """One run of the main command, with as few images as can be."""
    folder = tmp_path_factory.mktemp("optimize")
    arguments = ["--per-step", "2", "--steps", "4", "8", "--variance", "optimal"]
    assert main(["optimize", *arguments, "--out", str(folder)]) == 0
    return folder


def test_optimize_writes_schedules_with_their_provenance(optimized):
    schedule = dpdiff.Schedule.load(optimized / "dp_8.json")
    assert (schedule.steps, schedule.T) == (8, 4000)
    costs = dpdiff.Costs.load(optimized / "costs.npz")
    assert costs.variance == "optimal"
    assert schedule == dpdiff.solve(costs.smoothed()).schedule(8)
    about = schedule.provenance
    assert about["bits_per_dim"] == pytest.approx(costs.bound(schedule)[0])
    assert about["stderr"] > 0
    assert about["variance"] == "optimal"
    assert about["costs"]["data"] == "digits"
    assert about["costs"]["per_step"] == 2
    assert about["costs"]["model"] == dpdiff.load("digits").fingerprint
    assert (optimized / "dp_4.json").exists()


def test_solve_again_under_another_rule(optimized, tmp_path, capsys):
    arguments = ["--variance", "small", "--steps", "16", "--out", str(tmp_path)]
    assert main(["solve", str(optimized / "costs.npz"), *arguments]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.strip()[:2] in ("16", "al")]
    assert [row[0] for row in rows] == ["16", "all"]
    even, quadratic, best = map(float, rows[0][1:4])
    costs = dpdiff.Costs.load(optimized / "costs.npz").with_variance("small")
    for printed_bits, schedule in (
        (even, dpdiff.Schedule.even(4000, 16)),
        (quadratic, dpdiff.Schedule.quadratic(4000, 16)),
        (best, dpdiff.solve(costs.smoothed()).schedule(16)),
    ):
        assert printed_bits == pytest.approx(costs.bound(schedule)[0], abs=1e-4)


def test_sample_draws_what_the_library_draws(tmp_path):
    from PIL import Image

    picture = tmp_path / "s.png"
    arguments = ["--schedule", "quadratic:2", "--n", "4", "--seed", "5", "--variance", "large"]
    assert main(["sample", *arguments, "--out", str(picture)]) == 0
    denoiser = dpdiff.load("digits").with_variance("large")
    schedule = dpdiff.Schedule.quadratic(4000, 2)
    expected = image_grid(dpdiff.sample(denoiser, schedule, n=4, seed=5, progress=False).numpy())
    assert (np.asarray(Image.open(picture)) == expected).all()


def test_evaluate_prints_what_the_library_computes(capsys):
    assert main(["evaluate", "--schedule", "even:2", "dp:2", "--variance", "optimal"]) == 0
    lines = capsys.readouterr().out.splitlines()[3:]
    costs = dpdiff.load_costs("digits").with_variance("optimal")
    denoiser = dpdiff.load("digits").with_variance("optimal", costs)
    images = dpdiff.images("digits", split="test")
    schedules = dpdiff.Schedule.even(4000, 2), dpdiff.solve(costs.smoothed()).schedule(2)
    scores = [dpdiff.evaluate(denoiser, images, tau, progress=False) for tau in schedules]
    for line, score in zip(lines, scores, strict=True):
        assert float(line.split()[2]) == pytest.approx(score.mean, abs=1e-3)
        assert float(line.split()[3]) == pytest.approx(score.stderr, abs=1e-3)
    difference = [float(word) for word in lines[1].split()[-2:]]
    assert difference == pytest.approx(scores[1].minus(scores[0]), abs=1e-3)


def test_images_from_a_file(tmp_path):
    np.save(tmp_path / "images.npy", dpdiff.images("digits", split="test")[:3])
    images = dpdiff.images(str(tmp_path / "images.npy"))
    assert isinstance(images, np.memmap)
    assert (images == dpdiff.images("digits", split="test")[:3]).all()


def test_the_module_is_the_command():
    run = subprocess.run(
        [sys.executable, "-m", "dpdiff", "solve", "nothing.npz"], capture_output=True, text=True
    )
    assert run.returncode == 2
    assert run.stderr.startswith("dpdiff: error: cannot read nothing.npz")
    assert "Traceback" not in run.stderr


def test_importing_is_light():
    """Neither torch nor diffusers is loaded before it is needed."""
    code = "import sys, dpdiff, dpdiff.cli; print(*({'torch', 'diffusers'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_provenance_is_json(optimized):
    document = json.loads((optimized / "dp_4.json").read_text())
    assert document["format"] == "dpdiff-schedule"
