"""Measure how good samples of few steps look, beside how good their schedules' likelihood is.

Four schedules (even, quadratic, optimal, and optimal for the weighted cost) draw 2,000 digits each,
ancestrally and by DDIM, with 4, 8 and 16 steps. Sample i starts from the same noise everywhere, so
that schedules are compared pair by pair. The distances to the held-out digits go to
``benchmarks/results/quality.json``. It takes three to six minutes of one core.

Every distance stands with its standard error, over samples and held-out digits together. Beside it
stands its excess over the even schedule's, with the standard error of the difference: a bootstrap
that draws the same rows for both for the Fréchet distance, the spread over ten seeds of 200
samples for the kernel distance.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

import dpdiff
from dpdiff.data import scaled
from dpdiff.quality import digit_features, frechet_difference, frechet_distance, kernel_distance
from dpdiff.runtime.files import replacing

BUDGETS = (4, 8, 16)
SEEDS = range(10)
PER_SEED = 200
RESAMPLES = 200
RESULTS = Path(__file__).parent / "results"


def rounded(value: float, stderr: float) -> list[float]:
    """A value and its standard error, rounded."""
    return [round(float(value), 5), round(float(stderr), 5)]


def drawn(denoiser: dpdiff.Denoiser, schedule: dpdiff.Schedule, sampler: str) -> np.ndarray:
    """Features of the samples, seed after seed."""
    samples = [
        dpdiff.sample(
            denoiser, schedule, n=PER_SEED, seed=seed, sampler=sampler, progress=False
        ).numpy()
        for seed in SEEDS
    ]
    return digit_features(np.concatenate(samples))


def kernel_excess(features: np.ndarray, even: np.ndarray, real: np.ndarray) -> list[float]:
    """Kernel distance less that of the even schedule, seed by seed."""
    per_seed = [
        kernel_distance(ours, real).value - kernel_distance(theirs, real).value
        for ours, theirs in zip(*(np.split(x, len(SEEDS)) for x in (features, even)), strict=True)
    ]
    return rounded(np.mean(per_seed), np.std(per_seed, ddof=1) / np.sqrt(len(per_seed)))


def main() -> None:
    """Draw, measure and write the table."""
    torch.set_num_threads(1)
    denoiser, costs = dpdiff.load("digits"), dpdiff.load_costs("digits")
    costs.check_model(denoiser.fingerprint)
    plan = dpdiff.solve(costs.smoothed(), max_steps=max(BUDGETS))
    weighted = dpdiff.solve(costs.smoothed().weighted(), max_steps=max(BUDGETS))
    makers = {
        "even": lambda steps: dpdiff.Schedule.even(costs.T, steps),
        "quadratic": lambda steps: dpdiff.Schedule.quadratic(costs.T, steps),
        "dp": plan.schedule,
        "weighted": weighted.schedule,
    }
    real = digit_features(scaled(dpdiff.images("digits", split="test"), 17))
    others = digit_features(scaled(dpdiff.images("digits", split="validation"), 17))
    table: dict[str, dict] = {}
    for sampler in ("ancestral", "ddim"):
        for steps in BUDGETS:
            features = {
                kind: drawn(denoiser, make(steps), sampler) for kind, make in makers.items()
            }
            for kind, ours in features.items():
                row = table.setdefault(sampler, {}).setdefault(kind, {})
                row[steps] = {
                    "frechet": rounded(*frechet_distance(ours, real)),
                    "kernel": rounded(*kernel_distance(ours, real)),
                }
                if kind != "even":
                    row[steps]["frechet_excess"] = rounded(
                        *frechet_difference(ours, features["even"], real, resamples=RESAMPLES)
                    )
                    row[steps]["kernel_excess"] = kernel_excess(ours, features["even"], real)
                print(f"{sampler:9} {steps:3} {kind:9} {row[steps]}", flush=True)
    document = {
        "what": "distances of samples to held-out digits in classifier features: [value, stderr]",
        "samples": len(SEEDS) * PER_SEED,
        "seeds": list(SEEDS),
        "held_out": len(real),
        "validation_digits": {"kernel": rounded(*kernel_distance(others, real))},
        "costs": costs.provenance,
        "dpdiff": dpdiff.__version__,
        "distances": table,
    }
    RESULTS.mkdir(exist_ok=True)
    with replacing(RESULTS / "quality.json") as file:
        file.write(json.dumps(document, indent=1).encode())
    print("written to quality.json")


if __name__ == "__main__":
    main()
