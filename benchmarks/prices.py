"""What a schedule costs to choose: bits/dim lost against the calls that a measurement takes.

    python benchmarks/pool.py digits --knots 193 --images 143
    python benchmarks/pool.py digits --knots 0 --images 32 --name digits_dense
    python benchmarks/pool.py fashion --data FILES --knots 97 --images 200
    python benchmarks/prices.py

The truth is the shipped costs, smoothed; a schedule's regret is what it loses on these against
the best one. Measurements are drawn from pools of network outputs (see ``pool.py``), so that
none is asked twice. Up to the size of the pool, different seeds draw images that overlap like
random subsets of it; where a design takes more than half of them, the spread between seeds is
too small, and the report says how large the share is. All schedules, the best ones included,
are chosen among 512 timesteps.

Results go to ``benchmarks/results/prices.json``, the picture to ``book/figures/prices.png``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from pool import AROUND, load

import dpdiff
from dpdiff.costs import statistics
from dpdiff.costs.fit import Sample
from dpdiff.costs.thinned import Thinned

BUDGETS = (8, 16, 32, 64, 128, 256)
RESULTS = Path(__file__).parent / "results" / "prices.json"


class Pool:
    """Outputs of one model, and measurements drawn from them."""

    def __init__(self, model: str, name: str | None = None) -> None:
        self.costs = dpdiff.load_costs(model)
        self.values = load(name or model)
        self.timesteps = self.values.pop("timesteps")
        self.images = len(self.values.pop("images"))
        self.optimal = np.stack([self.values.pop(f"decoder_optimal_{i}") for i in range(3)])
        shipped = self.costs.smoothed().mse[self.timesteps]
        self.log_mse = np.log(shipped)[:, None]

    def decoder_optimal(self, knots: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Of images (g, n) by index, at their own timestep's estimate of m(t)."""
        mse = self.values["mse"][knots[:, None], rows].mean(1, keepdims=True)
        x = (np.log(mse) - self.log_mse[knots]) / AROUND[2]
        low, middle, high = (values[knots[:, None], rows] for values in self.optimal)
        return middle + x * (high - low) / 2 + x**2 * (high + low - 2 * middle) / 2

    def cheap(self, knots: np.ndarray, count: int, seed: int, *, fresh: bool = False) -> Sample:
        """A measurement of so many images at these knots (indices)."""
        rng = np.random.default_rng([seed, count, len(knots)])
        if fresh:
            rows = np.stack([rng.choice(self.images, count, replace=False) for _ in knots])
        else:
            rows = np.tile(rng.choice(self.images, count, replace=False), (len(knots), 1))
        values = {k: v[knots[:, None], rows] for k, v in self.values.items()}
        values["decoder_optimal"] = self.decoder_optimal(knots, rows)
        return Sample(self.costs.noise, self.timesteps[knots], values)

    def fitted(self, sample: Sample) -> dpdiff.Costs:
        """The costs that such a measurement gives."""
        found = sample.statistics(spread=False) | {"prior": self.costs.statistics["prior"]}
        return replace(self.costs, statistics=found, sample=sample)
