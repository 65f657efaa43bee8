"""The tables in the README and the models' cards, from what is recorded.

    python benchmarks/tables.py fashion

prints the Markdown of ``results/<model>.json``, bits/dim, and of ``samples_<model>.json`` and
``few_steps_<model>_*.json``, few-step samples, of which those of other variance rules share a
table; without a model, those of the README and the book. A test compares the pages with it.
"""

from __future__ import annotations

import json
import sys
from itertools import chain
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
STRIDES = ("even", "quadratic", "Karras", "log SNR")
RIVALS = ("GITS", "Optimal Stepsize")
COLUMNS = ("`recommend`", "`flow`", "best stride", "stride less `flow`", *RIVALS)
MODELS = ("fashion", "fashion-linear", "digits")
SUMMARY = ("4", "8", "16", "32")
RULES = ("small", "large", "optimal")


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


def pictures() -> str:
    """Fréchet distances of `fashion` at equal calls: DDIM and 2M, best stride and `flow`."""
    ddim, second = (read(f"few_steps_fashion_{name}")["distances"] for name in ("ddim", "2m"))
    rows = []
    for calls in ddim:
        cells = []
        for by_schedule in (ddim[calls], second[calls]):
            stride = min(STRIDES, key=lambda name: by_schedule[name]["distance"][0])
            found = (by_schedule[name]["distance"][0] for name in (stride, "flow"))
            best, flow = (f"{value:.1f}" if value >= 1 else f"{value:.2f}" for value in found)
            cells += [f"{best} ({stride})", flow]
        rows.append([calls, *cells])
    heads = [
        f"{solver}, {where}" for solver in ("DDIM", "2M") for where in ("best stride", "`flow`")
    ]
    return table(["calls", *heads], rows)


def likelihood() -> str:
    """Bits/dim of the digits with 8 steps: kinds of schedules under two widths."""
    bits = read("digits")["bits_per_dim"]
    rows = [
        [name, *(f"{bits[rule][kind]['8'][0]:.2f}" for kind in ("even", "quadratic", "dp"))]
        for name, rule in (("learned", "learned_range"), ("the best for each jump", "optimal"))
    ]
    return table(["widths", "even steps", "quadratic", "optimal"], rows)


def solvers(model: str) -> str:
    """How far solvers' samples are from a fine teacher's, a row a solver, the farthest first."""
    budgets = read(f"solvers_{model}")["budgets"]
    last = list(budgets.values())[-1]
    names = sorted(last, key=lambda name: -last[name]["distance"])
    cells = {
        name: [f"{by_name[name]['distance']:.2f}" for by_name in budgets.values()] for name in names
    }
    return table(["solver", *(f"{k} calls" for k in budgets)], [[n, *cells[n]] for n in names])


def distance(numbers: dict) -> str:
    """A Fréchet distance, in brackets how rough the samples are, where that is known."""
    rough = f" ({numbers['roughness']:.1f})" if "roughness" in numbers else ""
    return pair(*numbers["distance"]) + rough


def held_against(report: dict) -> str:
    """Of how many samples distances are, and the least that can be hoped for."""
    many = report["teacher"]
    return (
        f"{report['samples']:,} samples; as many real images: {pair(*report['floor'])}; "
        f"{many['samples']:,} samples of {many['steps']} DDIM steps: {pair(*many['distance'])}."
    )


def schedule_rows(report: dict, budgets: list[str]) -> list[list[str]]:
    """A schedule's name and its Fréchet distances to held-out images, if any, by budget."""
    by_steps = report["distances"]
    return [
        [f"`{name}`", *(distance(by_steps[k][name]) if k in by_steps else "" for k in budgets)]
        for name in next(iter(by_steps.values()))
    ]


def frechet(report: dict) -> str:
    """Fréchet distances, a row a schedule, and what to hold them against."""
    budgets = list(report["distances"])
    head = ["schedule", *(f"{k} steps" for k in budgets)]
    return held_against(report) + "\n\n" + table(head, schedule_rows(report, budgets))


def frechet_by_rule(reports: dict[str, dict]) -> str:
    """The same of ancestral samples under several variance rules, as one table."""
    first = next(iter(reports.values()))
    budgets = sorted({k for report in reports.values() for k in report["distances"]}, key=int)
    head = ["variance", "schedule", *(f"{k} steps" for k in budgets)]
    rows = [
        [f"`{rule}`" if number == 0 else "", *cells]
        for rule, report in reports.items()
        for number, cells in enumerate(schedule_rows(report, budgets))
    ]
    return held_against(first) + "\n\n" + table(head, rows)


def recorded(model: str) -> list[str]:
    """Names of the reports of a model that have tables."""
    names = [model, f"samples_{model}"]
    few = sorted(path.stem for path in RESULTS.glob(f"few_steps_{model}_*.json"))
    return [name for name in names if (RESULTS / f"{name}.json").exists()] + few


def of_rules(model: str) -> dict[str, list[str]]:
    """Names of the reports of ancestral samples under other variance rules, rule by rule."""
    have = recorded(model)
    starts = {rule: f"few_steps_{model}_{rule}_" for rule in RULES}
    names = {rule: [n for n in have if n.startswith(start)] for rule, start in starts.items()}
    return {rule: own for rule, own in names.items() if own}


def joined(names: list[str]) -> dict:
    """The first of these reports, with the budgets of all; where several have one, the last."""
    first, *others = map(read, names)
    for report in others:
        for same in ("model", "sampler", "variance", "samples", "features", "seeds"):
            assert report[same] == first[same], same
        first["distances"] |= report["distances"]
    return first


def of_model(model: str) -> dict[str, str]:
    """All that are recorded of a model, by the names of the reports."""
    rules = of_rules(model)
    made = {}
    if rules:
        reports = {rule: joined(names) for rule, names in rules.items()}
        made[f"few_steps_{model}_RULE_10000"] = frechet_by_rule(reports)
    apart = set(chain(*rules.values()))
    for name in (name for name in recorded(model) if name not in apart):
        report = read(name)
        kind = bounds if name == model else distances if name.startswith("samples") else frechet
        made[name] = kind(report)
    return made


def main() -> None:
    """Print them."""
    if not sys.argv[1:]:
        print(pictures(), likelihood(), solvers("digits"), summary(), sep="\n\n")
    for model in sys.argv[1:]:
        for name, text in of_model(model).items():
            print(f"{name}\n\n{text}\n")


if __name__ == "__main__":
    main()
