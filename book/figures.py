"""Draw the digits of the welcome page, from the bundled model.

The scores are those on held-out digits that ``python benchmarks/scores.py digits --every 3``
records. Sampling takes about a minute on one core, most of it for all 4,000 steps.
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
BUDGETS = (256, 32, 8)
DIGITS = 6


def scores() -> tuple[dict[str, dict[str, list[float]]], float]:
    """Recorded bits/dim by kind and budget (learned variance), and those of all steps."""
    table = json.loads(SCORES.read_text())["bits_per_dim"]["learned_range"]
    # All steps were scored on fewer images: take their distance from a schedule on the same ones.
    return table, table["dp"]["256"][0] - table["dp_minus_all"]["256"][0]


def teaser() -> Path:
    """Digits drawn in all steps, and in fewer by even and by optimal schedules."""
    denoiser = dpdiff.load("digits")
    plan = dpdiff.solve(dpdiff.load_costs("digits").smoothed(), max_steps=max(BUDGETS))
    table, all_bits = scores()
    full = dpdiff.Schedule(range(plan.T + 1))
    strips = [("all {:,} steps", full, all_bits, (0, slice(1, 3)))]
    for row, steps in enumerate(BUDGETS, start=1):
        even, best = dpdiff.Schedule.even(plan.T, steps), plan.schedule(steps)
        for kind, schedule, place in (("even", even, slice(0, 2)), ("dp", best, slice(2, 4))):
            text = "{} " + {"even": "even", "dp": "optimal"}[kind]
            strips.append((text, schedule, table[kind][str(steps)][0], (row, place)))

    plotting.use_style()
    figure = plt.figure(figsize=(5.4, 3.3))
    grid = figure.add_gridspec(4, 4)
    for text, schedule, bits, place in strips:
        samples = dpdiff.sample(denoiser, schedule, n=DIGITS, seed=0)
        ax = plotting.plot_samples(samples, columns=DIGITS, ax=figure.add_subplot(grid[place]))
        ax.set_title(f"{text.format(schedule.steps)}: {bits:.2f} bits/dim", fontsize=11.5)
    FIGURES.mkdir(exist_ok=True)
    path = FIGURES / "teaser.png"
    figure.savefig(path, dpi=200, metadata={"Software": None})
    return path


if __name__ == "__main__":
    print(teaser())
