"""Build the HTML book: execute the lessons, fail on any warning, say where to open it.

The notebook cache knows a lesson's cells but not the package they import. So the build folder
belongs to one state of the package and its requirements, and starts anew when that changes.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

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


class Images(HTMLParser):
    """Collect the images of a page that say nothing to a screen reader."""

    def __init__(self) -> None:
        super().__init__()
        self.silent: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        alt = values.get("alt") or ""
        if tag == "img" and (not alt.strip() or alt == values.get("src")):
            self.silent.append(values.get("src") or "?")


def silent_images() -> list[str]:
    """Images in the built pages without a text alternative, as ``page: source``."""
    found = []
    for page in sorted(HTML.rglob("*.html")):
        parser = Images()
        parser.feed(page.read_text(encoding="utf-8"))
        found += [f"{page.relative_to(HTML)}: {source}" for source in parser.silent]
    return found


def main() -> int:
    renew(package_key())
    command = [Path(sys.executable).parent / "jupyter-book", "build", ROOT]
    code = subprocess.run([*command, "--nitpick", "--warningiserror", "--keep-going"]).returncode
    if code:
        # Sphinx warns about a page only when it reads it; the next run must read all of them.
        shutil.rmtree(BUILD / ".doctrees", ignore_errors=True)
        return code
    if silent := silent_images():
        print("Images without alt text:", *silent, sep="\n  ", file=sys.stderr)
        return 1
    print(f"\nThe book is ready. Open {(HTML / 'index.html').as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
