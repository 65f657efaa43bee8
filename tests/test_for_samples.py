"""`dpdiff optimize --for samples`: what it says, writes and refuses, and who can use it."""

import json
import re

import numpy as np
import pytest
from test_bad_inputs import content, place, words  # noqa: F401

import dpdiff
from dpdiff.cli import main
from dpdiff.trajectory import choose
from dpdiff.trajectory.choice import CANDIDATES, spent

FOR_SAMPLES = "optimize --for samples --model own:make"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One run on the digits with few calls, and what it printed."""
    folder = tmp_path_factory.mktemp("samples")
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda text, **_: printed.append(text))
        line = "optimize --for samples --steps 4 2 --calls 300 --out"
        assert main([*words(line), str(folder)]) == 0
    return folder, "\n".join(printed)


def test_solvers_are_those_of_the_library(made):
    folder, _ = made
    assert sorted(path.name for path in folder.iterdir()) == ["samples_2.json", "samples_4.json"]
    model = dpdiff.load("digits")
    for steps in (2, 4):
        solver = dpdiff.Schedule.load(folder / f"samples_{steps}.json")
        best = choose(model, steps, 300, batch_size=16, progress=False)
        assert solver == best.solver
        about, far = solver.provenance, best.comparison
        assert (about["model"], about["chosen"]) == ("digits", best.name)
        assert about["fingerprint"] == model.fingerprint
        assert about["noise_schedule"] == model.noise.fingerprint
        assert about["distance"] == far.mean(best.name) == min(map(far.mean, far.distances))


def test_it_says_the_price_and_what_solvers_are_worth(made):
    folder, printed = made
    assert re.match(r"2 times at most 300 network calls find solvers .* at \S+ ms a call", printed)
    rows = [line.split() for line in printed.splitlines()[-2:]]
    assert [row[0] for row in rows] == ["2", "4"]
    for row in rows:
        about = dpdiff.Schedule.load(folder / f"samples_{row[0]}.json").provenance
        numbers = [float(word) for word in row[-len(about["of"]) :]]
        assert min(numbers) == pytest.approx(about["distance"], abs=1e-4)
        assert int(row[1]) == about["held_out"]


@pytest.mark.parametrize("sampler", ["fitted", "2m", "ddim"])
def test_what_will_draw_decides(sampler, tmp_path, capsys):
    line = f"optimize --for samples --steps 3 --calls 300 --sampler {sampler} --no-compare --out"
    assert main([*words(line), str(tmp_path)]) == 0
    solver = dpdiff.Schedule.load(tmp_path / "samples_3.json")
    assert solver.provenance["sampler"] == sampler
    assert (solver.coefficients is not None) == (sampler == "fitted")
    assert "distance" not in capsys.readouterr().out


def test_a_file_brings_its_sampler(made, tmp_path):
    from PIL import Image

    from dpdiff.plotting.image_grid import image_grid

    path, picture = made[0] / "samples_4.json", tmp_path / "s.png"
    assert main(["sample", "--schedule", str(path), "--n", "4", "--out", str(picture)]) == 0
    solver = dpdiff.Schedule.load(path)
    assert solver.provenance["sampler"] == "fitted"
    drawn = dpdiff.sample(dpdiff.load("digits"), solver, 4, progress=False)
    assert (np.asarray(Image.open(picture)) == image_grid(drawn.numpy())).all()


def test_distances_may_be_of_features():
    model = dpdiff.load("digits")
    pixels, sums = (
        choose(model, 3, 300, features=features, progress=False).comparison
        for features in (None, lambda x: x.flatten(1).sum(1, keepdim=True))
    )
    assert sums.distances.keys() == pixels.distances.keys()
    assert (sums.mean("fitted"), pixels.mean("fitted")) == (
        pytest.approx(sums.distances["fitted"].mean()), pytest.approx(pixels.mean("fitted")),
    )  # fmt: skip
    assert sums.mean("fitted") != pixels.mean("fitted")


def test_it_is_exported(made, capsys):
    path = made[0] / "samples_4.json"
    assert main(["export", str(path), "--to", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(path.read_text())
    assert main(["export", str(path), "--to", "python", "--model", "digits"]) == 0
    assert "def sample_fitted(model, x" in capsys.readouterr().out
    assert main(["export", str(path), "--to", "diffusers-scheduler"]) == 0
    assert 'sampler="fitted"' in capsys.readouterr().out
    assert main(["export", str(path), "--to", "sigmas", "--model", "digits"]) == 2
    assert main(["export", str(path), "--to", "python", "--model", "fashion"]) == 2


@pytest.mark.parametrize(
    "line",
    [
        "--data good.npy",
        "--variance small",
        "--calls 20",
        "--sampler euler",
        "--regret 0.1",
        "--per-step 2",
        "--smooth 0",
        "--steps 7",
        "--steps 0",
        "--for pictures",
        "--model own:infinite",
        "--model own:conditional",
        "--out good.npy",
        "--out taken",
        "--seed -1",
    ],
)
def test_bad_lines_are_refused_in_one_line(line, place, monkeypatch, capfd):  # noqa: F811
    monkeypatch.chdir(place)
    (place / "taken").mkdir(exist_ok=True)
    (place / "taken/trajectories.parts").write_text("a file")
    before = content(place)
    code = main(words(f"{FOR_SAMPLES} --out new {line}"))
    printed = capfd.readouterr()
    assert (code, printed.err.count("\n")) == (2, 1), printed.err
    assert content(place) == before


@pytest.mark.parametrize(("steps", "calls"), [(3, 300), (4, 1024), (8, 1024)])
def test_no_more_calls_are_made_than_were_named(steps, calls):
    asked = []

    def network(x, index):
        asked.append(len(x))
        return 0.3 * x

    noise = dpdiff.NoiseSchedule.cosine(300)
    model = dpdiff.Denoiser(network, noise, predicts="x0", shape=(3,), identity="counted")
    choice = choose(model, steps, calls, progress=False)
    assert len(choice.candidates) == CANDIDATES
    assert calls / 2 < sum(asked) <= calls
    for budget in (4, 8, 12, 16, 24):
        n, nodes, noises = spent(budget, 1024, True, 1000)
        most = n * (nodes + 2 * (budget - 1)) + noises * (nodes + CANDIDATES * budget)
        assert most <= 1024
        assert noises >= 2
