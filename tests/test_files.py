"""Writing is whole or nothing, on every system: what is missing elsewhere is hidden and tried."""

import os
import subprocess
import sys

import pytest

from dpdiff.errors import InputError
from dpdiff.runtime import files


@pytest.fixture(params=[False, True], ids=["without a name", "with a name"])
def target(tmp_path, monkeypatch, request):
    if request.param:
        monkeypatch.setattr(files, "_link", "/nowhere/{}".format)
    return tmp_path / "out" / "result"


def write(path, content=b"new"):
    with files.replacing(path) as file:
        file.write(content)


@pytest.mark.skipif(os.name == "nt", reason="no modes, and links for administrators only")
def test_modes_and_links_of_what_is_replaced_stay(target, tmp_path):
    target.parent.mkdir()
    target.write_bytes(b"old")
    target.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o600
    fresh = target.with_name("fresh")
    write(fresh)
    (target.parent / "plain").touch()
    assert fresh.stat().st_mode == (target.parent / "plain").stat().st_mode
    assert sorted(p.name for p in target.parent.iterdir()) == ["fresh", "plain", "result"]


def test_what_dead_writers_left_is_cleared_and_what_living_ones_hold_stays(target, monkeypatch):
    target.parent.mkdir()
    left = target.with_name(".result.00c0ffee.tmp")
    left.touch()
    others = target.with_name(".others.00c0ffee.tmp")
    others.touch()
    with files.replacing(target) as file:
        file.write(b"one")
        assert not left.exists()
        assert others.exists()
        write(target, b"two")  # finds the first one's temporary file, which is locked
    assert target.read_bytes() == b"one"
    assert {p.name for p in target.parent.iterdir()} == {"result", others.name}


def test_a_full_disk_leaves_none_of_several_files(target, monkeypatch):
    target.parent.mkdir()
    target.write_bytes(b"old")
    real, written = files.os.fsync, []

    def fsync(handle):
        written.append(handle)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(InputError, match="No space left"):
        files.write_all({target: b"new", target.with_name("b"): b"b", target.with_name("c"): b"c"})
    assert [p.name for p in target.parent.iterdir()] == ["result"]
    assert target.read_bytes() == b"old"


def test_what_cannot_be_written_is_told_before(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, "", "/dev/null", tmp_path / "no" / "x", tmp_path / "file" / "x"):
        with pytest.raises(InputError, match="cannot write"):
            files.writable(path)


BARE = """
import os, sys
sys.modules["fcntl"] = None
for name in ("O_TMPFILE", "O_CLOEXEC", "fchmod", "link"):
    delattr(os, name)
"""
IS_BARE = sys.modules.get("fcntl", files) is None
DYING = """
import os, sys
from dpdiff.runtime import files
files._link = "/nowhere/{}".format
with files.replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print(*os.listdir(os.path.dirname(sys.argv[1])))
    sys.stdout.flush()
    os._exit(1)
"""


def test_what_a_killed_process_leaves_is_cleared_by_the_next(tmp_path):
    target = tmp_path / "result"
    command = [sys.executable, "-c", BARE * IS_BARE + DYING, str(target)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert len(run.stdout.split()) == len(list(tmp_path.iterdir())) == 2, run.stderr
    write(target)
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


@pytest.mark.skipif(IS_BARE, reason="runs this file")
def test_nothing_is_asked_of_the_system_that_windows_lacks():
    """All of this file again, in a process that has none of it."""
    again = "import pytest\nsys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", BARE + again, "-q", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
