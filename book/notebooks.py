"""Make the readers' notebooks out of the lessons: ``python book/notebooks.py``.

The lessons are written in MyST, which Colab does not render, and hold solutions and the tests of
their checks. A reader's notebook has plain Markdown, folded solutions and the same code: what is
in ``notebooks/`` is made here alone, and tested against its source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

ROOT = Path(__file__).resolve().parent.parent
READERS = ROOT / "notebooks"
BOOK = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["html"]["baseurl"]

ADMONITION = re.compile(r"^:::\{admonition\} ([^\n]*)\n(.*?)\n:::$", re.M | re.S)
EQUATION = re.compile(r"\$\$(((?!\$\$).)*?)\n\$\$ \(([\w-]+)\)", re.S)
EXERCISE = re.compile(r"^(`{3,})\{exercise\} ([^\n]*)\n:label: (\S+)\n\n(.*?)\n\1$", re.M | re.S)
START = re.compile(r"^```\{solution-start\} .*\n:class: dropdown\n```\n?", re.M)
END = re.compile(r"^```\{solution-end\}\n```\n?", re.M)
ROLE = re.compile(r"\{(eq|ref|numref|cite:p|cite:t)\}`([^`]+)`")
PICTURE = re.compile(r"\]\(\.\./book/figures/([\w.-]+)\)")  # which Sphinx copies to _images
LINK = re.compile(r"\]\((\d\d_\w+)\.ipynb(#[\w-]+)?\)")
ENTRY = re.compile(r"^@\w+\{(\w+),(.*?)^\}", re.M | re.S)


def lessons() -> list[Path]:
    """The lessons, in the order of the book."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [page["file"] for part in contents["parts"] for page in part["chapters"]]
    return [ROOT / f"{file}.ipynb" for file in files if file.startswith("lessons/")]


def references() -> dict[str, tuple[str, str]]:
    """Authors and year of everything in the bibliography."""
    entries = {}
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    for key, body in ENTRY.findall(text):
        names = re.search(r"author = \{(.*)\}", body)[1].split(" and ")
        names = [name.split(",")[0].strip("{} ") for name in names]
        who = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
        entries[key] = who, re.search(r"year = \{?(\d+)", body)[1]
    return entries


def numbered(book: dict[str, NotebookNode]) -> dict[str, tuple[str, str]]:
    """Lesson, and number or title there, of every label of a book."""
    labels = {}
    for lesson, notebook in book.items():
        text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
        figures = [c.metadata.mystnb.figure.name for c in notebook.cells if "mystnb" in c.metadata]
        labels |= {m[3]: (lesson, f"({i})") for i, m in enumerate(EQUATION.finditer(text), 1)}
        labels |= {name: (lesson, f"Figure {i}") for i, name in enumerate(figures, 1)}
        labels |= {label: (lesson, f"“{title}”") for _, title, label, _ in EXERCISE.findall(text)}
    return labels


@dataclass
class Reader:
    """One notebook on its way from a lesson to its reader."""

    lesson: str
    labels: dict[str, tuple[str, str]]
    sources: dict[str, tuple[str, str]]
    exercises: int = 0
    solution: list[str] | None = None
    cells: list[NotebookNode] = field(default_factory=list)

    def plain(self, text: str) -> str:
        """Markdown that every program renders."""
        text = ADMONITION.sub(self._admonition, text)
        text = EXERCISE.sub(self._exercise, text)
        text = EQUATION.sub(self._equation, text)
        text = ROLE.sub(self._role, text)
        text = PICTURE.sub(rf"]({BOOK}_images/\1)", text)
        return LINK.sub(rf"]({BOOK}lessons/\1.html\2)", text)

    def _admonition(self, match: re.Match[str]) -> str:
        lines = [f"**{match[1]}**", "", *match[2].split("\n")]
        return "\n".join(f"> {line}".rstrip() for line in lines)

    def _exercise(self, match: re.Match[str]) -> str:
        self.exercises += 1
        return f"### Exercise {self.exercises}: {match[2]}\n\n{match[4]}"

    def _equation(self, match: re.Match[str]) -> str:
        return f"$$\n{match[1].strip()} \\tag{{{self.labels[match[3]][1][1:-1]}}}\n$$"

    def _role(self, match: re.Match[str]) -> str:
        kind, target = match.groups()
        if kind.startswith("cite"):
            each = [self.sources[key.strip()] for key in target.split(",")]
            if kind == "cite:t":
                return ", ".join(f"{who} ({year})" for who, year in each)
            return f"({'; '.join(f'{who} {year}' for who, year in each)})"
        lesson, name = self.labels[target]
        return (
            name
            if lesson == self.lesson
            else f"{name} of [Lesson {int(lesson[:2])}]({lesson}.ipynb)"
        )

    def text(self, cell: NotebookNode) -> None:
        """A cell of text: a part of a solution is kept until the solution ends."""
        source = cell.source
        if START.search(source):
            source, self.solution = START.sub("", source), []
        ends = END.search(source) is not None
        source = self.plain(END.sub("", source)).strip()
        if self.solution is None:
            self.cells.append(new_markdown_cell(source, id=cell.id))
            return
        self.solution += [source] * bool(source)
        if ends:
            body = "\n\n".join(self.solution)
            folded = f"<details>\n<summary><b>Solution</b></summary>\n\n{body}\n\n</details>"
            self.cells.append(new_markdown_cell(folded, id=cell.id))
            self.solution = None

    def code(self, cell: NotebookNode) -> None:
        """A cell of code: solutions become text, and what tests the checks is left out."""
        tags = cell.metadata.get("tags", [])
        if self.solution is not None:
            source = cell.source.removeprefix("# Solution").strip()
            self.solution.append(f"```python\n{source}\n```")
        elif "remove-cell" not in tags:
            figure = cell.metadata.get("mystnb", {}).get("figure")
            title = self.labels[figure.name][1] if figure else "Code"
            self.cells.append(
                folded(cell.source, title, cell.id) if "hide-input" in tags else shown(cell)
            )
            if figure:
                caption = f"**{title}.** {figure.caption}"
                self.cells.append(new_markdown_cell(self.plain(caption), id=f"{cell.id}-caption"))


def shown(cell: NotebookNode) -> NotebookNode:
    return new_code_cell(cell.source, id=cell.id)


def folded(source: str, title: str, name: str) -> NotebookNode:
    """A cell whose code is folded, in JupyterLab and in Colab."""
    metadata = {"cellView": "form", "jupyter": {"source_hidden": True}}
    return new_code_cell(f"# @title {title}\n{source}", id=name, metadata=metadata)


def hidden(notebook: NotebookNode, wanted: Callable[[str], bool]) -> Iterator[NotebookNode]:
    """The cells that the book leaves out, of a certain kind."""
    for cell in notebook.cells:
        if "remove-cell" in cell.metadata.get("tags", []) and wanted(cell.source):
            yield cell


def reader(lesson: str, book: dict[str, NotebookNode]) -> NotebookNode:
    """The reader's notebook of a lesson."""
    notebook, made = book[lesson], Reader(lesson, numbered(book), references())
    for cell in notebook.cells:
        (made.text if cell.cell_type == "markdown" else made.code)(cell)
    (install,) = hidden(notebook, lambda source: "%pip install" in source)
    lines = [line for line in install.source.split("\n") if "import refuses" not in line]
    title, *rest = made.cells
    title.source += (
        f"\n\nThis is [a lesson of the book]({BOOK}lessons/{lesson}.html), where its results and "
        "pictures are shown. Run the cells from top to bottom to make your own."
    )
    setup = folded("\n".join(lines).rstrip(), "Set-up: run this cell first", install.id)
    checks = [cell.source for cell in hidden(notebook, lambda source: "def check_" in source)]
    place = next(i for i, c in enumerate(rest) if "## Exercises" in c.source) + 1
    tests = folded(
        "\n\n\n".join(checks), "The checks of the exercises: run this cell, too", "checks"
    )
    result = nbformat.v4.new_notebook(cells=[title, setup, *rest[:place], tests, *rest[place:]])
    result.metadata = notebook.metadata
    return result


def written(notebook: NotebookNode) -> str:
    """A notebook as it stands in its file."""
    return nbformat.writes(notebook) + "\n"


def readers() -> dict[str, str]:
    """What stands in every reader's notebook, by its name."""
    book = {path.stem: nbformat.read(path, as_version=4) for path in lessons()}
    return {f"{lesson}.ipynb": written(reader(lesson, book)) for lesson in book}


def main() -> None:
    READERS.mkdir(exist_ok=True)
    made = readers()
    for path in READERS.glob("*.ipynb"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (READERS / name).write_text(text, encoding="utf-8")
    print(f"{len(made)} notebooks in {READERS}")


if __name__ == "__main__":
    main()
