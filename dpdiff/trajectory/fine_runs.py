"""Runs of a fine solver from a few noises: few steps are placed on them and fitted to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError, check_counts
from dpdiff.runtime.batches import Batches, concatenated, whole_batches
from dpdiff.runtime.checkpoints import Checkpoints, locked
from dpdiff.runtime.workers import ALONE, Workers
from dpdiff.sampling import start
from dpdiff.schedule import Schedule
from dpdiff.solvers.jump_costs import Table
from dpdiff.solvers.plan import solve
from dpdiff.strides import chosen_nodes
from dpdiff.trajectory.fitted_costs import FittedCosts, ddim_costs, run_grams
from dpdiff.trajectory.fitting import (
    STRENGTHS,
    Fit,
    fit_rows,
    multistep_rows,
    run_matrix,
    run_predictions,
)
from dpdiff.trajectory.flow_costs import Bands, bands_of

CALLS = 1024
FEWEST = 4  # noises: each is left out in turn


@dataclass(frozen=True, eq=False)
class TeacherBlock:
    """Runs of the teacher from a few noises: a :class:`dpdiff.trajectory.fitting.Block`."""

    x_T: Tensor
    means: Tensor
    nodes: np.ndarray
    matrix: np.ndarray

    @property
    def first(self) -> Tensor:
        """What the denoiser says of x_T, float32, shape (B, D)."""
        return self.means[-1]

    def point(self, s: int) -> Tensor:
        """The teacher's points at timestep s, float32, shape (B, D)."""
        weights = self.matrix[int(np.searchsorted(self.nodes, s))]
        point = weights[0] * self.x_T.double()
        for weight, mean in zip(weights[1:], self.means, strict=True):
            if weight:
                point += weight * mean.double()
        return point.float()


@dataclass(frozen=True, eq=False)
class FineRuns:
    """A fine solver's runs, to which few steps are fitted; ``fine_runs`` makes them.

    Attributes
    ----------
    denoiser : Denoiser
    nodes : ndarray of int, shape (N + 1,)
    order : int
        1 for DDIM, 2 for DPM-Solver++(2M).
    seed, n : int
        Of the noises, and how many.
    blocks : list of TeacherBlock
    bands : Bands
        Directions of the end points.
    grams : ndarray, shape (B, N + 1, N + 1)
        See ``dpdiff.trajectory.fitted_costs.run_grams``.
    """

    denoiser: Denoiser = field(repr=False)
    nodes: np.ndarray
    order: int
    seed: int
    n: int
    blocks: list[TeacherBlock] = field(repr=False)
    bands: Bands = field(repr=False)
    grams: np.ndarray = field(repr=False)

    @cached_property
    def costs(self) -> FittedCosts:
        """Costs of all steps between nodes, each with its own best coefficients."""
        matrix = self.blocks[0].matrix
        return FittedCosts(self.grams, matrix, self._gains, self.denoiser.noise, self.nodes)

    @property
    def _gains(self) -> np.ndarray:
        return self.bands.gains(self.denoiser.noise, self.nodes[1:])

    def paths(self, steps: int) -> dict[str, Schedule]:
        """Two exact optima: ``pairs`` of the steps' own best coefficients, ``flow`` of DDIM."""
        if not 1 <= steps < len(self.nodes):
            raise InputError(f"these nodes serve 1…{len(self.nodes) - 1} steps, got {steps}")
        noise, matrix = self.denoiser.noise, self.blocks[0].matrix
        pairs = solve(self.costs, steps).schedule(steps)
        table = ddim_costs(self.grams, matrix, self._gains, noise, self.nodes)
        flow = solve(Table(table, self.nodes), steps).schedule(steps)
        return {"pairs": pairs} | ({} if flow == pairs else {"flow": flow})

    def fit(
        self,
        schedule: Schedule,
        *,
        history: int | None = None,
        strengths: Sequence[float] = STRENGTHS,
    ) -> Schedule:
        """Fit the coefficients of a schedule's steps: ``n · (K - 1)`` network calls.

        Parameters
        ----------
        schedule : Schedule
            All of its timesteps are nodes of these runs.
        history : int, optional
            At most so many predictions a step; by default all.
        strengths : sequence of float
            Of the pull towards DPM-Solver++(2M)'s numbers: see
            ``dpdiff.trajectory.fitting``.

        Raises
        ------
        InputError
            If a timestep is no node, or history is below 1.
        """
        missing = sorted(set(schedule.timesteps) - set(self.nodes.tolist()))
        if missing:
            raise InputError(f"timesteps {missing} are no nodes of these runs")
        if history is not None:
            check_counts(history=history)
        fit = fit_rows(
            self.denoiser, schedule.timesteps, self.blocks, self.bands, history, strengths
        )
        return self._solver(schedule, fit)

    def fit_best(self, steps: int, **settings: Any) -> Schedule:
        """Fit every one of :meth:`paths`; the nearest, as noises left out have it.

        Parameters
        ----------
        steps : int
            K. Two fits at most.
        **settings
            Of :meth:`fit`.
        """
        solvers = [self.fit(path, **settings) for path in self.paths(steps).values()]
        return min(solvers, key=lambda solver: solver.provenance["left_out"])

    def _solver(self, schedule: Schedule, fit: Fit) -> Schedule:
        about = self.about | {
            "sampler": "fitted",
            "strengths": [repr(strength) for strength in fit.strengths],
            "left_out": float(fit.distances.mean()),
        }
        return Schedule(schedule.timesteps, about, [row.tolist() for row in fit.rows])

    @property
    def about(self) -> dict[str, Any]:
        """What is said in files of all that is found with these runs."""
        return {
            "fingerprint": self.denoiser.fingerprint,
            "noise_schedule": self.denoiser.noise.fingerprint,
            "clip": bool(self.denoiser.clip),
            "teacher": {"order": self.order, "nodes": self.nodes.tolist()},
            "n": self.n,
            "seed": self.seed,
        }

    def own_error(self, n: int | None = None) -> tuple[float, float]:
        """Mean distance of the end points to those of runs twice as fine, and its standard error.

        Parameters
        ----------
        n : int, optional
            From the first n noises, at least 2; by default all. They take up to ``2 N n`` calls.
        """
        middles = (self.nodes[:-1] + self.nodes[1:]) // 2
        finer = np.union1d(self.nodes, middles)
        rows = np.arange(self.n if n is None else n)
        size = len(self.blocks[0].x_T)
        blocks = run_blocks(self.denoiser, finer, self.order, self.seed, rows, size)
        ours = torch.cat([block.means[0] for block in self.blocks])[: len(rows)]
        theirs = torch.cat([block.means[0] for block in blocks])
        far = torch.linalg.vector_norm((ours - theirs).double(), dim=1).numpy()
        return float(far.mean()), float(far.std(ddof=1) / math.sqrt(len(far)))


def run_blocks(
    denoiser: Denoiser,
    nodes: np.ndarray,
    order: int,
    seed: int,
    rows: np.ndarray,
    size: int,
    resume: str | Path | None = None,
    workers: Workers = ALONE,
    progress: bool = False,
) -> list[TeacherBlock]:
    """Run the teacher from noises ``rows`` of a seed, ``size`` at a time; the same on all workers.

    Parameters as of :func:`dpdiff.trajectory.fine_runs.fine_runs`.
    """
    table = multistep_rows(denoiser.noise, nodes, order)
    matrix, batches = run_matrix(nodes, table), Batches("teacher", size, workers, progress)
    pieces = whole_batches(rows, size)
    about = {"model": denoiser.fingerprint, "precision": denoiser.precision, "order": order}
    about |= {"nodes": nodes.tolist(), "seed": seed, "n": len(rows), "batch_size": size}

    def run(some: np.ndarray) -> Tensor:
        x_T = start(denoiser, seed, some)
        return run_predictions(denoiser, nodes, table, x_T, batches.called).swapaxes(0, 1)

    with locked(resume, workers):
        blocks = batches.run(
            run,
            pieces,
            finish=lambda parts, some: {"means": concatenated(parts)},
            calls=[len(some) * (len(nodes) - 1) for some in pieces],
            kept=None if resume is None else Checkpoints(resume, about),
        )
    return [
        TeacherBlock(
            start(denoiser, seed, some).flatten(1).float().cpu(),
            torch.from_numpy(block["means"]).swapaxes(0, 1).contiguous(),
            nodes,
            matrix,
        )
        for some, block in zip(pieces, blocks, strict=True)
    ]


def fine_runs(
    denoiser: Denoiser,
    n: int = 16,
    nodes: int | Sequence[int] = 48,
    *,
    order: int = 2,
    seed: int = 0,
    batch_size: int = 32,
    bands: int = 16,
    resume: str | Path | None = None,
    workers: Workers = ALONE,
    progress: bool = True,
) -> FineRuns:
    """Run a fine solver from a few noises, one network call a noise and node.

    Parameters
    ----------
    denoiser : Denoiser
        The model as it will be drawn from: it clips if the fitted solver is to.
    n : int
        Noises, at least 2. Those of ``dpdiff.sample`` with the same seed.
    nodes : int or sequence of int
        As for :func:`dpdiff.trajectories`.
    order : {1, 2}
        DDIM or DPM-Solver++(2M).
    seed : int
    batch_size : int
        Noises run together.
    bands : int
        At most so many groups of directions.
    resume : str or Path, optional
        A folder for finished blocks. Killed, and called again with the same arguments, the run
        goes on and ends with the same bits. Delete the folder when it is done.
    workers : Workers
        Processes to share the noises with, each calling this function.
    progress : bool
        Show a progress bar.

    Returns
    -------
    FineRuns

    Raises
    ------
    InputError
        If an argument is out of range.

    Examples
    --------
    >>> from dpdiff.noise import NoiseSchedule
    >>> shrink = Denoiser(lambda x, index: 0.3 * x, NoiseSchedule.cosine(100), shape=(2,))
    >>> solver = fine_runs(shrink, n=4, nodes=16, progress=False).fit_best(3)
    >>> [len(row) for row in solver.coefficients], solver.provenance["left_out"] < 0.01
    ([2, 3, 4], True)
    """
    check_counts(n=n, batch_size=batch_size, bands=bands)
    if n < 2:
        raise InputError(f"n is at least 2, so that one noise can be left out; got {n}")
    grid = chosen_nodes(denoiser.noise, nodes)
    blocks = run_blocks(
        denoiser, grid, order, seed, np.arange(n), batch_size, resume, workers, progress
    )
    groups = bands_of(torch.cat([block.means[0] for block in blocks]).numpy(), bands)
    grams = sum(run_grams(b.x_T, b.means, groups) * len(b.x_T) for b in blocks) / n
    return FineRuns(denoiser, grid, order, seed, n, blocks, groups, grams)


def affordable(steps: int, calls: int, T: int) -> tuple[int, int]:
    """Noises n and nodes N of a fit that takes so many network calls.

    The teacher takes ``n N`` calls and two fits ``2 n (K - 1)``. Six nodes a step, within 32 and
    48, leave the most noises that a fit is better for; more than twelve steps have four nodes each.

    Parameters
    ----------
    steps : int
        K.
    calls : int
        At most.
    T : int
        Length of the training grid.

    Raises
    ------
    InputError
        If they do not pay for four noises.

    Examples
    --------
    >>> [affordable(steps, 1024, 1000) for steps in (4, 6, 8, 12, 24)]
    [(26, 32), (22, 36), (16, 48), (14, 48), (7, 96)]
    """
    nodes = min(T, max(32, min(6 * steps, 48), 4 * steps))
    price = nodes + 2 * (steps - 1)
    if calls < FEWEST * price:
        raise InputError(
            f"{steps} steps are fitted with {FEWEST * price} network calls or more, got {calls}"
        )
    return calls // price, nodes


def fit(
    denoiser: Denoiser, steps: int, calls: int = CALLS, *, seed: int = 0, **settings: Any
) -> Schedule:
    """Fit a solver of so many steps to a model, for so many network calls.

    Parameters
    ----------
    denoiser : Denoiser
        The model as it will be drawn from.
    steps : int
        K.
    calls : int
        At most; see ``affordable`` for what they are spent on.
    seed : int
        Of the noises. Judge the solver on those of another seed.
    **settings
        Of :func:`dpdiff.trajectory.fine_runs.fine_runs`.

    Raises
    ------
    InputError
        If an argument is out of range.

    Examples
    --------
    >>> from dpdiff.noise import NoiseSchedule
    >>> shrink = Denoiser(lambda x, index: 0.3 * x, NoiseSchedule.cosine(100), shape=(2,))
    >>> fit(shrink, 3, progress=False).steps
    3
    """
    check_counts(steps=steps, calls=calls)
    n, nodes = affordable(steps, calls, denoiser.noise.T)
    return fine_runs(denoiser, n, nodes, seed=seed, **settings).fit_best(steps)
