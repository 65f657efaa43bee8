"""What further training did to a model: its validation bound, and samples of the same noises.

    python benchmarks/longer.py

draws ``book/figures/longer.png`` for ``fashion-short`` and ``fashion``: bits/dim on the 256
validation images against the number of updates, as each model's ``dpdiff.json`` has them, and
what both draw from noises of seed 7 in 64 even DDIM steps, no picking.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MultipleLocator, StrMethodFormatter
from sheets import drawn

import dpdiff
from dpdiff.models import HOME
from dpdiff.plotting.style import COLOURS, STYLE

TARGET = Path(__file__).parent.parent / "book" / "figures" / "longer.png"
MODELS = {"fashion-short": COLOURS["even"], "fashion": COLOURS["dp"]}
SHOWN, STEPS = (3, 8), 64


def curve(model: str) -> tuple[np.ndarray, np.ndarray]:
    """Updates and the bound after each."""
    about = json.loads((HOME / model / "dpdiff.json").read_text())
    updates, bits = zip(*about["validation_bits_per_dim"], strict=True)
    return np.array(updates), np.array(bits)


def main() -> None:
    """Draw both halves."""
    with plt.rc_context({**STYLE, "savefig.dpi": 130}):
        figure = plt.figure(figsize=(10, 3.8))
        grid = figure.add_gridspec(2, 2, width_ratios=(1, 0.95))
        plot, begun = figure.add_subplot(grid[:, 0]), 0
        for row, (model, colour) in enumerate(MODELS.items()):
            updates, bits = curve(model)
            plot.plot(begun + updates, bits, "o-", ms=3, color=colour, label=model)
            begun += updates[-1]
            denoiser = dpdiff.load(model)
            images = drawn(denoiser, dpdiff.Schedule.even(denoiser.noise.T, STEPS), SHOWN)
            picture = figure.add_subplot(grid[row, 1])
            picture.imshow(images, cmap="gray", vmin=-1, vmax=1)
            picture.set_title(f"{model}: {STEPS} steps from the same noises")
            picture.set_axis_off()
        plot.set(xlabel="updates of 64 images", ylabel="bits/dim on validation images")
        plot.xaxis.set_major_locator(MultipleLocator(8_000))
        plot.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        plot.set_ylim(top=3.8)  # the beginning is far above
        plot.legend()
        figure.savefig(TARGET)
        plt.close(figure)


if __name__ == "__main__":
    main()
