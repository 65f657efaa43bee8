"""Two published solvers with fitted numbers, OLSS and PAS, written anew to compare with.

Both are fitted to a teacher's runs, without gradients, and are drawn from by :func:`dpdiff.sample`.
They serve comparisons alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.errors import InputError, check_counts
from dpdiff.runtime.batches import cut
from dpdiff.sampling import Call, Sampler, sampler_for, start, straight_scale, walk
from dpdiff.schedule import Schedule
from dpdiff.strides import chosen_nodes

BISECTIONS = 60  # of OLSS' error limit, from the largest one that can occur


class TeacherRuns(NamedTuple):
    """Where a solver of many steps goes from a few noises.

    Attributes
    ----------
    nodes : ndarray of int, shape (N + 1,)
        ``0 = u_0 < … < u_N = T``.
    points : Tensor of float32, shape (N + 1, n, D)
        x_u, from u = 0 to T.
    predictions : Tensor of float32, shape (N, n, D)
        x̂_0 at ``u_1 … u_N``.
    about : dict
        Model, seed and solver.
    """

    nodes: np.ndarray
    points: Tensor
    predictions: Tensor
    about: dict[str, Any]

    @property
    def calls(self) -> int:
        """How many network calls were made for them."""
        return self.predictions.shape[0] * self.predictions.shape[1]

    def places(self, schedule: Schedule) -> list[int]:
        """Where a schedule's timesteps stand among the nodes, from T down."""
        missing = sorted({*schedule.timesteps} - {*self.nodes.tolist()})
        if missing:
            raise InputError(f"timesteps {missing} are no nodes of the runs to fit to")
        return np.searchsorted(self.nodes, schedule.timesteps[::-1]).tolist()


class Rival(NamedTuple):
    """What to draw with: ``dpdiff.sample(denoiser, rival.schedule, sampler=rival.sampler)``.

    Attributes
    ----------
    schedule : Schedule
    sampler : Sampler
    calls : int
        Network calls of the fit, the teacher's among them.
    """

    schedule: Schedule
    sampler: Sampler
    calls: int


def teacher_runs(
    denoiser: Denoiser,
    n: int = 32,
    nodes: int | Sequence[int] = 64,
    *,
    seed: int = 0,
    sampler: str | Sampler = "2m",
    batch_size: int = 32,
) -> TeacherRuns:
    """Run a solver of many steps, for rivals to be fitted to: ``n`` network calls a node.

    Parameters
    ----------
    denoiser : Denoiser
        The model.
    n : int
        Noises: those of ``dpdiff.sample`` with the same seed.
    nodes : int or sequence of int
        How many, or which: see :func:`dpdiff.strides.node_grid`.
    seed : int
        Of the noises.
    sampler : str or Sampler
        One that calls the network once a node.
    batch_size : int
        Noises run together.
    """
    check_counts(n=n, batch_size=batch_size)
    grid = chosen_nodes(denoiser.noise, nodes)
    points, predictions = [], []
    for rows in cut(np.arange(n), batch_size):
        x_T = start(denoiser, seed, rows)
        states = [*walk(denoiser, Schedule(grid), x_T, sampler)][::-1]
        points.append(torch.stack([_flat(x) for x in (*(state.x for state in states), x_T)]))
        predictions.append(torch.stack([_flat(state.x0) for state in states]))
    about = {"model": denoiser.fingerprint, "seed": seed, "n": n, "nodes": len(grid) - 1}
    about["sampler"] = sampler if isinstance(sampler, str) else sampler.name
    return TeacherRuns(grid, torch.cat(points, 1), torch.cat(predictions, 1), about)


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1).float().cpu()


class OLSS(Sampler):
    """Each point as a sum of the noise and all estimates of it: ``x_s = c_0 x_T + Σ_j c_j ε̂_j``.

    Parameters
    ----------
    schedule : Schedule
        The only one that these numbers are for.
    rows : sequence of sequences of float
        The numbers of every step from T down, those of the earliest ε̂ first; 2 to K + 1.
    """

    name, memory = "olss", None

    def __init__(self, schedule: Schedule, rows: Sequence[Sequence[float]]) -> None:
        self.schedule, self.rows = schedule, [[float(c) for c in row] for row in rows]

    def timesteps(self, schedule):
        _check_same(self.schedule, schedule)
        return super().timesteps(schedule)

    def step(self, denoiser, calls, s, noise):
        f, g, row = denoiser.noise.f, denoiser.noise.g, self.rows[len(calls) - 1]
        x = row[0] * calls[0].x
        for c, (t, x_t, (x0, _)) in zip(row[1:], calls, strict=True):
            x = x + c * ((x_t - f[t] * x0) / g[t])
        return x.clamp(-1, 1) if s == 0 and denoiser.clip else x


def _check_same(own: Schedule, schedule: Schedule) -> None:
    if schedule != own:
        raise InputError(
            f"this sampler was fitted to the timesteps {own.timesteps}, from T on; "
            f"got {schedule.timesteps}"
        )


def olss(denoiser: Denoiser, steps: int | Schedule, runs: TeacherRuns) -> Rival:
    """Duan et al., "Optimal Linear Subspace Search", 2023 (arXiv:2305.14677).

    Every step's point is the teacher's, projected onto the span of x_T and the noise estimates so
    far, with the same coefficients for all noises. The steps are as long as a limit allows that is
    the least one which K steps can keep: of the mean squared error of projecting the next point
    onto the span of the estimates so far and the teacher's point at t.

    As published, the estimates are the teacher's own, in the fit too. Unlike there, all landings
    are tried where theirs are bisected, and ε̂ is what x̂_0 implies, clipped if the denoiser clips,
    for networks of any kind. Noises and dimensions are summed up into a triangular matrix. Where
    nodes crowd near T, estimates hardly differ, and the student drifts far off the teacher's way.
    It drifts less behind 64 steps of DDIM, as published, than behind a teacher of second order: on
    the digits it ends at a distance of 0.23 from the finer one with 8 steps, not of 0.34.

    Parameters
    ----------
    denoiser : Denoiser
        Not called.
    steps : int or Schedule
        K, or the schedule itself, whose timesteps are nodes of ``runs``.
    runs : TeacherRuns

    Raises
    ------
    InputError
        If a timestep is no node, or there are more steps than nodes.

    Examples
    --------
    >>> from dpdiff.noise import NoiseSchedule
    >>> shrink = Denoiser(lambda x, index: 0.3 * x, NoiseSchedule.cosine(100), shape=(2,))
    >>> rival = olss(shrink, 2, teacher_runs(shrink, n=4, nodes=16, sampler="ddim"))
    >>> rival.schedule.steps, [len(row) for row in rival.sampler.rows], rival.calls
    (2, [2, 3], 64)
    """
    triangle = _triangle(denoiser, runs)
    if isinstance(steps, Schedule):
        path = runs.places(steps)
    else:
        path = _path(triangle, len(runs.nodes) - 1, steps, runs.points[0].numel())
    rows = [
        _project(triangle, path[0], path[:i], [landing])[0][:, 0]
        for i, landing in enumerate(path[1:], start=1)
    ]
    schedule = _schedule(denoiser, runs.nodes[path[::-1]], "olss", runs, runs.calls)
    return Rival(schedule, OLSS(schedule, rows), runs.calls)


def _schedule(
    denoiser: Denoiser, nodes: Sequence[int], name: str, runs: TeacherRuns, calls: int
) -> Schedule:
    noise = denoiser.noise.fingerprint
    about = {"noise_schedule": noise, "sampler": name, "calls": calls, "runs": runs.about}
    return Schedule(nodes, about)


def _triangle(denoiser: Denoiser, runs: TeacherRuns) -> np.ndarray:
    """R of ``QR = [x_0 … x_N, ε̂_1 … ε̂_N]``, a row for each noise and dimension."""
    f, g = (torch.from_numpy(v[runs.nodes[1:], None]) for v in (denoiser.noise.f, denoiser.noise.g))
    triangle = np.zeros((0, 2 * len(runs.nodes) - 1))
    for i in range(runs.points.shape[1]):
        points, means = runs.points[:, i].double(), runs.predictions[:, i].double()
        columns = torch.cat([points, (points[1:] - f * means) / g]).T.numpy()
        triangle = np.linalg.qr(np.concatenate([triangle, columns]), mode="r")
    return triangle


def _project(
    triangle: np.ndarray, point: int, called: Sequence[int], landings: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of a point and of ε̂ where it was called, a column a landing; squared errors."""
    N = triangle.shape[1] // 2
    basis = triangle[:, [point, *(N + i for i in called)]]
    goals = triangle[:, landings]
    rows = np.linalg.lstsq(basis, goals, rcond=None)[0]
    return rows, np.square(basis @ rows - goals).sum(0)


def _path(triangle: np.ndarray, N: int, steps: int, numbers: int) -> list[int]:
    """The places of OLSS' nodes, from T down to 0."""
    check_counts(steps=steps)
    if steps > N:
        raise InputError(f"the runs have {N} nodes, which is too few for {steps} steps")

    def greedy(limit: float) -> list[int] | None:
        path = [N]
        for left in range(steps - 1, -1, -1):
            landings = range(left, path[-1] if left else 1)  # the last step goes to 0
            errors = _project(triangle, path[-1], path, landings)[1] / numbers
            within = np.flatnonzero(errors <= limit)
            if len(within) == 0:
                return None
            path.append(landings[within[0]])
        return path

    low, high = 0.0, float(np.square(triangle[:, :N]).sum(0).max() / numbers)
    best = greedy(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        path = greedy(middle)
        low, high, best = (middle, high, best) if path is None else (low, middle, path)
    return best


class PAS(Sampler):
    """Another sampler's steps, turned and stretched along a few directions of each run's own.

    In the coordinates ``y = x/a``, ``τ = g/a`` of :func:`dpdiff.sampling.straight_scale` a step
    from t to s goes along ``d = (y_s - y_t)/(τ_s - τ_t)``. With coordinates c it goes along
    ``d + ‖d‖ Σ c_k u_k`` instead, ``u_1 = d/‖d‖``, the others the principal directions of y_T and
    all d so far, made orthogonal. They point where the run has gone, ``⟨u_k, y_t - y_T⟩ > 0``.

    Parameters
    ----------
    schedule : Schedule
        The only one that the coordinates are for.
    base : Sampler
        Whose steps they are: deterministic, one call a node.
    coordinates : dict of int to list of float
        c of the steps from these timesteps; all others are the base's.
    """

    name, memory = "pas", None

    def __init__(
        self, schedule: Schedule, base: Sampler, coordinates: dict[int, list[float]]
    ) -> None:
        self.schedule, self.base, self.coordinates = schedule, base, coordinates

    def timesteps(self, schedule):
        _check_same(self.schedule, schedule)
        return super().timesteps(schedule)

    def step(self, denoiser, calls, s, noise):
        recent = [*calls][-(self.base.memory or 0) :]
        x = self.base.step(denoiser, recent, s, noise)
        c = self.coordinates.get(calls[-1].t)
        if c is None:
            return x
        a, (units, reach) = straight_scale(denoiser.noise), turns(denoiser, calls, s, x, len(c))
        turn = units @ units.new_tensor(c) * reach[:, None]
        x = x + a[s] * turn.reshape(x.shape).to(x.dtype)
        return x.clamp(-1, 1) if s == 0 and denoiser.clip else x


def turns(
    denoiser: Denoiser, calls: Sequence[Call], s: int, x: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """The directions in which PAS turns a step that would lead to x; (B, D, count) and (B,).

    Returns
    -------
    units : Tensor of float64, shape (B, D, count')
        Orthonormal; at most as many as there are vectors to span.
    reach : Tensor of float64, shape (B,)
        ``(τ_s - τ_t) ‖d‖``, the step's length.
    """
    a = straight_scale(denoiser.noise)
    times = [denoiser.noise.g[t] / a[t] for t in (*(call.t for call in calls), s)]
    points = [call.x.flatten(1).double() / a[call.t] for call in calls]
    points.append(x.flatten(1).double() / a[s])
    slopes = [
        (q - p) / (end - begin)
        for (p, q), (begin, end) in zip(pairwise(points), pairwise(times), strict=True)
    ]
    spanned = torch.stack([points[0], *slopes], dim=1)
    principal = torch.linalg.svd(spanned, full_matrices=False).Vh[:, : count - 1]
    directions = torch.cat([slopes[-1][:, None], principal], dim=1).mT
    units = torch.linalg.qr(directions[:, :, : spanned.shape[1]])[0]
    way = points[-2] - points[0] if len(calls) > 1 else points[0]
    ahead = torch.einsum("bdk,bd->bk", units, way)
    ahead[:, 0] = torch.einsum("bd,bd->b", units[:, :, 0], slopes[-1])
    units = units * torch.where(ahead < 0, -1.0, 1.0)[:, None]
    return units, (times[-1] - times[-2]) * slopes[-1].norm(dim=1)


@torch.inference_mode()
def pas(
    denoiser: Denoiser,
    schedule: Schedule,
    runs: TeacherRuns,
    *,
    base: str | Sampler = "ddim",
    directions: int = 4,
    tolerance: float = 1e-4,
    batch_size: int = 32,
) -> Rival:
    """Wang et al., "Diffusion Sampling Correction via Approximately 10 Parameters", 2025.

    PAS (arXiv:2411.06503): from T down, on the student's own way, each step's coordinates along a
    few principal directions are fitted to the teacher's point, one set for all noises. A step
    keeps them if the mean squared error falls by more than a tolerance.

    Published coordinates are absolute, of a loss that Adam brings down; here they are relative to
    the step's length, so that all 0 is the base solver, and least squares gives them at once:
    ``c = Σ_i r_i U_iᵀ e_i / Σ_i r_i²``, with the miss e, the directions U and the step's length r
    of every noise. The principal directions are not centred, so that two serve the first step.

    Parameters
    ----------
    denoiser : Denoiser
        Called once a noise and step.
    schedule : Schedule
        Whose timesteps are nodes of ``runs``.
    runs : TeacherRuns
    base : str or Sampler
        The solver that is corrected.
    directions : int
        At most so many a step.
    tolerance : float
        In squared units of the data, a dimension.
    batch_size : int
        Noises a network call.

    Examples
    --------
    >>> from dpdiff.noise import NoiseSchedule
    >>> noise = NoiseSchedule.cosine(100)
    >>> shrink = Denoiser(lambda x, index: 0.3 * x, noise, predicts="x0", shape=(2,))
    >>> runs = teacher_runs(shrink, n=4, nodes=[0, 10, 25, 50, 75, 100])
    >>> rival = pas(shrink, Schedule([0, 25, 100]), runs)
    >>> [*rival.sampler.coordinates], rival.calls
    ([100, 25], 28)
    """
    check_counts(directions=directions, batch_size=batch_size)
    x, n = runs.points[-1].reshape(-1, *denoiser.shape), runs.points.shape[1]
    places, spent = runs.places(schedule), runs.calls + n * schedule.steps
    schedule = _schedule(denoiser, schedule.timesteps, "pas", runs, spent)
    sampler, a = PAS(schedule, sampler_for(schedule, base), {}), straight_scale(denoiser.noise)
    calls: list[Call] = []
    for (t, s), place in zip(pairwise(schedule.timesteps[::-1]), places[1:], strict=True):
        parts = (x[rows].to(denoiser.device) for rows in cut(np.arange(n), batch_size))
        means = torch.cat([denoiser(part, t).x0.cpu() for part in parts])
        calls.append(Call(t, x, Prediction(means, None)))
        x = sampler.step(denoiser, calls, s, x)
        units, reach = turns(denoiser, calls, s, x, min(directions, denoiser.dims))
        missed = (runs.points[place].double() - x.flatten(1)) / a[s]
        scale = reach.square().sum()
        c = torch.einsum("b,bdk,bd->k", reach, units, missed) / scale
        if c.square().sum() * scale / missed.numel() > tolerance:
            sampler.coordinates[t] = c.tolist()
            x = sampler.step(denoiser, calls, s, x)
    return Rival(schedule, sampler, spent)
