"""The ``versions`` directive: a table of what built these pages, asked for at build time."""

from __future__ import annotations

import platform
import tomllib
from importlib.metadata import version
from pathlib import Path

from docutils import nodes
from packaging.requirements import Requirement
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parent.parent.parent


def installed() -> dict[str, str]:
    """Python, the package and everything it asks for by name, with their versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["book"]]
    names = dict.fromkeys(Requirement(line).name for line in wanted)
    return {"Python": platform.python_version()} | {name: version(name) for name in names}


class Versions(SphinxDirective):
    """``{versions}`` takes no arguments."""

    def run(self) -> list[nodes.Node]:
        """A table of two columns."""
        rows = [("package", "version"), *installed().items()]
        table, group = nodes.table(), nodes.tgroup(cols=2)
        table += group
        group += [nodes.colspec(colwidth=2), nodes.colspec(colwidth=1)]
        head, body = nodes.thead(), nodes.tbody()
        group += [head, body]
        for i, texts in enumerate(rows):
            row = nodes.row()
            row += [nodes.entry("", nodes.paragraph(text=text)) for text in texts]
            (body if i else head).append(row)
        return [table]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("versions", Versions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
