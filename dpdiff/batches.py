"""Batches of noisy images, made ready in the background while the network is at work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from dpdiff import data, draws
from dpdiff.denoiser import Denoiser

Job = TypeVar("Job")
Made = TypeVar("Made")


class Batch(NamedTuple):
    """Images and the noise for them, on the CPU: float64 and float32, shape (B, ...)."""

    t: np.ndarray
    x0: Tensor
    noise: Tensor


def prepare(
    denoiser: Denoiser, images: np.ndarray, t: np.ndarray, rows: np.ndarray, seed: int
) -> Batch:
    """Look images up, scale them to [-1, 1] and draw their noise.

    Parameters
    ----------
    denoiser : Denoiser
        The model.
    images : ndarray, shape (N, ...)
        The data set.
    t, rows : ndarray of int, shape (B,)
        Timestep and image of every member of the batch; equal timesteps follow one another.
    seed : int
        Of the noise.
    """
    x0 = torch.from_numpy(data.scaled(images[rows], denoiser.levels))
    steps = t[np.flatnonzero(np.diff(t, prepend=-1))]
    noise = np.concatenate(
        [draws.gaussian(seed, int(step), rows[t == step], denoiser.shape) for step in steps]
    )
    batch = Batch(t, x0, torch.from_numpy(noise))
    if denoiser.device.type == "cuda":  # from pinned memory, copies need not be waited for
        batch = Batch(t, x0.pin_memory(), batch.noise.pin_memory())
    return batch


@torch.inference_mode()
def predict(denoiser: Denoiser, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Noise the images, ask the network, and return ``x_0``, ``x̂_0`` and ``v`` in float64."""
    x0, noise = (part.to(denoiser.device, non_blocking=True) for part in batch[1:])
    shape = (-1,) + (1,) * len(denoiser.shape)
    f, g = (
        torch.from_numpy(c[batch.t]).reshape(shape).to(x0.device)
        for c in (denoiser.noise.f, denoiser.noise.g)
    )
    prediction = denoiser(f * x0 + g * noise.double(), batch.t)
    return x0, prediction.x0, prediction.v


def ahead(make: Callable[[Job], Made], jobs: Iterable[Job]) -> Iterator[Made]:
    """What ``make`` makes of every job, the next one while the last one is being used.

    Examples
    --------
    >>> list(ahead(str.upper, "abc"))
    ['A', 'B', 'C']
    """
    with ThreadPoolExecutor(1) as thread:
        coming = None
        for job in jobs:
            ready, coming = coming, thread.submit(make, job)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()
