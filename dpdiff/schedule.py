"""Inference schedules: which training steps a sampler visits."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import formats
from dpdiff.runtime.files import replacing

# What programs have for an infinite σ(T): of the ᾱ_T that they put in the place of 0.
DIFFUSERS_HIGHEST = (2.0**24 - 1) ** 0.5
COMFYUI_HIGHEST = (1 / 4.8973451890853435e-08 - 1) ** 0.5
ROUNDED = 1.001e-3  # of the first number, where flows leave out the last thousandth
FORMAT = "dpdiff-schedule"
VERSION = 2


@dataclass(frozen=True)
class Schedule:
    """A path ``0 = τ_0 < τ_1 < … < τ_K = T`` over the training grid.

    A schedule with ``K`` steps makes ``K`` network calls, one at each of ``τ_1 … τ_K``.
    It always holds both ends. With coefficients it is a whole solver, fitted to one model.

    Parameters
    ----------
    timesteps : sequence of int
        The nodes ``τ_0 … τ_K`` in increasing order, both ends included.
    provenance : dict, optional
        Where the schedule comes from (model, costs, seed …); saved beside it. It takes no part
        in comparisons.
    coefficients : sequence of sequences of float, optional
        A row ``[a, c_0, c_1, …]`` for every step, from T down. The step from t to s goes to
        ``a x_t + c_0 x̂_0(t) + c_1 x̂_0(the node before t) + …``; row i has 2 to i + 2 numbers.

    Raises
    ------
    InputError
        If the nodes are not integers, do not begin at 0, do not increase, or are fewer than two;
        if there are not so many rows or numbers, or one is not finite.

    Examples
    --------
    >>> schedule = Schedule([0, 2, 5, 10])
    >>> schedule.steps, schedule.T
    (3, 10)
    >>> schedule.jumps
    ((2, 0), (5, 2), (10, 5))
    """

    timesteps: tuple[int, ...]
    provenance: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    coefficients: tuple[tuple[float, ...], ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        try:
            nodes = tuple(index(t) for t in self.timesteps)
        except TypeError as error:
            raise InputError(f"a schedule holds integers, got {self.timesteps!r}") from error
        if len(nodes) < 2:
            raise InputError(f"a schedule holds at least the nodes 0 and T, got {list(nodes)}")
        if nodes[0] != 0:
            raise InputError(f"a schedule begins at timestep 0 (the data), got {nodes[0]} first")
        for before, after in pairwise(nodes):
            if after <= before:
                raise InputError(
                    f"a schedule's timesteps increase strictly, got {before} followed by {after}"
                )
        object.__setattr__(self, "timesteps", nodes)
        if self.coefficients is not None:
            rows = tuple(tuple(float(number) for number in row) for row in self.coefficients)
            if len(rows) != self.steps:
                raise InputError(
                    f"{self.steps} steps have as many rows of numbers, got {len(rows)}"
                )
            for i, row in enumerate(rows):
                if not (2 <= len(row) <= i + 2 and all(map(math.isfinite, row))):
                    raise InputError(
                        f"row {i} of a solver holds 2 to {i + 2} finite numbers, got {[*row]}"
                    )
            object.__setattr__(self, "coefficients", rows)

    @property
    def T(self) -> int:
        """The last node: the length of the training grid."""
        return self.timesteps[-1]

    @property
    def steps(self) -> int:
        """K, the number of jumps, which is the number of network calls."""
        return len(self.timesteps) - 1

    @property
    def jumps(self) -> tuple[tuple[int, int], ...]:
        """The edges ``(t, s)`` of the path, from the data's end upwards."""
        return tuple((t, s) for s, t in pairwise(self.timesteps))

    def with_sampler(self, name: str) -> Schedule:
        """The same timesteps for another sampler, which needs no coefficients.

        Examples
        --------
        >>> Schedule([0, 4, 8]).with_sampler("2m").provenance
        {'sampler': '2m'}
        """
        return Schedule(self.timesteps, self.provenance | {"sampler": name})

    def check_end(self, T: int) -> None:
        """Refuse to be used on a grid of another length."""
        if self.T != T:
            raise InputError(f"the schedule ends at {self.T}, the training grid at T = {T}")

    def check_noise(self, noise: NoiseSchedule, *, below: bool = False) -> None:
        """Refuse to be used with another noise schedule than the one it was found for.

        ``below`` takes those that begin below T too, if they are known to be of that grid.
        """
        if not below or self.provenance.get("T") != noise.T:
            self.check_end(noise.T)
        keys = ("model", "fingerprint", "noise_schedule")
        name, model, own = (self.provenance.get(key) for key in keys)
        if own not in (None, noise.fingerprint):
            raise InputError(
                f"the schedule was found for model {name or model!r}, whose noise schedule is "
                f"{own}; the model given has {noise.fingerprint}: its timesteps mean other noise"
            )

    def check_denoiser(self, denoiser: Any, *, below: bool = False) -> None:
        """As :meth:`check_noise`; of a solver, also refuse another model, or one that clips."""
        self.check_noise(denoiser.noise, below=below)
        if self.coefficients is None:
            return
        own, clip = self.provenance.get("fingerprint"), self.provenance.get("clip")
        if clip not in (None, bool(denoiser.clip)):
            raise InputError(
                f"the solver was fitted with clip = {clip}, the model given has {denoiser.clip}: "
                f"dataclasses.replace(denoiser, clip={clip}), or fit one to it"
            )
        if own not in (None, denoiser.fingerprint):
            raise InputError(
                f"the solver was fitted to model {own}, the model given is {denoiser.fingerprint}: "
                "fit one to it. Schedule(solver.timesteps, {}, solver.coefficients) goes anywhere"
            )

    @classmethod
    def even(cls, T: int, steps: int) -> Schedule:
        """The even stride of the paper, ``τ_i = T i / K`` rounded to the nearest integer.

        It does not contain t = 1 unless the rounding says so; some other codebases force it in,
        which changes the bits/dim of the ``small`` variance greatly.

        Examples
        --------
        >>> Schedule.even(4000, 4).timesteps
        (0, 1000, 2000, 3000, 4000)
        """
        return cls._rounded(T, steps, 1)

    @classmethod
    def quadratic(cls, T: int, steps: int) -> Schedule:
        """The quadratic stride of the paper, ``τ_i = T (i / K)²`` rounded to the nearest integer.

        Nodes that rounding would merge are pushed up to the next free timestep.

        Examples
        --------
        >>> Schedule.quadratic(4000, 4).timesteps
        (0, 250, 1000, 2250, 4000)
        >>> Schedule.quadratic(10, 8).timesteps
        (0, 1, 2, 3, 4, 5, 6, 8, 10)
        """
        return cls._rounded(T, steps, 2)

    @classmethod
    def _rounded(cls, T: int, steps: int, power: int) -> Schedule:
        if not isinstance(T, Integral) or not isinstance(steps, Integral) or not 1 <= steps <= T:
            raise InputError(f"the number of steps is an integer in 1…{T}, got {steps!r}")
        # Exact integer rounding (halves go up), the same on every machine.
        T, scale, nodes = int(T), int(steps) ** power, [0]
        for i in range(1, steps + 1):
            nodes.append(max((2 * T * i**power + scale) // (2 * scale), nodes[-1] + 1))
        return cls(tuple(nodes))

    def to_diffusers(self) -> list[int]:
        """The timesteps as diffusers counts them: 0-based and descending, ``τ_K - 1 … τ_1 - 1``.

        Examples
        --------
        >>> Schedule([0, 2, 5, 10]).to_diffusers()
        [9, 4, 1]
        """
        return [t - 1 for t in reversed(self.timesteps[1:])]

    def to_sigmas(
        self, noise: NoiseSchedule, zero: str = "append", highest: float = DIFFUSERS_HIGHEST
    ) -> list[float]:
        """The noise levels of k-diffusion, ComfyUI and diffusers' Euler, decreasing.

        They are ``σ = g/f`` in the model's own scale, and the flow time ``g`` of flow models.

        Parameters
        ----------
        noise : NoiseSchedule
            The model's.
        zero : {"append", "none"}
            End with ``σ(0) = 0``, which makes steps + 1 values, or leave it out.
        highest : float
            What stands for ``σ(T)`` where no signal is left and it is infinite: diffusers' 4096,
            or ComfyUI's ``dpdiff.schedule.COMFYUI_HIGHEST``.

        Raises
        ------
        InputError
            If ``noise`` is of another grid, or ``highest`` is not above the other noise levels.

        Examples
        --------
        >>> from dpdiff.noise import NoiseSchedule
        >>> sigmas = Schedule([0, 300, 1000]).to_sigmas(NoiseSchedule.linear(1000))
        >>> [round(sigma, 3) for sigma in sigmas]
        [157.407, 1.234, 0.0]
        """
        self.check_noise(noise)
        if zero not in ("append", "none"):
            raise InputError(f"zero is 'append' or 'none', got {zero!r}")
        nodes = self.timesteps[::-1] if zero == "append" else self.timesteps[:0:-1]
        return finite_sigmas(noise, highest)[list(nodes)].tolist()

    @classmethod
    def from_diffusers(
        cls,
        steps: Any,
        noise: NoiseSchedule | None = None,
        *,
        start: str | None = None,
        T: int | None = None,
    ) -> Schedule:
        """Read the steps of a scheduler of diffusers, or a list of timesteps for a noise schedule.

        Parameters
        ----------
        steps : scheduler or iterable of float
            A scheduler after its ``set_timesteps``; or a descending list of what the network is
            told, of which each becomes the timestep with the nearest time input.
        noise : NoiseSchedule, optional
            A list needs it: 500 is one noise level of a DDPM and another of a flow, and
            ``T``, the length of the grid, does not tell which. A scheduler has its own.
        start : {"move", "keep"}, optional
            What becomes of a list that begins below T, as diffusers' "leading" ones do: its first
            step is moved to T, or kept, in a schedule that only :func:`dpdiff.sample` takes.

        Raises
        ------
        InputError
            If numbers leave the grid, do not begin at T, do not descend, or coincide once they
            are rounded; if a scheduler has no timesteps yet, takes two calls a step, or tells
            the network other times than those of the noise it steps between.

        Examples
        --------
        >>> from dpdiff.noise import NoiseSchedule
        >>> Schedule.from_diffusers([9, 4, 1], NoiseSchedule.cosine(10)).timesteps
        (0, 2, 5, 10)
        """
        if hasattr(steps, "set_timesteps"):
            return cls._of_scheduler(steps, noise, start)
        if not isinstance(noise, NoiseSchedule):
            raise InputError(
                "a list of timesteps tells noise levels on one noise schedule only: give that too, "
                "from_diffusers(timesteps, NoiseSchedule.from_diffusers(scheduler)), or the "
                "scheduler itself instead of the list"
            )
        told, inputs = _numbers(steps, "timesteps"), noise.time_inputs
        gap = np.abs(np.diff(inputs)).max(initial=0) if noise.T > 1 else 1
        wrong = told[(told < inputs.min() - gap / 2) | (told > inputs.max() + gap / 2)]
        if wrong.size:
            advice = "leave it out, the step to the data is understood"
            if not (wrong[0] == told[-1] == -1):
                advice = "subtract 1 from each if the list counts from 1"
            raise InputError(
                f"this noise schedule's time inputs lie between {inputs.min():.6g} and "
                f"{inputs.max():.6g}, got {wrong[0]:.6g}: {advice}"
            )
        nodes = 1 + np.abs(inputs - told[:, None]).argmin(1)
        if inputs.dtype.kind == "f" and told.size and inputs[-1] - told[0] <= ROUNDED * inputs[-1]:
            nodes[0] = noise.T
        return cls._descending(nodes, told, noise, start)

    @classmethod
    def _of_scheduler(cls, scheduler: Any, noise: NoiseSchedule | None, start: Any) -> Schedule:
        """What a scheduler steps through, by its noise levels if it has them."""
        name = type(scheduler).__name__
        if isinstance(getattr(scheduler, "schedule", None), cls):
            return scheduler.schedule
        noise = NoiseSchedule.from_diffusers(scheduler) if noise is None else noise
        if getattr(scheduler, "order", 1) != 1 or name == "ScoreSdeVeScheduler":
            raise InputError(f"{name} calls the network more than once a step: no list says that")
        custom = getattr(scheduler, "custom_timesteps", False)
        if getattr(scheduler, "num_inference_steps", None) is None and not custom:
            raise InputError(f"this {name} has no steps yet: call its set_timesteps first")
        told = _numbers(scheduler.timesteps, "timesteps")
        if getattr(scheduler, "sigmas", None) is None:
            return cls.from_diffusers(told, noise, start=start)
        sigmas = _numbers(scheduler.sigmas, "sigmas")
        if len(sigmas) != len(told) + 1:
            raise InputError(f"{name} has {len(told)} timesteps for {len(sigmas)} sigmas")
        nodes, inputs = _nearest(sigmas[:-1], noise), noise.time_inputs
        gaps = np.abs(np.diff(inputs, prepend=inputs[0], append=inputs[-1]))
        near = 1.01 * np.maximum(gaps[:-1], gaps[1:])[nodes - 1]
        whole = 1 if inputs.max() > 100 and (told == told.round()).all() else 0
        wrong = np.flatnonzero(np.abs(told - inputs[nodes - 1]) > near + whole)
        if wrong.size:
            i = wrong[0]
            raise InputError(
                f"this {name} steps from sigma {sigmas[i]:.6g}, where the network is to be told "
                f"{inputs[nodes[i] - 1]:.6g}, and tells it {told[i]:.6g}: those with a shift of "
                "their own do so after set_timesteps(timesteps=…); give them sigmas"
            )
        return cls._descending(nodes, told, noise, start)

    @classmethod
    def _descending(
        cls, nodes: np.ndarray, given: np.ndarray, noise: NoiseSchedule, start: str | None
    ) -> Schedule:
        """A schedule of nodes that numbers were read as."""
        if start not in (None, "move", "keep"):
            raise InputError(f"start is 'move' or 'keep', got {start!r}")
        for (before, after), (one, other) in zip(pairwise(nodes), pairwise(given), strict=True):
            if after >= before:
                same = f"are the same timestep {after} once rounded: leave one out"
                what = same if after == before else "rise"
                raise InputError(f"steps descend strictly; {one:.6g} and then {other:.6g} {what}")
        if nodes.size == 0 or (nodes[0] != noise.T and start is None):
            raise InputError(
                f"sampling begins at T = {noise.T}, where the network is told "
                f"{noise.time_inputs[-1]:.6g} and sigma is {noise.sigmas[-1]:.6g}; got "
                + (f"{given[0]:.6g}, timestep {nodes[0]}" if nodes.size else "none")
                + ". start='move' puts the first step at T, 'keep' leaves it, for samples alone"
            )
        first = noise.T if start == "move" else nodes[0]
        return cls((0, *nodes[:0:-1].tolist(), first), {} if first == noise.T else {"T": noise.T})

    @classmethod
    def from_sigmas(
        cls,
        sigmas: Iterable[float],
        noise: NoiseSchedule,
        *,
        zero: str | None = None,
        start: str | None = None,
    ) -> Schedule:
        """Read decreasing noise levels as of :meth:`to_sigmas`, with or without a final 0.

        Each becomes the timestep with the nearest ``log σ``. Where ``σ(T)`` is infinite, what
        programs put in its place is known. Lists such as those of Align Your Steps can be scored
        in this way.

        Parameters
        ----------
        sigmas : iterable of float
            The list.
        noise : NoiseSchedule
            The model's.
        zero : {"append", "none"}, optional
            Whether the last value is where sampling ends, or a step like the others. By default
            it is the end if it is 0; or, with a warning, ``σ(1)``, the lowest noise level, where
            Align Your Steps' own lists end and samplers put 0. Lists of flow models are written
            without an end: there, ``σ(1)`` is a step.
        start : {"move", "keep"}, optional
            As for :meth:`from_diffusers`.

        Raises
        ------
        InputError
            If a value is more than 5 % outside the range of ``noise``, or if the timesteps are
            such as :meth:`from_diffusers` refuses.

        Examples
        --------
        >>> from dpdiff.noise import NoiseSchedule
        >>> Schedule.from_sigmas([157.4, 1.236, 0.0], NoiseSchedule.linear(1000)).timesteps
        (0, 300, 1000)
        """
        if zero not in (None, "append", "none"):
            raise InputError(f"zero is 'append' or 'none', got {zero!r}")
        values = _numbers(sigmas, "sigmas", endless=True)
        ends = zero == "append" or (zero is None and values[-1:].tolist() == [0])
        nodes = _nearest(values[: len(values) - ends], noise)
        if zero is None and not ends and len(nodes) > 1 and nodes[-1] == 1 and not noise.is_flow:
            nodes, ends = nodes[:-1], True
            warnings.warn(
                f"the last sigma, {values[-1]:.6g}, is this noise schedule's lowest, and is read "
                "as the end of sampling, where programs put 0; zero='none' makes it a step",
                stacklevel=2,
            )
        return cls._descending(nodes, values[: len(nodes)], noise, start)

    def to_json(self) -> str:
        """The schedule with its provenance and a digest of both, as schedule files hold it."""
        about = {"format": FORMAT, "version": VERSION}
        fields = {"timesteps": list(self.timesteps), "provenance": self.provenance}
        if self.coefficients is not None:
            fields["coefficients"] = [list(row) for row in self.coefficients]
        return formats.signed_json(about | fields)

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_json` to a file, which is complete or absent."""
        with replacing(path) as file:
            file.write(self.to_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> Schedule:
        """Read a schedule that :meth:`save` wrote.

        Files of version 1 have no digest and are read too, so that other programs can write them:
        ``{"format": "dpdiff-schedule", "version": 1, "timesteps": [0, …, T], "provenance": {}}``.

        Raises
        ------
        InputError
            If the file is missing, is not such a file, was changed, or is of another version.
        """
        document = formats.read_json(path)
        unsigned = document.get("version") == 1 and formats.DIGEST_NAME not in document
        if document.get("format") != FORMAT or not unsigned:
            document = formats.read_signed_json(path, FORMAT, VERSION)
        timesteps, provenance = document.get("timesteps"), document.get("provenance")
        if not (isinstance(timesteps, list) and all(type(t) is int for t in timesteps)):
            raise InputError(f"{path} holds no list of integers as timesteps")
        if not isinstance(provenance, dict):
            raise InputError(f"{path} does not say where its schedule is from")
        try:
            return cls(tuple(timesteps), provenance, document.get("coefficients"))
        except (TypeError, ValueError) as error:
            raise InputError(f"{path} holds no rows of numbers as coefficients") from error


def _numbers(values: Any, name: str, endless: bool = False) -> np.ndarray:
    """A list of numbers as float64; infinities only where they mean something."""
    try:
        numbers = np.array([float(value) for value in values])
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} are a list of numbers, got {values!r}") from error
    if not endless and not np.isfinite(numbers).all():
        raise InputError(f"{name} are a list of numbers, got {values!r}")
    return numbers


def finite_sigmas(noise: NoiseSchedule, highest: float = DIFFUSERS_HIGHEST) -> np.ndarray:
    """σ(0) … σ(T), of which the last may be a stand-in."""
    sigmas = noise.sigmas.copy()
    if not math.isfinite(sigmas[-1]):
        if not sigmas[-2] < highest < math.inf:
            raise InputError(f"highest is a number above {sigmas[-2]:.6g}, got {highest}")
        sigmas[-1] = highest
    return sigmas


def _nearest(values: np.ndarray, noise: NoiseSchedule) -> np.ndarray:
    """The timesteps whose ``log σ`` are nearest."""
    low, high = noise.sigmas[[1, noise.T]].tolist()
    wrong = [sigma for sigma in values.tolist() if not low / 1.05 <= sigma <= high * 1.05]
    if wrong:
        raise InputError(
            f"this noise schedule's sigmas lie between {low:.4g} and {high:.4g}, "
            f"and a list may end with 0; got {wrong[0]:.4g}"
        )
    stand_in = max(DIFFUSERS_HIGHEST, 2 * noise.sigmas[-2]) if noise.T > 1 else DIFFUSERS_HIGHEST
    known = np.log(finite_sigmas(noise, stand_in)[1:])
    given = np.log(np.minimum(values, 1e300))
    nodes = 1 + np.abs(known - given[:, None]).argmin(1)
    if nodes[:1].tolist() == [noise.T - 1] and abs(given[0] - known[-1]) <= 2 * ROUNDED:
        nodes[0] = noise.T
    return nodes
