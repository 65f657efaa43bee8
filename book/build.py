"""Build the HTML book: execute the lessons, fail on any warning, check the pages.

The notebook cache knows a lesson's cells but not the package they import. So the build folder
belongs to one state of the package and its requirements, and starts anew when that changes.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pages

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"
HTML = BUILD / "html"


def package_key() -> str:
    """Digest of everything a lesson's output depends on, besides the lesson."""
    digest = hashlib.sha256(sys.version.encode())
    files = [p for p in ROOT.glob("dpdiff/**/*") if p.is_file() and "__pycache__" not in p.parts]
    for path in sorted([*files, ROOT / "requirements.txt"]):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def renew(key: str) -> None:
    """Throw away what was built from another state of the package."""
    stamp = BUILD / "package.key"
    if not stamp.exists() or stamp.read_text() != key:
        shutil.rmtree(BUILD, ignore_errors=True)
        BUILD.mkdir()
        stamp.write_text(key)


def main() -> int:
    renew(package_key())
    command = [Path(sys.executable).parent / "jupyter-book", "build", ROOT]
    code = subprocess.run([*command, "--nitpick", "--warningiserror", "--keep-going"]).returncode
    if code:
        # Sphinx warns about a page only when it reads it; the next run must read all of them.
        shutil.rmtree(BUILD / ".doctrees", ignore_errors=True)
        return code
    if problems := pages.problems(HTML):
        print("The pages are built, but not right:", *problems, sep="\n  ", file=sys.stderr)
        return 1
    print(f"\nThe book is ready. Open {(HTML / 'index.html').as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
