"""Score even, quadratic and optimal schedules of a bundled model on held-out images.

    python benchmarks/scores.py digits --every 3
    torchrun --nproc-per-node 2 benchmarks/scores.py fashion --data FOLDER --images 128

Schedules come from the shipped costs. Each is scored directly on the held-out images, under every
variance rule; so are all steps, on every ``--every``-th image, and the optimal schedules are
compared with that image by image, with the same noise. A network call serves all schedules and
rules that ask for the same timestep. The table goes to ``benchmarks/results/<model>.json``.

With ``--raw`` the optimal schedules are chosen on the measured costs as they are, without
smoothing, and the table goes to ``<model>_raw.json``: what Monte-Carlo noise does to a minimum.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from cases import faster, machine, with_speed

import dpdiff
from dpdiff.evaluation import evaluate_many
from dpdiff.runtime.files import replacing
from dpdiff.runtime.workers import ALONE, Workers, join

BUDGETS = (8, 16, 32, 64, 128, 256)
BATCH = 32
SEED = 1  # not the seed of the shipped costs
RESULTS = Path(__file__).parent / "results"
Case = tuple[str, str, int]  # rule, kind and number of steps


def rounded(bits: np.ndarray) -> list[float]:
    """Mean and standard error, rounded."""
    return [round(float(bits.mean()), 5), round(float(bits.std(ddof=1) / np.sqrt(len(bits))), 5)]


def schedules(costs: dpdiff.Costs, *, raw: bool) -> dict[Case, dpdiff.Schedule]:
    """Every schedule to score, by rule, kind and number of steps."""
    by_rule = {}
    for rule in costs.variances:
        plan = dpdiff.solve((costs if raw else costs.smoothed()).with_variance(rule))
        for steps in BUDGETS:
            by_rule[rule, "even", steps] = dpdiff.Schedule.even(costs.T, steps)
            by_rule[rule, "quadratic", steps] = dpdiff.Schedule.quadratic(costs.T, steps)
            by_rule[rule, "dp", steps] = plan.schedule(steps)
    return by_rule


def scored(
    ruled: dict[str, dpdiff.Denoiser],
    few: dict[Case, dpdiff.Schedule],
    whole: dict[Case, dpdiff.Schedule],
    images: np.ndarray,
    every: int,
    workers: Workers = ALONE,
) -> tuple[dict[Case, np.ndarray], dict[Case, np.ndarray]]:
    """Bits/dim by image: of few steps on all images, of optimal and all steps on every n-th.

    Noise is an image's by its row, so the optimal schedules are scored anew beside all steps.
    """

    def score(wanted: dict[Case, dpdiff.Schedule], shown: np.ndarray) -> dict[Case, np.ndarray]:
        jobs = [(ruled[rule], schedule) for (rule, *_), schedule in wanted.items()]
        scores = evaluate_many(jobs, shown, seed=SEED, batch_size=BATCH, workers=workers)
        return {key: result.image_bits for key, result in zip(wanted, scores, strict=True)}

    if every == 1:
        bits = score(few | whole, images)
        return bits, bits
    optimal = {key: schedule for key, schedule in few.items() if key[1] == "dp"}
    return score(few, images), score(optimal | whole, images[::every])


def main() -> None:
    """Score everything and write the table."""
    options = parse()
    denoiser = faster(dpdiff.load(options.model, device=options.device), options)
    costs = dpdiff.load_costs(options.model)
    costs.check_model(denoiser.fingerprint)
    images = dpdiff.images(options.data or options.model, split="test")
    images = images[: options.images or len(images)]
    ruled = {rule: denoiser.with_variance(rule, costs) for rule in costs.variances}
    workers, start, where = join(), time.perf_counter(), machine()
    few, every = schedules(costs, raw=options.raw), dpdiff.Schedule(range(costs.T + 1))
    whole = {(rule, "all", costs.T): every for rule in ruled}
    bits, fewer = scored(ruled, few, whole, images, options.every, workers)
    table: dict = {
        rule: {k: {} for k in ("even", "quadratic", "dp", "all", "dp_minus_all")} for rule in ruled
    }
    for (rule, kind, steps), per_image in (fewer | bits).items():
        table[rule][kind][steps] = rounded(per_image)
        if kind == "dp":
            lost = fewer[rule, kind, steps] - fewer[rule, "all", costs.T]
            table[rule]["dp_minus_all"][steps] = rounded(lost)
    document = {
        "what": f"bits/dim on held-out images of {options.model}: [mean, standard error]",
        "images": len(images),
        "images_for_all_steps": len(images[:: options.every]),
        "seed": SEED,
        "precision": denoiser.precision,
        "workers": workers.count,
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "costs": costs.provenance,
        "dpdiff": dpdiff.__version__,
        "machine": where,
        "bits_per_dim": table,
        "of_the_first_32": {
            rule: round(float(bits[rule, "dp", BUDGETS[0]][:32].mean()), 5) for rule in ruled
        },
    }
    if not workers.first:
        return
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{options.model}{'_raw' if options.raw else ''}.json"
    with replacing(path) as file:
        file.write(json.dumps(document, indent=1).encode())
    print(f"written to {path.name}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="digits", help="bundled name")
    parser.add_argument("--data", help="the set's own files; the digits need none")
    parser.add_argument("--images", type=int, help="the first N held-out images (default: all)")
    parser.add_argument("--every", type=int, default=1, help="score all steps on every Nth image")
    parser.add_argument("--raw", action="store_true", help="choose on costs without smoothing")
    with_speed(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
