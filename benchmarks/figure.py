"""The book's picture of the solvers' speed, drawn from ``results/solvers.json``."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt

from dpdiff.plotting.style import STYLE

HERE = Path(__file__).parent
LOOK = {
    "listing": ("the paper's listing", "#30363d", "s"),
    "double loop": ("compiled double loop", "#d55e00", "^"),
    "sweep": ("sweep, float64", "#0072b2", "o"),
    "sweep32": ("sweep, float32", "#56b4e9", "D"),
    "envelope": ("envelope", "#009e73", "v"),
}


def draw(report: dict) -> None:
    """Write ``book/figures/solvers.png``: seconds against budgets, one panel a grid."""
    grids = sorted({row["T"] for row in report["times"]})
    with plt.rc_context({**STYLE, "savefig.dpi": 120}):
        figure, panels = plt.subplots(1, len(grids), figsize=(9, 4), sharey=True)
        for T, axes in zip(grids, panels, strict=True):
            for method, (label, colour, marker) in LOOK.items():
                rows = [r for r in report["times"] if r["T"] == T and r["method"] == method]
                budgets, seconds = [r["budgets"] for r in rows], [r["seconds"] for r in rows]
                axes.loglog(budgets, seconds, color=colour, marker=marker, label=label)
                for row in rows:
                    if row["extrapolated_from"]:
                        axes.loglog(row["budgets"], row["seconds"], marker, mec=colour, mfc="white")
            budgets = sorted({r["budgets"] for r in report["times"] if r["T"] == T})
            axes.set_xticks(budgets, [f"{k:,}" for k in budgets])
            axes.set_xticks([], minor=True)
            axes.set(title=f"T = {T:,}", xlabel="budgets solved for, K = 1 … this many")
        panels[0].set_ylabel("seconds")
        panels[0].plot([], [], "s", mec="#30363d", mfc="white", label="(extrapolated)")
        panels[0].legend(fontsize="small")
        target = HERE.parent / "book" / "figures" / "solvers.png"
        target.parent.mkdir(exist_ok=True)
        figure.savefig(target)
        plt.close(figure)


if __name__ == "__main__":
    draw(json.loads((HERE / "results" / "solvers.json").read_text()))
