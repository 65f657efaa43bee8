"""What a model draws from the same noises with few and with many steps: one sheet a model.

    python benchmarks/sheets.py fashion fashion-linear

A row is a schedule, a column a number of DDIM steps, the last one all T. ``flow`` comes from 32
noises on 256 nodes, ``likelihood`` from the shipped costs. Noises of seed 7, no picking. Pictures
go to ``book/figures/sheet_<model>.png``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from cases import faster, with_speed

import dpdiff
from dpdiff.models import BUNDLED
from dpdiff.plotting.style import STYLE

FIGURES = Path(__file__).parent.parent / "book" / "figures"
BUDGETS = (4, 8, 16, 32, 64)
SHOWN, SEED = (2, 3), 7


def schedules(denoiser: dpdiff.Denoiser, model: str) -> dict[str, dict[int, dpdiff.Schedule]]:
    """A row's name, and its schedules by the number of steps."""
    paths = dpdiff.trajectories(denoiser, 32, 4 * BUDGETS[-1], seed=0, progress=False)
    plans = {
        "likelihood": dpdiff.solve(dpdiff.load_costs(model).smoothed(), BUDGETS[-1]),
        "flow": dpdiff.solve(paths.costs(), BUDGETS[-1]),
    }
    T = denoiser.noise.T
    strides = {"even": dpdiff.Schedule.even, "quadratic": dpdiff.Schedule.quadratic}
    rows = {name: {k: stride(T, k) for k in BUDGETS} for name, stride in strides.items()}
    return rows | {name: {k: plan.schedule(k) for k in BUDGETS} for name, plan in plans.items()}


def drawn(
    denoiser: dpdiff.Denoiser, schedule: dpdiff.Schedule, shown: tuple[int, int] = SHOWN
) -> np.ndarray:
    """Samples as one picture, in rows and columns."""
    rows, columns = shown
    x = dpdiff.sample(denoiser, schedule, rows * columns, seed=SEED, sampler="ddim", progress=False)
    return np.block([list(row) for row in x[:, 0].numpy().reshape(rows, columns, *x.shape[-2:])])


def sheet(model: str, options: argparse.Namespace) -> None:
    """Draw one model's."""
    denoiser = faster(dpdiff.load(model, device=options.device), options)
    T = denoiser.noise.T
    rows, columns = schedules(denoiser, model), [*BUDGETS, T]
    best = drawn(denoiser, dpdiff.Schedule.even(T, T))
    figure, axes = plt.subplots(len(rows), len(columns), figsize=(9.6, 4.6))
    for line, (name, some) in zip(axes, rows.items(), strict=True):
        for ax, steps in zip(line, columns, strict=True):
            image = best if steps == T else drawn(denoiser, some[steps])
            ax.imshow(image, cmap="gray", vmin=-1, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(False)
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for ax, steps in zip(axes[0], columns, strict=True):
        ax.set_title(f"all {T:,} steps" if steps == T else f"{steps} steps")
    figure.savefig(FIGURES / f"sheet_{model}.png")
    plt.close(figure)


def main() -> None:
    """Draw all that are named."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", choices=BUNDLED[1:])
    with_speed(parser)
    options = parser.parse_args()
    with plt.rc_context({**STYLE, "savefig.dpi": 110}):
        for model in options.models:
            sheet(model, options)


if __name__ == "__main__":
    main()
