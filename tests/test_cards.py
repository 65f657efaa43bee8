"""The README and the models' cards say what is recorded, to the digit."""

from pathlib import Path

import findings
import mixture
import pytest
import tables

import dpdiff
from dpdiff.models import BUNDLED, HOME

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "book" / "guide"


@pytest.mark.parametrize("model", BUNDLED)
def test_a_card_holds_every_recorded_table(model):
    card = (HOME / model / "README.md").read_text()
    made = tables.of_model(model)
    assert len(made) > 1
    for name, text in made.items():
        assert text in card, f"make it anew: python benchmarks/tables.py {model} ({name})"


@pytest.mark.parametrize(
    ("made", "pages"),
    [
        (tables.pictures(), [ROOT / "README.md", ROOT / "book/welcome.md", GUIDE / "pictures.md"]),
        (tables.likelihood(), [ROOT / "README.md", ROOT / "book/welcome.md"]),
        (tables.solvers("digits"), [GUIDE / "pictures.md"]),
        (tables.summary(), [GUIDE / "pictures.md"]),
    ],
    ids=["pictures", "likelihood", "solvers", "summary"],
)
def test_pages_hold_the_recorded_tables(made, pages):
    for page in pages:
        assert made in page.read_text(), "make it anew: python benchmarks/tables.py"


def test_a_card_holds_the_papers_two_findings():
    card = (HOME / "fashion" / "README.md").read_text()
    assert findings.markdown() in card, "make it anew: benchmarks/findings.py"


def test_the_first_finding_holds_at_every_budget():
    """Under the learned variance the optimal schedule has the fewest bits, there and here."""
    rows = findings.bits()
    assert rows["optimal"][0] == [4.29, 3.8, 3.65, 3.59]  # as printed in the paper
    for side in (0, 1):
        columns = zip(*(row[side] for row in rows.values()), strict=True)
        assert [min(column) for column in columns] == rows["optimal"][side]


def test_the_second_finding_holds_at_every_budget():
    """Ancestral samples of the optimal schedule are farther from images than the even stride's."""
    rows = findings.distances()
    assert rows["optimal"][0] == [184.0, 124.0, 71.15, 40.45]
    for side in (0, 1):
        for nearer in ("even", "optimal, reweighted"):
            pairs = zip(rows[nearer][side], rows["optimal"][side], strict=True)
            assert all(one < other for one, other in pairs), nearer
    for ours in findings.read("few_steps_fashion_ancestral_10000")["distances"].values():
        for nearer in ("even", "weighted"):
            excess, error = ours[nearer]["over_ELBO"]
            assert excess < -3 * error, "beyond the error"


def test_the_card_says_how_classes_are_mixed():
    card = (HOME / "fashion" / "README.md").read_text()
    assert mixture.markdown() in card, "make it anew: benchmarks/mixture.py"
    for model, recorded in tables.read("mixture")["models"].items():
        assert recorded["fingerprint"] == dpdiff.load(model).fingerprint


def test_the_card_says_what_the_search_gains():
    card = " ".join((HOME / "fashion" / "README.md").read_text().split())
    found = tables.read("frechet_search_fashion")["distances"]
    gains = [tables.pair(-found[k]["difference"][0], found[k]["difference"][1]) for k in "46"]
    assert f"lower it by {gains[0]} with 4 steps and by {gains[1]} with 6" in card


@pytest.mark.parametrize("rule", tables.RULES)
def test_from_8_steps_on_it_holds_under_every_variance(rule):
    report = tables.joined(tables.of_rules("fashion")[rule])
    assert (report["variance"], report["samples"]) == (rule, 10_000)
    assert report["distances"].keys() == {"4", "8", "16", "32", "64"}
    for steps, schedules in report["distances"].items():
        excess, error = schedules["even"]["over_ELBO"]
        assert int(steps) < 8 or excess < -3 * error, "beyond the error"


@pytest.mark.parametrize("model", BUNDLED)
def test_recorded_tables_are_of_this_model(model):
    own = dpdiff.load(model).fingerprint
    searched = [f"frechet_search_{model}"] if model in ("fashion", "fashion-short") else []
    for name in [*tables.recorded(model), *searched]:
        report = tables.read(name)
        of_costs = {"fingerprint": report.get("costs", {}).get("model")}
        assert report.get("model", of_costs)["fingerprint"] == own, name


@pytest.mark.parametrize(
    ("value", "error", "sign", "written"),
    [
        (1.2344, 0.0312, "", "1.234 ± 0.031"),
        (-1.2, 0.5, "+", "-1.20 ± 0.50"),
        (0.04, 0.0031, "+", "+0.0400 ± 0.0031"),
    ],
)
def test_numbers_are_written_as_surely_as_they_are_known(value, error, sign, written):
    assert tables.pair(value, error, sign) == written
