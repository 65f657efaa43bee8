"""Noise schedules: how much signal and how much noise every timestep of the training grid holds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dpdiff import grids, scheduler_table
from dpdiff.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def per_example(values: Any, like: Tensor) -> Tensor:
    """Numbers, one for the batch or one an example, shaped, typed and placed to multiply it.

    What has the batch's own number of axes keeps them.

    Examples
    --------
    >>> import torch
    >>> per_example(np.array([1.0, 2.0]), torch.zeros(2, 3, 3)).shape
    torch.Size([2, 1, 1])
    """
    import torch

    cast = torch.as_tensor(values, dtype=like.dtype, device=like.device)
    return cast.reshape(-1, *(1,) * (like.ndim - 1)) if cast.ndim == 1 else cast


class NoiseSchedule:
    """The forward process ``q(x_t | x_0) = N(f(t) x_0, g(t)² I)`` on the grid ``t = 0 … T``.

    ``t = 0`` is data (``f = 1``, ``g = 0``) and ``t = T`` is (nearly) pure noise. Most are made
    by :meth:`from_betas`, :meth:`linear` and :meth:`cosine` (variance-preserving, ``f² + g² =
    1``), :meth:`from_sigmas` and :meth:`edm` (variance-exploding, ``f = 1``), :meth:`flow`
    (``f + g = 1``), or :meth:`from_diffusers`. Everything is float64, and differences of nearly
    equal numbers are formed from logarithms.

    Parameters
    ----------
    f, g : array_like, shape (T,)
        Signal and noise scale at ``t = 1 … T``. Signal is above 0, at T it may be 0; noise is
        above 0; and ``f/g`` falls.
    time_inputs : array_like, shape (T,), optional
        What the network is told at ``t = 1 … T``; by default the index ``t - 1``.
    prior_scale : float, optional
        π of the prior ``N(0, π² I)`` that sampling begins from; by default 1 where ``f² + g² =
        1`` at T, else ``g(T)``.
    data_scale : float
        c, where the network was trained on ``c x_0``: ``f`` tends to c as the noise goes to 0.
        It tells what an output is that estimates data.

    Attributes
    ----------
    T : int
        Number of training steps.
    betas : ndarray, shape (T,), or None
        ``betas[t - 1]`` is ``β_t`` of a grid made of betas.
    f, g : ndarray, shape (T + 1,)
        Signal and noise scale.
    log_f2, log_g2, log_snr : ndarray, shape (T + 1,)
        ``log f²``, ``log g²`` and ``log SNR = log f² - log g²``; infinite at ``t = 0``.
    time_inputs, prior_scale, data_scale
        As given.

    Raises
    ------
    InputError
        If numbers are none of the above.

    Examples
    --------
    >>> noise = NoiseSchedule([0.9, 0.5], [0.1, 0.5])
    >>> np.exp(noise.log_snr[1:]).round(12), noise.prior_scale
    (array([81.,  1.]), 0.5)
    """

    def __init__(
        self,
        f: Any,
        g: Any,
        *,
        time_inputs: Any = None,
        prior_scale: float | None = None,
        data_scale: float = 1.0,
    ) -> None:
        f = grids.checked_numbers(f, "signal scales f")
        g = grids.checked_numbers(g, "noise scales g")
        if f.shape != g.shape:
            raise InputError(f"f and g have one number a timestep each, got {len(f)} and {len(g)}")
        for name, least, values in (("f", f[:-1], f), ("g", g, g)):
            if not (np.isfinite(values).all() and (least > 0).all() and values[-1] >= 0):
                raise InputError(f"the scales {name} are finite and above 0 (f may end with 0)")
        with np.errstate(divide="ignore"):
            log_f2, log_g2 = 2 * np.log(f), 2 * np.log(g)
        if prior_scale is None:
            preserving = math.isclose(f[-1] ** 2 + g[-1] ** 2, 1, rel_tol=1e-6)
            prior_scale = 1.0 if preserving else float(g[-1])
        self._set(log_f2, log_g2, time_inputs, prior_scale, data_scale)

    def _set(
        self,
        log_f2: np.ndarray,
        log_g2: np.ndarray,
        time_inputs: Any = None,
        prior_scale: float = 1.0,
        data_scale: float = 1.0,
    ) -> None:
        """Take logarithms at ``t = 1 … T`` and the rest, checked."""
        self.T, self.betas = log_g2.size, None
        if self.T == 0 or log_f2.shape != log_g2.shape:
            raise InputError(
                "a noise schedule has the two scales f and g of each timestep, at least of one; "
                f"got {log_f2.size} and {log_g2.size}"
            )
        if not np.isfinite(log_g2).all() or not (log_f2 < np.inf).all():
            raise InputError("the scales f and g are finite numbers, and g is above 0")
        inputs = np.arange(self.T) if time_inputs is None else np.array(time_inputs)
        if inputs.shape != (self.T,) or inputs.dtype.kind not in "fiu":
            raise InputError(f"time inputs are a number for each of {self.T} timesteps")
        if not np.isfinite(inputs).all():
            raise InputError("time inputs are finite numbers")
        for name, value in (("prior_scale", prior_scale), ("data_scale", data_scale)):
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise InputError(f"{name} is a number above 0, got {value!r}")
        self.time_inputs = inputs.astype(np.float64 if inputs.dtype.kind == "f" else np.int64)
        self.prior_scale, self.data_scale = float(prior_scale), float(data_scale)
        self.log_f2 = np.concatenate([[0.0], log_f2])
        self.log_g2 = np.concatenate([[-np.inf], log_g2])
        self.log_snr = self.log_f2 - self.log_g2
        rising = np.flatnonzero(~(np.diff(self.log_snr) < 0))
        if rising.size:
            t = rising[0] + 1
            raise InputError(
                f"the signal-to-noise ratio f²/g² falls from timestep to timestep, at {t} it does "
                "not: list scales from the data to the noise"
            )
        if (np.diff(self.log_g2) < 0).any():
            raise InputError("the noise scale g falls somewhere: measure x in other units")
        self.f, self.g = np.exp(self.log_f2 / 2), np.exp(self.log_g2 / 2)

    @classmethod
    def _of(cls, *arguments: Any, betas: np.ndarray | None = None) -> Self:
        noise = cls.__new__(cls)
        noise._set(*arguments)
        noise.betas = betas
        return noise

    @classmethod
    def from_betas(cls, betas: Any) -> NoiseSchedule:
        """Variance-preserving: ``f² = ᾱ_t = Π (1 - β_i)``, ``g² = 1 - ᾱ_t`` (Ho et al. 2020).

        Parameters
        ----------
        betas : array_like, shape (T,)
            ``β_1 … β_T``, each in (0, 1); the last may be 1.

        Examples
        --------
        >>> noise = NoiseSchedule.from_betas([0.1, 0.2])
        >>> noise.f**2 + noise.g**2
        array([1., 1., 1.])
        """
        betas = grids.checked_numbers(betas, "betas")
        allowed = (betas > 0) & (betas < 1)
        allowed[-1] |= betas[-1] == 1  # no signal is left, so nothing may come after it
        wrong = np.flatnonzero(~allowed)
        if wrong.size:
            t = wrong[0] + 1
            raise InputError(
                f"betas lie in (0, 1), and the last in (0, 1]; got β_{t} = {betas[t - 1]}"
            )
        with np.errstate(divide="ignore"):
            log_f2 = np.cumsum(np.log1p(-betas))
            return cls._of(log_f2, np.log(-np.expm1(log_f2)), betas=betas)

    @classmethod
    def linear(cls, T: int, first: float = 1e-4, last: float = 0.02) -> NoiseSchedule:
        """Betas on a straight line, scaled by 1000/T as in Nichol & Dhariwal's code.

        Examples
        --------
        >>> NoiseSchedule.linear(1000).betas[[0, -1]]
        array([0.0001, 0.02  ])
        """
        scale = 1000 / T
        return cls.from_betas(np.linspace(first * scale, last * scale, T))

    @classmethod
    def cosine(cls, T: int, first_beta: float | None = None) -> NoiseSchedule:
        """The cosine schedule of Nichol & Dhariwal (2021), eq. 17, with β at most 0.999.

        Parameters
        ----------
        T : int
            Number of training steps.
        first_beta : float, optional
            Replaces ``β_1``, so that ``g(1)² = first_beta``. The grid should begin at the data's
            own precision: data with 17 levels want ``g(1) ≈ 0.05``, where the bare cosine gives
            0.003 at T = 4000 and spends most of the bound below what the data can tell.

        Examples
        --------
        >>> round(float(NoiseSchedule.cosine(4000, first_beta=0.0025).g[1]), 6)
        0.05
        """
        betas = grids.cosine_betas(T)
        if first_beta is not None:
            betas[0] = first_beta
        return cls.from_betas(betas)

    @classmethod
    def from_sigmas(cls, sigmas: Any, *, time_inputs: Any = None) -> NoiseSchedule:
        """Variance-exploding: ``f = 1``, ``g = σ``, and the prior ``N(0, σ(T)² I)``.

        A model that was trained on all noise levels takes a grid of any length.

        Parameters
        ----------
        sigmas : array_like, shape (T,)
            ``σ(1) … σ(T)``, rising.
        time_inputs : array_like, shape (T,), optional
            What the network is told; by default the sigmas themselves.

        Examples
        --------
        >>> NoiseSchedule.from_sigmas([0.1, 1.0, 10.0]).prior_scale
        10.0
        """
        sigmas = grids.checked_numbers(sigmas, "sigmas")
        inputs = sigmas if time_inputs is None else time_inputs
        return cls(np.ones_like(sigmas), sigmas, time_inputs=inputs, prior_scale=sigmas[-1].item())

    @classmethod
    def edm(
        cls, T: int = 1000, low: float = 0.002, high: float = 80.0, rho: float = 7.0
    ) -> NoiseSchedule:
        """The noise levels of Karras et al. (2022), eq. 5, and their ``c_noise = log(σ)/4``.

        Examples
        --------
        >>> noise = NoiseSchedule.edm(100)
        >>> noise.g[[1, -1]], noise.time_inputs[-1].round(4)
        (array([2.e-03, 8.e+01]), np.float64(1.0955))
        """
        sigmas = grids.karras_sigmas(T, low, high, rho)
        return cls.from_sigmas(sigmas, time_inputs=np.log(sigmas) / 4)

    @classmethod
    def flow(cls, T: int = 1000, shift: float = 1.0, *, time_scale: float = 1000) -> NoiseSchedule:
        """Straight lines from data to noise: ``f = 1 - τ``, ``g = τ`` (Lipman et al. 2023).

        Parameters
        ----------
        T : int
            Number of timesteps; flow times τ lie in ``(0, 1]``, evenly but for the shift.
        shift : float
            ``s`` in ``s τ / (1 + (s - 1) τ)``: above 1, more of them lie near the noise
            (Esser et al. 2024, eq. 23).
        time_scale : float
            The network is told ``time_scale · τ``.

        Examples
        --------
        >>> NoiseSchedule.flow(4).f
        array([1.  , 0.75, 0.5 , 0.25, 0.  ])
        """
        times = grids.flow_times(T, shift)
        return cls(1 - times, times, time_inputs=time_scale * times)

    def scaled(self, scale: float) -> NoiseSchedule:
        """The same process on ``scale · x_0``, for a network trained on data of another range.

        Data here lie in [-1, 1]; of a network trained on [-½, ½] the scale is ½.

        Examples
        --------
        >>> NoiseSchedule.cosine(10).scaled(0.5).f[0:2].round(3)
        array([1.   , 0.493])
        """
        log_f2 = self.log_f2[1:] + 2 * math.log(scale)
        rest = (self.time_inputs, self.prior_scale, self.data_scale * scale)
        return self._of(log_f2, self.log_g2[1:], *rest)

    @classmethod
    def from_diffusers(cls, scheduler: Any, *, T: int | None = None) -> NoiseSchedule:
        """Read the grid of a diffusers scheduler; its class decides what its numbers mean.

        Parameters
        ----------
        scheduler : mapping or object
            A scheduler, its ``config``, or the parsed ``scheduler_config.json``. What a mapping
            leaves out is its class's default; without ``_class_name``, DDPM's.
        T : int, optional
            Length of the grid, of a network that takes any time; by default
            ``num_train_timesteps``, or 1000 where that is 1 and only says that times end at 1.

        Raises
        ------
        InputError
            If the class or a setting is not known here, or numbers make no grid.

        Examples
        --------
        >>> config = {"num_train_timesteps": 1000, "beta_schedule": "linear"}
        >>> NoiseSchedule.from_diffusers(config).T
        1000
        """
        process, settings = scheduler_table.described(scheduler_table.config_of(scheduler))
        if process == "betas":
            noise = cls.from_betas(scheduler_table.betas(settings))
            if T not in (None, noise.T):
                raise InputError(
                    f"this network knows {noise.T} timesteps, and no other number; got {T}"
                )
            return noise
        if process == "levels":
            sigmas = scheduler_table.levels(settings, T)
            f = 1 / np.hypot(1, sigmas)
            return cls(f, sigmas * f, time_inputs=np.log(sigmas) / 4, prior_scale=1.0)
        length = scheduler_table.grid_length(settings, T)
        if process == "flow":
            shift, scale = scheduler_table.flow_shift(settings), settings["num_train_timesteps"]
            return cls.flow(length, shift, time_scale=scale)
        sigmas = scheduler_table.sigmas(settings, length)
        inputs = np.log(sigmas) / 4 if process == "edm" else sigmas
        return cls.from_sigmas(sigmas, time_inputs=inputs)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that decides the grid, by which :meth:`from_arrays` makes it again, bit for bit."""
        if self.betas is not None:
            return {"betas": self.betas}
        return {
            "log_f2": self.log_f2[1:],
            "log_g2": self.log_g2[1:],
            "time_inputs": self.time_inputs,
            "scales": np.array([self.prior_scale, self.data_scale]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """What :meth:`arrays` gave."""
        if "betas" in arrays:
            return cls.from_betas(arrays["betas"])
        prior_scale, data_scale = arrays["scales"].tolist()
        names = ("log_f2", "log_g2", "time_inputs")
        return cls._of(*(arrays[name] for name in names), prior_scale, data_scale)

    @cached_property
    def fingerprint(self) -> str:
        """A short digest of the grid, to tell noise schedules apart."""
        arrays = b"".join(array.tobytes() for array in self.arrays().values())
        return hashlib.sha256(arrays).hexdigest()[:16]

    @cached_property
    def sigmas(self) -> np.ndarray:
        """σ as samplers of the model's own family count it, shape (T + 1,).

        ``g`` of a flow (``f + g = 1``), else ``c g/f``, the noise in the model's own scale, which
        is infinite where no signal is left.
        """
        if self.is_flow:
            return self.g
        with np.errstate(divide="ignore"):
            return self.data_scale * np.exp(-self.log_snr / 2)

    @cached_property
    def is_flow(self) -> bool:
        """Whether ``f + g = 1``, so that x_t moves in a straight line over ``g`` from noise."""
        return np.allclose(self.f + self.g, 1, rtol=0, atol=1e-12)

    @cached_property
    def log_total(self) -> np.ndarray:
        """``log(f² + g²)``, x_t's variance for data of variance 1: 0 where that is preserved."""
        if self.betas is not None:
            return np.zeros(self.T + 1)
        return np.logaddexp(self.log_f2, self.log_g2)

    @cached_property
    def preserves_variance(self) -> bool:
        """Whether ``f² + g² = 1`` for data of variance 1 in the model's own scale."""
        f2, g2 = (self.f[1:] / self.data_scale) ** 2, self.g[1:] ** 2
        return self.betas is not None or np.allclose(f2 + g2, 1, rtol=0, atol=1e-6)

    @cached_property
    def is_affine(self) -> bool:
        """Whether f² is ``c² + κ g²`` for some κ: -c² if variance-preserving, 0 if exploding."""
        f2, g2 = self.f[1:] ** 2, self.g[1:] ** 2
        c2 = self.data_scale**2
        return np.allclose(f2, c2 + (f2[-1] - c2) * g2 / g2[-1], rtol=0, atol=1e-12 * c2)

    def at(self, t: int | np.ndarray, like: Tensor) -> tuple[Tensor, Tensor]:
        """``f(t)`` and ``g(t)`` as tensors that multiply a batch.

        Parameters
        ----------
        t : int or ndarray of int, shape (B,)
            Timesteps in 0 … T.
        like : Tensor, shape (B, ...)
            The batch, whose dtype and device they take.

        Examples
        --------
        >>> import torch
        >>> f, g = NoiseSchedule.from_betas([0.19]).at(np.array([0, 1]), torch.zeros(2, 3))
        >>> f.shape, f.flatten()
        (torch.Size([2, 1]), tensor([1.0000, 0.9000]))
        """
        return per_example(self.f[t], like), per_example(self.g[t], like)

    def at_trained(self, t: int | np.ndarray, like: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`at`, of the data in the scale that the network was trained on."""
        f, g = self.at(t, like)
        return f / self.data_scale, g

    def noise_gain(self, t: Any, s: Any) -> Any:
        """``a = log(g(t)² / g(s)²)``, at least 0 for ``0 < s < t``."""
        return self.log_g2[t] - self.log_g2[s]

    def snr_gap(self, t: Any, s: Any) -> Any:
        """``ΔSNR = SNR(s) - SNR(t)`` for ``0 < s < t``, free of cancellation."""
        return np.exp(self.log_snr[s]) * -np.expm1(self.log_snr[t] - self.log_snr[s])

    def posterior(self, t: int, s: int) -> tuple[float, float, float]:
        """The Gaussian ``q(x_s | x_t, x_0)`` of a jump ``t → s`` with ``0 < s < t``.

        Returns
        -------
        signal, residue, log_variance : float
            Mean ``signal · x_0 + residue · x_t`` and ``log g̃_ts²``, where with
            ``g_ts² = g(t)² - (f(t)/f(s))² g(s)²``: ``signal = f(s) g_ts² / g(t)²``,
            ``residue = (f(t)/f(s)) g(s)² / g(t)²``, ``g̃_ts² = g(s)² g_ts² / g(t)²``.

        Examples
        --------
        >>> signal, residue, log_variance = NoiseSchedule.cosine(10).posterior(10, 9)
        >>> bool(0 < signal < 1 and 0 < residue < 1)
        True
        """
        fresh = -np.expm1(self.log_snr[t] - self.log_snr[s])  # g_ts² / g(t)²
        residue = np.exp((self.log_f2[t] - self.log_f2[s]) / 2 - self.noise_gain(t, s))
        return self.f[s] * fresh, residue, self.log_g2[s] + np.log(fresh)


__all__ = ["NoiseSchedule", "per_example"]
