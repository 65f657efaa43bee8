"""``dpdiff optimize --for samples``: steps whose DDIM samples are near those of many steps."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import dpdiff
from dpdiff.cli import checks, inputs
from dpdiff.errors import InputError
from dpdiff.runtime import checkpoints
from dpdiff.runtime.files import write_all
from dpdiff.runtime.workers import join

if TYPE_CHECKING:
    import numpy as np

    from dpdiff.denoiser import Denoiser
    from dpdiff.trajectory.trajectories import Recommendation, Trajectories


BUDGETS = (4, 8, 16)
NOISES, HELD_OUT = 32, 64
BATCH = 16  # noises in a block on disk: what a kill loses
CANDIDATES = 11  # four of flow, aligned, plain, five strides
MOVES = 24  # of steps, after the best of these
NO_PART = ("data", "variance", "calls", "regret", "per_step", "smooth")
STRIDES = ("even", "quadratic", "log SNR", "Karras", "arctan")


def optimize_for_samples(options: argparse.Namespace) -> None:
    """Run the sampler with many steps, choose the few, write the schedules, print the table."""
    folder = checks.output_folder(options.out, what="--out")
    for name in NO_PART:
        if getattr(options, name) is not None:
            raise InputError(
                f"--{name.replace('_', '-')} plays no part with --for samples, which asks the "
                "model's own DDIM sampler alone: leave it out"
            )
    unfinished = folder / "trajectories.parts"
    if unfinished.exists() and not unfinished.is_dir():
        raise InputError(f"{unfinished}, where unfinished work is kept, is a file: move it away")
    from dpdiff.strides import node_grid

    denoiser = inputs.denoiser_for(options, rule=None)
    T = denoiser.noise.T
    budgets = sorted({*checks.budgets_for(options.steps, BUDGETS, T)})
    nodes = node_grid(denoiser.noise, min(T, max(64, 4 * budgets[-1])))
    inputs.try_out(denoiser)
    inputs.speak(options)
    print(_announcement(denoiser, nodes, budgets), flush=True)
    checks.make_folder(folder)
    with checkpoints.locked(unfinished) if join().first else nullcontext():
        paths = dpdiff.trajectories(
            denoiser,
            NOISES,
            nodes,
            seed=options.seed,
            batch_size=min(BATCH, options.batch_size),
            resume=unfinished,
            workers=join(),
        )
        if join().first:
            chosen = {steps: paths.recommend(steps, moves=MOVES, n=HELD_OUT) for steps in budgets}
            _write(chosen, options.model, folder)
            checkpoints.remove(unfinished)
            print("\n".join(_table(paths, chosen)))


def _announcement(denoiser: Denoiser, nodes: np.ndarray, budgets: list[int]) -> str:
    from dpdiff.cli.estimate import seconds_of, spoken
    from dpdiff.sampling import start
    from dpdiff.trajectory.comparison import first_noises
    from dpdiff.trajectory.run import predictions

    many, size = len(nodes) - 1, BATCH
    x = start(denoiser, 0, range(size))
    each = seconds_of(lambda: predictions(denoiser, nodes[[0, -1]], x)) / size
    a_step = HELD_OUT * CANDIDATES + MOVES * (HELD_OUT + first_noises(HELD_OUT))
    calls = NOISES * many, HELD_OUT * many + a_step * sum(budgets)
    return (
        f"{calls[0]:,} network calls ({NOISES} noises, {many} steps) find schedules, and at most "
        f"{calls[1]:,} compare them with usual ones on {HELD_OUT} other noises: at "
        f"{1000 * each:.2g} ms a call, about {spoken(sum(calls) * each)}"
    )


def _write(chosen: dict[int, Recommendation], model: str, folder: Path) -> None:
    files = {}
    for steps, best in chosen.items():
        about = {"model": model} | best.schedule.provenance
        schedule = replace(best.schedule, provenance=about)
        files[folder / f"samples_{steps}.json"] = schedule.to_json().encode()
    write_all(files)
    print(f"schedules: {folder}/samples_*.json")


def _table(paths: Trajectories, chosen: dict[int, Recommendation]) -> list[str]:
    """Distances of the chosen schedules and of the strides, a line for each budget."""
    lines = [
        f"\ndistance of DDIM's samples to those of {paths.teacher.steps} steps from the same "
        f"{HELD_OUT} noises,\nas a share of how far samples are from their mean\n",
        f"{'steps':>6} {'chosen':>10} {'distance':>9} {'± s.e.':>7}"
        + "".join(f" {name:>9}" for name in STRIDES),
    ]
    for steps, best in chosen.items():
        compared, name = best.comparison, best.name
        own, error = compared.mean(name) / paths.spread, compared.stderr(name) / paths.spread
        strides = "".join(f" {compared.mean(other) / paths.spread:9.4f}" for other in STRIDES)
        lines.append(f"{steps:>6} {name:>10} {own:9.4f} {error:7.4f}{strides}")
    return lines
