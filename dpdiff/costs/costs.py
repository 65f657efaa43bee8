"""Measured costs: what one pass over the grid says of every jump, under every variance rule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dpdiff.costs import smoothing, statistics
from dpdiff.costs.smoothing import Sample, Statistics
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import formats
from dpdiff.schedule import Schedule
from dpdiff.solvers.jump_costs import JumpCosts, Lines, Unit
from dpdiff.strides import axis
from dpdiff.variance import RULES, Rule, rule_named, rules_for

FORMAT, VERSION = "dpdiff-costs", 2  # of files
NODE_FUNCTIONS = ("penalty", "error")
REPLICATES = 100  # draws for a standard error


class Estimate(NamedTuple):
    """A measured number and its standard error."""

    mean: float
    stderr: float


@dataclass(frozen=True, eq=False)
class Costs(JumpCosts):
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
    statistics: Statistics
    provenance: dict[str, Any] = field(default_factory=dict)
    sample: Sample | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.variance not in self.variances:
            raise InputError(
                f"these costs know the variances {', '.join(self.variances)}; got {self.variance!r}"
            )

    @cached_property
    def timesteps(self) -> np.ndarray:
        """All of the training grid, 0 … T."""
        return np.arange(self.noise.T + 1)

    @property
    def dims(self) -> int:
        """D, the number of dimensions of one example."""
        return int(np.prod(self.shape))

    @property
    def variances(self) -> tuple[str, ...]:
        """The rules these statistics serve."""
        return _served(self.statistics)

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
    def about(self) -> dict[str, Any]:
        """The model and its noise schedule, which schedules found with these costs name."""
        model = self.provenance.get("model")
        return {"fingerprint": model, "noise_schedule": self.noise.fingerprint}

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
        about = self.provenance | {"smoothing_width": width}
        return replace(self, statistics=self.statistics | smooth, provenance=about)

    def weighted(self) -> Lines:
        """The paper's reweighted objective ``L_w(t, s) = (t - s) m(t)`` (its section 4.2)."""
        t = np.arange(self.T + 1.0)
        lines = Lines(t * self.mse, self.mse, np.zeros_like(t), -t, t * self.mse)
        lines.about = self.about
        return lines

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
        """``L(t, s)`` in nats, for arrays of timesteps with ``0 ≤ s < t`` that broadcast."""
        with np.errstate(all="ignore"):  # what the rule says of t = 1 is thrown away
            jumps = self.rule.jump_costs(self, t, np.maximum(s, 1))
        return np.where(s == 0, self.decoder_costs[t], jumps)

    def lines(self) -> Lines | None:
        """The costs as lines in a number x(t), where the rule allows it."""
        return self.rule.lines(self)

    def bound(self, schedule: Schedule) -> Estimate:
        """Bits/dim of a schedule on the measured images, and its Monte-Carlo standard error.

        The standard error is that of the noise and the sampling of images at each timestep,
        taken as independent between timesteps. A schedule chosen on these very costs looks
        better here than it is: :func:`dpdiff.evaluate` it on held-out images.
        """
        nats = self.edge_costs(schedule).sum() + self.prior
        if self.sample is not None:
            return self._by_replicates(nats, [(1, schedule)])
        return self._estimate(nats, self._variances(*np.array(schedule.jumps).T).sum())

    def difference(self, one: Schedule, other: Schedule) -> Estimate:
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
        parts = [(1, one), (-1, other)]
        if self.sample is not None:
            nats = sum(sign * self.edge_costs(schedule).sum() for sign, schedule in parts)
            return self._by_replicates(nats, parts)
        one.check_end(self.T)
        other.check_end(self.T)
        own, others = dict(one.jumps), dict(other.jumps)
        nats = variance = 0.0
        for t in sorted({*own, *others}):
            landings = [jumps[t] for jumps in (own, others) if t in jumps]
            if landings == [own.get(t)] * 2:
                continue  # the same jump: it cancels
            at, to = np.full(len(landings), t), np.array(landings)
            signs = np.array([sign for sign, jumps in ((1, own), (-1, others)) if t in jumps])
            nats += float(signs @ self.jump_costs(at, to))
            variance += self._variance_of_difference(at, to, signs)
        return self._estimate(nats, variance)

    def _variances(self, t: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Variance over single images of ``L(t, s)`` in nats², for jumps with ``0 ≤ s < t``."""
        variances, jump = self.decoder_variances[t].copy(), s > 0
        variances[jump] = self.rule.jump_variances(self, t[jump], s[jump])
        return variances

    def _variance_of_difference(self, t: np.ndarray, s: np.ndarray, signs: np.ndarray) -> float:
        """Of one jump from t, or of two that begin there."""
        slopes = self.rule.slopes(self, t, s) if len(t) == 2 and s.min() > 0 else None
        if slopes is not None:  # both follow from the same m(t)
            return float(signs @ slopes) ** 2 * self.mse_variance[t[0]]
        # How two other costs vary together was not kept: suppose the worst.
        return np.sqrt(self._variances(t, s)).sum() ** 2

    def _estimate(self, nats: float, variance: float) -> Estimate:
        """Nats, and a variance over single images, as bits/dim with a standard error."""
        size, n = self.unit.size, self.provenance["per_step"]
        return Estimate(float(nats / size), math.sqrt(variance / (n - 1)) / size)

    def _by_replicates(self, nats: float, parts: list[tuple[int, Schedule]]) -> Estimate:
        """Where all timesteps saw the same images: the spread over draws of a sum of paths."""
        only = np.unique(np.concatenate([schedule.timesteps for _, schedule in parts]))
        totals = [
            sum(sign * draw.edge_costs(schedule).sum() for sign, schedule in parts)
            for draw in self.replicates(only=only)
        ]
        size = self.unit.size
        return Estimate(float(nats / size), float(np.std(totals, ddof=1)) / size)

    def replicates(
        self,
        count: int = REPLICATES,
        seed: int = 0,
        *,
        only: np.ndarray | None = None,
        width: float | None = None,
    ) -> Iterator[Costs]:
        """Draw from the sampling distribution of these costs.

        Where every image was kept, images are drawn anew: each counts with a random weight, such
        that means are spread as Student's distribution says of n independent images (a Bayesian
        bootstrap, Rubin 1981, with Dirichlet weights that sum to ``χ²_{n-1} - 1`` before they are
        normed). What images and noise have in common from timestep to timestep stays as it is. The
        errors of the means are smoothed less than the costs were: see ``dpdiff.costs.smoothing``.

        Of a dense measurement, means and variances are all there is. Each timestep is moved on its
        own, by its standard errors: m(t) by a lognormal factor, the two functions of a learned
        variance by one number each for all nodes, correlated as they are at the widest jump, and
        decoders on their own. Then the draw is smoothed as the costs are. If all timesteps saw the
        same images, this says too much, not too little.

        Parameters
        ----------
        count : int
            How many draws.
        seed : int
            Of the draws.
        only : ndarray of int, optional
            The timesteps of interest; others need not hold anything.
        width : float, optional
            How far costs of every timestep are smoothed; by default as their residuals decide.

        Yields
        ------
        Costs
            Means only, and only those that the rule in force asks for.
        """
        rng, prior = np.random.default_rng(seed), {"prior": self.statistics["prior"]}
        if self.sample is not None:
            # Most of the work is in what a learned variance alone asks for.
            sample = self.sample if self.rule.needs_output else self.sample.without(*NODE_FUNCTIONS)
            for _ in range(count):
                yield replace(self, statistics=sample.redrawn(rng, only) | prior)
            return
        width = self.smoothed().provenance["smoothing_width"] if width is None else width
        for _ in range(count):
            drawn = statistics.redrawn(self.statistics, self.provenance["per_step"], rng)
            yield replace(self, statistics=drawn | prior).smoothed(width)

    @cached_property
    def _coefficients(self) -> Statistics:
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
        rows = self._coefficients[name][t.ravel()]
        return statistics.chebyshev_sum(rows, x.reshape(len(t), -1)).reshape(x.shape)

    def check_model(self, fingerprint: str) -> None:
        """Refuse to be used with a model that these costs were not measured on."""
        if fingerprint != self.provenance.get("model"):
            raise InputError(
                f"these costs were measured on model {self.provenance.get('model')}, "
                f"the model given is {fingerprint}: measure it first"
            )

    def save(self, path: str | Path) -> None:
        """Write everything to one ``.npz`` file; the file is complete or absent."""
        about = {
            "format": FORMAT,
            "version": VERSION,
            "shape": list(self.shape),
            "variance": self.variance,
            "noise_schedule": self.noise.fingerprint,
            "provenance": self.provenance,
        }
        arrays = self.statistics | (self.sample.arrays() if self.sample else {})
        arrays = self.noise.arrays() | {k: np.asarray(v) for k, v in arrays.items()}
        try:
            _checked(about, arrays)
        except InputError as error:
            raise InputError(f"these costs cannot be written to {path}: {error}") from error
        formats.write_arrays(path, about, arrays)

    @classmethod
    def load(cls, path: str | Path) -> Costs:
        """Read costs that :meth:`save` wrote.

        Raises
        ------
        InputError
            If the file is missing, truncated, changed in any bit, not such a file, of another
            version, or holds what no measurement gives: names, shapes, types or numbers.
        """
        about, arrays = formats.read_arrays(path, FORMAT, VERSION)
        try:
            noise = _checked(about, arrays)
        except InputError as error:
            raise InputError(f"{path} holds no costs: {error}") from error
        arrays = {name: array for name, array in arrays.items() if name not in NOISE_ARRAYS}
        sample, shape = Sample.taken_from(noise, arrays), tuple(about["shape"])
        return cls(noise, shape, about["variance"], arrays, about["provenance"], sample)


# What files may hold.

MOST_NODES = 512
NODE_SPREAD = ("penalty_var", "error_var", "penalty_error_cov")
NOISE_ARRAYS = ("betas", "log_f2", "log_g2", "time_inputs", "scales")
HEADER = {"format", "version", "shape", "variance", "noise_schedule", "provenance"}
# What a measurement says of itself, and in which words.
PROVENANCE: dict[str, type] = {
    **dict.fromkeys(("model", "precision", "dpdiff", "name", "data", "split", "command"), str),
    **dict.fromkeys(("images", "per_step", "batch_size", "seed", "calls", "timesteps"), int),
}


def _checked(about: dict[str, Any], arrays: Statistics) -> NoiseSchedule:
    """The noise schedule of a file's header and arrays, once these are what they should be."""
    if about.keys() != HEADER:
        raise InputError(f"its header has the names {', '.join(sorted(about))}")
    shape, variance = about["shape"], about["variance"]
    whole = isinstance(shape, list) and all(type(n) is int and 1 <= n <= 2**31 for n in shape)
    if not (whole and shape):
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
    if not isinstance(variance, str) or variance not in _served(kept):
        raise InputError(f"it has no statistics of the variance {variance!r}")
    return noise


def _served(statistics: Statistics) -> tuple[str, ...]:
    """The rules that statistics serve."""
    rules = rules_for("penalty" in statistics)
    return tuple(rule.name for rule in rules if f"decoder_{rule.decoder}" in statistics)


def _read_noise(arrays: Statistics) -> NoiseSchedule:
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


def _check_statistics(arrays: Statistics, T: int) -> None:
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


def _check_sample(sample: Statistics, kept: Statistics, T: int) -> None:
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
    squares = name.endswith("_var") or name.removeprefix("sample_") in ("mse", "error")
    if squares and array.min() < 0:
        raise InputError(f"{name} is below 0 somewhere")
