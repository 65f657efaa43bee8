"""Runs of the many-step sampler, and all that can be asked of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dpdiff import strides
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.runtime import formats
from dpdiff.schedule import Schedule
from dpdiff.solvers.jump_costs import Table
from dpdiff.solvers.pairs import PairCosts
from dpdiff.solvers.plan import best_paths, solve
from dpdiff.trajectory.comparison import (
    Comparison,
    compare_schedules,
    drawn_points,
    nearer,
    own_sampler,
)
from dpdiff.trajectory.fine_runs import CALLS, fit
from dpdiff.trajectory.flow_costs import Bands, jump_table
from dpdiff.trajectory.second_order import SecondOrderCosts


def flow(grams: np.ndarray, gains: np.ndarray, *grid: Any) -> Table:
    """Squared errors, each weighed by what the rest of the way leaves of it."""
    return Table(jump_table(grams, gains, *grid), grid[-1])


def aligned(grams: np.ndarray, gains: np.ndarray, *grid: Any) -> Table:
    """Lengths of these errors instead of their squares."""
    return Table(np.sqrt(jump_table(grams, gains, *grid)), grid[-1])


def plain(grams: np.ndarray, gains: np.ndarray, *grid: Any) -> Table:
    """Squared errors as they are."""
    return flow(grams.sum(0, keepdims=True), np.ones_like(gains[:1]), *grid)


#: Kinds of costs: whose steps they are of, and what makes them of Gram matrices (B, N, N) averaged
#: over noises, the gains (B, N) of errors at ``nodes[1:]``, the noise schedule and the nodes.
COSTS: dict[str, tuple[str, Callable[..., Table | PairCosts]]] = {
    "flow": ("ddim", flow),
    "aligned": ("ddim", aligned),
    "plain": ("ddim", plain),
    "2m": ("2m", SecondOrderCosts),
}
FORMAT, VERSION = "dpdiff-trajectories", 1
BAND_ARRAYS = ("variances", "sizes", "directions")


@dataclass(frozen=True)
class Recommendation:
    """The schedule to use, and what it was chosen from.

    Attributes
    ----------
    schedule : Schedule
    name : str
        ``flow`` is the cheapest path, ``flow 2``, ``flow 3`` … the next ones; ``aligned`` and
        ``plain`` are the other costs' optima; ``moved`` is the best of all these with some of
        its steps moved; and the rest are rivals.
    comparison : Comparison
        Of all candidates, on the noises that chose.
    candidates : dict of str to Schedule
        What was compared.
    """

    schedule: Schedule
    name: str
    comparison: Comparison
    candidates: dict[str, Schedule]


@dataclass(frozen=True, eq=False)
class Trajectories:
    """What :func:`dpdiff.trajectories` keeps of the runs.

    Attributes
    ----------
    denoiser : Denoiser
        The model.
    nodes : ndarray of int, shape (N + 1,)
        Timesteps of the run, with 0 and T.
    ends : ndarray of float32, shape (n, D)
        End points.
    bands : Bands
        Directions of the end points, grouped by variance.
    grams : ndarray of float64, shape (G, B, N, N)
        ``Σ ⟨P_b D_k, P_b D_l⟩ / n`` over the noises of every group; a group is one noise unless
        that takes more than 512 MiB. Their sum over G is the average.
    provenance : dict
        Model, seed, number of noises, batch size, version.
    """

    denoiser: Denoiser = field(repr=False)
    nodes: np.ndarray
    ends: np.ndarray = field(repr=False)
    bands: Bands = field(repr=False)
    grams: np.ndarray = field(repr=False)
    provenance: dict[str, Any]
    _goals: dict[Any, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def costs(self, kind: str = "flow", weights: np.ndarray | None = None) -> Table | PairCosts:
        """The cost of every jump between nodes, for :func:`dpdiff.solve`.

        With ``e(t, s)`` the distance between a jump's landing point and the teacher's, from a
        point of the teacher's own:

        - ``flow``: ``Σ_k w_k(s) E (u_kᵀ e)²``, ``w_k = λ_k / (f_s² λ_k + g_s²)``: what the rest
          of the way leaves of it at the end, were the data Gaussian;
        - ``aligned``: the root of that. Errors of neighbouring jumps often point the same way, and
          then their lengths add up instead of their squares; the sum is never less than the root
          mean square of all errors together, by the triangle inequality;
        - ``plain``: ``E ‖e‖²``;
        - ``2m``: ``flow`` of DPM-Solver++(2M)'s own steps in place of DDIM's, which also depend on
          the node before.

        On the bundled network with linear betas 2M comes 3 to 7 % nearer to the teacher with the
        schedules of ``2m`` than with those of ``flow`` at eight steps, as mean distances go, and as
        near at five and twelve. On the digits, with their cosine grid, it stays 2 and 7 % farther
        away at four and five steps. From six on no mean is nearer for all noises and both teachers,
        though geometric means are mostly smaller (``benchmarks/second_order.py``). So draw with
        both and compare.

        Parameters
        ----------
        kind : {"flow", "aligned", "plain", "2m"}
        weights : ndarray, shape (G,), optional
            Of the groups of noises; by default each counts once.

        Returns
        -------
        Table, or PairCosts of ``2m``
            In squared units of the data, summed over dimensions; ``aligned`` in units of the data.

        Examples
        --------
        >>> import dpdiff
        >>> noise = dpdiff.NoiseSchedule.cosine(100)
        >>> shrink = dpdiff.Denoiser(lambda x, index: 0.3 * x, noise, shape=(2,))
        >>> paths = dpdiff.trajectories(shrink, n=4, nodes=16, progress=False)
        >>> [dpdiff.solve(paths.costs(k), 4).schedule(3).timesteps for k in ("flow", "2m")]
        [(0, 41, 61, 100), (0, 32, 61, 100)]
        """
        if kind not in COSTS:
            raise InputError(f"the kind of costs is one of {', '.join(COSTS)}; got {kind!r}")
        sampler, costs_of = COSTS[kind]
        weights = np.ones(len(self.grams)) if weights is None else weights
        mean, noise = np.tensordot(weights, self.grams, 1), self.denoiser.noise
        costs = costs_of(mean, self.bands.gains(noise, self.nodes[1:]), noise, self.nodes)
        costs.about = self._about(sampler)
        return costs

    def _about(self, sampler: str) -> dict[str, Any]:
        """What schedules for a sampler say of themselves."""
        model, noise = self.provenance["model"], self.denoiser.noise.fingerprint
        about = {"fingerprint": model, "noise_schedule": noise, "sampler": sampler}
        return about | {"clip": bool(self.denoiser.clip)}

    def resampled(
        self, steps: int, resamples: int = 200, *, kind: str = "flow", seed: int = 0
    ) -> np.ndarray:
        """Best schedules had the noises been others: a bootstrap over noises.

        Parameters
        ----------
        steps : int
            K.
        resamples : int
            How often the noises are drawn again, with replacement.
        kind : {"flow", "aligned", "plain", "2m"}
        seed : int
            Of the resampling.

        Returns
        -------
        ndarray of int, shape (resamples, K + 1)
            A schedule a row; ``std(0)`` is the standard error of each node. The bands stay.

        Examples
        --------
        >>> import dpdiff
        >>> noise = dpdiff.NoiseSchedule.cosine(100)
        >>> shrink = dpdiff.Denoiser(lambda x, index: 0.3 * x, noise, shape=(2,))
        >>> paths = dpdiff.trajectories(shrink, n=4, nodes=16, progress=False)
        >>> paths.resampled(3, resamples=5).shape
        (5, 4)
        """
        groups = len(self.grams)
        if groups < 4:
            raise InputError(f"a bootstrap needs four groups of noises or more, here are {groups}")
        rng = np.random.default_rng(seed)
        draws = rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples)
        plans = (solve(self.costs(kind, weights), steps) for weights in draws.astype(float))
        return np.array([plan.schedule(steps).timesteps for plan in plans])

    @property
    def teacher(self) -> Schedule:
        """The schedule of the run itself."""
        return Schedule(tuple(self.nodes))

    @property
    def spread(self) -> float:
        """Root mean square distance of the end points from their mean."""
        centred = self.ends - self.ends.mean(0, dtype=np.float64)
        return float(np.sqrt(np.square(centred).sum() / (len(centred) - 1)))

    @property
    def largest_budget(self) -> int:
        """A quarter of the nodes, since a jump between neighbours costs nothing; or all of T."""
        nodes, T = len(self.nodes) - 1, self.denoiser.noise.T
        return T if nodes == T else max(1, nodes // 4)

    def check_budget(self, steps: int) -> None:
        """Refuse a budget that the nodes do not serve."""
        if not 1 <= steps <= self.largest_budget:
            T = self.denoiser.noise.T
            raise InputError(
                f"{len(self.nodes) - 1} nodes serve budgets of 1…{self.largest_budget} steps, a "
                f"quarter of them; got {steps}: run trajectories() with nodes = "
                f"{min(4 * steps, T)}"
            )

    def compare(
        self,
        schedules: Mapping[str, Schedule],
        n: int = 128,
        *,
        seed: int | None = None,
        teacher: Schedule | None = None,
        progress: bool = True,
    ) -> Comparison:
        """Distances of samples to those of the teacher, from the same held-out noises.

        Each schedule draws with the sampler that it is for: DDIM where it does not say.

        Parameters
        ----------
        schedules : mapping of str to Schedule
            What to compare, by name.
        n : int
            Noises.
        seed : int, optional
            Of the noises; by default one more than that of these trajectories.
        teacher : Schedule, optional
            The many-step schedule to be near to; by default that of these trajectories.
        progress : bool
            Show progress bars.

        Returns
        -------
        Comparison

        Raises
        ------
        InputError
            If the seed is that of these trajectories, whose noises are not held out.
        """
        if not schedules or n < 2:
            raise InputError(
                f"give at least one schedule and two noises, got {len(schedules)} and {n}"
            )
        seed, teacher = self.held_out_seed(seed, 1), teacher or self.teacher
        size = self.provenance["batch_size"]
        key = (teacher, own_sampler(teacher), seed)
        if len(self._goals.get(key, ())) < n:
            self._goals.clear()  # the last one alone is kept: budgets are compared in turn
            self._goals[key] = drawn_points(self.denoiser, teacher, n, seed, size, progress)
        goal = self._goals[key][:n]
        return compare_schedules(self.denoiser, schedules, goal, seed, size, progress)

    def recommend(
        self,
        steps: int,
        rivals: Mapping[str, Schedule] | None = None,
        *,
        candidates: int = 4,
        moves: int = 24,
        n: int = 64,
        seed: int | None = None,
        progress: bool = True,
    ) -> Recommendation:
        """A schedule that is no worse than any rival, by its samples from held-out noises.

        The flow cost's best paths, the other costs' best and the rivals all draw from the same
        noises. The steps of the one that is nearest to the teacher on average are moved as long
        as that brings it nearer still.

        Parameters
        ----------
        steps : int
            K, at most a quarter of the nodes.
        rivals : mapping of str to Schedule, optional
            By default the usual strides: see :func:`dpdiff.strides.usual`.
        candidates : int
            How many of the flow cost's best paths take part.
        moves : int
            How many moved steps are tried at most; 0 for none.
        n : int
            Noises; ``n · K`` network calls a candidate, a quarter to five quarters of that a move.
        seed : int, optional
            Of the noises; by default two more than that of these trajectories.
        progress : bool
            Show progress bars.

        Returns
        -------
        Recommendation
        """
        self.check_budget(steps)
        if not self.spread > 0:
            raise InputError(
                "the model draws the same from every noise: there is nothing to choose by"
            )
        everything, seed = self._candidates(steps, rivals, candidates), self.held_out_seed(seed, 2)
        comparison = self.compare(everything, n, seed=seed, progress=progress)
        best, least = everything[comparison.best], comparison.distances[comparison.best]

        def distances(schedule: Schedule, n: int) -> np.ndarray:
            return self.compare({"": schedule}, n, seed=seed, progress=False).distances[""]

        with tqdm(total=moves, desc="move", disable=not progress) as bar:
            moved, values = nearer(best, least, self.nodes, distances, moves, bar)
        if moved != best:
            everything["moved"] = moved
            comparison = Comparison({**comparison.distances, "moved": values}, seed)
        name = comparison.best
        about = {
            **self._about("ddim"),
            "chosen": name,
            "of": list(everything),
            "distance": comparison.mean(name) / self.spread,
            "stderr": comparison.stderr(name) / self.spread,
            "trajectories": self.provenance,
        }
        schedule = Schedule(everything[name].timesteps, about)
        return Recommendation(schedule, name, comparison, everything)

    def _candidates(
        self, steps: int, rivals: Mapping[str, Schedule] | None, count: int
    ) -> dict[str, Schedule]:
        """The best paths of every cost, and the rivals."""
        if rivals is None:
            rivals = strides.usual(self.denoiser.noise, steps, self.spread**2 / self.ends.shape[1])
        best = best_paths(self.costs(), steps, count)
        names = ["flow", *(f"flow {i}" for i in range(2, len(best) + 1))]
        everything = {name: path for name, (_, path) in zip(names, best, strict=True)}
        for kind in ("aligned", "plain"):  # at times they are nearer
            everything[kind] = solve(self.costs(kind), steps).schedule(steps)
        return everything | {k: rival for k, rival in rivals.items() if k not in everything}

    def fit(
        self, steps: int, calls: int = CALLS, *, seed: int | None = None, progress: bool = True
    ) -> Schedule:
        """A solver fitted to the model: :func:`dpdiff.fit`, from other noises than these.

        Parameters
        ----------
        steps : int
            K.
        calls : int
            At most so many network calls.
        seed : int, optional
            Of the noises; by default four more than that of these trajectories.
        progress : bool
            Show a progress bar.

        Returns
        -------
        Schedule
            With coefficients.
        """
        seed = self.held_out_seed(seed, 4)
        return fit(self.denoiser, steps, calls, seed=seed, progress=progress)

    def fewest_steps(
        self, within: float = 0.1, *, n: int = 32, seed: int | None = None, progress: bool = True
    ) -> int:
        """The smallest budget whose samples are as near to the teacher's as wanted.

        Parameters
        ----------
        within : float
            The mean distance to the teacher's end points, as a share of :attr:`spread`.
        n, seed, progress
            As in :meth:`compare`, which every budget that is tried goes through: about six, since
            each halves what is left.

        Raises
        ------
        InputError
            If even a quarter of the nodes, the largest budget these costs are for, is not enough.
        """
        most = self.largest_budget
        plan = solve(self.costs(), most)

        def share(steps: int) -> float:
            schedules = {"flow": plan.schedule(steps)}
            best = self.compare(schedules, n, seed=seed, progress=progress)
            return best.mean("flow") / self.spread

        if not share(most) <= within:
            raise InputError(
                f"{most} steps are not within {within:g} of the teacher, and these trajectories "
                "serve no larger budget: run trajectories() with more nodes"
            )
        low, high = 0, most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if share(middle) <= within else (middle, high)
        return high

    def save(self, path: str | Path) -> None:
        """Write all but the network to one ``.npz`` file; the file is complete or absent."""
        about = {"format": FORMAT, "version": VERSION, "provenance": self.provenance}
        arrays = {"nodes": self.nodes, "ends": self.ends, "grams": self.grams}
        formats.write_arrays(path, about, arrays | {k: getattr(self.bands, k) for k in BAND_ARRAYS})

    @classmethod
    def load(cls, path: str | Path, denoiser: Denoiser) -> Trajectories:
        """Read what :meth:`save` wrote, for the same model.

        Raises
        ------
        InputError
            If the file is missing, is not such a file, or is of another model or version.
        """
        about, arrays = formats.read_arrays(path, FORMAT, VERSION)
        own, model = about["provenance"]["model"], denoiser.fingerprint
        if own != model:
            raise InputError(f"{path} holds runs of model {own}, the model given is {model}")
        bands = Bands(*(arrays.pop(k) for k in BAND_ARRAYS))
        return cls(denoiser, bands=bands, provenance=about["provenance"], **arrays)

    def held_out_seed(self, seed: int | None, offset: int) -> int:
        """A seed of other noises than these; by default so many more than their own."""
        own = self.provenance["seed"]
        seed = own + offset if seed is None else seed
        if seed == own:
            raise InputError(f"seed {seed} drew these trajectories: hold out another one's noises")
        return seed
