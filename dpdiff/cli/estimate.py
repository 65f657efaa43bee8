"""How long measuring will take, from one network call that is timed."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from dpdiff import noising
from dpdiff.costs import statistics
from dpdiff.costs.measurement import first_stage
from dpdiff.denoiser import Denoiser
from dpdiff.runtime.batches import Batches
from dpdiff.runtime.workers import join

SLOW = 5.0  # seconds of a first call after which no second one is made to warm up


def announcement(denoiser: Denoiser, images: Any, options: argparse.Namespace) -> str:
    """How many network calls measuring takes, one image each, and about how long; a line.

    Parameters
    ----------
    denoiser, images
        As :func:`dpdiff.measure` takes them.
    options : argparse.Namespace
        What it was asked for.
    """
    T, request = denoiser.noise.T, {k: getattr(options, k) for k in ("calls", "regret", "per_step")}
    stage = first_stage(denoiser.noise, len(images), request, seed=0)
    calls, most = stage.calls, len(stage.timesteps) * len(images)
    what = f"all {T:,} timesteps" if stage.every_step else "a few timesteps"
    rounds = options.regret is not None and not stage.every_step
    if rounds:
        calls = max(T, calls)
        what = f"in rounds until schedules lose less than {options.regret} bits/dim"
    size = min(options.batch_size, calls)
    each = seconds_a_call(denoiser, images, size) / size
    line = (
        f"measuring {what}: at {1000 * each:.2g} ms a network call, {calls:,} calls take about "
        f"{spoken(calls * each / join().count)}"
    )
    if not rounds or most <= calls:
        return line
    all_of_them = spoken(most * each / join().count)
    return f"{line}; if all images are needed, {most:,} calls and {all_of_them}"


def seconds_a_call(denoiser: Denoiser, images: Any, size: int) -> float:
    """How long a network call of so many images takes, with what is made of its output."""
    rows = np.arange(size) % len(images)
    t = np.full(size, (denoiser.noise.T + 1) // 2)
    batch = noising.prepare(denoiser, images, t, rows, seed=0)
    batches = Batches(batch_size=size)

    def ask(some: noising.Batch) -> Tensor:
        values = statistics.per_image(denoiser, some.t, *noising.predict(denoiser, some))
        return values["mse"].cpu()  # on a GPU, work is done when its result is asked for

    return seconds_of(lambda: batches.halved(ask, batch))


def seconds_of(work: Callable[[], Any]) -> float:
    """How long some work takes the second time, or the first time if that was slow."""
    for _ in range(2):
        begin = time.perf_counter()
        work()
        seconds = time.perf_counter() - begin
        if seconds > SLOW:
            break
    return seconds


def spoken(seconds: float) -> str:
    """A duration in words.

    Examples
    --------
    >>> spoken(0.3), spoken(95), spoken(4000), spoken(90000)
    ('1 second', '2 minutes', '1.1 hours', '25 hours')
    """
    if seconds < 90:
        count = max(1, round(seconds))
        return f"{count} second{'s' if count > 1 else ''}"
    if seconds < 3600:
        return f"{round(seconds / 60)} minutes"
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 10 else f"{round(hours)} hours"
