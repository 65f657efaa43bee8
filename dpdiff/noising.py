"""Images, the noise that is put on them, and what a denoiser makes of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpdiff import data
from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.elbo import prior_cost
from dpdiff.errors import InputError
from dpdiff.runtime import random_streams


@dataclass(frozen=True)
class Batch:
    """Images and the noise for them, on the CPU: float64 and float32, shape (B, ...)."""

    t: np.ndarray
    x0: Tensor
    noise: Tensor

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, rows: slice) -> Batch:
        return Batch(self.t[rows], self.x0[rows], self.noise[rows])


def prepare(
    denoiser: Denoiser,
    images: np.ndarray,
    t: np.ndarray,
    rows: np.ndarray,
    seed: int,
    first_row: int = 0,
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
    first_row : int
        Number of the first image in the set that these are a part of; noise goes by it.
    """
    x0 = torch.from_numpy(data.scaled(images[rows], denoiser.levels))
    steps = t[np.flatnonzero(np.diff(t, prepend=-1))]
    noise = np.concatenate(
        [
            random_streams.gaussian(seed, int(step), first_row + rows[t == step], denoiser.shape)
            for step in steps
        ]
    )
    batch = Batch(t, x0, torch.from_numpy(noise))
    if denoiser.device.type == "cuda":  # from pinned memory, copies need not be waited for
        batch = Batch(t, x0.pin_memory(), batch.noise.pin_memory())
    return batch


def check_likelihood(denoiser: Denoiser) -> None:
    """Refuse a denoiser that is guided: what it says belongs to no distribution of data."""
    if getattr(denoiser.unwrapped.network, "guided", False):
        raise InputError(
            "a guided network is no denoiser of any data, so its likelihood has no meaning: load "
            "it without (guidance_scale=1, where none was distilled into it), or find schedules "
            "for its samples, dpdiff.trajectories(denoiser)"
        )


def place(denoiser: Denoiser) -> torch.device:
    """Where numbers about a denoiser are reckoned in float64, which Apple's GPUs do not have."""
    return torch.device("cpu") if denoiser.device.type == "mps" else denoiser.device


@torch.inference_mode()
def predict(denoiser: Denoiser, batch: Batch) -> tuple[Tensor, Prediction]:
    """Noise the images, ask the network, and return ``x_0`` and what is predicted, in float64."""
    where = place(denoiser)
    x0, noise = (part.to(where, non_blocking=True) for part in (batch.x0, batch.noise))
    f, g = denoiser.noise.at(batch.t, x0)
    return x0, denoiser(f * x0 + g * noise.double(), batch.t)


def prior_costs(denoiser: Denoiser, images: Any, at_most: int | None = None) -> np.ndarray:
    """The prior term of each image, or of so many spread evenly over them, in nats."""
    noise, count = denoiser.noise, min(at_most or len(images), len(images))
    rows, units = np.arange(count) * len(images) // count, 2 * np.log(noise.prior_scale)
    costs = [
        prior_cost(
            torch.from_numpy(data.scaled(images[chunk], denoiser.levels)),
            noise.log_f2[-1] - units,
            noise.log_g2[-1] - units,
        )
        .flatten(1)
        .sum(1)
        for chunk in np.array_split(rows, -(-count // 1024))
    ]
    return torch.cat(costs).numpy()
