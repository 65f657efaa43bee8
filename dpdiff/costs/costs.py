"""Measured costs: what one pass over the grid says of every jump, under every variance rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dpdiff.costs import bootstrap, smoothing, statistics
from dpdiff.costs.smoothing import Sample
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import formats
from dpdiff.schedule import Schedule
from dpdiff.solvers.jump_costs import Lines, Unit
from dpdiff.strides import axis
from dpdiff.variance import RULES, Rule, rule_named, rules_for

FORMAT = "dpdiff-costs"
VERSION = 2

NODE_FUNCTIONS = ("penalty", "error")
NODE_SPREAD = ("penalty_var", "error_var", "penalty_error_cov")
MOST_NODES = 512
NOISE_ARRAYS = ("betas", "log_f2", "log_g2", "time_inputs", "scales")  # the noise schedule's arrays
# What a measurement says of itself, and in which words.
PROVENANCE: dict[str, type] = {
    **dict.fromkeys(("model", "precision", "dpdiff", "name", "data", "split", "command"), str),
    **dict.fromkeys(("images", "per_step", "batch_size", "seed", "calls", "timesteps"), int),
}


def write_costs(
    path: str | Path,
    noise: NoiseSchedule,
    shape: Sequence[int],
    variance: str,
    statistics: dict[str, np.ndarray],
    provenance: dict[str, Any],
) -> None:
    """Write costs, once they pass what is checked when they are read."""
    about = {
        "format": FORMAT,
        "version": VERSION,
        "shape": list(shape),
        "variance": variance,
        "noise_schedule": noise.fingerprint,
        "provenance": provenance,
    }
    arrays = noise.arrays() | {k: np.asarray(v) for k, v in statistics.items()}
    try:
        _check(about, dict(arrays))
    except InputError as error:
        raise InputError(f"these costs cannot be written to {path}: {error}") from error
    formats.write_arrays(path, about, arrays)


def read_costs(
    path: str | Path,
) -> tuple[NoiseSchedule, tuple[int, ...], str, dict, dict[str, Any]]:
    """The fields of :class:`dpdiff.Costs`, in their order, as :func:`write_costs` was given them.

    Raises
    ------
    InputError
        If the file is missing, changed in any bit, of another version, or holds what no
        measurement gives: names, shapes, types or numbers.
    """
    about, arrays = formats.read_arrays(path, FORMAT, VERSION)
    try:
        noise = _check(about, arrays)
    except InputError as error:
        raise InputError(f"{path} holds no costs: {error}") from error
    arrays = {name: array for name, array in arrays.items() if name not in NOISE_ARRAYS}
    return noise, tuple(about["shape"]), about["variance"], arrays, about["provenance"]


def _check(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> NoiseSchedule:
    names = {"format", "version", "shape", "variance", "noise_schedule", "provenance"}
    if about.keys() != names:
        raise InputError(f"its header has the names {', '.join(sorted(about))}")
    shape = about["shape"]
    if not (isinstance(shape, list) and shape and all(_is_count(n) for n in shape)):
        raise InputError(f"one example has the shape {shape}")
    _check_provenance(about["provenance"])
    noise = _read_noise(arrays)
    if about["noise_schedule"] != noise.fingerprint:
        raise InputError("its noise schedule does not fit its fingerprint")
    sample = {k: v for k, v in arrays.items() if k.startswith("sample_")}
    kept = {k: v for k, v in arrays.items() if k not in NOISE_ARRAYS and k not in sample}
    _check_statistics(kept, noise.T)
    if sample:
        _check_sample(sample, kept, noise.T)
    _check_variance(about["variance"], arrays)
    return noise


def _read_noise(arrays: dict[str, np.ndarray]) -> NoiseSchedule:
    held = arrays.keys() & set(NOISE_ARRAYS)
    if held not in ({"betas"}, {*NOISE_ARRAYS} - {"betas"}):
        raise InputError(f"it has no noise schedule: {' or '.join(NOISE_ARRAYS)}")
    for name in held:
        array = arrays[name]
        whole = name == "time_inputs" and array.dtype == np.int64
        if array.ndim != 1 or not (whole or array.dtype == np.float64):
            raise InputError(f"{name} is {array.dtype} of shape {array.shape}")
    if "scales" in held and arrays["scales"].shape != (2,):
        raise InputError(f"scales are two numbers, not of shape {arrays['scales'].shape}")
    return NoiseSchedule.from_arrays(arrays)


def _check_provenance(provenance: Any) -> None:
    if not isinstance(provenance, dict):
        raise InputError(f"its provenance is a {type(provenance).__name__}")
    for name, kind in PROVENANCE.items():
        value = provenance.get(name)
        if name in provenance and (isinstance(value, bool) or not isinstance(value, kind)):
            raise InputError(f"its provenance says {name}: {value!r}")
    for name, least in (("images", 2), ("per_step", 2), ("batch_size", 1), ("seed", 0)):
        if provenance.get(name, least) < least:
            raise InputError(f"its provenance says {name}: {provenance[name]}")


def _check_variance(variance: Any, arrays: dict[str, np.ndarray]) -> None:
    rule = RULES.get(variance) if isinstance(variance, str) else None
    if rule is None or f"decoder_{rule.decoder}" not in arrays:
        raise InputError(f"it has no statistics of the variance {variance!r}")
    if rule.needs_output and "penalty" not in arrays:
        raise InputError(f"it has no statistics of the variance {variance!r}")


def _check_statistics(arrays: dict[str, np.ndarray], T: int) -> None:
    """Refuse arrays that are missing, not known, of another shape, or hold impossible numbers."""
    decoders = {f"decoder_{rule.decoder}" for rule in RULES.values()} & arrays.keys()
    at_nodes = arrays.keys() & {*NODE_FUNCTIONS, *NODE_SPREAD}
    means = {"mse", "prior", *decoders, *(NODE_FUNCTIONS if at_nodes else ())}
    expected = means | {f"{name}_var" for name in means}
    expected |= {NODE_SPREAD[-1]} if at_nodes else set()
    if arrays.keys() != expected or not decoders:
        odd = ", ".join(sorted(arrays.keys() ^ expected)) or "decoder_fixed"
        raise InputError(f"missing or unexpected: {odd}")
    nodes = arrays["penalty"].shape[1:] if at_nodes else ()
    if at_nodes and (len(nodes) != 1 or not 2 <= nodes[0] <= MOST_NODES):
        raise InputError(f"penalty has shape {arrays['penalty'].shape}")
    for name, array in arrays.items():
        rows = () if name.startswith("prior") else (T + 1,)
        wanted = (*rows, *(nodes if name in at_nodes else ()))
        _check_array(name, array, wanted, np.float32 if name in NODE_SPREAD else np.float64)


def _check_sample(sample: dict[str, np.ndarray], kept: dict[str, np.ndarray], T: int) -> None:
    """Every image's own values at a few timesteps, of the statistics that are kept."""
    means = [k for k in kept if not k.startswith("prior") and not k.endswith(("_var", "_cov"))]
    wanted = {"sample_timesteps", *(f"sample_{name}" for name in means)}
    if sample.keys() != wanted:
        raise InputError(f"missing or unexpected: {', '.join(sorted(sample.keys() ^ wanted))}")
    timesteps, images = sample["sample_timesteps"], sample["sample_mse"].shape[1:]
    rising = timesteps.dtype == np.int64 and timesteps.ndim == 1 and (np.diff(timesteps) > 0).all()
    if not rising or len(timesteps) == 0 or timesteps[0] < 1 or timesteps[-1] > T:
        raise InputError("its timesteps do not rise from 1 to T")
    if len(images) != 1 or images[0] < 2:
        raise InputError(f"sample_mse has shape {sample['sample_mse'].shape}")
    for name in means:
        shape = (len(timesteps), *images, *kept[name].shape[1:])
        _check_array(f"sample_{name}", sample[f"sample_{name}"], shape, np.float32)


def _check_array(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise InputError(
            f"{name} is {array.dtype} of shape {array.shape}, expected {dtype.__name__} of {shape}"
        )
    if not np.isfinite(array).all():
        raise InputError(f"{name} is not finite everywhere")
    if (
        name.endswith("_var") or name.removeprefix("sample_") in ("mse", "error")
    ) and array.min() < 0:
        raise InputError(f"{name} is below 0 somewhere")


def _is_count(number: Any) -> bool:
    return type(number) is int and 1 <= number <= 2**31


@dataclass(frozen=True, eq=False)
class Costs:
    """The cost ``L(t, s)`` of every jump, in nats per example, made on demand from statistics.

    What a jump costs is said by the variance rule, from m(t) or, of a learned variance, from two
    functions of ``a = log(g(t)²/g(s)²)``: see ``dpdiff.variance``. These functions are entire,
    so their values at a few Chebyshev nodes of ``[0, log(g(t)²/g(1)²)]`` give them everywhere.
    ``L(t, 0)`` is the decoder's cost. :func:`dpdiff.measure` makes these objects.

    Parameters
    ----------
    noise : NoiseSchedule
        The training grid.
    shape : tuple of int
        One example.
    variance : str
        The rule in force; :meth:`with_variance` changes it without measuring again.
    statistics : dict of ndarray
        Means over images by timestep, float64, index 0 … T: ``mse`` m(t); ``decoder_fixed``,
        ``decoder_optimal`` and perhaps ``decoder_learned_range``; with a learned variance
        ``penalty`` P and ``error`` M at the nodes, shape (T + 1, J). Every mean has the
        variance of its single-image values in ``<name>_var`` (float32 at the nodes), and the
        two node functions their covariance in ``penalty_error_cov``. ``prior`` and
        ``prior_var`` are numbers.
    provenance : dict
        Model fingerprint, data, sample size, seed, version.
    sample : Sample, optional
        Every image's values at the few timesteps that were measured, if the statistics are a
        fit to them: what error bars are drawn from.
    """

    noise: NoiseSchedule
    shape: tuple[int, ...]
    variance: str
    statistics: dict[str, np.ndarray]
    provenance: dict[str, Any] = field(default_factory=dict)
    sample: Sample | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.variance not in self.variances:
            raise InputError(
                f"these costs know the variances {', '.join(self.variances)}; got {self.variance!r}"
            )

    @property
    def T(self) -> int:
        """Length of the grid."""
        return self.noise.T

    @property
    def nodes(self) -> None:
        """Measured costs are over all timesteps."""
        return None

    @property
    def dims(self) -> int:
        """D, the number of dimensions of one example."""
        return int(np.prod(self.shape))

    @property
    def variances(self) -> tuple[str, ...]:
        """The rules these statistics serve."""
        rules = rules_for("penalty" in self.statistics)
        return tuple(r.name for r in rules if f"decoder_{r.decoder}" in self.statistics)

    @property
    def rule(self) -> Rule:
        """The variance rule in force."""
        return rule_named(self.variance)

    @property
    def mse(self) -> np.ndarray:
        """``m(t) = E‖x_0 - x̂_0‖²``, shape (T + 1,)."""
        return self.statistics["mse"]

    @property
    def mse_variance(self) -> np.ndarray:
        """Variance of ``‖x_0 - x̂_0‖²`` over single images, shape (T + 1,)."""
        return self.statistics["mse_var"]

    @property
    def prior(self) -> float:
        """``E KL(q(x_T|x_0) || N(0, I))`` in nats."""
        return float(self.statistics["prior"])

    @property
    def unit(self) -> Unit:
        """From the nats of a path to bits/dim, the prior term included."""
        return Unit("bits/dim", self.dims * np.log(2), self.prior)

    def with_variance(self, variance: str) -> Costs:
        """The same measurement read under another variance rule."""
        return replace(self, variance=variance)

    def smoothed(self, width: float | None = None) -> Costs:
        """The same costs with the noise between neighbouring timesteps averaged out.

        The minimum over noisy costs seeks out those that are too low by chance. The statistics
        are mostly smooth functions of log SNR, so a local regression along it removes much of
        the noise and little else. Choose schedules on smoothed costs, and score them on measured
        ones. Costs of a few timesteps are a fit already, and stay as they are.

        Parameters
        ----------
        width : float, optional
            Half the width of the neighbourhoods, in units of log SNR; 0 smoothes nothing. By
            default residuals against the known standard errors decide, up to 0.2: a network with
            an embedding of its own for every timestep may come out with 0.

        Returns
        -------
        Costs
            ``provenance["smoothing_width"]`` tells the width. No squared error is below zero.
        """
        if self.sample is not None:
            return self
        n, x = self.provenance["per_step"], axis(self.noise)
        smooth, width = smoothing.smoothed(x, self.statistics, n, width)
        about = {"smoothing_width": width}
        return replace(
            self, statistics=self.statistics | smooth, provenance=self.provenance | about
        )

    def weighted(self) -> Lines:
        """The paper's reweighted objective ``L_w(t, s) = (t - s) m(t)`` (its section 4.2)."""
        t = np.arange(self.T + 1.0)
        return Lines(t * self.mse, self.mse, np.zeros_like(t), -t, t * self.mse)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """A block of the table ``L[t, s]``.

        Parameters
        ----------
        start, stop : int
            Rows ``start ≤ t < stop``.

        Returns
        -------
        ndarray of float64, shape (stop - start, stop)
            Column ``s``; entries with ``s ≥ t`` are ``+inf``.
        """
        block = np.full((stop - start, stop), np.inf)
        t, s = np.arange(start, stop)[:, None], np.arange(1, stop)[None, :]
        with np.errstate(all="ignore"):  # entries above the diagonal are thrown away
            block[:, 1:] = np.where(s < t, self.jump_costs(t, s), np.inf)
        block[:, 0] = self.decoder_costs[start:stop]
        if start == 0:
            block[0, 0] = np.inf
        return block

    def table(self) -> np.ndarray:
        """The whole table, shape (T + 1, T + 1)."""
        table = np.full((self.T + 1, self.T + 1), np.inf)
        for start in range(0, self.T + 1, 128):
            stop = min(start + 128, self.T + 1)
            table[start:stop, :stop] = self.rows(start, stop)
        return table

    @property
    def decoder_costs(self) -> np.ndarray:
        """``L(t, 0)`` for every t, shape (T + 1,)."""
        return self.statistics[f"decoder_{self.rule.decoder}"]

    @property
    def decoder_variances(self) -> np.ndarray:
        """Variance over single images of ``L(t, 0)`` in nats², shape (T + 1,)."""
        return self.statistics[f"decoder_{self.rule.decoder}_var"]

    def jump_costs(self, t: np.ndarray, s: np.ndarray) -> np.ndarray:
        """``L(t, s)`` for arrays of timesteps with ``0 < s < t``, broadcast against each other."""
        return self.rule.jump_costs(self, t, s)

    def lines(self) -> Lines | None:
        """The costs as lines in a number x(t), where the rule allows it."""
        return self.rule.lines(self)

    def edge_nats(self, schedule: Schedule) -> np.ndarray:
        """Costs of a schedule's jumps in nats, shape (K,), the decoder's first."""
        schedule.check_end(self.T)
        return self.costs_of(*np.array(schedule.jumps).T)

    def costs_of(self, t: np.ndarray, s: np.ndarray) -> np.ndarray:
        """``L(t, s)`` in nats of any jumps with ``0 ≤ s < t``, for arrays of shape (K,)."""
        costs = self.decoder_costs[t].copy()
        costs[s > 0] = self.jump_costs(t[s > 0], s[s > 0])
        return costs

    def bound(self, schedule: Schedule) -> bootstrap.Estimate:
        """Bits/dim of a schedule on the measured images, and its Monte-Carlo standard error.

        The standard error is that of the noise and the sampling of images at each timestep,
        taken as independent between timesteps. A schedule chosen on these very costs looks
        better here than it is: :func:`dpdiff.evaluate` it on held-out images.
        """
        schedule.check_end(self.T)
        return bootstrap.bound(self, schedule)

    def difference(self, one: Schedule, other: Schedule) -> bootstrap.Estimate:
        """Bits/dim of one schedule less those of another, and the standard error of that.

        It is smaller than what the two single standard errors suggest: jumps that both make
        cancel. A timestep that only one visits adds its variance. Where both visit a timestep
        but land differently, the two costs come from the same images and noise: under the
        fixed and the optimal rules both follow from m(t), and the variance is that of their
        difference. It is not known for a learned variance, nor where one of the two is a last
        step; there the standard deviations are added, which is never too little.

        Parameters
        ----------
        one, other : Schedule
            On these costs' grid.

        Returns
        -------
        mean, stderr : float
            Both 0 if the schedules are the same.
        """
        one.check_end(self.T)
        other.check_end(self.T)
        return bootstrap.difference(self, one, other)

    @cached_property
    def _coefficients(self) -> dict[str, np.ndarray]:
        """Chebyshev coefficients of the node functions, each of shape (T + 1, J)."""
        to_coefficients = statistics.chebyshev_transform(self.statistics["penalty"].shape[1]).T
        nodes = {k: v for k, v in self.statistics.items() if np.ndim(v) == 2}
        return {k: v.astype(np.float64) @ to_coefficients for k, v in nodes.items()}

    def learned(self, name: str, t: np.ndarray, a: np.ndarray) -> np.ndarray:
        """A mean that depends on a learned variance, as ``dpdiff.variance.Moments`` names it.

        For ``a`` of shape (K,) or (B, S), and ``t`` of shape (K,) or (B, 1).
        """
        if len(t) == 0:
            return np.zeros(0)
        x = 2 * a / self.noise.noise_gain(t, 1) - 1
        points = x.reshape(len(t), -1)
        return statistics.chebyshev_sum(self._coefficients[name][t.ravel()], points).reshape(
            x.shape
        )

    def check_model(self, fingerprint: str) -> None:
        """Refuse to be used with a model that these costs were not measured on."""
        if fingerprint != self.provenance.get("model"):
            raise InputError(
                f"these costs were measured on model {self.provenance.get('model')}, "
                f"the model given is {fingerprint}: measure it first"
            )

    def save(self, path: str | Path) -> None:
        """Write everything to one ``.npz`` file; the file is complete or absent."""
        arrays = self.statistics | (self.sample.arrays() if self.sample else {})
        write_costs(path, self.noise, self.shape, self.variance, arrays, self.provenance)

    @classmethod
    def load(cls, path: str | Path) -> Costs:
        """Read costs that :meth:`save` wrote.

        Raises
        ------
        InputError
            If the file is missing, truncated, changed in any bit, not such a file, of another
            version, or holds numbers that no measurement gives.
        """
        noise, shape, variance, arrays, provenance = read_costs(path)
        sample = Sample.taken_from(noise, arrays)
        return cls(noise, shape, variance, arrays, provenance, sample)
