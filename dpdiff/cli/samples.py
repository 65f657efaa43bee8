"""``dpdiff optimize --for samples``: solvers of few steps, near those of many."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dpdiff.cli import checks, inputs
from dpdiff.errors import InputError
from dpdiff.runtime import checkpoints
from dpdiff.runtime.files import write_all
from dpdiff.runtime.workers import join

if TYPE_CHECKING:
    from dpdiff.denoiser import Denoiser
    from dpdiff.trajectory.choice import Choice

BUDGETS = (4, 8, 16)
BATCH = 16  # noises in a block on disk: what a kill loses
UNUSED = ("data", "variance", "regret", "per_step", "smooth")


def optimize_for_samples(options: argparse.Namespace) -> None:
    """Run the model with many steps, fit solvers of few, compare, write them, print the table."""
    folder = checks.output_folder(options.out)
    for name in UNUSED:
        if getattr(options, name) is not None:
            raise InputError(
                f"--{name.replace('_', '-')} plays no part with --for samples, which asks the "
                "model's own sampler alone: leave it out"
            )
    unfinished = checks.unfinished_folder(folder / "trajectories.parts")
    from dpdiff.trajectory.choice import choose, spent
    from dpdiff.trajectory.fine_runs import CALLS

    denoiser, calls = inputs.denoiser_for(options, rule=None), options.calls or CALLS
    budgets = sorted({*checks.budgets_for(options.steps, denoiser.noise.T, BUDGETS)})
    for steps in budgets:  # now, not when a part of the work is done
        spent(steps, calls, options.compare, denoiser.noise.T)
    inputs.try_out(denoiser)
    inputs.print_notes(options)
    print(_announcement(denoiser, budgets, calls), flush=True)
    checks.make_folder(folder)
    workers = join()
    with checkpoints.locked(unfinished, workers):
        chosen = {}
        for steps in budgets:
            parts = unfinished / str(steps)
            chosen[steps] = choose(
                denoiser, steps, calls,
                sampler=options.sampler, compare=options.compare, seed=options.seed,
                batch_size=min(BATCH, options.batch_size), resume=parts, workers=workers,
            )  # fmt: skip
        if workers.first:
            _write(chosen, options.model, folder)
            for steps in budgets:
                checkpoints.remove(unfinished / str(steps))
            checkpoints.remove(unfinished)
            print("\n".join(_table(chosen)))


def _announcement(denoiser: Denoiser, budgets: list[int], calls: int) -> str:
    from dpdiff.cli.estimate import seconds_of, spoken
    from dpdiff.sampling import start

    x = start(denoiser, 0, range(BATCH))
    each = seconds_of(lambda: denoiser(x, denoiser.noise.T)) / BATCH
    count = f"{len(budgets)} times " if len(budgets) > 1 else ""
    return (
        f"{count}at most {calls:,} network calls find solvers and compare them: at "
        f"{1000 * each:.2g} ms a call, about {spoken(len(budgets) * calls * each)}"
    )


def _write(chosen: dict[int, Choice], model: str, folder: Path) -> None:
    files = {}
    for steps, choice in chosen.items():
        about = choice.solver.provenance | {"model": model}
        solver = replace(choice.solver, provenance=about)
        files[folder / f"samples_{steps}.json"] = solver.to_json().encode()
    write_all(files)
    print(f"solvers: {folder}/samples_*.json")


def _table(chosen: dict[int, Choice]) -> list[str]:
    """Distances of all candidates, a line for each budget."""
    compared = [choice for choice in chosen.values() if choice.comparison]
    if not compared:
        return []
    names = [*dict.fromkeys(name for choice in compared for name in choice.candidates)]
    lines = [
        "\nmean distance to the end points of many steps, from noises that nothing was fitted to\n",
        f"{'steps':>6} {'noises':>7} {'chosen':>18} {'± s.e.':>8}"
        + "".join(f" {name:>18}" for name in names),
    ]
    for steps, choice in chosen.items():
        far = choice.comparison
        row = "".join(
            f" {far.mean(name):18.4f}" if name in far.distances else " " * 19 for name in names
        )
        noises = len(far.distances[choice.name])
        lines.append(
            f"{steps:>6} {noises:>7} {choice.name:>18} {far.stderr(choice.name):8.4f}{row}"
        )
    return lines
