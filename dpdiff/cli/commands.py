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
from dpdiff.cli import amount
from dpdiff.errors import InputError
from dpdiff.runtime import checkpoints
from dpdiff.runtime.workers import device, join

if TYPE_CHECKING:
    from dpdiff.costs.costs import Costs
    from dpdiff.denoiser import Denoiser
    from dpdiff.schedule import Schedule
    from dpdiff.solvers.plan import Plan


def optimize(options: argparse.Namespace) -> None:
    """Measure, solve, write the schedules, print the table."""
    folder = _folder(options.out)
    options.out = folder / "costs.npz"
    costs = measure(options)
    if join().first:
        _report(costs, options.steps, options.model, folder, options.smooth)


def measure(options: argparse.Namespace) -> Costs:
    """Measure a model's costs and write them."""
    out = Path(options.out)
    if not out.parent.is_dir():
        raise InputError(f"there is no folder {out.parent} to write {out.name} into")
    workers, unfinished = join(), Path(f"{out}.parts")
    with checkpoints.locked(unfinished) if workers.first else nullcontext():
        denoiser = _denoiser(options)
        if options.run is optimize:
            _check_budgets(options.steps, denoiser.noise.T)  # now, not when all is measured
        images = dpdiff.images(options.data, split=options.split, shape=denoiser.shape)
        _report_rounding(denoiser, images)
        costs = _measure(denoiser, images, unfinished, options)
        about = {"name": options.model, "data": options.data, "split": options.split}
        costs = replace(costs, provenance=costs.provenance | about)
        if workers.first:
            costs.save(out)
            checkpoints.remove(unfinished)
    print(f"costs: {out}, for {costs.provenance['calls']:,} network calls")
    return costs


def _measure(
    denoiser: Denoiser, images: np.ndarray, folder: Path, options: argparse.Namespace
) -> Costs:
    """Costs under the rule that was asked for."""
    costs = dpdiff.measure(
        denoiser,
        images,
        calls=options.calls,
        regret=amount.regret(options, denoiser),
        per_step=options.per_step,
        budgets=options.steps,
        variance=options.variance,
        seed=options.seed,
        batch_size=options.batch_size,
        resume=folder,
        workers=join(),
    )
    return costs.with_variance(options.variance) if options.variance else costs


def solve(options: argparse.Namespace) -> None:
    """Solve a costs file, write the schedules, print the table."""
    costs = dpdiff.Costs.load(options.costs)
    if options.variance:
        costs = costs.with_variance(options.variance)
    name = costs.provenance.get("name", "model")
    _report(costs, options.steps, name, _folder(options.out), options.smooth)


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
    from dpdiff.plotting.image_grid import save_image_grid

    save_image_grid(samples.numpy(), options.out)
    print(f"samples: {options.out}")


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate schedules on held-out images, directly from the network."""
    denoiser = _denoiser(options)
    images = dpdiff.images(options.data, split=options.split, shape=denoiser.shape)
    schedules = [_schedule(text, options, denoiser) for text in options.schedule]
    _report_rounding(denoiser, images)
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
    from dpdiff.integrations.snippets import ABOUT_A_MODEL, snippet

    denoiser, is_file = None, Path(options.schedule).exists()
    about_model = options.model or options.flags or options.variance
    if not is_file or about_model or options.to in ABOUT_A_MODEL:
        options.model = options.model or "digits"
        denoiser = _denoiser(options)
        schedule = _schedule(options.schedule, options, denoiser)
    else:
        schedule = dpdiff.Schedule.load(options.schedule)
    print(snippet(options.to, schedule, denoiser))


def train(options: argparse.Namespace) -> None:
    """Train a model from its recipe, or go on with a run that was cut off."""
    folder = dpdiff.train(options.recipe, options.out, data=options.data, device=options.device)
    print(f"model: {folder}")


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
    from dpdiff.evaluation import rounding_effect

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
    return dpdiff.solve(costs.smoothed(), int(number)).schedule(int(number))


def _folder(path: str) -> Path:
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
    return folder


def _check_budgets(budgets: Sequence[int], T: int) -> None:
    for steps in budgets:
        if not 1 <= steps <= T:
            raise InputError(f"the number of steps lies in 1…{T}, got {steps}")


def _report(
    costs: Costs, budgets: Sequence[int], model: str, folder: Path, width: float | None
) -> None:
    """Write the schedules of some budgets and print what they are worth beside the strides."""
    _check_budgets(budgets, costs.T)
    smooth = costs.smoothed(width)
    plan = dpdiff.solve(smooth)  # chosen on smoothed costs, reported on measured ones
    for schedule in plan.schedules(budgets):
        schedule = replace(schedule, provenance=_provenance(costs, plan, schedule, model))
        schedule.save(folder / f"dp_{schedule.steps:04d}.json")
    print(f"schedules: {folder}/dp_*.json")
    print(
        f"\nbits/dim on the {costs.provenance['images']} measured images, variance "
        f"{costs.variance!r} (optimistic: score schedules on held-out images with `evaluate`)\n"
    )
    print(f"{'steps':>6} {'even':>10} {'quadratic':>10} {'dp':>10} {'± s.e.':>8}")
    close = False
    for steps in sorted({*budgets, costs.T}):
        best, strides = plan.schedule(steps), _strides(costs.T, steps)
        even, quadratic = (costs.bound(stride)[0] for stride in strides)
        bits, error = costs.bound(best)
        gap, doubt = costs.difference(best, strides[quadratic < even])
        mark = "~" if abs(gap) < 2 * doubt else ""
        close = close or bool(mark)
        name = "all" if steps == costs.T else steps
        print(f"{name:>6} {even:10.4f} {quadratic:10.4f} {bits:10.4f} {error:8.4f} {mark}".rstrip())
    if close:
        print(
            "\n~ dp and the better stride differ by less than two standard errors of their "
            "difference:\n  these images cannot tell them apart; more of them may"
        )
    print(amount.error_bars(costs, budgets, plan, width))


def _strides(T: int, steps: int) -> tuple[Schedule, Schedule]:
    return dpdiff.Schedule.even(T, steps), dpdiff.Schedule.quadratic(T, steps)


def _provenance(costs: Costs, plan: Plan, schedule: Schedule, model: str) -> dict[str, Any]:
    bits, stderr = costs.bound(schedule)
    return {
        "model": model,
        "noise_schedule": costs.noise.fingerprint,
        "variance": costs.variance,
        "method": plan.method,
        "bits_per_dim": bits,
        "stderr": stderr,
        "costs": costs.provenance,
    }
