"""What each command does, once its options are read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import dpdiff
from dpdiff import parts
from dpdiff.errors import InputError
from dpdiff.workers import device, join

if TYPE_CHECKING:
    from dpdiff.costs import Costs
    from dpdiff.denoiser import Denoiser
    from dpdiff.plan import Plan
    from dpdiff.schedule import Schedule


def optimize(options: argparse.Namespace) -> None:
    """Measure, solve, write the schedules, print the table."""
    folder = _folder(options.out)
    options.out = folder / "costs.npz"
    costs = measure(options)
    if join().first:
        _report(costs, options.steps, options.model, folder)


def measure(options: argparse.Namespace) -> Costs:
    """Measure a model's costs and write them."""
    out = Path(options.out)
    if not out.parent.is_dir():
        raise InputError(f"there is no folder {out.parent} to write {out.name} into")
    workers, unfinished = join(), Path(f"{out}.parts")
    with parts.locked(unfinished) if workers.first else nullcontext():
        denoiser = _denoiser(options)
        images = dpdiff.images(options.data, split=options.split)
        _report_rounding(denoiser, images)
        costs = dpdiff.measure(
            denoiser,
            images,
            seed=options.seed,
            per_step=options.images,
            batch_size=options.batch_size,
            resume=unfinished,
            workers=workers,
        )
        about = {"name": options.model, "data": options.data, "split": options.split}
        costs = replace(costs, provenance=costs.provenance | about)
        if options.variance:
            costs = costs.with_variance(options.variance)
        if workers.first:
            costs.save(out)
            parts.remove(unfinished)
    print(f"costs: {out}")
    return costs


def solve(options: argparse.Namespace) -> None:
    """Solve a costs file, write the schedules, print the table."""
    costs = dpdiff.Costs.load(options.costs)
    if options.variance:
        costs = costs.with_variance(options.variance)
    _report(costs, options.steps, costs.provenance.get("name", "model"), _folder(options.out))


def sample(options: argparse.Namespace) -> None:
    """Draw samples and write them as one picture."""
    denoiser = _denoiser(options)
    samples = dpdiff.sample(
        denoiser,
        _schedule(options.schedule, options, denoiser),
        n=options.n,
        seed=options.seed,
        sampler=options.sampler,
        eta=options.eta,
        batch_size=options.batch_size,
        workers=join(),
    )
    if not join().first:
        return
    from dpdiff.grid import save_image_grid

    save_image_grid(samples.numpy(), options.out)
    print(f"samples: {options.out}")


def evaluate(options: argparse.Namespace) -> None:
    """Score schedules on held-out images, directly from the network."""
    denoiser = _denoiser(options)
    images = dpdiff.images(options.data, split=options.split)
    schedules = [_schedule(text, options, denoiser) for text in options.schedule]
    _report_rounding(denoiser, images)
    print(f"{'schedule':24} {'steps':>6} {'bits/dim':>9} {'± s.e.':>8}   ({len(images)} images)")
    for text, schedule in zip(options.schedule, schedules, strict=True):
        score = dpdiff.bits_per_dim(
            denoiser,
            images,
            schedule,
            seed=options.seed,
            batch_size=options.batch_size,
            workers=join(),
        )
        print(f"{text:24} {schedule.steps:6} {score.mean:9.4f} {score.stderr:8.4f}")


def train(options: argparse.Namespace) -> None:
    """Train a bundled model, or go on with a run that was cut off."""
    print(f"model: {dpdiff.train(options.recipe, options.out)}")


def _denoiser(options: argparse.Namespace) -> Denoiser:
    denoiser = dpdiff.load(options.model, flags=options.flags, device=device(options.device))
    if options.precision != "float32" or options.compile:
        denoiser = denoiser.with_precision(options.precision, compile=options.compile)
    rule = options.variance
    if rule is None or (rule == "optimal" and options.run in (measure, optimize)):
        return denoiser  # the optimal rule is a way to read the costs that are being measured
    return denoiser.with_variance(rule, _costs(options) if rule == "optimal" else None)


def _report_rounding(denoiser: Denoiser, images: np.ndarray, count: int = 8) -> None:
    """Say what reduced precision does to the bound, if the denoiser has it."""
    if denoiser.precision == "float32":
        return
    from dpdiff.wrappers import rounding_effect

    some = images[np.unique(np.linspace(0, len(images) - 1, count).astype(int))]
    mean, error = rounding_effect(denoiser, some)
    print(
        f"{denoiser.precision} changes the bound of {min(32, denoiser.noise.T)} quadratic steps by "
        f"{mean:+.5f} ± {error:.5f} bits/dim ({len(some)} images, the same noise)"
    )


def _costs(options: argparse.Namespace) -> Costs:
    return dpdiff.Costs.load(options.costs) if options.costs else dpdiff.load_costs(options.model)


def _schedule(text: str, options: argparse.Namespace, denoiser: Denoiser) -> Schedule:
    """A schedule file, or ``even:K``, ``quadratic:K`` or ``dp:K``."""
    kind, _, number = text.partition(":")
    if kind not in ("even", "quadratic", "dp") or not number.isdigit():
        return dpdiff.Schedule.load(text)
    if kind != "dp":
        return getattr(dpdiff.Schedule, kind)(denoiser.noise.T, int(number))
    costs = _costs(options).with_variance(denoiser.variance)
    costs.check_model(denoiser.fingerprint)
    return dpdiff.solve(costs.smoothed()).schedule(int(number))


def _folder(path: str) -> Path:
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
    return folder


def _report(costs: Costs, budgets: Sequence[int], model: str, folder: Path) -> None:
    """Write the schedules of some budgets and print what they are worth beside the baselines."""
    for steps in budgets:
        if not 1 <= steps <= costs.T:
            raise InputError(f"the number of steps lies in 1…{costs.T}, got {steps}")
    plan = dpdiff.solve(costs.smoothed())  # chosen on smoothed costs, reported on measured ones
    for schedule in plan.schedules(budgets):
        schedule = replace(schedule, provenance=_provenance(costs, plan, schedule, model))
        schedule.save(folder / f"dp_{schedule.steps:04d}.json")
    print(f"schedules: {folder}/dp_*.json")
    print(
        f"\nbits/dim on the {costs.provenance['images']} measured images, variance "
        f"{costs.variance!r} (optimistic: score schedules on held-out images with `evaluate`)\n"
    )
    print(f"{'steps':>6} {'even':>10} {'quadratic':>10} {'dp':>10} {'± s.e.':>8}")
    for steps in sorted({*budgets, costs.T}):
        even, quadratic = (
            costs.score(make(costs.T, steps))[0]
            for make in (dpdiff.Schedule.even, dpdiff.Schedule.quadratic)
        )
        best, error = costs.score(plan.schedule(steps))
        name = "all" if steps == costs.T else steps
        print(f"{name:>6} {even:10.4f} {quadratic:10.4f} {best:10.4f} {error:8.4f}")
    fewest = plan.fewest_steps(within=0.1)
    print(f"\nfewest steps within 0.1 bits/dim of the best: {fewest}")


def _provenance(costs: Costs, plan: Plan, schedule: Schedule, model: str) -> dict[str, Any]:
    bits, stderr = costs.score(schedule)
    return {
        "model": model,
        "noise_schedule": costs.noise.fingerprint,
        "variance": costs.variance,
        "method": plan.method,
        "bits_per_dim": bits,
        "stderr": stderr,
        "costs": costs.provenance,
    }
