"""Make the data of the explorer page, from the bundled model.

Schedules are chosen on the smoothed costs under the learned variance, and their bits/dim are those
that the same costs say: the numbers of lesson 0. Scores on held-out digits are added where
``python benchmarks/scores.py digits --every 3`` has recorded them. Sampling takes about five
minutes on one core.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import dpdiff
from dpdiff.costs.costs import Costs
from dpdiff.runtime.files import replacing

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "book" / "static" / "explorer-data.js"
SCORES = ROOT / "benchmarks" / "results" / "digits.json"
PREFIX = "window.explorerData = "  # a script, not JSON: pages opened from a disk may not fetch
LARGEST = 256
DIGITS = 8  # images drawn by each schedule
SAMPLED = (*range(1, 33), *range(36, 65, 4), *range(80, 129, 16), *range(160, 257, 32))
CELLS = 100  # of the cost map, each way
SHADES = "0123456789abcdefghijklmnopqrstuvwxyz"  # one character a cell of the map
LEVELS = "0123456789abcdefg"  # and one a pixel: the 17 levels of the digits


def schedules(costs: Costs) -> dict[str, list[dpdiff.Schedule]]:
    """The three kinds of schedule for the budgets 1 … LARGEST."""
    budgets = range(1, LARGEST + 1)
    plan = dpdiff.solve(costs, max_steps=LARGEST)
    return {
        "even": [dpdiff.Schedule.even(costs.T, steps) for steps in budgets],
        "quadratic": [dpdiff.Schedule.quadratic(costs.T, steps) for steps in budgets],
        "dp": plan.schedules(budgets),
    }


def every_step(costs: Costs) -> dpdiff.Schedule:
    """The schedule that leaves out nothing."""
    return dpdiff.Schedule(range(costs.T + 1))


def bits(costs: Costs, schedule: dpdiff.Schedule) -> float:
    """Bits/dim by the costs, to four decimals."""
    return round(costs.bound(schedule)[0], 4)


def gaps(schedule: dpdiff.Schedule) -> list[int]:
    """The lengths of the jumps, the decoder's first: shorter to write than the nodes."""
    return np.diff(schedule.timesteps).tolist()


def cost_map(costs: Costs) -> dict:
    """``log10 L(t, s)`` in 36 shades; row i holds the jumps from ``t = (i + 1) T/CELLS``."""
    nodes = np.arange(CELLS + 1) * costs.T // CELLS
    rows = [np.log10(costs.rows(t, t + 1)[0, nodes[:i]]) for i, t in enumerate(nodes)][1:]
    low, high = min(row.min() for row in rows), max(row.max() for row in rows)
    shades = [((row - low) / (high - low) * 35).round().astype(int) for row in rows]
    return {
        "low": round(float(low), 3),
        "high": round(float(high), 3),
        "rows": ["".join(SHADES[shade] for shade in row) for row in shades],
    }


def held_out() -> dict:
    """Recorded ``[mean, standard error]`` on held-out digits, by kind and budget."""
    recorded = json.loads(SCORES.read_text())["bits_per_dim"]["learned_range"]
    return {kind: recorded[kind] for kind in ("even", "quadratic", "dp", "all")}


def draw(denoiser: dpdiff.Denoiser, schedule: dpdiff.Schedule, sampler: str) -> str:
    """Samples rounded to the digits' own levels, one character a pixel."""
    samples = dpdiff.sample(
        denoiser, schedule, n=DIGITS, seed=0, sampler=sampler, progress=False
    ).numpy()
    return "".join(LEVELS[level] for level in ((samples + 1) * 8).round().astype(int).ravel())


def samples(chosen: dict[str, list[dpdiff.Schedule]], full: dpdiff.Schedule, sampler: str) -> dict:
    """Digits drawn from the same starting noise by every kind of schedule."""
    denoiser = dpdiff.load("digits")
    drawn: dict = {"all": draw(denoiser, full, sampler)}
    for kind, members in chosen.items():
        drawn[kind] = {k: draw(denoiser, members[k - 1], sampler) for k in SAMPLED}
        print(sampler, kind, flush=True)
    return drawn


def document() -> dict:
    """All that the page shows."""
    costs = dpdiff.load_costs("digits").smoothed()
    chosen, full = schedules(costs), every_step(costs)
    return {
        "T": costs.T,
        "variance": costs.variance,
        "costs": costs.provenance,
        "log_snr": [None, *costs.noise.log_snr[1:].round(2).tolist()],
        "bits": {kind: [bits(costs, s) for s in members] for kind, members in chosen.items()},
        "all_bits": bits(costs, full),
        "held_out": held_out(),
        "gaps": {kind: [gaps(s) for s in members] for kind, members in chosen.items()},
        "map": cost_map(costs),
        "sampled": SAMPLED,
        "samples": {name: samples(chosen, full, name) for name in ("ancestral", "ddim")},
    }


def read() -> dict:
    """The data as the page sees them."""
    return json.loads(DATA.read_text().removeprefix(PREFIX).removesuffix(";\n"))


if __name__ == "__main__":
    text = PREFIX + json.dumps(document(), separators=(",", ":")) + ";\n"
    with replacing(DATA) as file:
        file.write(text.encode())
    print(f"{DATA.relative_to(ROOT)}: {len(text) / 1000:.0f} kB")
