r"""Ancestral sampling: the variance that few steps lose, and the path that loses the least.

A jump t → s draws from a Gaussian of variance ``g̃_ts² e^u``, while the true ``p(x_s | x_t)`` also
holds what is unknown of x_0. Along a direction in which the data have variance λ and the denoiser
leaves C(t), the jump loses

.. math:: \ell(t, s) = g̃_{ts}^2 (1 - e^u) + c_0^2 C(t), \qquad c_0 = f_s g_{ts}^2 / g_t^2,

of which ``a(s)²``, ``a(s) = f_s λ/(f_s² λ + g_s²)``, reaches the samples (the last jump returns
x̂_0 and loses C(t)). For Gaussian data this is exact, and losses **add up** over a path:
``V = Σ a(s)² ℓ(t, s)``, and samples have variance ``λ - V``. The squared Wasserstein distance of
the two Gaussians, ``Σ (√λ - √(λ - V))²``, is convex in V: Frank and Wolfe's method finds it by
solving the dynamic program with the distance's slopes as weights, again and again.

Images are not Gaussian, and the variance of their pixels is not all that an eye or a classifier
sees. On the bundled models of clothes these schedules are no dependable gain over strides: compare
by your own measure before you use them (``benchmarks/few_steps.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dpdiff import data, noising
from dpdiff.costs import statistics
from dpdiff.costs.statistics import NODES
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.runtime import random_streams
from dpdiff.runtime.batches import Batches, concatenated
from dpdiff.sampling import sample
from dpdiff.schedule import Schedule
from dpdiff.solvers.jump_costs import Table
from dpdiff.solvers.plan import best_paths, solve
from dpdiff.trajectory.flow_costs import Bands
from dpdiff.trajectory.trajectories import Trajectories
from dpdiff.variance import rule_named, rules_for

RESIDUAL_BATCH = 64


class Residuals(NamedTuple):
    """Mean squares over examples and over the dimensions of every band.

    Attributes
    ----------
    variances : ndarray, shape (B,)
        λ of the data.
    errors : ndarray, shape (B, N + 1)
        ``C(t)`` of ``x_0 - x̂_0``; 0 at t = 0.
    mse : ndarray, shape (N + 1,)
        ``m(t)/D``.
    growth : ndarray, shape (N + 1, J), or None
        ``E e^{a v}`` of a learned variance at Chebyshev's nodes of ``a`` up to log(g(t)²/g(1)²).
    """

    variances: np.ndarray
    errors: np.ndarray
    mse: np.ndarray
    growth: np.ndarray | None


def measure_residuals(
    denoiser: Denoiser, nodes: np.ndarray, bands: Bands, x0: Any, seed: int, progress: bool
) -> Residuals:
    """Noise examples to every node and look at what the denoiser says.

    Parameters
    ----------
    denoiser : Denoiser
    nodes : ndarray of int, shape (N + 1,)
    bands : Bands
    x0 : Tensor, shape (n, ...)
        Examples in [-1, 1]; best others than those that the bands were made from.
    seed : int
        Of the noise.
    progress : bool

    Returns
    -------
    Residuals
    """
    batches = Batches("residuals", RESIDUAL_BATCH, progress=progress)
    x0, rows = x0.double().cpu(), np.arange(len(x0))

    def noised(t: int) -> noising.Batch:
        noise = torch.from_numpy(random_streams.gaussian(seed, t, rows, denoiser.shape))
        return noising.Batch(np.full(len(rows), t), x0, noise)

    def ask(batch: noising.Batch) -> Tensor:
        clean, (mean, v) = noising.predict(denoiser, batch)
        batches.called(batch.t, mean)
        said = [clean - mean] if v is None else [clean - mean, v]
        return torch.stack(said).flatten(2).swapaxes(0, 1)

    def means(parts: list[Tensor], t: int) -> tuple[np.ndarray, list[float]]:
        errors, *outputs = np.ascontiguousarray(concatenated(parts).swapaxes(0, 1))
        return bands.of(errors), [_growth(denoiser, t, v.ravel()) for v in outputs]

    steps = nodes[1:].tolist()
    found = batches.run(ask, steps, noised, means, calls=[len(x0)] * len(steps))
    squares, growth = zip(*found, strict=True)
    errors = np.array([np.zeros_like(squares[0]), *squares]).T
    flat = x0.flatten(1).numpy()
    variances = bands.of(flat - flat.mean(0)) * len(flat) / (len(flat) - 1)
    known = np.array([np.ones(NODES), *np.concatenate(growth)]) if growth[0] else None
    return Residuals(variances, errors, bands.sizes @ errors / bands.sizes.sum(), known)


def _growth(denoiser: Denoiser, t: int, v: np.ndarray) -> list[float]:
    widths = denoiser.noise.noise_gain(t, 1) * (1 + statistics.chebyshev_nodes(NODES)) / 2
    return [float(np.exp(a * v).mean()) for a in widths]


ROUNDS = 40  # each a solve of milliseconds
STARTS = 4  # of the paths seen, so many are polished node by node
NEAR = 1e-4  # share of λ that must be left: beyond it the distance goes on as a straight line


class LeastLoss(NamedTuple):
    """A schedule, its distance, and a distance that no schedule of so many steps is below."""

    schedule: Schedule
    distance: float
    bound: float


@dataclass(frozen=True, eq=False)
class VarianceLoss:
    """The variance that ancestral sampling loses on any path between nodes.

    Parameters
    ----------
    denoiser : Denoiser
        Its noise schedule is used, and its variance rule unless ``rule`` says otherwise.
    nodes : ndarray of int, shape (N + 1,)
    sizes : ndarray of int, shape (B,)
        Dimensions of each band of directions.
    residuals : Residuals
    rule : {"small", "large", "learned_range", "optimal"}
        Of the sampler.
    """

    denoiser: Denoiser = field(repr=False)
    nodes: np.ndarray
    sizes: np.ndarray
    residuals: Residuals = field(repr=False)
    rule: str

    def __post_init__(self) -> None:
        known = [rule.name for rule in rules_for(self.residuals.growth is not None)]
        if self.rule not in known:
            raise InputError(f"the variance rule is one of {', '.join(known)}; got {self.rule!r}")

    @cached_property
    def variances(self) -> np.ndarray:
        """λ of every band; nowhere 0."""
        measured = self.residuals.variances
        return np.maximum(measured, 1e-6 * measured.max())

    @cached_property
    def losses(self) -> np.ndarray:
        """What every jump takes from the samples' variance, shape (B, N + 1, N + 1)."""
        noise, nodes = self.denoiser.noise, self.nodes
        t, s = nodes[1:, None], nodes[None, 1:]
        with np.errstate(all="ignore"):  # entries on and above the diagonal are not read
            fresh = -np.expm1(noise.log_snr[t] - noise.log_snr[s])  # g_ts² / g_t²
            small = noise.g[s] ** 2 * fresh
            carried = (noise.f[s] * fresh) ** 2
            missing = -small * self._excess(t, s) + carried * self.residuals.errors[:, 1:, None]
        f, variances = noise.f[nodes[1:]], self.variances[:, None]
        reach = f * variances / (f**2 * variances + noise.g[nodes[1:]] ** 2)
        table = np.zeros((len(self.sizes), len(nodes), len(nodes)))
        table[:, 1:, 1:] = reach[:, None] ** 2 * missing
        table[:, :, 0] = self.residuals.errors
        table[:, np.triu(np.ones(table.shape[1:], bool))] = 0
        return table

    def _excess(self, t: np.ndarray, s: np.ndarray) -> np.ndarray:
        """``E e^u - 1``, over dimensions."""
        noise = self.denoiser.noise
        rule = rule_named(self.rule)
        if not rule.needs_output:
            error = np.zeros(noise.T + 1)
            error[self.nodes] = self.residuals.mse
            return np.expm1(rule.log_ratio(noise, t, s, None, error))
        growth = self.residuals.growth[1:]
        width = noise.noise_gain(t, 1)
        x = np.clip(2 * noise.noise_gain(t, s) / np.where(width > 0, width, 1) - 1, -1, 1)
        return (
            statistics.chebyshev_sum(growth @ statistics.chebyshev_transform(growth.shape[1]).T, x)
            - 1
        )

    def lost(self, schedule: Schedule) -> np.ndarray:
        """V of every band, shape (B,); negative where samples vary too much."""
        places = np.searchsorted(self.nodes, schedule.timesteps)
        return self.losses[:, places[1:], places[:-1]].sum(1)

    def distance(self, schedule: Schedule) -> float:
        """Squared Wasserstein distance of the samples' Gaussian to the data's."""
        return float(self._distance(self.lost(schedule)))

    def costs(self, weights: np.ndarray) -> Table:
        """The lost variance with a weight for every band, as costs for :func:`dpdiff.solve`."""
        costs = Table(np.tensordot(weights * self.sizes, self.losses, 1), self.nodes)
        costs.about = self.about
        return costs

    @property
    def about(self) -> dict[str, Any]:
        """What schedules found with these costs say of themselves."""
        noise = self.denoiser.noise.fingerprint
        return {"noise_schedule": noise, "sampler": "ancestral", "variance": self.rule}

    def best(self, steps: int, candidates: int = 32) -> LeastLoss:
        """The schedule with the least distance that Frank and Wolfe's method comes across.

        Those it finds are polished: one node at a time moves to where the distance is least.

        Parameters
        ----------
        steps : int
            K.
        candidates : int
            So many of the best paths under the last weights are tried as well.

        Returns
        -------
        LeastLoss
            The bound is the method's own, on mixtures of paths: nothing is below it, but no
            single path need attain it.
        """
        schedule = solve(self.costs(np.ones(len(self.sizes))), steps).schedule(steps)
        seen, lost, bound = {schedule}, self.lost(schedule), -np.inf
        for _ in range(ROUNDS):
            costs = self.costs(self._slopes(lost))
            schedule = solve(costs, steps).schedule(steps)
            seen.add(schedule)
            move = self.lost(schedule) - lost
            slope = (self.sizes * self._slopes(lost)) @ move
            bound = max(bound, self._distance(lost) + slope)
            if slope > -1e-9 * self._distance(lost):
                break
            lost = lost + self._stride(lost, move) * move
        seen |= {path for _, path in best_paths(costs, steps, candidates)}
        ranked = sorted(seen, key=lambda path: (self.distance(path), path.timesteps))
        best = min(map(self._polished, ranked[:STARTS]), key=self.distance)
        return LeastLoss(best, self.distance(best), float(max(bound, 0.0)))

    def _polished(self, schedule: Schedule) -> Schedule:
        """Move one node at a time, between its neighbours, for as long as that helps."""
        path, before = list(np.searchsorted(self.nodes, schedule.timesteps)), None
        while path != before:
            before = list(path)
            for i in range(1, len(path) - 1):
                low, high = path[i - 1], path[i + 1]
                others = self.losses[:, path[1:], path[:-1]]
                others = others.sum(1) - others[:, i - 1] - others[:, i]
                places = np.arange(low + 1, high)
                own = self.losses[:, places, low] + self.losses[:, high, places]
                path[i] = int(places[np.argmin(self._distance(others[:, None] + own))])
        return Schedule(self.nodes[path], self.about)

    def schedule(self, steps: int) -> Schedule:
        """The schedule of :meth:`best`."""
        return self.best(steps).schedule

    def _distance(self, lost: np.ndarray) -> Any:
        """Of V of shape (B,), or of many of them at once, (B, M)."""
        λ = self.variances.reshape(-1, *[1] * (lost.ndim - 1))
        kept = λ - np.minimum(lost, (1 - NEAR) * λ)
        beyond = np.maximum(lost - (1 - NEAR) * λ, 0) * (NEAR**-0.5 - 1)
        return self.sizes @ (np.square(np.sqrt(λ) - np.sqrt(kept)) + beyond)

    def _slopes(self, lost: np.ndarray) -> np.ndarray:
        """Of the distance in each direction's V."""
        λ = self.variances
        return np.sqrt(λ / np.maximum(λ - lost, NEAR * λ)) - 1

    def _stride(self, lost: np.ndarray, move: np.ndarray) -> float:
        """How far to go along a move: to where the distance stops falling, 1 at most."""
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            falls = (self.sizes * self._slopes(lost + middle * move)) @ move < 0
            low, high = (middle, high) if falls else (low, middle)
        return high


def variance_loss(
    paths: Trajectories,
    images: Any = None,
    n: int = 64,
    *,
    rule: str | None = None,
    seed: int | None = None,
    progress: bool = True,
) -> VarianceLoss:
    """What ancestral sampling loses of the data's variance: its costs and best schedules.

    Parameters
    ----------
    paths : Trajectories
        As :func:`dpdiff.trajectories` returns them.
    images : array_like, shape (n, ...), optional
        As :func:`dpdiff.measure` takes them. By default ``n`` samples of the teacher, from
        other noises than the trajectories; they take one network call a node, as do
        samples or images once they are noised.
    n : int
        How many samples.
    rule : str, optional
        The sampler's variance; by default the denoiser's.
    seed : int, optional
        Of the noises; by default three more than that of the trajectories.
    progress : bool
        Show progress bars.

    Returns
    -------
    VarianceLoss
    """
    model, seed = paths.denoiser, paths.held_out_seed(seed, 3)
    if images is None:
        x0 = sample(model, paths.teacher, n, seed=seed, sampler="ddim", progress=progress)
    else:
        images = data.check(images, model.shape, model.levels)
        x0 = torch.from_numpy(data.scaled(images, model.levels))
    measured = measure_residuals(model, paths.nodes, paths.bands, x0, seed, progress)
    return VarianceLoss(model, paths.nodes, paths.bands.sizes, measured, rule or model.variance)
