"""The two findings of Watson et al. (2021), in their numbers and in those of ``fashion``.

    python benchmarks/findings.py

prints a Markdown table: bits/dim, where the optimal schedule is the best, and Fréchet distances of
ancestral samples, where it is not. The paper's are those of its model of ImageNet 64, the only one
with a learned variance for which it reports both; ours are in ``results/fashion.json`` and
``results/few_steps_fashion_ancestral_10000.json``. Distances of the two are in the features of
different classifiers, so that only their order can be compared. A test compares the card with it.
"""

from __future__ import annotations

import json
from pathlib import Path

from tables import read, table

PAPER = Path(__file__).parent.parent / "tests" / "data" / "paper_tables.json"
THEIRS, OURS = "imagenet64_L_hybrid", "fashion"
BUDGETS = (8, 16, 32, 64)
# What a row is called, in the paper's two tables and in ours.
BITS = {"even": "even", "quadratic": "quadratic", "optimal": "dp"}
DISTANCES = {
    "even": ("ddpm_even", "even"),
    "quadratic": ("ddpm_quadratic", "quadratic"),
    "optimal": ("dp", "ELBO"),
    "optimal, reweighted": ("dp_mse_reweighted", "weighted"),
}

Row = tuple[list[float], list[float]]


def paper(measure: str, schedule: str) -> list[float]:
    """A row of the paper's, a number for each budget."""
    tables = json.loads(PAPER.read_text())["watson"]
    by_steps = dict(zip(tables["steps"], tables[measure][THEIRS][schedule], strict=True))
    return [by_steps[k] for k in BUDGETS]


def bits() -> dict[str, Row]:
    """Bits/dim by schedule: the paper's and ours, a number for each budget."""
    ours = read(OURS)["bits_per_dim"]["learned_range"]
    return {
        name: (paper("bits_per_dim", key), [ours[key][str(k)][0] for k in BUDGETS])
        for name, key in BITS.items()
    }


def distances() -> dict[str, Row]:
    """Fréchet distances likewise."""
    ours = read(f"few_steps_{OURS}_ancestral_10000")["distances"]
    return {
        name: (paper("fid_50k", theirs), [ours[str(k)][own]["distance"][0] for k in BUDGETS])
        for name, (theirs, own) in DISTANCES.items()
    }


def marked(values: list[float], rivals: list[list[float]], places: int) -> list[str]:
    """Numbers, in bold where none of the rivals', column by column, is smaller."""
    least = [min(column) for column in zip(*rivals, strict=True)]
    texts = [f"{value:.{places}f}" for value in values]
    return [
        f"**{text}**" if value == best else text
        for text, value, best in zip(texts, values, least, strict=True)
    ]


def markdown() -> str:
    """Both as one table; the best of each column stands in bold."""
    head = ["", "schedule", *(f"{whose}, {k}" for whose in ("paper", "here") for k in BUDGETS)]
    lines = []
    for measure, rows, paper_places, places in (
        ("bits/dim", bits(), 2, 2),
        ("Fréchet distance", distances(), 1, 2),
    ):
        theirs, ours = ([row[side] for row in rows.values()] for side in (0, 1))
        for number, (name, (their, our)) in enumerate(rows.items()):
            cells = marked(their, theirs, paper_places) + marked(our, ours, places)
            lines.append([measure if number == 0 else "", name, *cells])
    return table(head, lines)


if __name__ == "__main__":
    print(markdown())
