"""Noise schedules: how much signal and how much noise every timestep of the training grid holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dpdiff.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


LONGEST = 1_000_000  # timesteps of a grid that a config may ask for


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

    ``t = 0`` is data (``f = 1``, ``g = 0``) and ``t = T`` is nearly pure noise. The schedule is
    variance-preserving: ``f² = ᾱ_t = Π (1 - β_i)`` and ``g² = 1 - ᾱ_t`` [1]_, eq. 4. Everything
    is float64, and differences of nearly equal numbers are formed from logarithms.

    Parameters
    ----------
    betas : array_like, shape (T,)
        ``β_1 … β_T``, each in (0, 1); the last may be 1.

    Attributes
    ----------
    T : int
        Number of training steps.
    betas : ndarray, shape (T,)
        ``betas[t - 1]`` is ``β_t``.
    f, g : ndarray, shape (T + 1,)
        Signal and noise scale.
    log_f2, log_g2, log_snr : ndarray, shape (T + 1,)
        ``log f²``, ``log g²`` and ``log SNR = log f² - log g²``; infinite at ``t = 0``.

    Raises
    ------
    InputError
        If a beta lies outside or none is given.

    References
    ----------
    .. [1] Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020.

    Examples
    --------
    >>> noise = NoiseSchedule([0.1, 0.2])
    >>> noise.f**2 + noise.g**2
    array([1., 1., 1.])
    """

    def __init__(self, betas: Any) -> None:
        try:
            given = np.asarray(betas)
        except ValueError as error:
            raise InputError(f"betas are a list of T numbers: {error}") from error
        if given.dtype.kind not in "fiu":
            raise InputError(f"betas are a list of T numbers, got {given.dtype} values")
        self.betas = np.array(given, dtype=np.float64)
        if self.betas.ndim != 1 or self.betas.size == 0:
            raise InputError(f"betas are a list of T numbers, got shape {self.betas.shape}")
        allowed = (self.betas > 0) & (self.betas < 1)
        allowed[-1] |= self.betas[-1] == 1  # no signal is left, so nothing may come after it
        wrong = np.flatnonzero(~allowed)
        if wrong.size:
            t = wrong[0] + 1
            raise InputError(
                f"betas lie in (0, 1), and the last in (0, 1]; got β_{t} = {self.betas[t - 1]}"
            )
        self.T = self.betas.size
        with np.errstate(divide="ignore"):
            self.log_f2 = np.concatenate([[0.0], np.cumsum(np.log1p(-self.betas))])
            self.log_g2 = np.log(-np.expm1(self.log_f2))
        self.log_snr = self.log_f2 - self.log_g2
        self.f = np.exp(self.log_f2 / 2)
        self.g = np.exp(self.log_g2 / 2)

    @classmethod
    def linear(cls, T: int, first: float = 1e-4, last: float = 0.02) -> NoiseSchedule:
        """Betas on a straight line, scaled by 1000/T as in Nichol & Dhariwal's code.

        Examples
        --------
        >>> NoiseSchedule.linear(1000).betas[[0, -1]]
        array([0.0001, 0.02  ])
        """
        scale = 1000 / T
        return cls(np.linspace(first * scale, last * scale, T))

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
        level = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - level[1:] / level[:-1], 0.999)
        if first_beta is not None:
            betas[0] = first_beta
        return cls(betas)

    @classmethod
    def from_diffusers(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Read the betas that a diffusers scheduler config describes.

        Parameters
        ----------
        config : mapping
            ``scheduler.config`` or the parsed ``scheduler_config.json``.

        Raises
        ------
        InputError
            If the config names a beta schedule that is not known here, or numbers that make none.

        Examples
        --------
        >>> config = {"num_train_timesteps": 1000, "beta_schedule": "linear"}
        >>> NoiseSchedule.from_diffusers(config).T
        1000
        """
        if config.get("trained_betas") is not None:
            return cls(config["trained_betas"])
        T = config.get("num_train_timesteps", 1000)
        if type(T) is not int or not 1 <= T <= LONGEST:
            raise InputError(f"num_train_timesteps is an integer in 1…{LONGEST:,}, got {T!r}")
        first, last = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
        if not all(type(beta) in (int, float) and 0 < beta <= 1 for beta in (first, last)):
            raise InputError(f"beta_start and beta_end lie in (0, 1], got {first!r} and {last!r}")
        kind = config.get("beta_schedule", "linear")
        if kind == "linear":
            return cls(np.linspace(first, last, T))
        if kind == "scaled_linear":
            return cls(np.linspace(first**0.5, last**0.5, T) ** 2)
        if kind == "squaredcos_cap_v2":
            return cls.cosine(T)
        raise InputError(
            f"beta_schedule {kind!r} is not known; known are linear, scaled_linear, "
            "squaredcos_cap_v2 and a list of trained_betas"
        )

    @cached_property
    def fingerprint(self) -> str:
        """A short digest of the betas, to tell noise schedules apart."""
        return hashlib.sha256(self.betas.tobytes()).hexdigest()[:16]

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
        >>> f, g = NoiseSchedule([0.19]).at(np.array([0, 1]), torch.zeros(2, 3))
        >>> f.shape, f.flatten()
        (torch.Size([2, 1]), tensor([1.0000, 0.9000]))
        """
        return per_example(self.f[t], like), per_example(self.g[t], like)

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
