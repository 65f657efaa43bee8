"""The benchmarks are too long to run here, but each must at least find what it imports."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_finds_its_imports(script):
    code = f"import sys; sys.path.insert(0, {str(script.parent)!r}); import {script.stem}"
    subprocess.run([sys.executable, "-c", code], check=True)
