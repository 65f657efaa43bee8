"""The ``dpdiff`` command: the main job, and each of its parts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dpdiff
from dpdiff.errors import InputError

if TYPE_CHECKING:
    from dpdiff.costs import Costs
    from dpdiff.denoiser import Denoiser
    from dpdiff.plan import Plan
    from dpdiff.schedule import Schedule

BUDGETS = (8, 16, 32, 64, 128, 256)
RULES = ("small", "large", "learned_range", "optimal")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code is 0, or 2 for bad input, or 130 for an interrupt.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Examples
    --------
    >>> main(["solve", "no-such-file.npz"])
    2
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except InputError as error:
        print(f"dpdiff: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dpdiff: interrupted", file=sys.stderr)
        return 130
    return 0


def optimize(options: argparse.Namespace) -> None:
    """Measure, solve, write the schedules, print the table."""
    folder = _folder(options.out)
    options.out = folder / "costs.npz"
    costs = measure(options)
    _report(costs, options.steps, options.model, folder)


def measure(options: argparse.Namespace) -> Costs:
    """Measure a model's costs and write them."""
    out = Path(options.out)
    if not out.parent.is_dir():
        raise InputError(f"there is no folder {out.parent} to write {out.name} into")
    denoiser = _denoiser(options)
    costs = dpdiff.measure(
        denoiser,
        dpdiff.images(options.data, split=options.split),
        seed=options.seed,
        per_step=options.images,
        batch_size=options.batch_size,
    )
    about = {"name": options.model, "data": options.data, "split": options.split}
    costs = replace(costs, provenance=costs.provenance | about)
    if options.variance:
        costs = costs.with_variance(options.variance)
    costs.save(out)
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
    )
    from dpdiff.grid import save_image_grid

    save_image_grid(samples.numpy(), options.out)
    print(f"samples: {options.out}")


def evaluate(options: argparse.Namespace) -> None:
    """Score schedules on held-out images, directly from the network."""
    denoiser = _denoiser(options)
    images = dpdiff.images(options.data, split=options.split)
    schedules = [_schedule(text, options, denoiser) for text in options.schedule]
    print(f"{'schedule':24} {'steps':>6} {'bits/dim':>9} {'± s.e.':>8}   ({len(images)} images)")
    for text, schedule in zip(options.schedule, schedules, strict=True):
        score = dpdiff.bits_per_dim(
            denoiser, images, schedule, seed=options.seed, batch_size=options.batch_size
        )
        print(f"{text:24} {schedule.steps:6} {score.mean:9.4f} {score.stderr:8.4f}")


def train(options: argparse.Namespace) -> None:
    """Train a bundled model, or go on with a run that was cut off."""
    print(f"model: {dpdiff.train(options.recipe, options.out)}")


def _denoiser(options: argparse.Namespace) -> Denoiser:
    denoiser = dpdiff.load(options.model, flags=options.flags, device=options.device)
    rule = options.variance
    if rule is None or (rule == "optimal" and options.run in (measure, optimize)):
        return denoiser  # the optimal rule is a way to read the costs that are being measured
    return denoiser.with_variance(rule, _costs(options) if rule == "optimal" else None)


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dpdiff",
        description="Find the few-step schedule of a diffusion model that is best in likelihood.",
        epilog="Steps are network calls. Costs are kept in nats and shown in bits/dim: nats per "
        "example, divided by its number of dimensions and by log 2.",
    )
    parser.add_argument("--version", action="version", version=f"dpdiff {dpdiff.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    command = _command(commands, "optimize", optimize, "the whole job: measure, solve, report")
    _add_model(command)
    _add_data(command, "validation")
    _add_measuring(command)
    _add_budgets(command)

    command = _command(commands, "measure", measure, "measure what every jump costs a model")
    _add_model(command)
    _add_data(command, "validation")
    _add_measuring(command)
    command.add_argument("--out", default="costs.npz", help="costs file to write")

    command = _command(commands, "solve", solve, "find the best schedules for measured costs")
    command.add_argument("costs", help="costs file that `measure` wrote")
    _add_variance(command, "the costs' own")
    _add_budgets(command)

    spelling = "a schedule file, or even:K, quadratic:K or dp:K for K steps"
    command = _command(commands, "sample", sample, "draw samples into one PNG picture")
    _add_model(command)
    command.add_argument("--schedule", default="dp:32", help=spelling)
    _add_costs(command)
    command.add_argument("--n", type=int, default=64, help="number of samples")
    command.add_argument("--sampler", choices=("ancestral", "ddim"), default="ancestral")
    command.add_argument("--eta", type=float, default=0.0, help="of ddim, in [0, 1]")
    command.add_argument("--out", default="samples.png", help="picture to write")

    command = _command(commands, "evaluate", evaluate, "score schedules on held-out images")
    _add_model(command)
    _add_data(command, "test")
    command.add_argument("--schedule", nargs="+", default=["dp:32"], help=spelling)
    _add_costs(command)

    command = _command(commands, "train", train, "train a bundled model; restartable")
    command.add_argument("recipe", help="name of the recipe, such as digits")
    command.add_argument("--out", default="model", help="folder for checkpoint and model")
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], Any], text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", default="digits", help="bundled name, folder or .pt file")
    command.add_argument("--flags", help="of a .pt checkpoint: JSON file, flag string or preset")
    command.add_argument("--device", default="cpu", help="torch device")
    command.add_argument("--seed", type=int, default=0, help="of all noise")
    command.add_argument("--batch-size", type=int, default=256, help="examples a network call")
    _add_variance(command, "the model's own")


def _add_variance(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--variance", choices=RULES, help=f"reverse variance rule; if not given, {default}"
    )


def _add_data(command: argparse.ArgumentParser, split: str) -> None:
    command.add_argument("--data", default="digits", help="'digits', or an .npy file of integers")
    command.add_argument(
        "--split", default=split, choices=("train", "validation", "test"), help="of the digits"
    )


def _add_measuring(command: argparse.ArgumentParser) -> None:
    command.add_argument("--images", type=int, default=128, help="images a timestep is shown")


def _add_budgets(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--steps", type=int, nargs="+", default=list(BUDGETS), help="budgets to write and print"
    )
    command.add_argument("--out", default="schedules", help="folder for the results")


def _add_costs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--costs", help="costs file for dp:K and the optimal variance; else the model's own"
    )
