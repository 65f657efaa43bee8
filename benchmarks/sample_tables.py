"""The tables of few-step samples in the models' cards, made from what is recorded.

    python benchmarks/sample_tables.py fashion

prints the Markdown of ``results/samples_<model>.json`` and of ``results/few_steps_<model>_*.json``.
A test compares the cards with it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
STRIDES = ("even", "quadratic", "Karras", "log SNR")


def read(name: str) -> dict:
    """A recorded report."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def digits_of(error: float) -> int:
    """Decimals with which a number of this standard error is written."""
    return 2 if error >= 0.095 else 3 if error >= 0.0095 else 4


def pair(value: float, error: float, sign: str = "") -> str:
    """A number and its standard error."""
    places = digits_of(error)
    return f"{value:{sign}.{places}f} ± {error:.{places}f}"


def distances(report: dict) -> str:
    """How far samples are from those of many steps, a row a number of steps."""
    rivals = ["GITS", "Optimal Stepsize"]
    head = ["steps", "`recommend`", "`flow`", "best stride", "stride less `flow`", *rivals]
    rows = []
    for steps, schedules in report["distances"].items():
        places = digits_of(schedules["flow"]["mean"][1])

        def mean(name: str, some: dict = schedules, places: int = places) -> str:
            return f"{some[name]['mean'][0]:.{places}f}" if name in some else ""

        stride = min(STRIDES, key=lambda name, some=schedules: some[name]["mean"][0])
        ours = "moved" if "moved" in schedules else "guard"
        gap = pair(*schedules[stride]["over_flow"], "+")
        best = f"{mean(stride)} ({stride})"
        own = pair(*schedules[ours]["mean"])
        rows.append([steps, own, mean("flow"), best, gap, *map(mean, rivals)])
    return table(head, rows)


def frechet(report: dict) -> str:
    """Fréchet distances to held-out images, a row a schedule, and what to hold them against."""
    by_steps = report["distances"]
    names = list(next(iter(by_steps.values())))
    rows = [
        [f"`{name}`", *(pair(*schedules[name]["distance"]) for schedules in by_steps.values())]
        for name in names
    ]
    many = report["teacher"]
    caption = (
        f"{report['samples']:,} samples; as many real images: {pair(*report['floor'])}; "
        f"{many['samples']:,} samples of {many['steps']} DDIM steps: {pair(*many['distance'])}."
    )
    return caption + "\n\n" + table(["schedule", *(f"{steps} steps" for steps in by_steps)], rows)


def tables(model: str) -> dict[str, str]:
    """All that are recorded of a model, by the name of the file."""
    made = {f"samples_{model}": distances(read(f"samples_{model}"))}
    for path in sorted(RESULTS.glob(f"few_steps_{model}_*.json")):
        made[path.stem] = frechet(read(path.stem))
    return made


def main() -> None:
    """Print them."""
    for model in sys.argv[1:]:
        for name, text in tables(model).items():
            print(f"{name}.json\n\n{text}\n")


if __name__ == "__main__":
    main()
