r"""Solvers as tables of numbers, and the numbers that fit one model best.

A *row* belongs to one step, from t to s. It holds ``a, c_0, c_1, …`` of

.. math:: x_s = a\,x_t + \sum_j c_j\,\hat x_0(\text{the j-th node above } s),

where ``c_0`` is of the newest prediction, the one at t. DDIM has rows of two numbers and
DPM-Solver++(2M) of three. A run is linear in its noise and its predictions, so these hold every
point of it: see :func:`run_matrix`.

Coefficients that are fitted on a teacher's points drift, since the sampler leaves them. So
:func:`fit_rows` fits each step where the steps before it have led: its row θ minimises

.. math:: \sum_i \bigl\| x_s^{(i)} - \sum_j θ_j v_j^{(i)} \bigr\|_{w(s)}^2
          + ρ \sum_j \|v_j\|_{w(s)}^2 (θ_j - θ_j^0)^2

over the noises i, where ``v`` is the sampler's own ``x_t`` and all its predictions so far, ``x_s``
the teacher's point from the same noise, the norm weighs every direction by its gain at s (by 1 at
0), and θ⁰ is DPM-Solver++(2M)'s row. The strength ρ of every step is the one under which the
noises, each left out in turn, are met best. All this takes is one small Gram matrix a noise and
step, so that networks are called once a noise and step, and dimensions are summed up in pieces.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime.batches import Batches
from dpdiff.trajectory.flow_costs import Bands

ORDERS = (1, 2)
STRENGTHS = (1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 1.0, float("inf"))
NUMBERS = 2**22  # turned to float64 at a time
RIDGE = 1e-12  # of each diagonal entry: vectors that repeat others are no trouble


def multistep_rows(noise: NoiseSchedule, timesteps: Sequence[int], order: int) -> list[np.ndarray]:
    """Rows of DDIM (``order`` 1) or DPM-Solver++(2M) (``order`` 2), from T down.

    2M's first and last steps are of first order, as in diffusers.

    Parameters
    ----------
    noise : NoiseSchedule
    timesteps : sequence of int
        ``0 = τ_0 < … < τ_K``.
    order : {1, 2}

    Returns
    -------
    list of ndarray
        K rows, of ``1 + min(order, i + 1)`` numbers for the i-th step.

    Raises
    ------
    InputError
        If there is no such order.

    Examples
    --------
    >>> rows = multistep_rows(NoiseSchedule.cosine(100), [0, 30, 60, 100], order=2)
    >>> [row.round(3).tolist() for row in rows]
    [[0.812, 0.583], [0.569, 0.593, -0.037], [0.0, 1.0, 0.0]]
    """
    if order not in ORDERS:
        raise InputError(f"the order is 1 (DDIM) or 2 (DPM-Solver++ 2M), got {order!r}")
    f, g, depth = noise.f, noise.g, noise.log_snr / 2
    down, rows = list(timesteps)[::-1], []
    for i, (t, s) in enumerate(pairwise(down)):
        shrink = g[s] / g[t]
        gain = f[s] - f[t] * shrink
        row = [shrink, gain]
        if order == 2 and i:
            slope = (depth[s] - depth[t]) / (2 * (depth[t] - depth[down[i - 1]])) if s else 0.0
            row = [shrink, gain * (1 + slope), -gain * slope + 0.0]
        rows.append(np.array(row))
    return rows


def step(row: np.ndarray, x: Tensor, history: Iterable[Tensor]) -> Tensor:
    """``a x + Σ c_j D_j``, with the predictions D from the newest to the oldest.

    Parameters
    ----------
    row : ndarray, shape (1 + h,)
    x : Tensor
    history : iterable of Tensor, shaped as ``x``
        At least h of them; those beyond are not used.

    Examples
    --------
    >>> old, new = torch.tensor([10.0]), torch.tensor([1.0])
    >>> step(np.array([0.5, 2.0, -0.1]), torch.tensor([4.0]), [new, old])
    tensor([3.])
    """
    landing = float(row[0]) * x
    for c, prediction in zip(row[1:], history, strict=False):
        landing = landing + float(c) * prediction
    return landing


@torch.inference_mode()
def run_predictions(
    denoiser: Denoiser,
    nodes: Sequence[int],
    rows: Sequence[np.ndarray],
    x: Tensor,
    called: Callable[[int, Tensor], None] = lambda t, x0: None,
) -> Tensor:
    """Predictions at ``u_1 … u_N`` of a run; float32, shape (N, B, D), on the CPU.

    The run uses these rounded values, so all that follows from them is exact.

    Parameters
    ----------
    denoiser : Denoiser
    nodes : sequence of int
        ``0 = u_0 < … < u_N``.
    rows : sequence of ndarray
        N of them, from ``u_N`` down.
    x : Tensor, shape (B, ...)
        Noise at T. The run goes on in its dtype.
    called : callable
        Told of every network call: ``called(t, x̂_0)``.
    """
    means = torch.empty((len(nodes) - 1, len(x), denoiser.dims))
    history: deque[Tensor] = deque(maxlen=max(map(len, rows)) - 1)  # the newest first
    for i, row in zip(range(len(nodes) - 1, 0, -1), rows, strict=True):
        prediction = denoiser(x, int(nodes[i])).x0.float()
        called(nodes[i], prediction)
        means[i - 1] = prediction.flatten(1).cpu()
        history.appendleft(prediction.to(x.dtype))
        x = step(row, x, history)
    return means


def run_matrix(nodes: Sequence[int], rows: Sequence[np.ndarray]) -> np.ndarray:
    """Every point of a run in terms of its noise and its predictions.

    Parameters
    ----------
    nodes : sequence of int
        ``0 = u_0 < … < u_N``.
    rows : sequence of ndarray
        N of them, from ``u_N`` down.

    Returns
    -------
    ndarray of float64, shape (N + 1, N + 1)
        Row i times ``(x_N, D_1, …, D_N)`` is the point at ``u_i``. There are no large numbers to
        cancel: in ``x`` all coefficients are of the size of f and g.

    Examples
    --------
    >>> run_matrix([0, 1, 2], [np.array([0.5, 0.4]), np.array([0.0, 1.0, 0.0])])
    array([[0. , 1. , 0. ],
           [0.5, 0. , 0.4],
           [1. , 0. , 0. ]])
    """
    count = len(nodes) - 1
    matrix = np.zeros((count + 1, count + 1))
    matrix[count, 0] = 1
    for i, row in zip(range(count, 0, -1), rows, strict=True):
        matrix[i - 1] = row[0] * matrix[i]
        matrix[i - 1, i : i + len(row) - 1] += row[1:]
    return matrix


class Block(Protocol):
    """Some noises of a teacher's run."""

    @property
    def x_T(self) -> Tensor: ...

    @property
    def first(self) -> Tensor:
        """What the denoiser says of x_T, float32, shape (B, D): the teacher has asked it."""
        ...

    def point(self, s: int) -> Tensor:
        """The teacher's points at timestep s, float32, shape (B, D)."""
        ...


class Fit(NamedTuple):
    """Rows of a fitted sampler, from T down, and what is known of them.

    Attributes
    ----------
    rows : list of ndarray
        ``[a, c_0, c_1, …]``, the newest prediction's coefficient first.
    strengths : list of float
        The chosen ρ of every step; infinite where 2M's row stands.
    distances : ndarray, shape (n,)
        Of every noise's end point to the teacher's under a last step fitted without this noise.
        The steps before have seen it, so that they flatter a little.
    """

    rows: list[np.ndarray]
    strengths: list[float]
    distances: np.ndarray


@torch.inference_mode()
def fit_rows(
    denoiser: Denoiser,
    timesteps: Sequence[int],
    blocks: Sequence[Block],
    bands: Bands,
    history: int | None = None,
    strengths: Sequence[float] = STRENGTHS,
) -> Fit:
    """Fit a sampler step by step from T down.

    Parameters
    ----------
    denoiser : Denoiser
        Called once a noise and step; not at T, where the teacher has called it.
    timesteps : sequence of int
        ``0 = τ_0 < … < τ_K = T``.
    blocks : sequence of Block
        The teacher's runs, as many noises in each as are run together.
    bands : Bands
        Directions for the gains.
    history : int, optional
        At most so many predictions a step; by default all.
    strengths : sequence of float
        Values of ρ that are tried; infinity is 2M itself.

    Returns
    -------
    Fit
    """
    down = list(timesteps)[::-1]
    kept = len(down) if history is None else history
    states = [block.x_T for block in blocks]
    histories: list[list[Tensor]] = [[] for _ in blocks]
    rows, chosen, lost = [], [], np.zeros(0)
    batches = Batches(batch_size=max(len(block.x_T) for block in blocks))
    stocks = multistep_rows(denoiser.noise, timesteps, 2)
    for (t, s), stock in zip(pairwise(down), stocks, strict=True):
        gains = bands.gains(denoiser.noise, np.array([s]))[:, 0] if s else None
        grams = []
        for i, block in enumerate(blocks):
            asked = t == down[0]
            newest = block.first if asked else _predicted(denoiser, t, states[i], batches)
            histories[i] = [newest, *histories[i]][:kept]
            vectors = [states[i], *histories[i], block.point(s)]
            grams.append(products(vectors, bands, gains))
        prior = np.zeros(1 + len(histories[0]))
        shared = min(len(stock), len(prior))
        prior[:shared] = stock[:shared]
        row, strength, lost = chosen_row(np.concatenate(grams), prior, strengths)
        rows.append(row)
        chosen.append(strength)
        states = [step(row, x, past) for x, past in zip(states, histories, strict=True)]
    return Fit(rows, chosen, np.sqrt(lost))


def _predicted(denoiser: Denoiser, t: int, x: Tensor, batches: Batches) -> Tensor:
    """Predictions for flat points, float32 on the CPU."""

    def ask(some: Tensor) -> Tensor:
        shaped = some.reshape(-1, *denoiser.shape).to(denoiser.device)
        return denoiser(shaped, int(t)).x0.float().flatten(1).cpu()

    return torch.cat(batches.halved(ask, x))


def products(vectors: Sequence[Tensor], bands: Bands, gains: np.ndarray | None) -> np.ndarray:
    """Weighted inner products of a few vectors of every noise.

    Parameters
    ----------
    vectors : sequence of Tensor, each (B, D)
    bands : Bands
    gains : ndarray, shape (number of bands,), or None
        Weights; without any all are 1.

    Returns
    -------
    ndarray of float64, shape (B, m, m)
    """
    count, (size, dims) = len(vectors), vectors[0].shape
    whole = torch.zeros((size, count, count), dtype=torch.float64)
    along = whole.new_zeros((size, count, 0 if gains is None else bands.directions.shape[1]))
    chunk = max(1, NUMBERS // (count * size))
    for start in range(0, dims, chunk):
        some = torch.stack([v[:, start : start + chunk].double() for v in vectors], dim=1)
        whole += some @ some.mT
        if gains is not None:
            along += some @ torch.from_numpy(bands.directions[start : start + chunk])
    if gains is None:
        return whole.numpy()
    more = torch.from_numpy(np.repeat(gains[1:] - gains[0], bands.sizes[1:]))
    return (gains[0] * whole + (along * more) @ along.mT).numpy()


def chosen_row(
    grams: np.ndarray, prior: np.ndarray, strengths: Sequence[float]
) -> tuple[np.ndarray, float, np.ndarray]:
    """The row under the strength that meets noises best which it was not fitted to.

    Parameters
    ----------
    grams : ndarray, shape (n, m + 1, m + 1)
        Inner products of each noise's m vectors and its aim, which stands last.
    prior : ndarray, shape (m,)
        What the row is drawn to.
    strengths : sequence of float

    Returns
    -------
    row : ndarray, shape (m,)
    strength : float
    lost : ndarray, shape (n,)
        Each noise's squared error under a row fitted to all the others.
    """
    total = grams.sum(0)
    lost = [
        squared_errors(grams, shrunk_rows(total - grams, prior, strength)) for strength in strengths
    ]
    best = int(np.argmin([errors.mean() for errors in lost]))
    strength = float(strengths[best])
    return shrunk_rows(total, prior, strength), strength, lost[best]


def shrunk_rows(grams: np.ndarray, prior: np.ndarray, strength: float) -> np.ndarray:
    """Least squares with a ridge towards a prior, relative to each diagonal entry.

    Parameters
    ----------
    grams : ndarray, shape (..., m + 1, m + 1)
        Inner products of m vectors and the aim, which stands last.
    prior : ndarray, shape (m,)
    strength : float
        ρ; infinity gives the prior.

    Returns
    -------
    ndarray, shape (..., m)

    Examples
    --------
    >>> gram = np.array([[4.0, 8.0], [8.0, 16.0]])  # the aim is twice the vector
    >>> [shrunk_rows(gram, np.zeros(1), rho).round(9).tolist() for rho in (0.0, 1.0, np.inf)]
    [[2.0], [1.0], [0.0]]
    """
    m = len(prior)
    if np.isinf(strength):
        return np.broadcast_to(prior, (*grams.shape[:-2], m)).copy()
    own, aims = grams[..., :m, :m], grams[..., :m, m]
    diagonal = np.einsum("...ii->...i", own)
    # Of the same scale, so that a point far larger than the predictions is no trouble.
    scale = 1 / np.sqrt(np.maximum(diagonal, np.finfo(float).tiny))
    scaled = own * scale[..., :, None] * scale[..., None, :] + (strength + RIDGE) * np.eye(m)
    missing = (aims - own @ prior) * scale
    return prior + np.linalg.solve(scaled, missing[..., None])[..., 0] * scale


def squared_errors(grams: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``‖y - Σ θ_j v_j‖²`` of every noise, from its inner products (n, m + 1, m + 1)."""
    errors = np.concatenate([rows, -np.ones((*rows.shape[:-1], 1))], axis=-1)
    return np.einsum("ni,nij,nj->n", errors, grams, errors).clip(0)
