"""Inference schedules: which training steps a sampler visits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpdiff.errors import InputError
from dpdiff.runtime import formats
from dpdiff.runtime.files import replacing

if TYPE_CHECKING:
    from dpdiff.noise import NoiseSchedule


FORMAT = "dpdiff-schedule"
VERSION = 2


@dataclass(frozen=True)
class Schedule:
    """A path ``0 = τ_0 < τ_1 < … < τ_K = T`` over the training grid.

    A schedule with ``K`` steps makes ``K`` network calls, one at each of ``τ_1 … τ_K``.
    It always holds both ends.

    Parameters
    ----------
    timesteps : sequence of int
        The nodes ``τ_0 … τ_K`` in increasing order, both ends included.
    provenance : dict, optional
        Where the schedule comes from (model, costs, seed …); saved beside it. It takes no part
        in comparisons.

    Raises
    ------
    InputError
        If the nodes are not integers, do not begin at 0, do not increase, or are fewer than two.

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

    def check_end(self, T: int) -> None:
        """Refuse to be used on a grid of another length."""
        if self.T != T:
            raise InputError(f"the schedule ends at {self.T}, the training grid at T = {T}")

    def check_noise(self, noise: NoiseSchedule) -> None:
        """Refuse to be used with another noise schedule than the one it was found for."""
        self.check_end(noise.T)
        name, own = (self.provenance.get(key) for key in ("model", "noise_schedule"))
        if own not in (None, noise.fingerprint):
            raise InputError(
                f"the schedule was found for model {name!r}, whose noise schedule is {own}; the "
                f"model given has {noise.fingerprint}: its timesteps mean other noise"
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

    def to_sigmas(self, noise: NoiseSchedule, zero: str = "append") -> list[float]:
        """The noise levels of k-diffusion, ComfyUI and diffusers' Euler, decreasing.

        They are ``σ = g/f`` in the model's own scale, and the flow time ``g`` of flow models.

        Parameters
        ----------
        noise : NoiseSchedule
            The model's.
        zero : {"append", "none"}
            End with ``σ(0) = 0``, which makes steps + 1 values, or leave it out.

        Raises
        ------
        InputError
            If ``noise`` is of another grid, or holds no signal at T, where σ is infinite.

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
        if not math.isfinite(noise.sigmas[self.T]):
            raise InputError("no signal is left at T, so σ is infinite there: use to_diffusers")
        nodes = self.timesteps[::-1] if zero == "append" else self.timesteps[:0:-1]
        return noise.sigmas[list(nodes)].tolist()

    @classmethod
    def from_diffusers(cls, timesteps: Iterable[float], T: int) -> Schedule:
        """Read a list of timesteps as diffusers has them: 0-based, descending from ``T - 1``.

        Parameters
        ----------
        timesteps : iterable of int or float
            Rounded to integers.
        T : int
            Length of the training grid, ``num_train_timesteps``.

        Raises
        ------
        InputError
            If they leave 0 … T - 1, do not begin at T - 1, do not descend, or coincide once
            they are rounded.

        Examples
        --------
        >>> Schedule.from_diffusers([9, 4, 1], T=10).timesteps
        (0, 2, 5, 10)
        """
        try:
            indices = [round(float(t)) for t in timesteps]
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"timesteps are a list of numbers, got {timesteps!r}") from error
        wrong = [i for i in indices if not 0 <= i < T]
        if wrong:
            raise InputError(
                f"diffusers counts timesteps from 0 to T - 1 = {T - 1}, got {wrong[0]}: "
                "subtract 1 from each if the list counts from 1"
            )
        for before, after in pairwise(indices):
            if after >= before:
                what = "are the same once rounded: leave one out" if after == before else "rise"
                raise InputError(f"timesteps descend strictly; {before} and then {after} {what}")
        if indices[:1] != [T - 1]:
            raise InputError(
                f"a schedule holds T: its first timestep is T - 1 = {T - 1}, where sampling "
                f"begins; got {indices[0] if indices else 'none'}"
            )
        return cls((0, *(i + 1 for i in reversed(indices))))

    @classmethod
    def from_sigmas(cls, sigmas: Iterable[float], noise: NoiseSchedule) -> Schedule:
        """Read decreasing noise levels as of :meth:`to_sigmas`, with or without a final 0.

        Each becomes the timestep with the nearest ``log σ``. Lists such as those of Align Your
        Steps can be scored in this way.

        Raises
        ------
        InputError
            If a value is more than 5 % outside the range of ``noise``, or if the timesteps are
            refused by :meth:`from_diffusers`.

        Examples
        --------
        >>> from dpdiff.noise import NoiseSchedule
        >>> Schedule.from_sigmas([157.4, 1.236, 0.0], NoiseSchedule.linear(1000)).timesteps
        (0, 300, 1000)
        """
        try:
            values = [float(sigma) for sigma in sigmas]
        except (TypeError, ValueError) as error:
            raise InputError(f"sigmas are a list of numbers, got {sigmas!r}") from error
        values = values[:-1] if values[-1:] == [0] else values
        low, high = noise.sigmas[[1, noise.T]].tolist()
        wrong = [sigma for sigma in values if not low / 1.05 <= sigma <= high * 1.05]
        if wrong:
            raise InputError(
                f"this noise schedule's sigmas lie between {low:.4g} and {high:.4g}, "
                f"and a list may end with 0; got {wrong[0]:.4g}"
            )
        log_sigmas = np.log(noise.sigmas[1:])
        indices = [int(abs(log_sigmas - math.log(v)).argmin()) for v in values]
        try:
            return cls.from_diffusers(indices, noise.T)
        except InputError as error:
            raise InputError(f"the sigmas' timesteps are {indices}: {error}") from error

    def to_json(self) -> str:
        """The schedule with its provenance and a digest of both, as schedule files hold it."""
        about = {"format": FORMAT, "version": VERSION}
        fields = {"timesteps": list(self.timesteps), "provenance": self.provenance}
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
        return cls(tuple(timesteps), provenance)
