"""The forward process on a grid, and the quantities of its jumps."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

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


class Process:
    """``q(x_t | x_0) = N(f(t) x_0, g(t)² I)`` on ``t = 0 … T``, by the logarithms of f² and g².

    :class:`dpdiff.NoiseSchedule` says what its attributes are, and has the ways to make one.
    """

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
        return hashlib.sha256(b"".join(a.tobytes() for a in self.arrays().values())).hexdigest()[
            :16
        ]

    @cached_property
    def sigmas(self) -> np.ndarray:
        """σ as samplers of the model's own family count it, shape (T + 1,).

        ``g`` of a flow (``f + g = 1``), else ``c g/f``, the noise in the model's own scale, which
        is infinite where no signal is left.
        """
        if np.allclose(self.f[1:] + self.g[1:], 1, rtol=0, atol=1e-12):
            return self.g
        with np.errstate(divide="ignore"):
            return self.data_scale * np.exp(-self.log_snr / 2)

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
        >>> from dpdiff.noise import NoiseSchedule
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
        >>> from dpdiff.noise import NoiseSchedule
        >>> signal, residue, log_variance = NoiseSchedule.cosine(10).posterior(10, 9)
        >>> bool(0 < signal < 1 and 0 < residue < 1)
        True
        """
        fresh = -np.expm1(self.log_snr[t] - self.log_snr[s])  # g_ts² / g(t)²
        residue = np.exp((self.log_f2[t] - self.log_f2[s]) / 2 - self.noise_gain(t, s))
        return self.f[s] * fresh, residue, self.log_g2[s] + np.log(fresh)
