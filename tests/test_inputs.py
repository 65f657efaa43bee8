"""Bad input gets a clear error and leaves the disk alone."""

import json
import shutil

import numpy as np
import pytest
import torch

import dpdiff
from dpdiff import models
from dpdiff.cli import main
from dpdiff.costs import Costs, measure
from dpdiff.data import check
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.evaluation import evaluate
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import formats
from dpdiff.schedule import Schedule

NOISE = NoiseSchedule.cosine(20)


def silent(x, index):
    return 0 * x


def model(network=silent, **settings):
    return Denoiser(network, NOISE, **({"shape": (1, 4, 4), "levels": 17} | settings))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 1, 4, 4), int), "empty"),
        (np.zeros((3, 4, 5), int), "channels first"),
        (np.zeros((3, 1, 5, 4), int), r"\(1, 5, 4\)"),
        (np.full((3, 1, 4, 4), 1.5), "floats from 1.5 to 1.5"),
        (np.full((3, 1, 4, 4), np.nan), "floats from nan"),
        (np.zeros((3, 1, 4, 4), bool), "dtype bool"),
        (np.full((3, 1, 4, 4), 17), "from 17 to 17"),
        (np.full((3, 1, 4, 4), -1), "from -1 to -1"),
        ("pictures", "reads them"),
        (7, "got a int"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, message):
    for use in (
        lambda: measure(model(), images, per_step=128, progress=False),
        lambda: evaluate(model(), images, Schedule([0, 20]), progress=False),
    ):
        with pytest.raises(InputError, match=message):
            use()


def test_continuous_data_are_finite_floats():
    assert check(np.zeros((2, 3)), (3,), None).shape == (2, 3)
    for bad in (np.full((2, 3), np.nan), np.zeros((2, 3), int)):
        with pytest.raises(InputError, match="finite floats"):
            check(bad, (3,), None)


def test_a_broken_network_is_named_with_its_timestep():
    def nan_at_7(x, index):
        return torch.where(index.reshape(-1, 1, 1, 1) == 6, torch.nan, x)

    images = np.zeros((2, 1, 4, 4), int)
    with pytest.raises(InputError, match="not finite at timestep 7"):
        measure(model(nan_at_7), images, per_step=128, progress=False)
    with pytest.raises(InputError, match=r"returned .*shape .* expected .*2, 4, 4"):
        measure(model(silent, variance="learned_range"), images, per_step=128, progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"predicts": "noise"}, "predicts is one of eps, x0, v"),
        ({"variance": "beta"}, "variance is one of small, large"),
        ({"variance": "optimal"}, "found by measuring"),
        ({"levels": 1}, "at least 2"),
    ],
)
def test_settings_that_do_not_exist_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        model(**settings)


def test_learned_range_needs_a_network_that_learned_it():
    with pytest.raises(InputError, match="no variance output"):
        model().with_variance("learned_range")
    costs = measure(model(), np.zeros((2, 1, 4, 4), int), per_step=128, progress=False)
    with pytest.raises(InputError, match="know the variances small, large, optimal"):
        costs.with_variance("learned_range")


def test_networks_may_return_objects_with_a_sample():
    class Output:
        sample = torch.zeros(2, 1, 4, 4)

    prediction = model(lambda x, index: Output())(torch.ones(2, 1, 4, 4), 3)
    assert prediction.x0.shape == (2, 1, 4, 4)


def test_models_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(InputError, match="bundled name"):
        dpdiff.load("dogs")
    folder = tmp_path / "digits"
    shutil.copytree(models.HOME / "digits", folder)
    (folder / "dpdiff.json").write_text(
        '{"levels": 17}'
    )  # as of others, whose files have no digests
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot load the network"):
        dpdiff.load(folder)
    config = folder / "scheduler" / "scheduler_config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"variance_type": "learned"}))
    with pytest.raises(InputError, match="variance_type 'learned'"):
        dpdiff.load(folder)
    config.write_text("{")
    with pytest.raises(InputError, match="cannot read"):
        dpdiff.load(folder)


@pytest.fixture
def costs_file(tmp_path):
    costs = measure(model(), np.zeros((2, 1, 4, 4), int), per_step=128, progress=False)
    costs.save(tmp_path / "costs.npz")
    return tmp_path / "costs.npz"


def command(capsys, *arguments):
    code = main([str(a) for a in arguments])
    return code, capsys.readouterr()


def test_command_line_refuses_in_one_line(capsys, tmp_path, costs_file):
    whole = costs_file.read_bytes()
    truncated = tmp_path / "truncated.npz"
    truncated.write_bytes(whole[: len(whole) // 2])
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "nothing.png"
    for arguments in (
        ["solve", tmp_path / "missing.npz", "--out", tmp_path],
        ["solve", truncated, "--out", tmp_path],
        ["solve", costs_file, "--steps", "21", "--out", tmp_path],
        ["solve", costs_file, "--variance", "learned_range", "--out", tmp_path],
        ["measure", "--out", tmp_path / "no" / "costs.npz"],
        ["measure", "--data", tmp_path / "none.npy", "--out", tmp_path / "c.npz"],
        ["measure", "--per-step", "0", "--out", tmp_path / "c.npz"],
        ["measure", "--model", "dogs", "--out", tmp_path / "c.npz"],
        ["sample", "--schedule", "even:4001", "--out", out],
        ["sample", "--schedule", broken, "--out", out],
        ["sample", "--schedule", "dp:8", "--costs", costs_file, "--out", out],
        ["sample", "--n", "0", "--schedule", "even:2", "--out", out],
        ["evaluate", "--variance", "optimal", "--costs", costs_file],
        ["train", "dogs", "--out", tmp_path / "run"],
    ):
        code, printed = command(capsys, *arguments)
        assert code == 2, arguments
        assert printed.err.startswith("dpdiff: error: "), printed.err
        assert printed.err.count("\n") == 1, printed.err
        assert sorted(tmp_path.iterdir()) == before, arguments


def test_unknown_options_exit_with_two(capsys):
    assert main(["sample", "--colour", "red"]) == 2
    assert "--colour" in capsys.readouterr().err


def test_costs_of_another_version_are_refused(costs_file):
    formats.write_arrays(costs_file, {"format": "dpdiff-costs", "version": 3}, {})
    with pytest.raises(InputError, match="version 3"):
        Costs.load(costs_file)
