"""The readers' notebooks: made from the lessons, plain, and with the same code.

They are not run: their code cells are the lessons', which are.
"""

import ast
import builtins
import importlib.util
import re
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
READERS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made():
    """What the lessons say that the notebooks are."""
    return script("notebooks").readers()


@pytest.fixture(params=READERS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def cells(path):
    return nbformat.read(path, as_version=4).cells


def of_kind(cells, kind):
    return [cell.source for cell in cells if cell.cell_type == kind]


def untitled(source):
    return re.sub(r"\A# @title .*\n", "", source)


def test_each_lesson_has_one_that_is_up_to_date(made):
    assert sorted(made) == [path.name for path in READERS]
    for path in READERS:
        assert path.read_text(encoding="utf-8") == made[path.name], (
            f"{path.name} is not what its lesson says: run make notebooks"
        )


def test_no_myst_is_left(cells):
    for text in of_kind(cells, "markdown"):
        text = re.sub(r"^```(python|bash)\n.*?^```", "", text, flags=re.M | re.S)
        assert not re.search(r"\{[\w:-]+\}`", text), text  # roles
        assert not re.search(r"^\s*(`{3,}|:{3,})", text, flags=re.M), text  # directives
        assert not re.search(r"^:\w+:", text, flags=re.M), text  # options
        assert not re.search(r"\$\$ *\(", text), text  # labels
        assert text.count("$$") % 2 == 0, text


def test_links_lead_somewhere_from_everywhere(cells):
    """A notebook on Colab has no neighbours."""
    for text in of_kind(cells, "markdown"):
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            assert re.match(r"https://|#", target), target


def test_links_to_pages_are_links_to_lessons_that_exist(cells):
    base = yaml.safe_load((ROOT / "_config.yml").read_text())["html"]["baseurl"]
    pages = [
        page
        for text in of_kind(cells, "markdown")
        for page in re.findall(re.escape(base) + r"(\S+?)\.html", text)
    ]
    assert pages
    assert all((ROOT / f"{page}.ipynb").exists() for page in pages)


def test_solutions_are_folded_and_checks_are_out_of_the_way(cells):
    text = of_kind(cells, "markdown")
    exercises = [t for t in text if t.startswith("### Exercise")]
    solutions = [t for t in text if t.startswith("<details>") and t.endswith("</details>")]
    assert len(exercises) == len(solutions) >= 4
    for cell in cells:
        assert "refuses(" not in cell.source
        assert not cell.get("outputs")
        if "def check_" in cell.source:
            assert cell.id == "checks"
        if cell.source.startswith("# @title"):
            assert cell.metadata == {"cellView": "form", "jupyter": {"source_hidden": True}}


def test_the_first_code_installs_the_package(cells):
    address = re.search(r'"(git\+https://[^"]+)"', (ROOT / "README.md").read_text())[1]
    first = of_kind(cells, "code")[0]
    assert 'find_spec("dpdiff") is None' in first
    assert "%pip install --quiet" in first
    assert address.removeprefix("git+") in first


def test_code_is_the_lessons_own(path, cells):
    """So running the lessons runs these, too."""
    lesson = nbformat.read(ROOT / "lessons" / path.name, as_version=4).cells
    sources = {cell.id: cell.source for cell in lesson if cell.cell_type == "code"}
    own = [cell for cell in cells if cell.cell_type == "code"]
    for cell in own:
        if cell.id != "checks":
            kept = [line for line in sources[cell.id].split("\n") if "import refuses" not in line]
            assert untitled(cell.source) == "\n".join(kept).rstrip()
            continue
        checks = [source for source in sources.values() if "def check_" in source]
        assert untitled(cell.source) == "\n\n\n".join(checks)
    order = [cell.id for cell in own if cell.id != "checks"]
    assert order == [name for name in sources if name in order]


def plainly(source):
    return ast.parse(re.sub(r"^( *)[%!].*$", r"\1pass", source, flags=re.M))


def names(source):
    """Those that code reads, and those that it gives a meaning."""
    read, given = set(), set()
    for node in ast.walk(plainly(source)):
        if isinstance(node, ast.Name):
            (given if isinstance(node.ctx, ast.Store) else read).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            given.add(node.name)
        elif isinstance(node, ast.arg):
            given.add(node.arg)
        elif isinstance(node, ast.alias):
            given.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            given.add(node.name)
    return read, given


def test_nothing_rests_on_a_cell_that_was_left_out(cells):
    """Neither code nor solutions use a name that only the book's cells know."""
    known = set(dir(builtins)) | {"__file__"}
    code = [untitled(source) for source in of_kind(cells, "code")]
    for source in code:
        known |= names(source)[1]
    for source in code:
        assert not names(source)[0] - known, source
    solutions = [t for t in of_kind(cells, "markdown") if t.startswith("<details>")]
    for text in solutions:
        for source in re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S):
            read, given = names(source)
            known |= given
            assert not read - known, source


def test_the_check_of_names_can_fail():
    read, given = names("%pip install x\ny = [a for a in b]\ndef f(c): return c + d")
    assert read - given == {"b", "d"}


def test_buttons_lead_to_these():
    """On the welcome page, and in the book's header."""
    welcome = (ROOT / "book" / "welcome.md").read_text()
    assert len(re.findall(r"notebooks/00_main_job\.ipynb>", welcome)) == 2
    button = {"url": "https://binder.example/main?urlpath=lab/tree/lessons/00_main_job.ipynb"}
    source = {"label": "source-buttons", "buttons": [dict(button)]}
    launch = {"label": "launch-buttons", "buttons": [button]}
    script("extensions/tidy").launch(*[None] * 3, {"header_buttons": [source, launch]}, None)
    assert button["url"].endswith("/notebooks/00_main_job.ipynb")
    assert source["buttons"][0]["url"].endswith("/lessons/00_main_job.ipynb")
