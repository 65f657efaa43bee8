"""A command's inputs: model, images, costs and schedules."""

from __future__ import annotations

import argparse
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import dpdiff
from dpdiff.errors import InputError
from dpdiff.runtime import random_streams
from dpdiff.runtime.workers import device, join
from dpdiff.variance import rule_named

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # package.module:function
STRIDES = ("even", "quadratic")


def print_notes(options: argparse.Namespace) -> None:
    """Print what was assumed, once, now that nothing was found wrong and work begins."""
    for note in options.notes:
        if join().first:
            tqdm.write(f"dpdiff: {note}", file=sys.stderr)
    options.notes.clear()


def denoiser_for(options: argparse.Namespace, *, rule: str | None) -> dpdiff.Denoiser:
    """The model that was named, or the bundled digits', under a variance rule.

    Parameters
    ----------
    options : Namespace
        Of the command; its ``model`` is filled in.
    rule : str or None
        The variance rule, if not the model's own.
    """
    if options.model is None:
        options.model = "digits"
        options.notes.append("no --model was given: the bundled model 'digits' is meant")
    denoiser = _loaded(options, device(options.device))
    folder = Path(options.model)
    if folder.is_dir() and denoiser.levels == 256 and not (folder / "dpdiff.json").exists():
        options.notes.append(
            "256 levels are assumed, 8 bits a channel: a dpdiff.json in the model's folder can "
            'say otherwise, {"levels": 17}'
        )
    if options.precision != "float32" or options.compile:
        denoiser = denoiser.with_precision(options.precision, compile=options.compile)
    if rule is None:
        return denoiser
    costs = costs_for(options) if rule_named(rule).needs_error else None
    return denoiser.with_variance(rule, costs)


def _loaded(options: argparse.Namespace, place: str) -> dpdiff.Denoiser:
    model = options.model
    if FUNCTION.fullmatch(model) and not os.path.exists(model):
        return _denoiser_of_function(model, place)
    path = Path(model)
    unknown = path.suffix == ".safetensors" and options.flags is None
    if (unknown or path.suffix in (".pth", ".bin", ".ckpt")) and path.is_file():
        raise InputError(
            f"{model} tells weights and no layout. If it is a checkpoint of improved-diffusion or "
            "guided-diffusion, give it the ending .pt and add --flags; a network of your own is "
            "named by the function that makes it, --model package.module:function"
        )
    return dpdiff.load(model, flags=options.flags, key=options.key, device=place)


def _denoiser_of_function(name: str, place: str) -> dpdiff.Denoiser:
    """A denoiser that a function of the user's own makes."""
    made = _call("--model", name)
    if not isinstance(made, dpdiff.Denoiser):
        raise InputError(f"--model {name} returns a {type(made).__name__}, not a dpdiff.Denoiser")
    if place != "cpu" and hasattr(made.network, "to"):
        made.network.to(place)
    return made


def _call(option: str, name: str) -> Any:
    """What a function of the user's own makes; it is imported as Python would here."""
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` has it
    try:
        return getattr(import_module(module), function)()
    except Exception as error:
        raise InputError(f"{option} {name} fails: {type(error).__name__}: {error}") from error


def try_out(denoiser: dpdiff.Denoiser) -> None:
    """Ask the network once, so that one which fails is refused before any work begins."""
    import torch

    if not denoiser.precision.endswith("compiled"):  # which would be compiled for this one call
        noise = random_streams.gaussian(0, denoiser.noise.T, [0], denoiser.shape)
        with torch.inference_mode():
            denoiser(torch.from_numpy(noise), denoiser.noise.T)


def images_for(options: argparse.Namespace, denoiser: dpdiff.Denoiser) -> Any:
    """The images that were named, or the bundled digits, as the model takes them."""
    from dpdiff.data import check

    if options.data is None:
        options.data = "digits"
        options.notes.append("no --data was given: the bundled digits' images are meant")
    if FUNCTION.fullmatch(options.data) and not os.path.exists(options.data):
        images = _call("--data", options.data)
    elif denoiser.levels is None and options.data.endswith(".npy"):
        try:
            images = np.load(options.data, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {options.data}: {error}") from error
    else:
        images = dpdiff.images(options.data, split=options.split, shape=denoiser.shape)
    return check(images, denoiser.shape, denoiser.levels)


def costs_for(options: argparse.Namespace) -> dpdiff.Costs:
    """The costs file that was named, or what ships with the model."""
    if options.costs:
        return dpdiff.Costs.load(options.costs)
    try:
        return dpdiff.load_costs(options.model)
    except InputError as error:
        raise InputError(
            f"the model {options.model!r} has no costs of its own beside it: measure them and "
            f"give the file with --costs ({error})"
        ) from error


def schedule_for(
    text: str, options: argparse.Namespace, denoiser: dpdiff.Denoiser
) -> dpdiff.Schedule:
    """A schedule file, or ``even:K``, ``quadratic:K`` or ``dp:K``."""
    kind, colon, number = text.partition(":")
    if kind not in (*STRIDES, "dp") or not colon or os.path.exists(text):
        schedule = dpdiff.Schedule.load(text)
        schedule.check_noise(denoiser.noise)
        return schedule
    if not (number.isascii() and number.isdecimal() and len(number) < 10):
        raise InputError(f"a schedule is a file or {kind}:K with a number of steps K, got {text!r}")
    steps = int(number)
    if kind in STRIDES:
        return getattr(dpdiff.Schedule, kind)(denoiser.noise.T, steps)
    costs = costs_for(options).with_variance(denoiser.variance)
    costs.check_model(denoiser.fingerprint)
    return dpdiff.solve(costs.smoothed(), steps).schedule(steps)
