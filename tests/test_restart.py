"""A measurement that is killed, cut short or disturbed ends with the same file, or says why not."""

import errno
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import restarting
import torch
from restarting import IMAGES, SlowNetwork, T, command, toy

import dpdiff
from dpdiff.costs import measure
from dpdiff.errors import InputError
from dpdiff.runtime import checkpoints, formats
from dpdiff.runtime.batches import Batches, concatenated, cut, joined
from dpdiff.runtime.checkpoints import locked

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["restarting"])
HERE = str(Path(__file__).parent)

TRIED = 3  # calls before any measuring: the network is tried, and timed twice


@pytest.fixture(scope="module", autouse=True)
def _surroundings():
    """What `command` replaces comes back, and the server that forks finds `restarting`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dpdiff, "load", dpdiff.load)
        patch.setattr(dpdiff, "images", dpdiff.images)
        patch.setenv("PYTHONPATH", HERE + os.pathsep + os.environ.get("PYTHONPATH", ""))
        yield


@pytest.fixture(autouse=True)
def _count_anew(monkeypatch):
    monkeypatch.setattr(SlowNetwork, "calls", 0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "costs.npz"
    assert command(out) == 0
    assert [path.name for path in out.parent.iterdir()] == ["costs.npz"]
    return out.read_bytes()


@pytest.fixture
def interrupted(tmp_path, monkeypatch, capsys):
    """A run whose disk was full after ten blocks."""
    real, written = os.fsync, []

    def fsync(handle):
        written.append(handle)
        if len(written) > 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert command(tmp_path / "costs.npz") == 2
    assert "No space left" in capsys.readouterr().err.splitlines()[-1]
    assert blocks_in(tmp_path / "costs.npz") == 10
    assert not list((tmp_path / "costs.npz.parts").glob(".*"))
    return tmp_path / "costs.npz"


def blocks_in(out):
    return len(list(Path(f"{out}.parts").glob("*.part")))


@pytest.mark.parametrize("amount", restarting.AMOUNTS)
def test_killed_again_and_again_it_ends_with_the_same_bytes(tmp_path, amount, undisturbed):
    if amount != "dense":
        assert command(tmp_path / "calm.npz", amount=amount) == 0
        undisturbed = (tmp_path / "calm.npz").read_bytes()
    out, rng, kills = tmp_path / "costs.npz", random.Random(0), 0
    enough = 6 if amount == "rounds" else 60  # what is decided between rounds is not kept
    patience = 0.3 if amount == "dense" else 0.02  # a few timesteps are soon done
    while True:
        before, ready = blocks_in(out), PROCESSES.Event()
        process = PROCESSES.Process(target=restarting.measure_slowly, args=(out, amount, ready))
        process.start()
        assert ready.wait(60)
        while kills and process.is_alive() and blocks_in(out) == before:
            time.sleep(0.005)  # the first kill may come before any block, the others do not
        process.join(timeout=rng.uniform(0, patience) if kills < enough else None)
        if out.exists() or kills == enough:
            process.join()
            break
        process.kill()
        process.join()
        kills += 1
        # Killed between its last two acts, it leaves the whole file and blocks to clear away.
        assert not out.exists() or out.read_bytes() == undisturbed
    assert process.exitcode == 0
    assert kills >= 3
    assert out.read_bytes() == undisturbed
    assert not (tmp_path / "costs.npz.parts").exists()


def test_killed_after_a_full_disk_nothing_is_measured_twice(interrupted, undisturbed):
    before = SlowNetwork.calls
    assert command(interrupted) == 0
    assert SlowNetwork.calls - before == T - 10 + TRIED
    assert interrupted.read_bytes() == undisturbed


def test_damaged_blocks_are_measured_again(interrupted, undisturbed):
    parts = sorted(interrupted.with_name("costs.npz.parts").glob("*.part"))
    parts[0].write_bytes(b"")
    parts[1].write_bytes(parts[1].read_bytes()[:-7])
    for place, part in zip((3, 200, -100), parts[2:], strict=False):  # digest, header, numbers
        content = bytearray(part.read_bytes())
        content[place] ^= 1
        part.write_bytes(content)
    before = SlowNetwork.calls
    assert command(interrupted) == 0
    assert SlowNetwork.calls - before == T - 10 + 5 + TRIED
    assert interrupted.read_bytes() == undisturbed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", "1"], "seed was 0 and is now 1"),
        (["--per-step", "4"], "per_step was 6 and is now 4"),
        (["--batch-size", "3"], "batch_size was 6 and is now 3"),
    ],
)
def test_the_folder_of_another_job_is_refused(interrupted, capsys, change, message):
    before = {path: path.read_bytes() for path in interrupted.parent.rglob("*.part")}
    assert command(interrupted, *change) == 2
    printed = capsys.readouterr().err.splitlines()[-1]
    assert message in printed
    assert "delete the folder" in printed
    assert {path: path.read_bytes() for path in interrupted.parent.rglob("*.part")} == before


def test_other_images_and_models_are_other_jobs(tmp_path):
    folder = tmp_path / "parts"
    measure(toy(), IMAGES, resume=folder, per_step=128, progress=False)
    one_pixel = IMAGES.copy()
    one_pixel[5, 0, 3, 3] ^= 1
    with pytest.raises(InputError, match="image digest was"):
        measure(toy(), one_pixel, resume=folder, per_step=128, progress=False)
    with pytest.raises(InputError, match="images was 6 and is now 5"):
        measure(toy(), IMAGES[:5], resume=folder, per_step=128, progress=False)
    other = toy()
    other.network.scale.data += 0.1
    with pytest.raises(InputError, match="model was"):
        measure(other, IMAGES, resume=folder, per_step=128, progress=False)


def test_two_runs_never_write_the_same_file(tmp_path, capsys, undisturbed):
    out, ready = tmp_path / "costs.npz", PROCESSES.Event()
    holder = PROCESSES.Process(target=restarting.hold, args=(f"{out}.parts", ready))
    holder.start()
    assert ready.wait(60)
    assert command(out) == 2
    assert "another process writes to" in capsys.readouterr().err
    holder.kill()  # the lock dies with it
    holder.join()
    assert command(out) == 0
    assert out.read_bytes() == undisturbed


def test_a_folder_that_cannot_be_written_to():
    with tempfile.TemporaryDirectory() as log:
        Path(log).chmod(0o777)
        folder = Path(tempfile.mkdtemp())
        folder.chmod(0o555)
        arguments = (folder / "costs.npz", f"{log}/errors")
        process = PROCESSES.Process(target=restarting.measure_as_nobody, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == 2
        printed = Path(log, "errors").read_text()
        assert printed.startswith("dpdiff: error: ")
        assert "may not be written to" in printed, printed
        assert printed.count("\n") == 1
        assert not list(folder.iterdir())
        folder.rmdir()


def test_what_others_keep_in_the_folder_stays(tmp_path):
    folder = tmp_path / "costs.npz.parts"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    assert command(tmp_path / "costs.npz") == 0
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_run_that_never_began_leaves_nothing(tmp_path):
    assert command(tmp_path / "costs.npz", "--per-step", "1") == 2
    with pytest.raises(InputError, match="at least two images"):
        measure(toy(), IMAGES, per_step=1, resume=tmp_path / "parts", progress=False)
    with pytest.raises(RuntimeError), locked(tmp_path / "parts"), locked(tmp_path / "parts"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_without_a_folder_the_result_is_the_same(undisturbed, tmp_path):
    costs = measure(toy(), IMAGES, batch_size=6, per_step=128, progress=False)
    again = measure(
        toy(), IMAGES, batch_size=6, per_step=128, progress=False, resume=tmp_path / "parts"
    )
    third = measure(
        toy(), IMAGES, batch_size=6, per_step=128, progress=False, resume=tmp_path / "parts"
    )
    for name, values in costs.statistics.items():
        assert (again.statistics[name] == values).all()
        assert (third.statistics[name] == values).all()


@pytest.mark.parametrize(("T", "size"), [(1, 1), (10, 3), (500, 1), (501, 1), (4000, 2), (4000, 7)])
def test_blocks_are_whole_pieces(T, size):
    saved = []
    kept = SimpleNamespace(finished=lambda blocks: [], save=lambda *block: saved.append(block))
    pieces = cut(np.arange(1, T + 1), size)
    results = Batches(batch_size=size).run(
        torch.from_numpy, pieces, finish=lambda parts, t: {"t": concatenated(parts)}, kept=kept
    )
    assert joined(results)["t"].tolist() == list(range(1, T + 1))
    assert [block.tolist() for block, _ in saved] == [arrays["t"].tolist() for _, arrays in saved]
    assert len(saved) <= 500
    assert all(len(block) % size == 0 for block, _ in saved[:-1])


def test_a_finished_file_is_found_and_what_was_left_is_cleared(tmp_path, undisturbed, capsys):
    out, left = tmp_path / "costs.npz", tmp_path / "costs.npz.parts"
    assert command(out) == 0
    calls = SlowNetwork.calls
    left.mkdir()
    (left / "t000001.part").write_bytes(b"killed while it was cleared away")
    assert command(out) == 0
    assert SlowNetwork.calls == calls
    assert "finished before" in capsys.readouterr().out
    assert out.read_bytes() == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["costs.npz"]
    assert command(out, "--seed", "1") == 0  # another command
    assert SlowNetwork.calls == calls + T + TRIED
    assert out.read_bytes() != undisturbed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": [7777]}, "no block of this job"),
        ({"block": "all"}, "no block of this job"),
        ({"job": None}, "names no job"),
        ({}, "does not hold what its numbers need"),
    ],
)
def test_forged_blocks_are_refused(interrupted, capsys, change, message):
    part = sorted(interrupted.with_name("costs.npz.parts").glob("*.part"))[0]
    about, arrays = formats.read_arrays(part, checkpoints.FORMAT, checkpoints.VERSION)
    if not change:
        arrays["mse"] = arrays["mse"][:0]
    formats.write_arrays(part, about | change, arrays)
    assert command(interrupted) == 2
    assert message in capsys.readouterr().err


def test_blocks_of_an_older_version_are_refused(interrupted, capsys):
    for part in interrupted.with_name("costs.npz.parts").glob("*.part"):
        about, arrays = formats.read_arrays(part, checkpoints.FORMAT, checkpoints.VERSION)
        del about["job"]["blocks"]
        formats.write_arrays(part, about, arrays)
    assert command(interrupted) == 2
    assert "blocks was None and is now of version 3. To go on" in capsys.readouterr().err
