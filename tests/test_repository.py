"""The repository agrees with itself: versions, notebooks, pictures, packaging."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import dpdiff
from dpdiff import elbo, sampling
from dpdiff.version import __version__

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((ROOT / "lessons").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "book").rglob("*.md"))]


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def pins():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+( *;.*)?", line) for line in lines)
    return {name_of(line): line.split(";")[0].split("==")[1].strip() for line in lines}


def test_citation_names_the_current_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__


def test_changelog_begins_with_the_current_version():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert headings[0] == __version__


def test_every_direct_dependency_is_pinned_within_its_range():
    extras = PROJECT["optional-dependencies"]
    pinned = pins()
    kinds = [extras[kind] for kind in ("test", "book", "lab")]
    for requirement in [*PROJECT["dependencies"], *(line for kind in kinds for line in kind)]:
        lowest = re.search(r">=([\d.]+)", requirement)[1]
        version = pinned[name_of(requirement)]
        numbers = [[int(n) for n in re.findall(r"\d+", v)[:3]] for v in (version, lowest)]
        assert numbers[0] >= numbers[1], requirement


def test_binder_pins_what_the_requirements_pin():
    channels = yaml.safe_load((ROOT / "binder" / "environment.yml").read_text())["dependencies"]
    pinned = pins()
    for line in channels[-1]["pip"]:
        assert pinned[name_of(line)] == line.split("==")[1]
    torch = next(line for line in channels if str(line).startswith("pytorch"))
    assert torch.split("=")[1] == pinned["torch"]
    assert {name_of(r) for r in PROJECT["dependencies"]} <= {
        "torch",
        *(name_of(line) for line in channels[-1]["pip"]),
    }


def test_notebooks_open_in_jupyterlab_everywhere():
    """Without jupyterlab-myst, which shows no formula inside a folded solution."""
    assert "jupyter lab notebooks/" in (ROOT / "Makefile").read_text()
    extra = {name_of(line) for line in PROJECT["optional-dependencies"]["lab"]}
    assert "jupyterlab" in extra
    channels = yaml.safe_load((ROOT / "binder" / "environment.yml").read_text())["dependencies"]
    there = {name_of(line) for line in channels[-1]["pip"]}
    assert "jupyterlab" in there
    assert "jupyterlab-myst" not in there | extra
    buttons = yaml.safe_load((ROOT / "_config.yml").read_text())["launch_buttons"]
    assert buttons["notebook_interface"] == "jupyterlab"
    assert "urlpath=tree" not in (ROOT / "book" / "welcome.md").read_text()


# What MathJax, in the book and in JupyterLab, knows without settings of ours.
COMMANDS = set(
    re.findall(
        r"\w+",
        """
        aligned alpha approx bar begin beta big Big Bigg binom cases cdot cos delta Delta dot dots
        ell end eta exp frac gathered ge hat infty int kappa lambda lceil le left lfloor ln log
        longrightarrow Longrightarrow lvert lVert mathbb mathcal mathrm max mid min mp mu ne nu
        operatorname Phi pi pm prod propto qquad quad rceil rfloor rho right rvert rVert sigma sim
        sin sqrt sum tan tanh tau text texttt tfrac theta tilde times to underbrace varepsilon
        varphi Vert
        """,
    )
)


def formulas(text):
    """The formulas of a page, without its code."""
    text = re.sub(r"^( *)(`{3,})(?!\{).*?^\1\2", "", text, flags=re.M | re.S)
    text = re.sub(r"(?<!`)`[^`\n]+`(?!`)", "", text)
    return re.findall(r"\$\$.+?\$\$|\$[^$]+\$", text, flags=re.S)


def written(path):
    """The texts of a page or notebook that may hold formulas."""
    if path.suffix == ".md":
        return [path.read_text()]
    cells = json.loads(path.read_text())["cells"]
    captions = [
        cell["metadata"].get("mystnb", {}).get("figure", {}).get("caption", "") for cell in cells
    ]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"] + captions


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda p: p.name)
def test_formulas_use_no_macro(path):
    used = {
        command
        for text in written(path)
        for formula in formulas(text)
        for command in re.findall(r"\\([a-zA-Z]+)", formula)
    }
    assert not used - COMMANDS


def test_formulas_are_found_beside_code():
    text = "a $\\SNR(t)$ `$\\no$` and\n$$\n\\KL\n$$ (eq)\n```bash\necho $HOME $\\none$\n```\n"
    assert formulas(text) == ["$\\SNR(t)$", "$$\n\\KL\n$$"]


GREEK = "alpha beta delta Delta varepsilon eta kappa lambda mu nu Phi pi rho sigma tau theta ell"
DUMMIES = {"z"}  # of a derivation in each lesson
WORDS = re.compile(r"\\(mathrm|mathbb|mathcal|text|texttt|operatorname|begin|end)\s*\{[^}]*\}")


def symbols(text):
    """The letters of a page's formulas."""
    code = WORDS.sub(" ", " ".join(formulas(text)))
    greek = set(re.findall(r"\\([A-Za-z]+)", code)) & set(GREEK.split())
    return greek | set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", code)))


def test_notation_lists_every_symbol_of_more_than_one_lesson():
    used = [symbol for path in NOTEBOOKS for symbol in symbols("\n".join(written(path)))]
    listed = symbols((ROOT / "book" / "notation.md").read_text())
    assert {s for s in used if used.count(s) > 1} - DUMMIES <= listed
    assert symbols(r"$\mathrm{SNR}(t) \ge \sigma^2$ `$x$`") == {"t", "sigma"}


def test_the_book_defines_no_macro():
    assert "macros" not in (ROOT / "_config.yml").read_text()


def test_every_page_of_the_contents_exists():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [toc["root"], *(page["file"] for part in toc["parts"] for page in part["chapters"])]
    for file in files:
        assert any((ROOT / f"{file}{ending}").exists() for ending in (".md", ".ipynb")), file
    listed = {Path(file).name for file in files if file.startswith("lessons/")}
    assert listed == {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pictures_of_pages_exist_and_have_alt_text(page):
    text = page.read_text()
    assert "<img" not in text
    for alt, target in re.findall(r"!\[(.*?)\]\((\S+?)\)", text):
        assert len(alt) > 20, f"{page.name}: {target} has no alt text"
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
    for target, options in re.findall(
        r"^[:`]{3,}\{(?:figure|image)\} (\S+)\n(.*?)^[:`]{3,}", text, flags=re.M | re.S
    ):
        assert ":alt:" in options, f"{page.name}: {target} has no alt text"
        assert (page.parent / target).exists(), target


def test_every_claim_names_a_test_that_exists():
    text = (ROOT / "book" / "adds.md").read_text()
    named = re.findall(r"\[`(\w+)`\]\(\S+/(tests/\w+\.py)\)", text)
    for name, file in named:
        assert f"\ndef {name}(" in (ROOT / file).read_text(), f"{file}: {name}"
    claims = re.findall(r"\n: (.*?)(?=\n\n)", text, flags=re.S)
    assert len(claims) >= 10
    assert all("`test_" in claim for claim in claims)


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request):
    return json.loads(request.param.read_text())


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def printed(cell):
    """All stored text of a cell."""
    text = ""
    for output in cell["outputs"]:
        text += "".join(output.get("text", ""))
        text += "".join(output.get("data", {}).get("text/plain", ""))
    return text


def test_there_is_a_lesson():
    assert NOTEBOOKS


def test_notebook_was_run_from_top_to_bottom(notebook):
    counts = [cell["execution_count"] for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert any(printed(cell) for cell in code_cells(notebook))


def test_notebook_stores_text_alone(notebook):
    for cell in code_cells(notebook):
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr"
            assert not [kind for kind in output.get("data", {}) if kind.startswith("image/")]


def test_notebook_tells_nothing_of_the_machine_it_ran_on(notebook):
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    text = json.dumps(notebook)
    assert not re.search(r"/(home|Users|root|tmp)/", text)


def test_checked_outputs_are_stored(notebook):
    checked = [
        c for c in code_cells(notebook) if "nbval-check-output" in c["metadata"].get("tags", [])
    ]
    assert checked
    assert all(printed(cell) for cell in checked)


def test_every_drawing_cell_has_a_caption_and_alt_text(notebook):
    for cell in code_cells(notebook):
        shown = cell["metadata"].get("mystnb", {})
        assert ("<Figure" in printed(cell)) == bool(shown), cell["id"]
        if not shown:
            continue
        assert len(shown.get("image", {}).get("alt", "")) > 20, cell["id"]
        assert len(shown.get("figure", {}).get("caption", "")) > 20, cell["id"]


def test_every_exercise_has_a_solution(notebook):
    text = "\n".join(
        "".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown"
    )
    exercises = re.findall(r"\{exercise\}.*\n:label: (\S+)", text)
    assert len(exercises) >= 4
    assert not re.search(r"\{exercise\}.*`", text)  # a title with backquotes is not parsed
    assert sorted(exercises) == sorted(re.findall(r"\{solution-start\} (\S+)", text))


def test_solutions_and_hidden_checks_are_folded_in_jupyterlab(notebook):
    solving = False
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            solving = "{solution-start}" in text or (solving and "{solution-end}" not in text)
            continue
        tags = cell["metadata"].get("tags", [])
        folded = cell["metadata"].get("jupyter", {})
        hidden = solving or "remove-cell" in tags
        assert folded.get("source_hidden", False) == (hidden or "hide-input" in tags), cell["id"]
        assert folded.get("outputs_hidden", False) == hidden, cell["id"]
        # JupyterLab shows the first line of a folded cell.
        assert text.startswith("# Solution\n") or not solving, cell["id"]


def test_every_check_accepts_a_solution_and_refuses_wrong_answers(notebook):
    """The cells that show it run with the lesson; here, that none is missing."""
    code = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    checks = [name for source in code for name in re.findall(r"def (check_\w+)", source)]
    assert len(checks) >= 4
    for name in checks:
        others = [source for source in code if f"def {name}(" not in source]
        assert sum(len(re.findall(rf"refuses\(\s*{name},", s)) for s in others) >= 2, name
        assert any(re.search(rf"^{name}\(", s, flags=re.M) for s in others), name


def test_checks_stand_out_of_sight(notebook):
    """A check says what is right, so it is not where the answer is written."""
    for cell in code_cells(notebook):
        text, tags = "".join(cell["source"]), cell["metadata"].get("tags", [])
        if "remove-cell" not in tags:
            assert "def check_" not in text, cell["id"]
        elif "def check_" in text:
            assert re.match(r"(@.*\n)*def check_", text), cell["id"]


def test_no_file_names_a_package_registry():
    words = re.compile(r"(index-url|find-links)[ =]+\S*://|extra-index")
    for path in [ROOT / "requirements.txt", ROOT / "pyproject.toml", ROOT / "Makefile", *PAGES]:
        assert not words.search(path.read_text()), path.name


def test_the_notation_page_names_what_there_is():
    """Its last column says how each symbol is written in code: every such attribute exists."""
    denoiser, costs = dpdiff.load("digits"), dpdiff.load_costs("digits").with_variance("small")
    owners = {
        "costs": costs,
        "denoiser": denoiser,
        "noise": denoiser.noise,
        "plan": dpdiff.solve(costs, max_steps=2),
        "schedule": dpdiff.Schedule.even(costs.T, 2),
        "dpdiff": dpdiff,
        "elbo": elbo,
        "sampling": sampling,
    }
    page = (ROOT / "book" / "notation.md").read_text()
    named = set(re.findall(r"`(\w+)\.(\w+)[^`]*`", page))
    assert len(named) > 30
    for owner, attribute in sorted(named):
        assert hasattr(owners[owner], attribute), f"{owner}.{attribute}"
