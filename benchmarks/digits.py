"""Score even, quadratic and optimal schedules of the bundled model on held-out digits.

Schedules come from the shipped costs (training images). Each is scored directly on all held-out
images, under every variance rule, and the table goes to ``benchmarks/results/digits.json``.
A network call serves all schedules and rules that ask for the same timestep, so the whole table
takes one pass over the grid: about a quarter of an hour on two cores.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import dpdiff
from dpdiff.files import replacing

BUDGETS = (8, 16, 32, 64, 128, 256)
SEED = 1  # not the seed of the shipped costs
RESULTS = Path(__file__).parent / "results" / "digits.json"


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


def main() -> None:
    """Score everything and write the table."""
    began = time.time()
    costs, images = dpdiff.load_costs("digits"), dpdiff.images("digits", split="test")
    denoiser = dpdiff.load("digits")
    costs.check_model(denoiser.fingerprint)
    network, T = remembered(denoiser.network), costs.T
    table: dict[str, dict[str, dict[str, list[float]]]] = {}
    for rule in costs.variances:
        ruled = replace(denoiser.with_variance(rule, costs), network=network)
        plan = dpdiff.solve(costs.with_variance(rule))
        kinds = {
            "even": lambda steps: dpdiff.Schedule.even(T, steps),
            "quadratic": lambda steps: dpdiff.Schedule.quadratic(T, steps),
            "dp": plan.schedule,
        }
        scores = table[rule] = {kind: {} for kind in kinds}
        for steps in (*BUDGETS, T):
            found = {}
            for kind, make in kinds.items():
                if steps == T and kind != "dp":
                    continue  # the schedule of all steps is the same for all
                score = found[kind] = dpdiff.bits_per_dim(
                    ruled, images, make(steps), seed=SEED, batch_size=len(images), progress=False
                )
                scores[kind][str(steps)] = [round(score.mean, 5), round(score.stderr, 5)]
            line = "  ".join(f"{k} {s.mean:.4f} ± {s.stderr:.4f}" for k, s in found.items())
            print(f"{rule:14} {steps:5} {line}", flush=True)
    document = {
        "what": "bits/dim on held-out digits: [mean, standard error over images]",
        "images": len(images),
        "seed": SEED,
        "costs": costs.provenance,
        "dpdiff": dpdiff.__version__,
        "seconds": round(time.time() - began),
        "bits_per_dim": table,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    with replacing(RESULTS) as file:
        file.write(json.dumps(document, indent=1).encode())
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
