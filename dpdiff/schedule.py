"""Inference schedules: which training steps a sampler visits."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from operator import index
from pathlib import Path
from typing import Any

from dpdiff.errors import InputError
from dpdiff.files import replacing

FORMAT = "dpdiff-schedule"
VERSION = 1


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
        if not 1 <= steps <= T:
            raise InputError(f"the number of steps lies in 1…{T}, got {steps}")
        # Exact integer rounding (halves go up), the same on every machine.
        scale = steps**power
        nodes = [0]
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

    def save(self, path: str | Path) -> None:
        """Write the schedule with its provenance as JSON; the file is complete or absent."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "timesteps": list(self.timesteps),
            "provenance": self.provenance,
        }
        with replacing(path) as file:
            file.write(json.dumps(document, indent=1, ensure_ascii=False).encode())

    @classmethod
    def load(cls, path: str | Path) -> Schedule:
        """Read a schedule that :meth:`save` wrote.

        Raises
        ------
        InputError
            If the file is missing, is not such a file, or is of another version.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read a schedule from {path}: {error}") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise InputError(f"{path} is not a schedule file of dpdiff")
        if document.get("version") != VERSION:
            raise InputError(
                f"{path} is of version {document.get('version')}, this dpdiff reads {VERSION}"
            )
        return cls(tuple(document["timesteps"]), document.get("provenance", {}))
