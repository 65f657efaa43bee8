"""The command line: commands, options, defaults."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn

import dpdiff
from dpdiff.cli import commands as run
from dpdiff.cli import samples
from dpdiff.cli.checks import integer, number
from dpdiff.errors import InputError
from dpdiff.export import FORMATS
from dpdiff.runtime.random_streams import LARGEST
from dpdiff.strides import BUDGETS
from dpdiff.training.recipes import RECIPES
from dpdiff.variance import RULES

DEBUG = "show where an error comes from"
DATA = (
    "'digits', a folder of images, an .npy or .npz file (floats for continuous data), a folder "
    "with a well-known set, or package.module:function that returns an array"
)


ASSUMED = "if not given, digits"
MODEL = (
    "bundled name ('digits', 'fashion', 'fashion-short', 'fashion-linear'), diffusers folder, "
    "hub id (owner/name), .pt file, or "
    "package.module:function that returns a dpdiff.Denoiser"
)


class OneLine(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; `{self.prog} --help` shows what there is")


def build_parser() -> argparse.ArgumentParser:
    parser = OneLine(
        prog="dpdiff",
        description="Find the best few steps of a diffusion model, for likelihood or for samples.",
        epilog="Steps are network calls. Costs are kept in nats and shown in bits/dim: nats per "
        "example, divided by its number of dimensions and by log 2.",
    )
    parser.add_argument("--version", action="version", version=f"dpdiff {dpdiff.__version__}")
    parser.add_argument("--debug", action="store_true", help=DEBUG)
    commands = parser.add_subparsers(required=True, metavar="command")

    command = _command(commands, "optimize", run.optimize, "the whole job: measure, solve, report")
    command.add_argument(
        "--for",
        dest="aim",
        choices=("likelihood", "samples"),
        default="likelihood",
        help="what the schedules are for: the bound on the likelihood, or samples that few DDIM "
        "steps draw much as many would (needs no data)",
    )
    _add_model(command)
    _add_data(command, "validation")
    _add_measuring(command)
    _add_budgets(command)
    command.add_argument(
        "--sampler",
        choices=("fitted", "unipc", "2m", "ddim"),
        help="--for samples: what will draw; if not given, whatever comes nearest",
    )
    command.add_argument(
        "--no-compare",
        dest="compare",
        action="store_false",
        help="--for samples: put all calls into the fit, and compare nothing",
    )

    command = _command(commands, "measure", run.measure, "measure what every jump costs a model")
    _add_model(command)
    _add_data(command, "validation")
    _add_measuring(command)
    command.add_argument("--out", default="costs.npz", help="costs file to write")

    command = _command(commands, "solve", run.solve, "find the best schedules for measured costs")
    command.add_argument("costs", help="costs file that `measure` wrote")
    _add_variance(command, "the costs' own")
    _add_budgets(command)

    _add_uses(commands)
    return parser


def _add_uses(commands: Any) -> None:
    """The commands that use schedules, and the one that trains."""
    spelling = "a schedule file, or even:K, quadratic:K or dp:K for K steps"
    command = _command(commands, "sample", run.sample, "draw samples into one PNG picture")
    _add_model(command)
    command.add_argument("--schedule", default="dp:32", help=spelling)
    _add_costs(command)
    command.add_argument("--n", type=integer(1), default=64, help="number of samples")
    command.add_argument(
        "--sampler",
        help="ancestral, ddim, 2m, ab2 or unipc; if not given, the one a schedule file was made "
        "for, or ancestral",
    )
    command.add_argument("--eta", type=number(0, 1), default=0.0, help="of ddim, in [0, 1]")
    command.add_argument("--out", default="samples.png", help="picture to write")

    command = _command(commands, "evaluate", run.evaluate, "evaluate schedules on held-out images")
    _add_model(command)
    _add_data(command, "test")
    command.add_argument("--schedule", nargs="+", default=["dp:32"], help=spelling)
    _add_costs(command)

    command = _command(commands, "export", run.export, "print a schedule for another program")
    command.add_argument("schedule", help=spelling)
    command.add_argument("--to", required=True, choices=FORMATS, help="program or format")
    command.add_argument("--model", help=f"{MODEL}; {ASSUMED}, where a model is needed")
    _add_checkpoint(command)
    _add_variance(command, "the model's own")
    _add_costs(command)
    command.set_defaults(device="cpu", precision="float32", compile=False)

    command = _command(commands, "train", run.train, "train a model by a recipe; restartable")
    command.add_argument("recipe", help=f"name of the recipe, of {', '.join(RECIPES)}")
    command.add_argument("--data", help="images to train on; only digits has its own")
    command.add_argument("--device", help="torch device; if not given, a GPU if there is one")
    command.add_argument(
        "--precision", default="float32", choices=("float32", "bf16"), help="of the updates"
    )
    command.add_argument("--out", default="model", help="folder for checkpoint and model")


def _command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], Any], text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(run=function)
    command.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    return command


def _add_checkpoint(command: argparse.ArgumentParser) -> None:
    command.add_argument("--flags", help="of a .pt checkpoint: JSON file, flag string or preset")
    command.add_argument("--key", help="of a checkpoint that holds more, such as 'ema'")


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", help=f"{MODEL}; {ASSUMED}")
    _add_checkpoint(command)
    command.add_argument(
        "--device", default="cpu", help="torch device; 'cuda' is each worker's own GPU"
    )
    command.add_argument(
        "--precision",
        default="float32",
        choices=("float32", "bf16", "fp16"),
        help="of the network; commands that are given images say what it changes",
    )
    command.add_argument("--compile", action="store_true", help="use torch.compile")
    command.add_argument("--seed", type=integer(0, LARGEST), default=0, help="of all noise")
    command.add_argument(
        "--batch-size", type=integer(1), default=256, help="examples a network call"
    )
    _add_variance(command, "the model's own")


def _add_variance(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--variance", choices=list(RULES), help=f"reverse variance rule; if not given, {default}"
    )


def _add_data(command: argparse.ArgumentParser, split: str) -> None:
    command.add_argument("--data", help=f"{DATA}; {ASSUMED}")
    command.add_argument(
        "--split",
        default=split,
        choices=("train", "validation", "test"),
        help="of a set that is divided; any other is taken whole",
    )


def _add_measuring(command: argparse.ArgumentParser) -> None:
    amount = command.add_mutually_exclusive_group()
    amount.add_argument(
        "--calls",
        type=integer(1),
        metavar="N",
        help="network calls to measure with, one image each; if nothing is given, T (`optimize` "
        "goes on until schedules lose less than 0.01 bits/dim)",
    )
    amount.add_argument(
        "--regret",
        type=number(0, math.inf, above=True),
        metavar="E",
        help="measure until schedules lose less than E bits/dim with 95 %% confidence",
    )
    amount.add_argument(
        "--per-step",
        type=integer(2),
        metavar="N",
        help="measure every timestep, with N images each",
    )
    command.set_defaults(steps=None)


def _add_budgets(command: argparse.ArgumentParser) -> None:
    usual, few = (" ".join(map(str, budgets)) for budgets in (BUDGETS, samples.BUDGETS))
    command.add_argument(
        "--steps",
        type=integer(1),
        nargs="+",
        help=f"budgets to write and print; if not given, {usual} (--for samples: {few}), as far as "
        "the model has so many steps",
    )
    command.add_argument("--out", default="schedules", help="folder for the results")
    command.add_argument(
        "--smooth",
        type=number(0, math.inf),
        metavar="WIDTH",
        help="average costs of every timestep over this much log SNR either way, 0 for not at "
        "all; if not given, residuals against the known standard errors decide",
    )


def _add_costs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--costs", help="costs file for dp:K and the optimal variance; else the model's own"
    )
