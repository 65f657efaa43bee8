"""What is kept of a batch: a few numbers an image, then their means and variances."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.elbo import decoder_cost
from dpdiff.noise import per_example
from dpdiff.runtime.compiled import compiled
from dpdiff.variance import Rule, rules_for


def chebyshev_nodes(count: int) -> np.ndarray:
    """Chebyshev's nodes on [-1, 1], shape (count,).

    Examples
    --------
    >>> chebyshev_nodes(2).round(4)
    array([ 0.7071, -0.7071])
    """
    return np.cos(np.pi * (np.arange(count) + 0.5) / count)


def chebyshev_transform(count: int) -> np.ndarray:
    """The (count, count) matrix that takes values at the nodes to Chebyshev coefficients.

    Examples
    --------
    >>> values = 3 + 2 * chebyshev_nodes(4)
    >>> np.allclose(chebyshev_transform(4) @ values, [3, 2, 0, 0])
    True
    """
    angles = np.pi * np.outer(np.arange(count), np.arange(count) + 0.5) / count
    matrix = 2 / count * np.cos(angles)
    matrix[0] /= 2
    return matrix


@compiled(nogil=True, error_model="numpy")
def chebyshev_sum(coefficients: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Sum the series ``Σ_j c_j T_j(x)`` by Clenshaw's recurrence.

    Parameters
    ----------
    coefficients : ndarray of float64, shape (R, J)
        A function a row, J ≥ 2.
    x : ndarray of float64, shape (R, S)
        Points in [-1, 1].

    Returns
    -------
    ndarray of float64, shape (R, S)

    Examples
    --------
    >>> chebyshev_sum(np.array([[3.0, 2.0, 1.0]]), np.array([[0.0, 1.0]]))
    array([[2., 6.]])
    """
    rows, terms = coefficients.shape
    result = np.empty_like(x)
    width = 256  # the three work arrays stay in the first-level cache
    b0, b1, b2 = np.empty(width), np.empty(width), np.empty(width)
    for row in range(rows):
        c = coefficients[row]
        for start in range(0, x.shape[1], width):
            size = min(width, x.shape[1] - start)
            twice = 2 * x[row, start : start + size]
            b1[:size] = 0.0
            b2[:size] = 0.0
            for j in range(terms - 1, 0, -1):
                for i in range(size):
                    b0[i] = c[j] + twice[i] * b1[i] - b2[i]
                b0, b1, b2 = b2, b0, b1
            for i in range(size):
                result[row, start + i] = c[0] + 0.5 * twice[i] * b1[i] - b2[i]
    return result


NODES = 24  # reproduce the direct double loop to 3e-11 bits/dim at T = 4000, v in [-0.2, 1.2]


def per_image(
    denoiser: Denoiser, t: np.ndarray, x0: Tensor, prediction: Prediction
) -> dict[str, Tensor]:
    """All that the bound needs of every image, each at a timestep of its own.

    What depends on all images of a timestep together is left to :func:`decoders`.

    Parameters
    ----------
    denoiser : Denoiser
        The model.
    t : ndarray of int, shape (B,)
        Timesteps.
    x0 : Tensor, float64, shape (B, ...)
        The data.
    prediction : Prediction
        What the denoiser says of them.

    Returns
    -------
    dict of Tensor, shape (B,) or (B, J)
        ``mse``, ``decoder_…`` and, of a learned variance, ``penalty`` and ``error``.
    """
    squared_error = (x0 - prediction.x0).flatten(1) ** 2  # (B, D)
    values = {"mse": squared_error.sum(1)} | decoders(denoiser, t, x0, prediction, None)
    if prediction.v is not None:
        widths = per_example(denoiser.noise.noise_gain(t, 1), squared_error)
        v = prediction.v.flatten(1)
        values["penalty"], values["error"] = node_functions(widths, v, squared_error)
    return values


def decoders(
    denoiser: Denoiser, t: np.ndarray, x0: Tensor, prediction: Prediction, mse: Tensor | None
) -> dict[str, Tensor]:
    """Costs of the last jump, ``decoder_…`` for every kind of decoder that the rules know.

    Parameters
    ----------
    denoiser, t, x0, prediction
        As for :func:`per_image`.
    mse : Tensor, shape (B,), optional
        ``m(t)`` of each image's timestep. With it, the decoders that depend on it; without it,
        the others.

    Returns
    -------
    dict of Tensor, shape (B,)
    """

    def cost(rule: Rule) -> Tensor:
        error = None if mse is None else (mse / denoiser.dims).cpu().numpy()
        log_variance = rule.decoder_log_variance(denoiser.noise, t, prediction.v, error)
        costs = decoder_cost(x0, prediction.x0, per_example(log_variance, x0), denoiser.levels)
        return costs.flatten(1).sum(1)

    rules = {rule.decoder: rule for rule in rules_for(denoiser.outputs_variance)}
    return {
        f"decoder_{name}": cost(rule)
        for name, rule in rules.items()
        if rule.needs_error == (mse is not None)
    }


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
    nodes = torch.as_tensor((1 + chebyshev_nodes(NODES)) / 2, device=v.device)
    # A few nodes at a time: what fits a processor's cache, or fills a GPU in few launches.
    room = 2**23 if v.is_cuda else 2**16
    penalty, error = [], []
    for some in nodes.split(max(1, min(NODES, room // v.numel()))):
        u = (widths * some)[:, :, None] * v[:, None]  # (B, some, D)
        shrink = torch.expm1(-u)
        penalty.append(u.add_(shrink).sum(2))
        error.append(shrink.add_(1).mul_(squared_error[:, None]).sum(2))
    return torch.cat(penalty, 1), torch.cat(error, 1)


def moments(values: dict[str, np.ndarray], groups: int) -> dict[str, np.ndarray]:
    """Means, variances and the one covariance, over the images of every timestep.

    Parameters
    ----------
    values : dict of ndarray, shape (groups * images, ...)
        One number or row an image; a timestep's images follow one another.
    groups : int
        How many timesteps.

    Returns
    -------
    dict of ndarray, shape (groups, ...)
        As :class:`dpdiff.Costs` keeps them: float64, but float32 for the spread at the nodes.

    Examples
    --------
    >>> moments({"mse": np.array([1.0, 3.0, 5.0, 5.0])}, groups=2)
    {'mse': array([2., 5.]), 'mse_var': array([1., 0.])}
    """
    grouped = {k: array.reshape(groups, -1, *array.shape[1:]) for k, array in values.items()}
    means = {name: array.mean(1) for name, array in grouped.items()}
    spread = {f"{name}_var": array.var(1) for name, array in grouped.items()}
    if "penalty" in grouped:
        deviations = (grouped[k] - means[k][:, None] for k in ("penalty", "error"))
        spread["penalty_error_cov"] = np.prod(list(deviations), axis=0).mean(1)
    narrow = {k: array.astype(np.float32) for k, array in spread.items() if array.ndim > 1}
    return means | spread | narrow


def single(values: dict[str, np.ndarray], groups: int) -> dict[str, np.ndarray]:
    """Every image's own values by timestep, float32, shape (groups, images, ...).

    Parameters as for :func:`moments`.

    Examples
    --------
    >>> single({"mse": np.array([1.0, 3.0, 5.0, 5.0])}, groups=2)["mse"].shape
    (2, 2)
    """
    return {
        name: array.reshape(groups, -1, *array.shape[1:]).astype(np.float32)
        for name, array in values.items()
    }


def redrawn(
    statistics: dict[str, np.ndarray], images: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Means of a dense measurement, moved by their standard errors.

    Parameters
    ----------
    statistics : dict of ndarray, shape (T + 1, ...)
        As :class:`dpdiff.Costs` keeps them.
    images : int
        How many each timestep saw.
    rng : Generator
    """
    T, drawn = len(statistics["mse"]) - 1, {}
    first, second = rng.standard_normal((2, T))
    for name in [k for k in statistics if f"{k}_var" in statistics and k != "prior"]:
        mean = statistics[name][1:]
        error = np.sqrt(np.maximum(statistics[f"{name}_var"][1:], 0) / (images - 1))
        if name in ("mse", "error"):
            shift, relative = first, error / np.maximum(mean, 1e-300)
            width = np.sqrt(np.log1p(relative**2))
            shift = shift[:, None] if mean.ndim > 1 else shift
            moved = mean * np.exp(width * shift - width**2 / 2)
        elif name == "penalty":
            moved = np.maximum(mean + error * _correlated(statistics, first, second)[:, None], 0)
        else:
            moved = mean + error * rng.standard_normal(T)
        drawn[name] = np.concatenate([statistics[name][:1], moved])
    return drawn


def _correlated(
    statistics: dict[str, np.ndarray], first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """The penalty's numbers, correlated with the error's as at the first node."""
    names = ("penalty_error_cov", "penalty_var", "error_var")
    both, one, other = (statistics[k][1:, 0].astype(np.float64) for k in names)
    scale = np.sqrt(np.maximum(one * other, 0))
    share = np.clip(np.divide(both, scale, out=np.zeros_like(both), where=scale > 0), -1, 1)
    return share * first + np.sqrt(1 - share**2) * second
