"""The tables in the README and the models' cards, from what is recorded.

    python benchmarks/tables.py fashion

prints the Markdown of ``results/<model>.json``, bits/dim, and of ``samples_<model>.json`` and
``few_steps_<model>_*.json``, few-step samples; without a model, the README's. A test compares the
pages with it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
STRIDES = ("even", "quadratic", "Karras", "log SNR")
RIVALS = ("GITS", "Optimal Stepsize")
COLUMNS = ("`recommend`", "`flow`", "best stride", "stride less `flow`", *RIVALS)
MODELS = ("fashion", "fashion-linear", "digits")
SUMMARY = ("4", "8", "16", "32")


def read(name: str) -> dict:
    """A recorded report."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bounds(report: dict) -> str:
    """Bits/dim on held-out images, a row a variance rule and kind of schedule."""
    rows = []
    for rule, by_kind in report["bits_per_dim"].items():
        budgets = [*by_kind["even"], *by_kind["all"]]
        for kind in ("even", "quadratic", "dp"):
            cells = by_kind[kind] | (by_kind["all"] if kind == "dp" else {})
            bits = [f"{cells[k][0]:.3f}" if k in cells else "" for k in budgets]
            rows.append([f"`{rule}`" if kind == "even" else "", kind, *bits])
    return table(["variance", "schedule", *(f"{int(k):,}" for k in budgets)], rows)


def digits_of(error: float) -> int:
    """Decimals with which a number of this standard error is written."""
    return 2 if error >= 0.095 else 3 if error >= 0.0095 else 4


def pair(value: float, error: float, sign: str = "") -> str:
    """A number and its standard error."""
    places = digits_of(error)
    return f"{value:{sign}.{places}f} ± {error:.{places}f}"


def row(schedules: dict) -> list[str]:
    """What is said of one number of steps."""
    places = digits_of(schedules["flow"]["mean"][1])

    def mean(name: str) -> str:
        return f"{schedules[name]['mean'][0]:.{places}f}" if name in schedules else ""

    stride = min(STRIDES, key=lambda name: schedules[name]["mean"][0])
    ours = "moved" if "moved" in schedules else "guard"
    gap = pair(*schedules[stride]["over_flow"], "+")
    best = f"{mean(stride)} ({stride})"
    return [pair(*schedules[ours]["mean"]), mean("flow"), best, gap, *map(mean, RIVALS)]


def distances(report: dict) -> str:
    """How far samples are from those of many steps, a row a number of steps."""
    rows = [[steps, *row(schedules)] for steps, schedules in report["distances"].items()]
    return table(["steps", *COLUMNS], rows)


def summary() -> str:
    """The same of all models, at a few numbers of steps."""
    rows = []
    for model in MODELS:
        report = read(f"samples_{model}")
        for steps in SUMMARY:
            name = f"`{model}`" if steps == SUMMARY[0] else ""
            rows.append([name, steps, *row(report["distances"][steps])])
    return table(["model", "steps", *COLUMNS], rows)


def frechet(report: dict) -> str:
    """Fréchet distances to held-out images, a row a schedule, and what to hold them against.

    In brackets stands how rough the samples are, where that is known.
    """
    by_steps = report["distances"]

    def cell(numbers: dict) -> str:
        rough = f" ({numbers['roughness']:.1f})" if "roughness" in numbers else ""
        return pair(*numbers["distance"]) + rough

    rows = [
        [f"`{name}`", *(cell(schedules[name]) for schedules in by_steps.values())]
        for name in next(iter(by_steps.values()))
    ]
    many = report["teacher"]
    caption = (
        f"{report['samples']:,} samples; as many real images: {pair(*report['floor'])}; "
        f"{many['samples']:,} samples of {many['steps']} DDIM steps: {pair(*many['distance'])}."
    )
    return caption + "\n\n" + table(["schedule", *(f"{steps} steps" for steps in by_steps)], rows)


def of_model(model: str) -> dict[str, str]:
    """All that are recorded of a model, by the name of the file."""
    made = {model: bounds(read(model))}
    if (RESULTS / f"samples_{model}.json").exists():
        made[f"samples_{model}"] = distances(read(f"samples_{model}"))
    for path in sorted(RESULTS.glob(f"few_steps_{model}_*.json")):
        made[path.stem] = frechet(read(path.stem))
    return made


def main() -> None:
    """Print them."""
    if not sys.argv[1:]:
        print(summary())
    for model in sys.argv[1:]:
        for name, text in of_model(model).items():
            print(f"{name}.json\n\n{text}\n")


if __name__ == "__main__":
    main()
