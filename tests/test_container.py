"""A read-only installation without a HOME that can be written, as in a container."""

import os
import subprocess
import sys
from pathlib import Path

import dpdiff


def test_solve_runs_where_nothing_can_be_cached(tmp_path):
    """Files where the caches' folders would be keep even a superuser's tests from making them."""
    package, origin = tmp_path / "read-only" / "dpdiff", Path(dpdiff.__file__).parent
    for path in [*origin.rglob("*.py"), origin / "models" / "digits" / "costs.npz"]:
        copy = package / path.relative_to(origin)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        (copy.parent / "__pycache__").touch()
    surroundings = {
        name: value
        for name, value in os.environ.items()
        if name != "NUMBA_CACHE_DIR" and not name.startswith("XDG_")
    }
    surroundings |= {"HOME": "/dev/null", "PYTHONPATH": str(package.parent)}
    done = subprocess.run(
        [
            *(sys.executable, "-B", "-m", "dpdiff", "solve"),
            *(package / "models" / "digits" / "costs.npz", "--steps", "8", "--out", "schedules"),
        ],
        env=surroundings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "schedules" / "dp_8.json").exists()
    assert "within 0.1 bits/dim" in done.stdout
