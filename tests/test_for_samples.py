"""`dpdiff optimize --for samples`: what it says, writes and refuses, and who can use it."""

import json
import re

import numpy as np
import pytest
from test_bad_inputs import content, place, words  # noqa: F401

import dpdiff
from dpdiff.cli import main, samples

FOR_SAMPLES = "optimize --for samples --model own:make"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One run on the digits with few noises, and what it printed."""
    folder = tmp_path_factory.mktemp("samples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "NOISES", 3)
        patch.setattr(samples, "HELD_OUT", 4)
        printed = []
        patch.setattr("builtins.print", lambda text, **_: printed.append(text))
        assert main([*words("optimize --for samples --steps 4 2 --out"), str(folder)]) == 0
    return folder, "\n".join(printed)


def test_schedules_are_those_of_the_library(made):
    folder, _ = made
    assert sorted(path.name for path in folder.iterdir()) == ["samples_2.json", "samples_4.json"]
    model = dpdiff.load("digits")
    paths = dpdiff.trajectories(model, 3, batch_size=16, progress=False)
    for steps in (2, 4):
        schedule = dpdiff.Schedule.load(folder / f"samples_{steps}.json")
        best = paths.recommend(steps, n=4, progress=False)
        assert schedule == best.schedule
        about = schedule.provenance
        assert (about["model"], about["chosen"], about["sampler"]) == ("digits", best.name, "ddim")
        assert about["noise_schedule"] == model.noise.fingerprint
        assert about["distance"] == best.comparison.mean(best.name) / paths.spread


def test_it_says_the_price_and_what_schedules_are_worth(made):
    folder, printed = made
    price = r"192 network calls \(3 noises, 64 steps\) .* most 1,672 .* 4 other noises: at \S+ ms"
    assert re.match(price, printed)
    rows = [line.split() for line in printed.splitlines()[-2:]]
    assert [row[0] for row in rows] == ["2", "4"]
    for row in rows:
        about = dpdiff.Schedule.load(folder / f"samples_{row[0]}.json").provenance
        numbers = [float(word) for word in row[-7:]]
        assert numbers[:2] == pytest.approx([about["distance"], about["stderr"]], abs=1e-4)
        assert numbers[0] <= min(numbers[2:])


def test_a_file_brings_its_sampler(made, tmp_path):
    from PIL import Image

    from dpdiff.plotting.image_grid import image_grid

    path, picture = made[0] / "samples_4.json", tmp_path / "s.png"
    assert main(["sample", "--schedule", str(path), "--n", "4", "--out", str(picture)]) == 0
    schedule = dpdiff.Schedule.load(path)
    drawn = dpdiff.sample(dpdiff.load("digits"), schedule, 4, sampler="ddim", progress=False)
    assert (np.asarray(Image.open(picture)) == image_grid(drawn.numpy())).all()


def test_it_is_exported(made, capsys):
    path = made[0] / "samples_4.json"
    assert main(["export", str(path), "--to", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(path.read_text())
    assert main(["export", str(path), "--to", "sigmas", "--model", "digits"]) == 0
    assert "5 values for 4 steps" in capsys.readouterr().out
    assert main(["export", str(path), "--to", "sigmas", "--model", "fashion"]) == 2


@pytest.mark.parametrize(
    "line",
    [
        "--data good.npy",
        "--variance small",
        "--calls 100",
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
