"""Several workers find what one finds, to the last bit; only the first one speaks and writes."""

import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import restarting
import torch
import working

import dpdiff
from dpdiff import models
from dpdiff.cli import main
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import Workers, workers
from dpdiff.runtime.workers import WorkerError

T = 12
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A pipeline folder with a network so small that loading it is most of the work."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    folder = tmp_path_factory.mktemp("model")
    noise = NoiseSchedule.cosine(T, first_beta=0.0025)
    denoiser = Denoiser(network, noise, variance="learned_range", shape=(1, 8, 8), levels=17)
    models.save(denoiser, folder)
    images = np.random.default_rng(0).integers(0, 17, size=(9, 1, 8, 8)).astype(np.uint8)
    np.save(folder / "images.npy", images)
    return folder


@pytest.fixture(scope="module")
def alone(model, tmp_path_factory):
    """The three commands in this process; the folder, and what they print."""
    folder, printed = tmp_path_factory.mktemp("alone"), io.StringIO()
    with redirect_stdout(printed):
        assert working.commands(model, f"{model}/images.npy", folder) == [0, 0, 0]
    return folder, printed.getvalue()


def run(launcher, program):
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *map(str, [*launcher, *program])],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


def measure(model, batch_size=4, **options):
    images = np.load(model / "images.npy")
    options |= {"per_step": 5, "batch_size": batch_size, "progress": False}
    return dpdiff.measure(dpdiff.load(model), images, **options)


def untimed(printed):
    """Without how long a network call takes."""
    return re.sub(r"at [\d.e+-]+ ms.* take about .*", "", printed)


def torchrun(count):
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]


def test_two_workers_write_what_one_writes(model, alone, tmp_path):
    folder, printed = alone
    begun = tmp_path / "costs.npz.parts"  # of a run that was killed, and was alone
    measure(model, resume=begun)
    for part in sorted(begun.glob("*.part"))[3:9]:
        part.unlink()
    program = [HERE / "working.py", model, f"{model}/images.npy", tmp_path]
    shared = run(torchrun(2), program)
    for name in ("costs.npz", "s.png"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["costs.npz", "s.png"]
    assert untimed(shared.stdout) == untimed(printed.replace(str(folder), str(tmp_path)))
    assert "worker 1: [0, 0, 0]" in shared.stderr
    assert "worker 0: [0, 0, 0]" in shared.stderr
    for title in ("measure", "sample", "evaluate"):  # one bar each, of the first worker
        assert f"{title} (1 of 2 workers): 100%" in shared.stderr
        assert "2 of 2" not in shared.stderr


def test_two_and_four_workers_write_what_one_writes(monkeypatch, tmp_path):
    """At every timestep, at a few of them, and in rounds; with a toy network, which begins soon."""
    monkeypatch.setattr(dpdiff, "load", dpdiff.load)  # the command replaces these two
    monkeypatch.setattr(dpdiff, "images", dpdiff.images)
    one = tmp_path / "1"
    one.mkdir()
    assert restarting.commands(one) == [0, 0, 0]
    names = [f"{amount}.npz" for amount in restarting.AMOUNTS]
    assert dpdiff.Costs.load(one / "few.npz").sample.images == 3
    assert dpdiff.Costs.load(one / "rounds.npz").sample.images == 20
    for count in (2, 4):
        folder = tmp_path / str(count)
        folder.mkdir()
        run(torchrun(count), [HERE / "restarting.py", folder])
        assert sorted(path.name for path in folder.iterdir()) == sorted(names)
        for name in names:
            assert (folder / name).read_bytes() == (one / name).read_bytes(), (count, name)


def test_in_this_process_too(model, alone, tmp_path):
    """The library's call, and what a worker of another count would have measured."""
    folder, _ = alone
    costs = dpdiff.Costs.load(folder / "costs.npz")
    same, other = measure(model), measure(model, batch_size=20)
    for name, values in costs.statistics.items():
        assert (same.statistics[name] == values).all()
        np.testing.assert_allclose(other.statistics[name], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 5, 20])
def test_shares_make_the_whole(count):
    pieces = list(range(13))
    shares = [Workers(rank, count).share(pieces) for rank in range(count)]
    assert sorted(piece for share in shares for piece in share) == pieces
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_silent_workers_error_is_told_with_its_number(monkeypatch, capsys):
    with pytest.raises(WorkerError, match="worker 2: broken"), Workers(2, 3).named():
        raise InputError("broken")
    with pytest.raises(InputError, match=r"^broken"), Workers(0, 3).named():
        raise InputError("broken")
    monkeypatch.setenv("RANK", "1")
    assert main(["solve", "missing.npz"]) == 2
    assert capsys.readouterr().err == ""  # the first worker says the same
    monkeypatch.setenv("RANK", "0")
    assert main(["solve", "missing.npz"]) == 2
    assert "missing.npz" in capsys.readouterr().err


def test_each_worker_takes_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert workers.device("cuda") == "cuda:1"
    assert workers.device("cuda:0") == "cuda:0"
    assert workers.device("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match=r"no GPU 2 .* has 2"):
        workers.device("cuda")


def test_without_torchrun_a_process_is_alone():
    assert workers.join() == Workers()
