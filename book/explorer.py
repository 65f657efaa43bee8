"""Make the data of the explorer page, from the bundled models.

    python book/explorer.py                    both models
    python book/explorer.py fashion            one of them
    python book/explorer.py --keep-samples     as above, but draw no new images

A model's file holds its smoothed costs as an ``.npz`` like those of ``Costs.save``: the page
reads the bundled models and a reader's own with the same code; the optimal schedules for
1 … 256 steps under the learned variance; the scores that ``benchmarks/scores.py`` has recorded; and
images drawn by every kind of schedule. Drawing takes about five minutes on one core for each
model; the rest takes seconds.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.polynomial import chebyshev
from PIL import Image

import dpdiff
from dpdiff.runtime.files import replacing

ROOT = Path(__file__).resolve().parent.parent
STATIC = ROOT / "book" / "static"
SCORES = ROOT / "benchmarks" / "results"
MODELS = {"digits": "8 × 8 digits", "fashion": "28 × 28 pictures of clothes"}
LARGEST = 256
IMAGES = {"digits": 8, "fashion": 5}  # drawn by each schedule
SAMPLED = {
    "digits": (*range(1, 33), *range(36, 65, 4), *range(80, 129, 16), *range(160, 257, 32)),
    "fashion": (2, 4, 8, 16, 32, 64, 128),
}
WHOLE = ("digits",)  # drawn with all steps, too: for fashion these would take most of the time
TOLERANCE = 1e-6  # bits/dim: what fewer Chebyshev nodes may change in the cost of a jump
NEEDED = ("mse", "decoder_fixed", "decoder_optimal", "decoder_learned_range", "prior")
SPREADS = ("penalty_var", "error_var", "penalty_error_cov")


def schedules(costs: dpdiff.Costs) -> dict[str, list[dpdiff.Schedule]]:
    """The three kinds of schedule for the budgets 1 … LARGEST."""
    budgets = range(1, LARGEST + 1)
    plan = dpdiff.solve(costs, max_steps=LARGEST)
    return {
        "even": [dpdiff.Schedule.even(costs.T, steps) for steps in budgets],
        "quadratic": [dpdiff.Schedule.quadratic(costs.T, steps) for steps in budgets],
        "dp": plan.schedules(budgets),
    }


def gaps(schedule: dpdiff.Schedule) -> list[int]:
    """The lengths of the jumps, the decoder's first: shorter to write than the nodes."""
    return np.diff(schedule.timesteps).tolist()


def resampled(values: np.ndarray, count: int) -> np.ndarray:
    """Functions known at Chebyshev's nodes, (T + 1, J), at fewer such nodes, (T + 1, count)."""
    old, new = (np.cos(np.pi * (np.arange(n) + 0.5) / n) for n in (values.shape[1], count))
    terms = np.linalg.solve(chebyshev.chebvander(old, len(old) - 1), values.T)[:count]
    return (chebyshev.chebvander(new, count - 1) @ terms).T


def rounded(values: np.ndarray) -> np.ndarray:
    """Float64 with the last 16 of its 52 bits zero: 1e-11 of the value, and far easier to pack."""
    shape, values = np.shape(values), np.ascontiguousarray(values, dtype=np.float64)
    return (values.view(np.int64) & np.int64(-65536)).view(np.float64).reshape(shape)


def slim(costs: dpdiff.Costs) -> dpdiff.Costs:
    """The same costs in fewer bytes: no more Chebyshev nodes than needed, spreads left unknown."""
    draw = np.random.default_rng(0)
    t = draw.integers(3, costs.T + 1, 4000)
    s = np.where(draw.random(4000) < 0.3, 1, draw.integers(1, t))
    means = {name: rounded(costs.statistics[name]) for name in NEEDED}
    for count in range(6, costs.statistics["penalty"].shape[1] + 1):
        learned = {
            name: rounded(resampled(costs.statistics[name], count)) for name in ("penalty", "error")
        }
        unknown = {name: np.full((costs.T + 1, count), np.nan, np.float32) for name in SPREADS}
        candidate = replace(costs, statistics=means | learned | unknown)
        change = np.abs(candidate.jump_costs(t, s) - costs.jump_costs(t, s))
        if change.max() / (costs.dims * np.log(2)) < TOLERANCE:
            break
    return candidate


def packed(costs: dpdiff.Costs) -> str:
    """The statistics in base64, as an ``.npz`` of version 1: without what tells errors."""
    about = {
        "format": "dpdiff-costs",
        "version": 1,
        "shape": list(costs.shape),
        "variance": costs.variance,
        "provenance": costs.provenance,
    }
    buffer = io.BytesIO()
    arrays = {"betas": costs.noise.betas, **costs.statistics}
    np.savez_compressed(buffer, about=json.dumps(about), **arrays)
    return base64.b64encode(buffer.getvalue()).decode()


def held_out(name: str) -> dict:
    """Recorded ``[mean, standard error]`` on held-out images, by rule, kind and budget."""
    recorded = json.loads((SCORES / f"{name}.json").read_text())
    kinds = ("even", "quadratic", "dp", "all")
    return {
        "images": recorded["images"],
        "images_for_all_steps": recorded["images_for_all_steps"],
        "bits": {
            rule: {kind: table[kind] for kind in kinds}
            for rule, table in recorded["bits_per_dim"].items()
        },
    }


def draw(
    denoiser: dpdiff.Denoiser, schedule: dpdiff.Schedule, sampler: str, n: int, levels: int
) -> np.ndarray:
    """A strip of n images side by side, one pixel between them, as uint8 grey."""
    samples = dpdiff.sample(
        denoiser, schedule, n=n, seed=0, sampler=sampler, progress=False
    ).numpy()
    steps = ((samples[:, 0] + 1) / 2 * (levels - 1)).round()
    framed = np.pad(steps * (255 / (levels - 1)), ((0, 0), (0, 0), (0, 1)), constant_values=255)
    return np.hstack(framed)[:, :-1].round().astype(np.uint8)


def png(strip: np.ndarray) -> str:
    """A grey picture as the base64 of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def samples(name: str, chosen: Mapping[str, list[dpdiff.Schedule]], full: dpdiff.Schedule) -> dict:
    """Images drawn from the same starting noise by every kind of schedule, by sampler."""
    denoiser, drawn = dpdiff.load(name), {}
    levels = min(denoiser.levels, 17)  # so few greys pack well, and look the same

    def strip(schedule: dpdiff.Schedule) -> str:
        return png(draw(denoiser, schedule, sampler, IMAGES[name], levels))

    for sampler in ("ancestral", "ddim"):
        drawn[sampler] = {"all": strip(full)} if name in WHOLE else {}
        for kind, members in chosen.items():
            drawn[sampler][kind] = {str(k): strip(members[k - 1]) for k in SAMPLED[name]}
            print(name, sampler, kind, flush=True)
    return drawn


def document(name: str, kept: dict | None = None) -> dict:
    """All that the page shows of a model."""
    costs = dpdiff.load_costs(name).smoothed()
    chosen, full = schedules(costs), dpdiff.Schedule(range(costs.T + 1))
    return {
        "name": name,
        "what": MODELS[name],
        "costs": packed(slim(costs)),
        "gaps": [gaps(schedule) for schedule in chosen["dp"]],
        "held_out": held_out(name),
        "images": IMAGES[name],
        "samples": kept or samples(name, chosen, full),
    }


def prefix(name: str) -> str:
    """A script, not JSON: pages opened from a disk may not fetch."""
    return f"(globalThis.dpdiffModels ??= {{}}).{name} = "


def read(name: str) -> dict:
    """The data as the page sees them."""
    text = (STATIC / f"explorer-{name}.js").read_text()
    return json.loads(text.removeprefix(prefix(name)).removesuffix(";\n"))


def main() -> None:
    """Write the files of the models that are asked for."""
    parser = argparse.ArgumentParser(description="Make the data of the explorer page.")
    parser.add_argument("models", nargs="*", metavar="model", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--keep-samples", action="store_true", help="keep the images drawn before")
    options = parser.parse_args()
    unknown = set(options.models) - set(MODELS)
    if unknown:
        parser.error(f"the bundled models are {', '.join(MODELS)}; got {', '.join(unknown)}")
    for name in options.models or MODELS:
        path, kept = STATIC / f"explorer-{name}.js", None
        if options.keep_samples:
            kept = read(name)["samples"]
        text = json.dumps(document(name, kept), separators=(",", ":"))
        with replacing(path) as file:
            file.write(f"{prefix(name)}{text};\n".encode())
        print(f"{path.relative_to(ROOT)}: {len(text) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
