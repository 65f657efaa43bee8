"""Images as the latents that a latent model denoises, and latents as images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpdiff import data
from dpdiff.diffusers.pipelines import PIPELINES
from dpdiff.errors import InputError
from dpdiff.runtime import random_streams
from dpdiff.runtime.batches import cut


@torch.inference_mode()
def latents(pipe: Any, images: Any, *, seed: int | None = None, batch_size: int = 8) -> np.ndarray:
    """Latents of images, the data of the denoiser that :func:`dpdiff.load` makes of a pipeline.

    The autoencoder's latents ``z`` are scaled and shifted as the network knows them: ``scaling ·
    (z - shift)``, or ``scaling · (z - mean) / std``, by its own config.

    Parameters
    ----------
    pipe : pipeline
        In memory, with its autoencoder.
    images : array_like, shape (N, C, H, W)
        Of 256 levels, as :func:`dpdiff.measure` takes them; height and width those of the
        pictures.
    seed : int, optional
        Draw ``z`` from the encoder's distribution, with this seed; by default its mean is taken.
    batch_size : int
        Images a call.

    Returns
    -------
    ndarray, float32, shape (N, c, h, w)

    Raises
    ------
    InputError
        If the pipeline has no autoencoder, or the images are none that it takes.
    """
    vae = _autoencoder(pipe)
    channels = vae.config.in_channels
    array = images if hasattr(images, "shape") else np.asarray(images)
    if len(array.shape) != 4 or channels not in (array.shape[1], array.shape[3]):
        raise InputError(f"images have shape (N, {channels}, H, W), got {tuple(array.shape)}")
    last = array.shape[1] != channels
    shape = (channels, *(array.shape[1:3] if last else array.shape[2:]))
    checked = data.check(array, shape, 256)
    parts = []
    for rows in cut(np.arange(len(checked)), batch_size):
        x = torch.from_numpy(data.scaled(checked[rows], 256)).to(vae.device, vae.dtype)
        parts.append(_scaled(_encoded(vae, x, rows, seed), vae).float().cpu().numpy())
    return np.concatenate(parts)


@torch.inference_mode()
def decode(pipe: Any, samples: Tensor, *, batch_size: int = 8) -> np.ndarray:
    """Images of latents, as :func:`dpdiff.sample` draws them.

    Parameters
    ----------
    pipe, batch_size
        As for :func:`latents`.
    samples : Tensor, shape (N, c, h, w)
        Latents.

    Returns
    -------
    ndarray, uint8, shape (N, C, H, W)
    """
    vae, parts = _autoencoder(pipe), []
    for part in torch.as_tensor(samples).split(batch_size):
        z = _unscaled(part.to(vae.device, vae.dtype), vae)
        image = vae.decode(z).sample.float().cpu()
        parts.append(((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy())
    return np.concatenate(parts)


def _autoencoder(pipe: Any) -> Any:
    about = PIPELINES.get(type(pipe).__name__)
    vae = getattr(pipe, about.vae, None) if about else None
    if vae is None:
        raise InputError(
            f"a {type(pipe).__name__} has no autoencoder; these pipelines have: "
            + ", ".join(PIPELINES)
        )
    return vae


def _encoded(vae: Any, x: Tensor, rows: np.ndarray, seed: int | None) -> Tensor:
    """The encoder's mean, or a draw, of images that stand in given rows of all."""
    encoding = vae.encode(x)
    if not hasattr(encoding, "latent_dist"):
        return encoding.latents  # of vector-quantised ones, which have no distribution
    mean, std = encoding.latent_dist.mean, encoding.latent_dist.std
    if seed is None:
        return mean
    noise = random_streams.gaussian(seed, 0, rows, tuple(mean.shape[1:]))
    return mean + std * torch.from_numpy(noise).to(mean)


def _moments(vae: Any, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """What is subtracted from latents, and what they are divided by."""
    config, scale = vae.config, vae.config.scaling_factor
    mean, std = (getattr(config, f"latents_{name}", None) for name in ("mean", "std"))
    if mean is not None and std is not None:
        mean, std = (torch.tensor(m).reshape(1, -1, 1, 1).to(like) for m in (mean, std))
        return mean, std / scale
    return getattr(config, "shift_factor", None) or 0.0, 1 / scale


def _scaled(z: Tensor, vae: Any) -> Tensor:
    mean, std = _moments(vae, z)
    return (z - mean) / std


def _unscaled(x: Tensor, vae: Any) -> Tensor:
    mean, std = _moments(vae, x)
    return x * std + mean
