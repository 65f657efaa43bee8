"""Score even, quadratic and optimal schedules of the bundled model on held-out digits.

Schedules come from the shipped costs. Each is scored directly on all held-out images, under every
variance rule; all 4,000 steps are scored on every third of the images, and the optimal schedules
are compared with that image by image. The table goes to ``benchmarks/results/digits.json``. A
network call serves all schedules and rules that ask for the same timestep, so everything takes
about twenty minutes on two cores.

With ``--raw`` the optimal schedules are chosen on the measured costs as they are, without
smoothing, and the table goes to ``digits_raw.json``: what Monte-Carlo noise does to a minimum.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import dpdiff
from dpdiff.files import replacing

BUDGETS = (8, 16, 32, 64, 128, 256)
THIN = 3
SEED = 1  # not the seed of the shipped costs
RESULTS = Path(__file__).parent / "results"


def remembered(network: torch.nn.Module) -> torch.nn.Module:
    """The network, asked once for every timestep: here the same images meet the same noise."""
    known: dict[int, Tensor] = {}

    class Remembered(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            t = int(index[0])
            if t not in known:
                known[t] = network(x, index).sample
            return known[t]

    return Remembered()


def told(bits: np.ndarray) -> list[float]:
    """Mean and standard error, rounded."""
    return [round(float(bits.mean()), 5), round(float(bits.std(ddof=1) / np.sqrt(len(bits))), 5)]


def main() -> None:
    """Score everything and write the table."""
    raw = "--raw" in sys.argv
    costs, images = dpdiff.load_costs("digits"), dpdiff.images("digits", split="test")
    denoiser = dpdiff.load("digits")
    costs.check_model(denoiser.fingerprint)
    whole, third = (remembered(denoiser.network) for _ in range(2))
    T, table = costs.T, {}

    def score(rule: str, schedule: dpdiff.Schedule, *, thin: bool = False) -> dpdiff.Score:
        ruled = replace(denoiser.with_variance(rule, costs), network=third if thin else whole)
        chosen = images[::THIN] if thin else images
        return dpdiff.bits_per_dim(
            ruled, chosen, schedule, seed=SEED, batch_size=len(chosen), progress=False
        )

    for rule in costs.variances:
        plan = dpdiff.solve((costs if raw else costs.smoothed()).with_variance(rule))
        makers = {
            "even": lambda steps: dpdiff.Schedule.even(T, steps),
            "quadratic": lambda steps: dpdiff.Schedule.quadratic(T, steps),
            "dp": plan.schedule,
        }
        table[rule] = {kind: {} for kind in (*makers, "all", "dp_minus_all")}
        all_steps = score(rule, dpdiff.Schedule(range(T + 1)), thin=True)
        table[rule]["all"][T] = told(all_steps.per_image)
        for steps in BUDGETS:
            found = {kind: score(rule, make(steps)).per_image for kind, make in makers.items()}
            for kind, per_image in found.items():
                table[rule][kind][steps] = told(per_image)
            table[rule]["dp_minus_all"][steps] = told(found["dp"][::THIN] - all_steps.per_image)
            line = "  ".join(f"{k} {v[steps][0]:.4f}" for k, v in table[rule].items() if steps in v)
            print(f"{rule:14} {steps:5} {line}  all {table[rule]['all'][T][0]:.4f}", flush=True)
    document = {
        "what": "bits/dim on held-out digits: [mean, standard error over images]",
        "images": len(images),
        "images_for_all_steps": len(images[::THIN]),
        "seed": SEED,
        "costs": costs.provenance,
        "dpdiff": dpdiff.__version__,
        "bits_per_dim": table,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / ("digits_raw.json" if raw else "digits.json")
    with replacing(path) as file:
        file.write(json.dumps(document, indent=1).encode())
    print(f"written to {path.name}")


if __name__ == "__main__":
    main()
