"""Two pictures of schedules for samples, from what ``samples.py`` wrote.

``book/figures/sample_distances.png``: how far samples of few steps are from those of many, over
the same for ``flow``, against the number of steps. ``book/figures/same_noise.png``: what a model
draws from the same noises in 4, 6 and 8 DDIM steps of each schedule; seed 7, no picking.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dpdiff
from dpdiff.plotting import draw_schedule_line, finish_distances
from dpdiff.plotting.style import STYLE

HERE = Path(__file__).parent
FIGURES = HERE.parent / "book" / "figures"
ROWS = ("flow", "even", "quadratic", "Karras", "log SNR", "ELBO")
SHOWN, SEED = 8, 7


def distances(names: list[str]) -> None:
    """A panel a model: ratios to flow, with two standard errors."""
    figure, panels = plt.subplots(1, len(names), figsize=(4.2 * len(names), 4.4), squeeze=False)
    lines = {}
    for name, ax in zip(names, panels[0], strict=True):
        report = json.loads((HERE / "results" / f"samples_{name}.json").read_text())
        tables = {int(k): table for k, table in report["distances"].items()}
        for schedule in max(tables.values(), key=len):
            rows = {k: t[schedule]["ratio_to_flow"] for k, t in tables.items() if schedule in t}
            draw_schedule_line(ax, schedule, rows)
        finish_distances(ax, sorted(tables), "")
        ax.set_title(f"{name}, {report['settings']['n']} noises")
        lines |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    panels[0][0].set_ylabel("distance to many steps' samples, over flow's")
    figure.legend(lines.values(), lines.keys(), loc="outside right upper", fontsize="small")
    figure.savefig(FIGURES / "sample_distances.png")
    plt.close(figure)


def drawn(denoiser: dpdiff.Denoiser, schedule: dpdiff.Schedule) -> np.ndarray:
    """Samples side by side, shape (H, SHOWN W)."""
    x = dpdiff.sample(denoiser, schedule, SHOWN, seed=SEED, sampler="ddim", progress=False)
    return np.concatenate(list(x[:, 0].numpy()), axis=1)


def same_noise(name: str) -> None:
    """Samples of the same noises: a row a schedule, a column a number of steps."""
    report = json.loads((HERE / "results" / f"samples_{name}.json").read_text())
    denoiser, budgets = dpdiff.load(name), ("4", "6", "8")
    if denoiser.fingerprint != report["model"]["fingerprint"]:
        raise SystemExit(f"the results are of another {name}: run samples.py again")
    many = drawn(denoiser, dpdiff.Schedule.even(denoiser.noise.T, 100))
    labels = ["100 even steps", *ROWS]
    figure, axes = plt.subplots(len(labels), 3, figsize=(11, 3.6), width_ratios=[1, 1, 1])
    for column, k in zip(axes.T, budgets, strict=True):
        table = report["distances"][k]
        for ax, label in zip(column, labels, strict=True):
            image = many
            if label in table:
                image = drawn(denoiser, dpdiff.Schedule(table[label]["timesteps"]))
            ax.imshow(image, cmap="gray", vmin=-1, vmax=1, aspect="equal")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(False)
            ax.spines[:].set_visible(False)
        column[0].set_title(f"{k} steps")
    for ax, label in zip(axes[:, 0], labels, strict=True):
        ax.set_ylabel(label, rotation=0, ha="right", va="center")
    figure.savefig(FIGURES / "same_noise.png")
    plt.close(figure)


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", help="models with results, a panel each")
    parser.add_argument("--drawn", help="the model of the second picture; else the last name")
    options = parser.parse_args()
    with plt.rc_context({**STYLE, "savefig.dpi": 110}):
        distances(options.names)
        same_noise(options.drawn or options.names[-1])


if __name__ == "__main__":
    main()
