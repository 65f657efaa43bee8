"""Bad command lines: exit code 2, one line on stderr, and the folder's content as it was."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
from diffusers import DDPMScheduler

import dpdiff
from dpdiff import cli, models
from dpdiff.cli import commands, main
from dpdiff.cli.estimate import announcement
from dpdiff.costs import measure
from dpdiff.denoiser import Denoiser
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import workers
from dpdiff.schedule import Schedule
from dpdiff.strides import spread
from dpdiff.training import RECIPES
from dpdiff.training.recipes import build_network

OWN = """
import numpy as np, torch, dpdiff
noise = dpdiff.NoiseSchedule.cosine(6, first_beta=0.0025)
def silent(x, index): return 0 * x
def make(): return dpdiff.Denoiser(silent, noise, shape=(1, 4, 4), levels=17)
def vectors(): return dpdiff.Denoiser(silent, noise, shape=(3,), levels=17)
def conditional():
    return dpdiff.Denoiser(lambda x, i, y: x, noise, shape=(1, 4, 4), levels=17)
def infinite(): return dpdiff.Denoiser(lambda x, i: x / 0, noise, shape=(1, 4, 4), levels=17)
def pairs(): return dpdiff.Denoiser(lambda x, i: (), noise, shape=(1, 4, 4), levels=17)
def wrong(): return dpdiff.Denoiser(lambda x, i: x[:, :, :2], noise, shape=(1, 4, 4), levels=17)
def broken(): return 1 / 0
def nothing(): return None
number = 3
def images(): return np.load("good.npy")
def few(): return images()[:1]
"""

SAMPLE = "sample --model own:make --schedule even:2 --n 1 --out"
MEASURE = "measure --model own:make --data good.npy --per-step 2 --out"
OPTIMIZE = "optimize --model own:make --data good.npy --per-step 2 --out"
EVALUATE = "evaluate --model own:make --data good.npy --schedule even:2"
EXPORT = "export even:2 --model own:make --to json"
LONG = "x" * 5000

LINES = [
    # no command, unknown words
    *("", "dance", "sample --colour red", "solve", "export even:2", "train", "measure extra"),
    *("export even:2 --to paper", "sample --sampler magic", "sample --precision int8"),
    *("sample --variance tiny", "measure --split half", "--nope", "evaluate --schedule"),
    # numbers
    *(f"{SAMPLE} o.png --seed {seed}" for seed in ("-1", "1.5", "x", "", "²", "1" * 41, "nan")),
    *(f"{SAMPLE} o.png --n {n}" for n in ("0", "-5", "2.5", "x", "1" * 5000, 10**12, 10**15)),
    *(f"{SAMPLE} o.png --eta {eta}" for eta in ("-0.1", "1.1", "nan", "inf", "x")),
    *(f"{SAMPLE} o.png --batch-size {size}" for size in ("0", "-1", "x", "1e3")),
    *(f"{MEASURE} c.npz --per-step {n}" for n in ("0", "1", "-2", "x", "3.5")),
    *(f"{MEASURE} c.npz --regret {e}" for e in ("0", "-1", "nan", "inf", "x")),
    f"{MEASURE} c.npz --regret 0.1 --per-step 4",
    *(f"{MEASURE} c.npz --batch-size {size}" for size in ("0", "none")),
    *(f"{OPTIMIZE} new --steps {steps}" for steps in ("0", "7", "-1", "x", "2 1.5", "", "2 9")),
    *(f"solve good.npz --out new --steps {steps}" for steps in ("0", "7", "²", "2 700")),
    *(f"{EVALUATE} --seed {seed}" for seed in ("-1", 2**64)),
    # places to write to
    *(f"{SAMPLE} {out}" for out in ("folder", "nodir/x.png", LONG, "good.npy/x.png", "/dev/full")),
    *(f"{MEASURE} {out}" for out in ("folder", "nodir/c.npz", LONG, "good.npy/c.npz", "''")),
    *(f"{OPTIMIZE} {out}" for out in ("good.npy", "good.npy/new", LONG, "''")),
    *(f"solve good.npz --out {out}" for out in ("good.npy", "good.npy/new/x", LONG, "''")),
    *(f"train digits --out {out}" for out in ("good.npy", "''", LONG)),
    f"{MEASURE} taken.npz",
    # devices
    *(f"{SAMPLE} o.png --device {name}" for name in ("nope", "''", "cuda:99", "mps", "meta", "1x")),
    *(f"train digits --out new --device {name}" for name in ("nope", "cuda:99")),
    # models
    *(f"sample --schedule even:2 --out o.png --model {name}" for name in ("dogs", "''", "folder")),
    *(f"sample --schedule even:2 --out o.png --model own:{name}" for name in ("none", "number")),
    *(f"sample --schedule even:2 --out o.png --model own:{name}" for name in ("broken", "nothing")),
    *(f"sample --schedule even:2 --out o.png --model {name}" for name in ("no.such:f", "own:")),
    *(f"{SAMPLE} o.png --model own:{name}" for name in ("conditional", "infinite", "pairs")),
    *(f"{SAMPLE} o.png --model own:{name}" for name in ("wrong", "vectors")),
    *(f"{MEASURE} c.npz --model own:{name}" for name in ("conditional", "infinite", "wrong")),
    *(f"{EVALUATE} --model own:{name}" for name in ("conditional", "infinite", "pairs")),
    *(f"{SAMPLE} o.png --model weights.{end}" for end in ("pth", "bin", "ckpt", "safetensors")),
    f"{SAMPLE} o.png --model weights.pt",
    f"{SAMPLE} o.png --model weights.pt --flags nothing.json",
    f"{SAMPLE} o.png --model digits --flags cifar10_vlb",
    f"{SAMPLE} o.png --variance learned_range",
    f"{SAMPLE} o.png --variance optimal",
    f"{SAMPLE} o.png --variance optimal --costs other.npz",
    # schedules
    *(
        f"{SAMPLE} o.png --schedule {text}"
        for text in (
            *("even:0", "even:7", "even:²", "even:", "even:x", "even:-1", "quadratic:9", "dp:2"),
            *("dp:0 --costs good.npz", "dp:7 --costs good.npz", "dp:2 --costs other.npz"),
            *("dp:2 --costs broken.npz", "dp:2 --costs none.npz", "dp:2 --costs folder", LONG),
            *("none.json", "broken.json", "good.npy", "folder", "''", "longer.json", "other.json"),
            "even:" + "9" * 5000,
        )
    ),
    *(f"{EVALUATE} {text}" for text in ("even:0", "even:1 even:9", "other.json", "none.json")),
    *(f"export {text} --to sigmas" for text in ("other.json", "own.json", "dp:5000", "none.json")),
    *(f"{EXPORT} --model {name}" for name in ("dogs", "own:nothing", "folder")),
    "export other.json --to k-diffusion --model own:make",
    "export dp:16 --to json --costs good.npz",
    "export longer.json --to json --model own:make",
    # images
    *(
        f"{MEASURE} c.npz --data {name}"
        for name in ("none.npy", "folder", "broken.npy", "wide.npy", "levels.npy", "empty.npy")
    ),
    *(f"{MEASURE} c.npz --data {name}" for name in ("''", "one.npy", "digits", "good.npz", LONG)),
    *(f"{EVALUATE} --data {name}" for name in ("none.npy", "levels.npy", "text.npy", "digits")),
    *(f"{OPTIMIZE} new --data {name}" for name in ("none.npy", "one.npy", "wide.npy")),
    *(f"{MEASURE} c.npz --data own:{name}" for name in ("none", "number", "broken", "nothing")),
    *(f"{MEASURE} c.npz --data {name}" for name in ("own:few", "own:make", "no.such:f", "own:")),
    # costs
    *(f"solve {name} --out new" for name in ("none.npz", "broken.npz", "folder", "good.npy", "''")),
    "solve good.npz --out new --variance learned_range",
    # recipes
    *("train dogs --out new", "train cifar10 --out new", "train digits --out new --data none"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a few good files and many bad ones."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "own.py").write_text(OWN)
    (folder / "folder").mkdir()
    images = np.random.default_rng(0).integers(0, 17, (4, 1, 4, 4)).astype(np.uint8)
    for name, array in {
        "good": images,
        "one": images[:1],
        "empty": images[:0],
        "wide": np.tile(images, 2),
        "levels": images + 17,
        "text": np.array(["a", "b"]),
    }.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "broken.npy").write_bytes((folder / "good.npy").read_bytes()[:70])
    own = NoiseSchedule.cosine(6, first_beta=0.0025)
    for name, network in {"good": lambda x, i: 0 * x, "other": lambda x, i: x}.items():
        model = Denoiser(network, own, shape=(1, 4, 4), levels=17)
        measure(model, images, per_step=2, progress=False).save(folder / f"{name}.npz")
    (folder / "broken.npz").write_bytes((folder / "good.npz").read_bytes()[:300])
    (folder / "broken.json").write_text("{")
    about = {"noise_schedule": "0123456789abcdef", "model": "dogs"}
    Schedule([0, 3, 6], about).save(folder / "other.json")
    Schedule([0, 3, 4000], {"noise_schedule": own.fingerprint}).save(folder / "own.json")
    Schedule([0, 9]).save(folder / "longer.json")
    for end in ("pth", "bin", "ckpt", "safetensors", "pt"):
        (folder / f"weights.{end}").write_bytes(b"weights")
    (folder / "taken.npz.parts").write_text("a file")
    return folder


def content(folder):
    return {
        path.relative_to(folder): path.is_dir() or path.read_bytes()
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


def words(line):
    return ["" if word == "''" else word for word in line.split()]


def test_there_are_enough_of_them():
    assert len(LINES) == len({*LINES}) >= 120


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:70] or "nothing")
def test_bad_command_lines_are_refused_in_one_line(line, place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    before = content(place)
    code = main(words(line))
    printed = capfd.readouterr()
    assert (code, printed.err.count("\n")) == (2, 1), printed.err
    assert printed.err.startswith("dpdiff: error: ")
    assert len(printed.err) < 2100
    assert content(place) == before


GOOD = [
    f"{MEASURE} c.npz --data own:images",
    f"{SAMPLE} o.png",
    f"{SAMPLE} o.png --schedule dp:2 --costs good.npz",
    f"{MEASURE} c.npz",
    f"{OPTIMIZE} new",
    f"{EVALUATE} quadratic:3",
    f"{EXPORT}",
    "solve good.npz --out new",
]


@pytest.mark.parametrize("line", GOOD)
def test_their_good_relatives_are_not_refused(line, place, tmp_path, monkeypatch, capfd):
    """The lines above are bad for one reason each, not for another."""
    shutil.copytree(place, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    if "good.npz --" in line or line.endswith("good.npz"):  # measured under the model's own name
        assert main([*words(MEASURE), "good.npz"]) == 0
    assert main(words(line)) == 0, capfd.readouterr().err


def test_usual_budgets_are_cut_to_the_grid(place, tmp_path, capsys):
    assert main(["solve", str(place / "good.npz"), "--out", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["dp_6.json"]
    assert " all " in capsys.readouterr().out


def test_what_is_assumed_is_said(capsys, tmp_path):
    assert main(["export", "even:2", "--to", "json"]) == 0
    assert "bundled model 'digits' is meant" in capsys.readouterr().err
    assert main(["sample", "--schedule", "even:1", "--n", "1", "--out", f"{tmp_path}/o.png"]) == 0
    assert "bundled model 'digits' is meant" in capsys.readouterr().err
    assert main(["export", "even:2", "--to", "json", "--model", "digits"]) == 0
    assert capsys.readouterr().err == ""


def test_levels_that_a_folder_does_not_tell_are_said_to_be_assumed(tmp_path, capsys):
    network = build_network(RECIPES["digits"])
    network.save_pretrained(tmp_path / "m")
    DDPMScheduler(20, variance_type="learned_range").save_pretrained(tmp_path / "m")
    draw = ["sample", "--model", f"{tmp_path}/m", "--schedule", "even:1", "--n", "1", "--out"]
    assert main([*draw, f"{tmp_path}/a.png"]) == 0
    assert "256 levels are assumed" in capsys.readouterr().err
    (tmp_path / "m" / "dpdiff.json").write_text('{"levels": 256}')
    assert main([*draw, f"{tmp_path}/b.png"]) == 0
    assert "assumed" not in capsys.readouterr().err


def test_costs_of_another_model_name_the_one_that_was_assumed(place, capsys):
    assert main(["export", "dp:16", "--to", "json", "--costs", str(place / "good.npz")]) == 2
    assert "'digits' is meant" in capsys.readouterr().err


def test_measuring_says_how_long_it_takes(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert main([*words(MEASURE), f"{tmp_path}/c.npz"]) == 0
    said = capsys.readouterr().out.splitlines()[0]
    each = r"measuring all 6 timesteps: at \S+ ms a network call, 12 calls take about 1 second"
    assert re.fullmatch(each, said)


@pytest.mark.parametrize("T", [150, 400])
def test_what_all_images_take_is_said_of_rounds_alone(toy, T):
    """A short grid is measured at every timestep at once, with the calls that were said first."""
    options = Namespace(per_step=None, calls=None, regret=0.01, batch_size=4)
    images = np.zeros((20, 1, 4, 4), dtype=int)
    model = replace(toy, noise=NoiseSchedule.cosine(T))
    line = announcement(model, images, options)
    assert ("if all images are needed" in line) == (T == 400)
    if T == 400:
        calls = 20 * len(spread(model.noise, 97))
        assert f"needed, {calls:,} calls" in line


def raising(error):
    def run(options):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyError("x"), 1, "dpdiff: this is a bug: KeyError: 'x'. Please report"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "dpdiff: error: No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "f"), 2, "dpdiff: error: f: Permis"),
        (MemoryError("Unable to allocate"), 2, "dpdiff: error: memory does not suffice"),
        (RuntimeError("CUDA out of memory"), 2, "dpdiff: error: memory does not suffice"),
        (KeyboardInterrupt(), 130, "dpdiff: interrupted"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
    ],
)
def test_every_other_failure_has_its_code(error, code, line, monkeypatch, capfd):
    monkeypatch.setattr(cli, "_silence_stdout", lambda: None)
    monkeypatch.setattr(commands, "solve", raising(error))
    assert main(["solve", "costs.npz"]) == code
    said = capfd.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == (line != "")


def test_debug_shows_where_it_comes_from(monkeypatch, capfd):
    monkeypatch.setattr(commands, "solve", raising(KeyError("x")))
    for line in (["--debug", "solve", "c.npz"], ["solve", "c.npz", "--debug"]):
        assert main(line) == 1
        assert "Traceback" in capfd.readouterr().err


def test_a_wrong_environment_is_bad_input(monkeypatch, capfd):
    monkeypatch.setenv("RANK", "x")
    assert main(["solve", "costs.npz"]) == 2
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    workers.join.cache_clear()
    assert main(["measure", "--out", "never.npz"]) == 2
    assert "torchrun" in capfd.readouterr().err
    workers.join.cache_clear()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_closed_pipes_and_full_disks_are_no_bugs(place):
    """In processes of their own: what Python says when it ends counts as well."""
    command = [sys.executable, "-m", "dpdiff", "export", str(place / "longer.json"), "--to", "json"]
    with open("/dev/full", "w") as full:
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 2
    assert run.stderr.splitlines() == ["dpdiff: error: No space left on device"]
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (run.returncode, run.stderr) == (141, "")


def test_a_disk_that_fills_leaves_no_schedule(place, tmp_path, monkeypatch, capsys):
    from dpdiff.runtime import files

    class Full:
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    replacing, opened = files.replacing, []

    def filling(path):
        opened.append(path)
        with replacing(path) as file:
            yield Full() if len(opened) == 2 else file

    from contextlib import contextmanager

    monkeypatch.setattr(files, "replacing", contextmanager(filling))
    out = tmp_path / "out"
    arguments = ["solve", str(place / "good.npz"), "--steps", "1", "2", "3", "--out", str(out)]
    assert main(arguments) == 2
    assert list(out.iterdir()) == []
    assert "No space left" in capsys.readouterr().err


def test_bundled_models_load_under_the_names_the_help_gives():
    assert json.loads((models.HOME / "digits" / "dpdiff.json").read_text())["levels"] == 17
    assert dpdiff.load("digits").levels == 17
