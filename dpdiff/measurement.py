"""One pass over the grid: a network call for every timestep and image gives every jump's cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dpdiff import chebyshev, data, draws
from dpdiff.costs import Costs
from dpdiff.denoiser import Denoiser
from dpdiff.elbo import decoder_cost, prior_cost
from dpdiff.errors import InputError
from dpdiff.version import __version__

NODES = 24  # reproduce the direct double loop to 3e-11 bits/dim at T = 4000, v in [-0.2, 1.2]


def measure(
    denoiser: Denoiser,
    images: Any,
    *,
    seed: int = 0,
    per_step: int = 128,
    batch_size: int = 256,
    progress: bool = True,
) -> Costs:
    """Measure what every jump costs a denoiser.

    Each timestep ``t`` is shown ``per_step`` images with noise of its own, one network call
    each; from ``x̂_0`` and ``v`` come the statistics that give ``L(t, s)`` for all ``s`` at once
    (Watson et al. 2021, section 3.2) under every variance rule.

    Parameters
    ----------
    denoiser : Denoiser
        The model.
    images : array_like, shape (N, ...)
        Integers ``0 … levels - 1`` (floats if ``denoiser.levels`` is None), best of images that
        the network was not fitted to: a small set is remembered, and its costs are too low.
    seed : int
        Decides which images each timestep sees, and the noise. Batches do not.
    per_step : int
        Images a timestep. If fewer than N, every timestep takes the next ones of a shuffled
        list, so that all images are used; otherwise each timestep sees each image once.
    batch_size : int
        Images a network call.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Costs
        Under the denoiser's own variance rule.

    Raises
    ------
    InputError
        If the images do not suit the denoiser, or the network's output is not finite or of a
        wrong shape.

    Examples
    --------
    >>> from dpdiff.noise import NoiseSchedule
    >>> silent = Denoiser(lambda x, index: 0 * x, NoiseSchedule.cosine(8), shape=(2,))
    >>> costs = measure(silent, np.full((3, 2), 200), per_step=3, progress=False)
    >>> costs.table().shape
    (9, 9)
    """
    images = data.check(images, denoiser.shape, denoiser.levels)
    T, per_step = denoiser.noise.T, min(per_step, len(images))
    if per_step < 2 or batch_size < 1:
        raise InputError(
            "every timestep needs at least two images, or no error can be told, and a batch at "
            f"least one; got {per_step} images a timestep and batches of {batch_size}"
        )
    statistics: dict[str, np.ndarray] = {}
    bar = tqdm(total=T, desc="measure", unit="t", disable=not progress)
    for timesteps in units(T, per_step, batch_size):
        found = _measure_unit(denoiser, images, timesteps, seed, per_step, batch_size)
        for name, values in found.items():
            if name not in statistics:
                dtype = np.float32 if values.ndim > 1 and name.endswith(("_var", "_cov")) else float
                statistics[name] = np.zeros((T + 1, *values.shape[1:]), dtype)
            statistics[name][timesteps] = values
        bar.update(len(timesteps))
    bar.close()
    priors = prior_costs(denoiser, images, at_most=4096)
    statistics["prior"] = priors.mean()
    statistics["prior_var"] = priors.var()
    provenance = {
        "model": denoiser.fingerprint,
        "images": len(images),
        "per_step": per_step,
        "seed": seed,
        "dpdiff": __version__,
    }
    variance = "large" if denoiser.variance == "optimal" else denoiser.variance
    return Costs(denoiser.noise, denoiser.shape, variance, statistics, provenance)


def units(T: int, per_step: int, batch_size: int) -> Iterator[np.ndarray]:
    """Cut ``1 … T`` into the pieces of work whose results do not depend on one another.

    Examples
    --------
    >>> [list(map(int, unit)) for unit in units(5, per_step=100, batch_size=256)]
    [[1, 2], [3, 4], [5]]
    """
    size = max(1, batch_size // per_step)
    for first in range(1, T + 1, size):
        yield np.arange(first, min(first + size, T + 1))


def rows_for(t: int, count: int, per_step: int, seed: int) -> np.ndarray:
    """Which of ``count`` images timestep ``t`` sees.

    Examples
    --------
    >>> rows_for(1, 3, 3, seed=0)
    array([0, 1, 2])
    """
    if per_step == count:
        return np.arange(count)
    shuffled = np.random.default_rng(seed).permutation(count)
    return shuffled[(t * per_step + np.arange(per_step)) % count]


def prior_costs(denoiser: Denoiser, images: Any, at_most: int | None = None) -> np.ndarray:
    """The prior term of each image, or of so many spread evenly over them, in nats."""
    noise, count = denoiser.noise, min(at_most or len(images), len(images))
    rows = np.arange(count) * len(images) // count
    costs = [
        prior_cost(
            torch.from_numpy(data.scaled(images[chunk], denoiser.levels)),
            noise.log_f2[-1],
            noise.log_g2[-1],
        )
        .flatten(1)
        .sum(1)
        for chunk in np.array_split(rows, -(-count // 1024))
    ]
    return torch.cat(costs).numpy()


@torch.inference_mode()
def noised_predictions(
    denoiser: Denoiser, images: np.ndarray, t: np.ndarray, rows: np.ndarray, seed: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Noise images, ask the network, and return ``x_0``, ``x̂_0`` and ``v`` in float64.

    Parameters
    ----------
    denoiser : Denoiser
        The model.
    images : ndarray, shape (N, ...)
        The data set.
    t, rows : ndarray of int, shape (B,)
        Timestep and image of every member of the batch.
    seed : int
        Of the noise.
    """
    x0 = torch.from_numpy(data.scaled(images[rows], denoiser.levels)).to(denoiser.device)
    noise = np.concatenate(
        [draws.gaussian(seed, int(step), rows[t == step], denoiser.shape) for step in np.unique(t)]
    )
    shape = (-1,) + (1,) * len(denoiser.shape)
    f, g = (
        torch.from_numpy(c[t]).reshape(shape).to(x0.device)
        for c in (denoiser.noise.f, denoiser.noise.g)
    )
    x_t = f * x0 + g * torch.from_numpy(noise).to(x0.device).double()
    prediction = denoiser(x_t, t)
    return x0, prediction.x0, prediction.v


def _measure_unit(
    denoiser: Denoiser,
    images: np.ndarray,
    timesteps: np.ndarray,
    seed: int,
    per_step: int,
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Statistics of a few timesteps, each array's first axis running over them."""
    t = np.repeat(timesteps, per_step)
    rows = np.concatenate([rows_for(step, len(images), per_step, seed) for step in timesteps])
    batches = []
    for start in range(0, len(t), batch_size):
        part = slice(start, start + batch_size)
        batches.append(noised_predictions(denoiser, images, t[part], rows[part], seed))
    x0, mean = (torch.cat([batch[i] for batch in batches]).flatten(1) for i in (0, 1))
    squared_error = (x0 - mean) ** 2  # (B, D)
    noise, device = denoiser.noise, x0.device

    def column(values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float64, device=device).reshape(-1, 1)

    def decoder(log_variance: Tensor) -> Tensor:
        return decoder_cost(x0, mean, log_variance, denoiser.levels).sum(1)

    mse = squared_error.sum(1)
    mean_mse = mse.reshape(len(timesteps), per_step).mean(1).repeat_interleave(per_step)
    found = {
        "mse": mse,
        "decoder_fixed": decoder(column(noise.log_g2[t])),
        "decoder_optimal": decoder(torch.log(mean_mse[:, None] / denoiser.dims)),
    }
    if batches[0][2] is not None:
        v = torch.cat([batch[2] for batch in batches]).flatten(1)
        floor = column(
            np.array([denoiser.decoder_floor(step) for step in timesteps]).repeat(per_step)
        )
        found["decoder_learned_range"] = decoder(floor + (column(noise.log_g2[t]) - floor) * v)
        widths = column(noise.log_ratio(t, 1))
        found["penalty"], found["error"] = node_functions(widths, v, squared_error)
    return _moments({k: c.cpu().numpy() for k, c in found.items()}, len(timesteps))


def node_functions(widths: Tensor, v: Tensor, squared_error: Tensor) -> tuple[Tensor, Tensor]:
    """``Σ_d (a v + e^{-a v} - 1)`` and ``Σ_d δ² e^{-a v}`` at the Chebyshev nodes ``a``.

    Parameters
    ----------
    widths : Tensor, shape (B, 1)
        Largest ``a`` of each example's timestep.
    v, squared_error : Tensor, shape (B, D)
        Variance output and ``δ²``.

    Returns
    -------
    penalty, error : Tensor, shape (B, J)
    """
    penalty, error = [], []
    for node in chebyshev.nodes(NODES):
        u = widths * ((1 + node) / 2) * v
        shrink = torch.expm1(-u)
        penalty.append((u + shrink).sum(1))
        error.append((squared_error + squared_error * shrink).sum(1))
    return torch.stack(penalty, 1), torch.stack(error, 1)


def _moments(per_image: dict[str, np.ndarray], groups: int) -> dict[str, np.ndarray]:
    """Means, variances and the one covariance, over the images of every timestep."""
    grouped = {k: values.reshape(groups, -1, *values.shape[1:]) for k, values in per_image.items()}
    means = {name: values.mean(1) for name, values in grouped.items()}
    spread = {f"{name}_var": values.var(1) for name, values in grouped.items()}
    if "penalty" in grouped:
        deviations = (grouped[k] - means[k][:, None] for k in ("penalty", "error"))
        spread["penalty_error_cov"] = np.prod(list(deviations), axis=0).mean(1)
    return means | spread
