"""The commands: what each does with its options."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dpdiff
from dpdiff.cli import checks, inputs
from dpdiff.cli.report import report, report_rounding
from dpdiff.cli.samples import optimize_for_samples
from dpdiff.errors import InputError
from dpdiff.runtime import checkpoints
from dpdiff.runtime.workers import device, join
from dpdiff.variance import rule_named

# Options that decide what is in a costs file.
MEASURING = ("model", "data", "split", "seed", "batch_size", "variance", "precision", "compile")
REGRET = 0.01  # bits/dim that `optimize` measures down to unless it is given an amount


def optimize(options: argparse.Namespace) -> None:
    """Measure, solve, write the schedules, print the table."""
    if options.aim == "samples":
        return optimize_for_samples(options)
    folder = checks.output_folder(options.out)
    out = folder / "costs.npz"
    if out.exists() and not out.is_file():
        raise InputError(f"{out} is no file that could be written: give another --out")
    if (options.calls, options.regret, options.per_step) == (None, None, None):
        options.regret = REGRET
    costs = _measure_into(out, options)
    if join().first:
        budgets = checks.budgets_for(options.steps, costs.T)
        report(costs, budgets, options.model, folder, options.smooth)


def measure(options: argparse.Namespace) -> None:
    """Measure a model's costs and write them."""
    _measure_into(checks.output_file(options.out), options)


def _measure_into(out: Path, options: argparse.Namespace) -> dpdiff.Costs:
    """Check all that can be checked, then measure, and write a costs file."""
    workers, unfinished = join(), checks.unfinished_folder(Path(f"{out}.parts"))
    rule = options.variance
    if rule and rule_named(rule).needs_error:
        rule = None  # it is read off costs
    denoiser = inputs.denoiser_for(options, rule=rule)
    checks.budgets_for(options.steps, denoiser.noise.T)  # now, not when all is measured
    images = inputs.images_for(options, denoiser)
    if len(images) < 2:
        raise InputError(f"{options.data} has {len(images)} image: measuring takes at least two")
    checks.make_folder(out.parent)
    with checkpoints.locked(unfinished, workers):
        command = command_digest(denoiser, images, options)
        before = workers.broadcast(finished_costs(out, command) if workers.first else None)
        costs = before or _measure_anew(denoiser, images, unfinished, options, command)
        if workers.first:
            if before is None:
                costs.save(out)
            checkpoints.remove(unfinished)
    calls = costs.provenance.get("calls", 0)
    print(f"costs: {out}, " + ("finished before" if before else f"for {calls:,} network calls"))
    return costs


def _measure_anew(
    denoiser: dpdiff.Denoiser, images: Any, folder: Path, options: argparse.Namespace, command: str
) -> dpdiff.Costs:
    """Say what is about to happen, and measure."""
    from dpdiff.cli.estimate import announcement

    inputs.try_out(denoiser)
    inputs.print_notes(options)
    report_rounding(denoiser, images)
    print(announcement(denoiser, images, options), flush=True)
    costs = dpdiff.measure(
        denoiser,
        images,
        calls=options.calls,
        regret=options.regret,
        per_step=options.per_step,
        budgets=checks.budgets_for(options.steps, denoiser.noise.T),
        variance=options.variance,
        seed=options.seed,
        batch_size=options.batch_size,
        resume=folder,
        workers=join(),
    )
    if options.variance:
        costs = costs.with_variance(options.variance)
    about = {"name": options.model, "data": options.data, "split": options.split}
    return replace(costs, provenance=costs.provenance | about | {"command": command})


def command_digest(denoiser: dpdiff.Denoiser, images: Any, options: argparse.Namespace) -> str:
    """A digest of all that decides what a measuring command writes."""
    from dpdiff import data
    from dpdiff.costs.costs import VERSION

    settings = {name: getattr(options, name) for name in MEASURING}
    amounts = ("calls", "regret", "per_step") + (("steps",) if options.regret else ())
    settings |= {name: getattr(options, name) for name in amounts}
    settings |= {"version": VERSION, "model": denoiser.fingerprint, "name": options.model}
    settings |= {"images": len(images), "digest": data.digest(images)}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def finished_costs(out: Path, command: str) -> dpdiff.Costs | None:
    """The costs in a file, if the command of that digest wrote them."""
    if not out.exists():
        return None
    try:
        costs = dpdiff.Costs.load(out)
    except InputError:
        return None  # another version's or a damaged one, which will be replaced
    return costs if costs.provenance.get("command") == command else None


def solve(options: argparse.Namespace) -> None:
    """Solve a costs file, write the schedules, print the table."""
    folder = checks.output_folder(options.out)
    costs = dpdiff.Costs.load(options.costs)
    if options.variance:
        costs = costs.with_variance(options.variance)
    budgets = checks.budgets_for(options.steps, costs.T)
    checks.make_folder(folder)
    report(costs, budgets, costs.provenance.get("name", "model"), folder, options.smooth)


def sample(options: argparse.Namespace) -> None:
    """Draw samples and write them as one picture."""
    out = checks.output_file(options.out)
    denoiser = inputs.denoiser_for(options, rule=options.variance)
    if len(denoiser.shape) != 3 or denoiser.shape[0] not in (1, 3):
        raise InputError(
            f"this model's examples have shape {denoiser.shape}, which is no picture of 1 or 3 "
            "channels: draw them in Python, with dpdiff.sample"
        )
    from dpdiff.sampling import DDIM, sampler_for

    schedule = inputs.schedule_for(options.schedule, options, denoiser)
    sampler = sampler_for(schedule, options.sampler)
    inputs.try_out(denoiser)
    inputs.print_notes(options)
    samples = dpdiff.sample(
        denoiser,
        schedule,
        n=options.n,
        seed=options.seed,
        sampler=DDIM(options.eta) if isinstance(sampler, DDIM) else sampler,
        batch_size=options.batch_size,
        workers=join(),
    )
    if not join().first:
        return
    from dpdiff.plotting.image_grid import save_image_grid

    save_image_grid(samples.numpy(), out)
    print(f"samples: {out}")


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate schedules on held-out images, directly from the network."""
    denoiser = inputs.denoiser_for(options, rule=options.variance)
    schedules = [inputs.schedule_for(text, options, denoiser) for text in options.schedule]
    images = inputs.images_for(options, denoiser)
    inputs.try_out(denoiser)
    inputs.print_notes(options)
    report_rounding(denoiser, images)
    from dpdiff.evaluation import evaluate_many

    bounds = evaluate_many(
        [(denoiser, schedule) for schedule in schedules],
        images,
        seed=options.seed,
        batch_size=options.batch_size,
        workers=join(),
    )
    print(f"bits/dim on {len(images)} images, and the difference to the first schedule\n")
    columns = f"{'schedule':24} {'steps':>6} {'bits/dim':>9} {'± s.e.':>8}"
    print(f"{columns} {'difference':>11} {'± s.e.':>8}")
    for text, schedule, bound in zip(options.schedule, schedules, bounds, strict=True):
        line = f"{text:24} {schedule.steps:6} {bound.mean:9.4f} {bound.stderr:8.4f}"
        if bound is not bounds[0]:
            mean, stderr = bound.minus(bounds[0])
            line += f" {mean:11.4f} {stderr:8.4f}"
        print(line)


def export(options: argparse.Namespace) -> None:
    """Print a schedule as lines of code for another program."""
    from dpdiff.export import ABOUT_A_MODEL, snippet

    about_model = options.model or options.flags or options.variance
    if about_model or options.to in ABOUT_A_MODEL or not Path(options.schedule).is_file():
        denoiser = inputs.denoiser_for(options, rule=options.variance)
        schedule = inputs.schedule_for(options.schedule, options, denoiser)
    else:
        denoiser, schedule = None, dpdiff.Schedule.load(options.schedule)
    text = snippet(options.to, schedule, denoiser)
    inputs.print_notes(options)
    print(text)


def train(options: argparse.Namespace) -> None:
    """Train a model from its recipe, or go on with a run that was cut off."""
    out = checks.output_folder(options.out)
    place = device(options.device) if options.device is not None else None
    where = {"device": place, "precision": options.precision}
    folder = dpdiff.train(options.recipe, out, data=options.data, **where)
    print(f"model: {folder}")
