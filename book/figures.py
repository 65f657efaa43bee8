"""Draw the picture of the README and the welcome page, from the bundled model.

The scores are those on held-out digits that ``python benchmarks/scores.py digits --every 3``
records. Sampling with all 4,000 steps takes about a minute.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

import dpdiff
from dpdiff import plotting

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "book" / "figures"
SCORES = ROOT / "benchmarks" / "results" / "digits.json"
SHOWN = (8, 32, 4000)


def curves() -> tuple[dict[str, dict[int, float]], float]:
    """Recorded bits/dim of the three kinds of schedule by budget, and that of all steps."""
    recorded = json.loads(SCORES.read_text())["bits_per_dim"]["learned_range"]
    found = {
        kind: {int(steps): score[0] for steps, score in recorded[kind].items()}
        for kind in ("even", "quadratic", "dp")
    }
    # All steps were scored on fewer images: take their distance from a schedule on the same ones.
    return found, recorded["dp"]["256"][0] - recorded["dp_minus_all"]["256"][0]


def teaser() -> Path:
    """Samples of the optimal schedules beside the bits/dim of all three kinds."""
    denoiser, plan = dpdiff.load("digits"), dpdiff.solve(dpdiff.load_costs("digits").smoothed())
    scores, best = curves()
    plotting.use_style()
    figure = plt.figure(figsize=(9.6, 3.3))
    grid = figure.add_gridspec(1, 4, width_ratios=(1, 1, 1, 2.4))
    for column, steps in enumerate(SHOWN):
        samples = dpdiff.sample(denoiser, plan.schedule(steps), n=15, seed=0)
        ax = plotting.plot_samples(samples, columns=3, ax=figure.add_subplot(grid[column]))
        ax.set_title(f"{steps:,} steps")
    ax = plotting.plot_bits(scores, best=best, ax=figure.add_subplot(grid[3]))
    ax.set_title("held-out digits")
    FIGURES.mkdir(exist_ok=True)
    path = FIGURES / "teaser.png"
    figure.savefig(path, dpi=160, metadata={"Software": None})
    return path


if __name__ == "__main__":
    print(teaser())
