"""Draw the picture of the README and the welcome page, from the bundled model and its costs.

Takes a few minutes: it samples with all 4,000 steps and scores schedules on the held-out images.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

import dpdiff
from dpdiff import plotting

FOLDER = Path(__file__).resolve().parent / "figures"
BUDGETS = (8, 16, 32, 64, 128, 256)
SHOWN = (8, 32, 4000)


def kinds(plan: dpdiff.Plan, steps: int) -> dict[str, dpdiff.Schedule]:
    """The three schedules of one budget."""
    return {
        "even": dpdiff.Schedule.even(plan.T, steps),
        "quadratic": dpdiff.Schedule.quadratic(plan.T, steps),
        "dp": plan.schedule(steps),
    }


def teaser() -> Path:
    """Samples of the optimal schedules beside the bits/dim of all three kinds."""
    denoiser, costs = dpdiff.load("digits"), dpdiff.load_costs("digits")
    plan = dpdiff.solve(costs)
    held_out = dpdiff.measure(denoiser, dpdiff.images("digits", split="test"), seed=1, per_step=64)
    curves: dict[str, dict[int, float]] = {name: {} for name in plotting.COLOURS}
    for steps in BUDGETS:
        for name, schedule in kinds(plan, steps).items():
            curves[name][steps] = held_out.score(schedule)[0]
    best = held_out.score(dpdiff.Schedule.even(plan.T, plan.T))[0]

    plotting.use_style()
    figure = plt.figure(figsize=(9.6, 3.3))
    grid = figure.add_gridspec(1, 4, width_ratios=(1, 1, 1, 2.4))
    for column, steps in enumerate(SHOWN):
        samples = dpdiff.sample(denoiser, plan.schedule(steps), n=15, seed=0)
        ax = plotting.plot_samples(samples, columns=3, ax=figure.add_subplot(grid[column]))
        ax.set_title(f"{steps:,} steps")
    ax = plotting.plot_bits(curves, best=best, ax=figure.add_subplot(grid[3]))
    ax.set_title("held-out digits")
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "teaser.png"
    figure.savefig(path, dpi=160, metadata={"Software": None})
    return path


if __name__ == "__main__":
    print(teaser())
