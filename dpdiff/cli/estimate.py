"""How long measuring will take, from one network call that is timed."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np

from dpdiff import noising
from dpdiff.costs import statistics
from dpdiff.denoiser import Denoiser
from dpdiff.runtime.memory import Halving

SLOW = 5.0  # seconds of a first call after which no second one is made to warm up


def announcement(
    denoiser: Denoiser, images: Any, per_step: int, batch_size: int, workers: int
) -> str:
    """How many network calls measuring takes, and about how long, in a line.

    Parameters
    ----------
    denoiser, images, per_step, batch_size
        As :func:`dpdiff.measure` takes them.
    workers : int
        Processes that share the work.
    """
    T, per_step = denoiser.noise.T, min(per_step, len(images))
    size = min(batch_size, T * per_step)
    seconds, calls = seconds_a_call(denoiser, images, size), -(-T * per_step // size)
    return (
        f"measuring {T} timesteps with {per_step} images each: {calls} network calls of {size}, "
        f"about {spoken(calls * seconds / workers)}"
    )


def seconds_a_call(denoiser: Denoiser, images: Any, size: int) -> float:
    """How long a network call of so many images takes, with what is made of its output."""
    rows = np.arange(size) % len(images)
    t = np.full(size, (denoiser.noise.T + 1) // 2)
    batch = noising.prepare(denoiser, images, t, rows, seed=0)
    halving = Halving()
    for _ in range(2):
        begin = time.perf_counter()
        halving(partial(_look, denoiser, batch), size)
        seconds = time.perf_counter() - begin
        if seconds > SLOW:
            break
    return seconds


def _look(denoiser: Denoiser, batch: noising.Batch, rows: slice) -> None:
    batch = batch.part(rows)
    values = statistics.per_image(denoiser, batch.t, *noising.predict(denoiser, batch))
    values["mse"].cpu()  # on a GPU, work is done when its result is asked for


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
