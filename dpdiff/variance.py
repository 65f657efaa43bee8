"""The variance rules: what σ² a jump draws with, and all that follows from it, rule by rule.

A jump ``t → s`` draws from a Gaussian around the posterior's mean with ``σ² = g̃_ts² e^u``. A rule
says what u is. In nats, with ``a = log(g(t)²/g(s)²)``, ``ΔSNR = SNR(s) - SNR(t)``, the error
``δ = x_0 - x̂_0`` and ``m(t) = E Σ δ²``, the jump then costs::

    L(t, s) = ½ E Σ_d [ u + e^{-u} - 1 + ΔSNR δ² e^{-u} ]        (0 < s < t)

A new rule is a new class here and an entry of :data:`RULES`; everything else asks these.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule, per_example
from dpdiff.solvers.jump_costs import Lines


class Moments(Protocol):
    """What a rule reads of a measurement; :class:`dpdiff.Costs` has it.

    ``mse`` is m(t), shape (T + 1,), ``mse_variance`` its variance over single images, and
    ``decoder_costs`` the rule's ``L(t, 0)``. ``learned(name, t, a)`` is a mean over images that
    depends on a learned variance: ``penalty`` is ``E Σ (a v + e^{-a v} - 1)``, ``error`` is
    ``E Σ δ² e^{-a v}``, ``penalty_var``, ``error_var`` and ``penalty_error_cov`` are their
    variances and covariance over single images. ``check_model`` refuses another model's.
    """

    noise: NoiseSchedule

    @property
    def dims(self) -> int: ...

    @property
    def mse(self) -> np.ndarray: ...

    @property
    def mse_variance(self) -> np.ndarray: ...

    @property
    def decoder_costs(self) -> np.ndarray: ...

    def learned(self, name: str, t: np.ndarray, a: np.ndarray) -> np.ndarray: ...

    def check_model(self, fingerprint: str) -> None: ...


class Rule:
    """A variance rule: a subclass says its name and u, and what else is not as here.

    Attributes
    ----------
    name : str
        The word for it.
    decoder : str
        Which measured decoder cost is the rule's own: rules that end alike share one.
    diffusers : tuple of str
        diffusers' words for it, its ``variance_type``; the first is the one that is written.
    needs_output, needs_error : bool
        Whether σ² depends on the network's variance output v, or on the measured ``m(t)/D``.
    """

    name: str
    decoder = "fixed"
    diffusers: tuple[str, ...] = ()
    needs_output = False
    needs_error = False

    @property
    def variance_type(self) -> str:
        """diffusers' word for it; its own name where there is none."""
        return (*self.diffusers, self.name)[0]

    def log_ratio(self, noise: NoiseSchedule, t: Any, s: Any, v: Any, error: Any) -> Any:
        """``u = log(σ²/g̃_ts²)`` of jumps with ``0 < s < t``.

        Parameters
        ----------
        noise : NoiseSchedule
            The grid.
        t, s : int or ndarray of int
            The jumps.
        v : Tensor or None
            The network's variance output, shape (B, ...).
        error : ndarray or None
            ``m(t)/D``, shape (T + 1,).
        """
        raise NotImplementedError

    def decoder_log_variance(self, noise: NoiseSchedule, t: Any, v: Any, error: Any) -> Any:
        """``log σ²`` of the last jump ``t → 0``, which depends on t alone.

        A last jump has ``g̃_t0² = 0``, so that by default σ² is ``g²/(f² + g²)``, which is ``g(t)²``
        where variance is preserved, and as right in any other units of x.

        Parameters as for :meth:`log_ratio`, but ``error`` is ``m(t)/D`` of these very t.
        """
        return noise.log_g2[t] - noise.log_total[t]

    def two_node_log_variance(self, noise: NoiseSchedule, later: int, t: int, v: Any) -> Any:
        """``log σ²`` of the last jump as improved-diffusion has it, from g̃² of the jump before.

        Not of rules that need the error.

        Parameters as for :meth:`log_ratio`; the jump before is ``later → t``.
        """
        return noise.posterior(later, t)[2] - noise.log_total[t]

    def jump_costs(self, moments: Moments, t: np.ndarray, s: np.ndarray) -> np.ndarray:
        """``L(t, s) = ½ [D (u + e^{-u} - 1) + ΔSNR e^{-u} m(t)]`` in nats.

        For arrays with ``0 < s < t`` that broadcast.
        """
        u, gap = self._ratio(moments, t, s), moments.noise.snr_gap(t, s)
        return 0.5 * (moments.dims * (u + np.expm1(-u)) + gap * np.exp(-u) * moments.mse[t])

    def slopes(self, moments: Moments, t: np.ndarray, s: np.ndarray) -> np.ndarray | None:
        """``dL(t, s)/dm(t) = ½ ΔSNR e^{-u}``, or None where m(t) alone does not tell the cost.

        If u depends on m(t), this holds where u is the best one: there ``dL/du = 0``.
        """
        return 0.5 * moments.noise.snr_gap(t, s) * np.exp(-self._ratio(moments, t, s))

    def _ratio(self, moments: Moments, t: np.ndarray, s: np.ndarray) -> np.ndarray:
        return self.log_ratio(moments.noise, t, s, None, moments.mse / moments.dims)

    def jump_variances(self, moments: Moments, t: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Variance of ``L(t, s)`` over single images, nats²; to first order where L is curved."""
        return self.slopes(moments, t, s) ** 2 * moments.mse_variance[t]

    def lines(self, moments: Moments) -> Lines | None:
        """The costs as lines in a number x(t), where they are."""
        return None


class Small(Rule):
    """The posterior's own variance, ``σ² = g̃_ts²``: ``u = 0``, ``L = ½ ΔSNR m(t)``."""

    name, diffusers = "small", ("fixed_small", "fixed_small_log")

    def log_ratio(self, noise, t, s, v, error):
        return 0.0 * noise.noise_gain(t, s)

    def lines(self, moments):
        m, snr, zero = moments.mse, np.exp(moments.noise.log_snr), np.zeros_like(moments.mse)
        snr[0] = 0.0  # s = 0 enters through the decoder
        return Lines(-0.5 * snr * m, 0.5 * m, zero, snr, moments.decoder_costs)


class Large(Rule):
    """The forward process's variance, ``σ² = g_ts²``: ``u = a``.

    ``L = ½ [ D (a + e^{-a} - 1) + ΔSNR e^{-a} m(t) ]``, and the last jump as of ``small``.
    ``g_ts²`` is in units of x at t and σ² in those of x at s, so this rule, unlike the others,
    depends on the units of x: they are the model's own. Where f² is affine in g², as of
    variance-preserving and -exploding grids, its costs are lines with slope ``g(s)²``.
    """

    name, diffusers = "large", ("fixed_large", "fixed_large_log")

    def log_ratio(self, noise, t, s, v, error):
        return noise.noise_gain(t, s)

    def lines(self, moments):
        D, g2, log_g2 = moments.dims, moments.noise.g**2, moments.noise.log_g2.copy()
        if not moments.noise.is_affine:
            return None
        g2[0], log_g2[0] = 1.0, 0.0  # t = 0 is no jump's beginning
        error = moments.noise.data_scale**2 * moments.mse / g2
        x = 0.5 * (D - error) / g2
        const = 0.5 * (D * (log_g2 - 1) + error)
        return Lines(const, x, -0.5 * D * log_g2, g2, moments.decoder_costs)


class LearnedRange(Rule):
    """The network's own mixture of ``small`` and ``large`` in every dimension: ``u = a v``.

    Nichol & Dhariwal (2021), eq. 15. With the two means over images that :class:`Moments` calls
    penalty P and error M, ``L = ½ [ P_t(a) + ΔSNR M_t(a) ]``. The last jump mixes the logarithms
    of ``g̃²(t+1, t)`` (at T, those of T - 1) and ``g(t)²``, both over ``f² + g²``.
    """

    name, decoder, diffusers = "learned_range", "learned_range", ("learned_range",)
    needs_output = True

    def log_ratio(self, noise, t, s, v, error):
        return per_example(noise.noise_gain(t, s), v) * v

    def decoder_log_variance(self, noise, t, v, error):
        later = np.minimum(np.asarray(t) + 1, noise.T)
        with np.errstate(divide="ignore"):
            low = np.where(later > 1, noise.posterior(later, later - 1)[2], noise.log_g2[1])
        return self._mixed(noise, t, low, v)

    def two_node_log_variance(self, noise, later, t, v):
        return self._mixed(noise, t, noise.posterior(later, t)[2], v)

    def _mixed(self, noise, t, low, v):
        total = noise.log_total[t]
        low, high = per_example(low - total, v), per_example(noise.log_g2[t] - total, v)
        return low + (high - low) * v

    def jump_costs(self, moments, t, s):
        a, gap = moments.noise.noise_gain(t, s), moments.noise.snr_gap(t, s)
        return 0.5 * (moments.learned("penalty", t, a) + gap * moments.learned("error", t, a))

    def slopes(self, moments, t, s):
        return None

    def jump_variances(self, moments, t, s):
        a, gap = moments.noise.noise_gain(t, s), moments.noise.snr_gap(t, s)
        names = ("penalty_var", "error_var", "penalty_error_cov")
        penalty, error, both = (moments.learned(name, t, a) for name in names)
        return 0.25 * np.maximum(penalty + 2 * gap * both + gap**2 * error, 0)


class Optimal(Rule):
    """Analytic-DPM's σ*² (Bao et al. 2022), the best one number for a jump.

    ``u = log(1 + ΔSNR m(t)/D)``, ``L = ½ D u``, and ``m(t)/D`` at the last jump. It is best for
    the Gaussian jumps; of the discretised decoder's cost it is not the minimum.
    """

    name, decoder = "optimal", "optimal"
    needs_error = True

    def log_ratio(self, noise, t, s, v, error):
        return np.log1p(noise.snr_gap(t, s) * error[t])

    def decoder_log_variance(self, noise, t, v, error):
        return np.log(error)

    def jump_costs(self, moments, t, s):  # what the sum comes to, in half the time
        return 0.5 * moments.dims * self._ratio(moments, t, s)


RULES: dict[str, Rule] = {rule.name: rule for rule in (Small(), Large(), LearnedRange(), Optimal())}


def rule_named(name: str) -> Rule:
    """The rule of that name.

    Raises
    ------
    InputError
        If there is none.

    Examples
    --------
    >>> rule_named("small").log_ratio(NoiseSchedule.cosine(10), 5, 3, None, None)
    np.float64(0.0)
    """
    try:
        return RULES[name]
    except (KeyError, TypeError):
        raise InputError(f"variance is one of {', '.join(RULES)}; got {name!r}") from None


def rules_by_word() -> dict[str, str]:
    """The rules that diffusers knows, by its words for them.

    Examples
    --------
    >>> rules_by_word()["fixed_large"]
    'large'
    """
    return {word: rule.name for rule in RULES.values() for word in rule.diffusers}


def rules_for(outputs_variance: bool) -> list[Rule]:
    """The rules that serve a network, which may or may not have a variance output.

    Examples
    --------
    >>> [rule.name for rule in rules_for(outputs_variance=False)]
    ['small', 'large', 'optimal']
    """
    return [rule for rule in RULES.values() if outputs_variance or not rule.needs_output]
