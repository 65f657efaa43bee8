"""Score even, quadratic and optimal schedules of a bundled model on held-out images.

    python benchmarks/scores.py digits --every 3
    torchrun --nproc-per-node 2 benchmarks/scores.py fashion --data FOLDER --images 128

Schedules come from the shipped costs. Each is scored directly on the held-out images, under every
variance rule; so are all steps, on every ``--every``-th image, and the optimal schedules are
compared with that image by image, with the same noise. A network call serves all schedules and
rules that ask for the same timestep.

The table goes to ``benchmarks/results/<model>.json`` and grows there, 100 images at a time: a run
that was stopped goes on, and one with a larger ``--images`` adds what is missing, to the numbers
of a single run. A table of other costs, another precision or another ``--every`` is not added to;
move it away first.

With ``--raw`` the optimal schedules are chosen on the measured costs as they are, without
smoothing, and the table goes to ``<model>_raw.json``: what Monte-Carlo noise does to a minimum.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cases import faster, machine, with_speed

import dpdiff
from dpdiff.evaluation import evaluate_many
from dpdiff.runtime import Workers, join
from dpdiff.runtime.files import replacing
from dpdiff.runtime.workers import ALONE

BUDGETS = (8, 16, 32, 64, 128, 256)
CHUNK, BATCH = 100, 25
SEED = 1  # not the seed of the shipped costs
RESULTS = Path(__file__).parent / "results"
KINDS = ("even", "quadratic", "dp", "all", "dp_minus_all")
Case = tuple[str, str, int]  # rule, kind and number of steps


@dataclass(frozen=True)
class Mean:
    """A mean over n images, and its standard error."""

    n: int
    value: float
    stderr: float

    @classmethod
    def of(cls, bits: np.ndarray) -> Mean:
        """Of one number an image; a single image adds nothing to the squares within."""
        n = len(bits)
        stderr = bits.std(ddof=1) / np.sqrt(n) if n > 1 else 0
        return cls(n, float(bits.mean()), float(stderr))

    def with_others(self, other: Mean) -> Mean:
        """Over these images and others: squares within each, and what the means differ by."""
        n = self.n + other.n
        value = (self.n * self.value + other.n * other.value) / n
        squares = sum(x.n * (x.n - 1) * x.stderr**2 for x in (self, other))
        squares += self.n * other.n / n * (self.value - other.value) ** 2
        return Mean(n, value, float(np.sqrt(squares / (n * (n - 1)))))


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
    images: np.ndarray,
    every: int,
    *,
    first_row: int = 0,
    workers: Workers = ALONE,
) -> dict[Case, np.ndarray]:
    """Bits/dim by image: of few steps on all images, of all steps and of the optimal schedules'
    difference to them (``dp_minus_all``) on every n-th.

    Noise is an image's by its row, so the optimal schedules are scored anew beside all steps.
    """

    def score(wanted: dict[Case, dpdiff.Schedule], shown: np.ndarray, row: int) -> dict:
        jobs = [(ruled[rule], schedule) for (rule, *_), schedule in wanted.items()]
        scores = evaluate_many(
            jobs, shown, seed=SEED, batch_size=BATCH, first_row=row, workers=workers
        )
        return {key: result.image_bits for key, result in zip(wanted, scores, strict=True)}

    T = next(iter(few.values())).timesteps[-1]
    whole = {(rule, "all", T): dpdiff.Schedule(range(T + 1)) for rule in ruled}
    optimal = {key: schedule for key, schedule in few.items() if key[1] == "dp"}
    if every == 1:
        bits = fewer = score(few | whole, images, first_row)
    else:
        bits = score(few, images, first_row)
        fewer = score(optimal | whole, images[::every], first_row // every)
    lost = {
        (rule, "dp_minus_all", steps): fewer[rule, kind, steps] - fewer[rule, "all", T]
        for rule, kind, steps in optimal
    }
    return bits | {key: fewer[key] for key in whole} | lost


def grown(table: dict, bits: dict[Case, np.ndarray], n: int, n_all: int) -> dict:
    """A table of n images, and of n_all for all steps, with more of them."""
    new: dict = {rule: {kind: {} for kind in KINDS} for rule, *_ in bits}
    for (rule, kind, steps), per_image in bits.items():
        mean, count = Mean.of(per_image), n_all if kind in KINDS[-2:] else n
        if count:
            mean = Mean(count, *table[rule][kind][str(steps)]).with_others(mean)
        new[rule][kind][str(steps)] = [round(mean.value, 7), round(mean.stderr, 7)]
    return new


def main() -> None:
    """Score everything, chunk by chunk, and write the table."""
    options = parse()
    denoiser = faster(dpdiff.load(options.model, device=options.device), options)
    costs = dpdiff.load_costs(options.model)
    costs.check_model(denoiser.fingerprint)
    images = dpdiff.images(options.data or options.model, split="test")
    images = images[: options.images or len(images)]
    ruled = {rule: denoiser.with_variance(rule, costs) for rule in costs.variances}
    few, workers = schedules(costs, raw=options.raw), join()
    path = RESULTS / f"{options.model}{'_raw' if options.raw else ''}.json"
    document = {
        "what": f"bits/dim on held-out images of {options.model}: [mean, standard error]",
        "images": 0,
        "images_for_all_steps": 0,
        "every": options.every,
        "seed": SEED,
        "precision": denoiser.precision,
        "minutes": 0.0,
        "costs": costs.provenance,
        "dpdiff": dpdiff.__version__,
        "machine": machine(),
        "bits_per_dim": {},
    }
    if path.exists():
        document = known(path, document)
    size = CHUNK // options.every * options.every
    for row in range(document["images"], len(images), size):
        start = time.perf_counter()
        chunk = images[row : row + size]
        bits = scored(ruled, few, chunk, options.every, first_row=row, workers=workers)
        counts = row, document["images_for_all_steps"]
        document["bits_per_dim"] = grown(document["bits_per_dim"], bits, *counts)
        document["images"] = row + len(chunk)
        document["images_for_all_steps"] += len(chunk[:: options.every])
        minutes = document["minutes"] + (time.perf_counter() - start) / 60
        document["minutes"] = round(minutes, 1)
        if row == 0:
            document["of_the_first_32"] = {
                rule: round(float(bits[rule, "dp", BUDGETS[0]][:32].mean()), 5) for rule in ruled
            }
        if workers.first:
            with replacing(path) as file:
                file.write(json.dumps(document, indent=1).encode())
            print(f"{document['images']} images: {path.name}", flush=True)


def known(path: Path, fresh: dict) -> dict:
    """A table that is there, if more images can be added to it."""
    document = json.loads(path.read_text())
    for key in ("every", "seed", "precision", "costs"):
        if document.get(key) != fresh[key]:
            raise SystemExit(
                f"{path.name} has {key} {document.get(key)}, this run {fresh[key]}: "
                "move the table away first, or run as it was run"
            )
    return document


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="digits", help="bundled name")
    parser.add_argument("--data", help="the set's own files; the digits need none")
    parser.add_argument("--images", type=int, help="the first N held-out images (default: all)")
    parser.add_argument("--every", type=int, default=1, help="score all steps on every Nth image")
    parser.add_argument("--raw", action="store_true", help="choose on costs without smoothing")
    with_speed(parser)
    options = parser.parse_args()
    every, images = options.every, options.images
    if not 1 <= every <= CHUNK // 2:
        parser.error(f"--every is in 1…{CHUNK // 2}, got {every}")
    if images is not None and (images % every or images < 2 * every):
        parser.error(f"--images is a multiple of --every {every}, twice it or more; got {images}")
    return options


if __name__ == "__main__":
    main()
