"""A network with all that is needed to read its output as a denoiser."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dpdiff.elbo import VARIANCES
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.wrappers import Cast

if TYPE_CHECKING:
    from dpdiff.costs import Costs

PREDICTS = ("eps", "x0", "v")


class Prediction(NamedTuple):
    """What a denoiser says of a batch: ``x0`` is x̂_0, ``v`` the variance output or None."""

    x0: Tensor
    v: Tensor | None


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A network, its noise schedule and the meaning of its output.

    Parameters
    ----------
    network : callable
        ``network(x, index)`` takes a float32 tensor ``(B, *shape)`` and 0-based long indices
        ``(B,)`` (timestep ``t`` is index ``t - 1``), and returns a tensor or an object with
        ``.sample``. A ``torch.nn.Module`` is put in evaluation mode.
    noise : NoiseSchedule
        The schedule it was trained with.
    predicts : {"eps", "x0", "v"}
        What the output estimates: the noise, the data, or ``v = f ε - g x_0``.
    variance : {"small", "large", "learned_range"}
        The reverse variance: the posterior's ``g̃_ts²``, the forward ``g_ts²``, or the network's
        interpolation of the two (Nichol & Dhariwal 2021, eq. 15). With ``learned_range`` the
        network returns twice the channels; the second half ``o`` means ``v = (o + 1) / 2``,
        which is not clamped. ``optimal`` needs measured costs: see :meth:`with_variance`.
    shape : tuple of int
        One example without the batch dimension: ``(1, 28, 28)``, ``(16000,)`` …
    levels : int or None
        How many values the data takes (256 for uint8 images); ``None`` for continuous data.
    clip : bool
        Clip x̂_0 to [-1, 1], as the samplers of image models do.

    Raises
    ------
    InputError
        If an argument is not one of the above.

    Examples
    --------
    >>> silent = Denoiser(lambda x, index: 0 * x, NoiseSchedule.cosine(10), shape=(2,))
    >>> silent(torch.full((3, 2), 0.5), 10).x0.shape
    torch.Size([3, 2])
    """

    network: Callable[[Tensor, Tensor], Any]
    noise: NoiseSchedule
    predicts: str = "eps"
    variance: str = "large"
    shape: tuple[int, ...] = field(kw_only=True)
    levels: int | None = field(default=256, kw_only=True)
    clip: bool = field(default=True, kw_only=True)
    # Set by with_variance, not by users: the network's own rule, and m(t) for "optimal".
    network_variance: str = field(default="", kw_only=True, repr=False)
    mse: np.ndarray | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if self.predicts not in PREDICTS:
            raise InputError(f"predicts is one of {', '.join(PREDICTS)}; got {self.predicts!r}")
        if self.variance not in VARIANCES:
            raise InputError(f"variance is one of {', '.join(VARIANCES)}; got {self.variance!r}")
        if self.variance == "optimal" and self.mse is None:
            raise InputError(
                "the optimal variance is found by measuring: build the denoiser with its own "
                'variance, measure its costs, then denoiser.with_variance("optimal", costs)'
            )
        if self.levels is not None and self.levels < 2:
            raise InputError(f"levels is None or at least 2, got {self.levels}")
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "network_variance", self.network_variance or self.variance)
        if isinstance(self.network, torch.nn.Module):
            self.network.eval()

    @property
    def dims(self) -> int:
        """D, the number of dimensions of one example."""
        return math.prod(self.shape)

    @property
    def device(self) -> torch.device:
        """Where the network's weights are (the CPU if it has none)."""
        weights = getattr(self.network, "parameters", lambda: iter(()))()
        return next((w.device for w in weights), torch.device("cpu"))

    @property
    def fingerprint(self) -> str:
        """A digest of weights, noise schedule and parameterisation, kept with measured costs.

        A network without weights (a plain function) is told apart by the rest alone. One whose
        weights do not tell all that it computes can say the rest in a string ``layout``.
        """
        digest = hashlib.sha256()
        settings = (self.predicts, self.network_variance, self.shape, self.levels, self.clip)
        digest.update(repr(settings).encode() + self.noise.fingerprint.encode())
        digest.update(getattr(self.network, "layout", "").encode())
        weights = getattr(self.network, "state_dict", dict)()
        for name in sorted(weights):
            digest.update(name.encode())
            digest.update(weights[name].detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def with_variance(self, variance: str, costs: Costs | None = None) -> Denoiser:
        """The same network under another variance rule.

        Parameters
        ----------
        variance : {"small", "large", "learned_range", "optimal"}
            The rule. ``optimal`` is Analytic-DPM's σ*² (Bao et al. 2022): one scalar for every
            jump, ``g̃_ts² (1 + ΔSNR m(t)/D)``.
        costs : Costs, optional
            Measured costs of this denoiser; ``optimal`` takes m(t) from them.

        Raises
        ------
        InputError
            If the network has no learned variance, or the costs are of another model.
        """
        if variance == "learned_range" and self.network_variance != "learned_range":
            raise InputError("this network has no variance output, so learned_range is not for it")
        mse = None
        if variance == "optimal":
            if costs is None:
                raise InputError(
                    'the optimal variance needs costs: with_variance("optimal", costs)'
                )
            costs.check_model(self.fingerprint)
            mse = costs.mse
        return replace(self, variance=variance, mse=mse)

    def with_precision(self, precision: str, *, compile: bool = False) -> Denoiser:
        """The same weights, run faster: the fingerprint stays, the numbers change a little.

        Parameters
        ----------
        precision : {"float32", "bf16", "fp16"}
            Of the network's heavy operations, under autocast; everything else stays as it is.
            Weights and inputs are laid out channels last. ``float32`` leaves torch's own
            settings alone, under which recent GPUs take TF32 for convolutions.
        compile : bool
            Pass the network through ``torch.compile``; new batch sizes may be compiled anew.

        Raises
        ------
        InputError
            If there is no such precision.
        """
        network = self.network.original if isinstance(self.network, Cast) else self.network
        return replace(self, network=Cast(network, precision, compile))

    @property
    def precision(self) -> str:
        """What :meth:`with_precision` was told: ``bf16``, ``bf16, compiled`` … or ``float32``."""
        if not isinstance(self.network, Cast):
            return "float32"
        return self.network.precision + (", compiled" if self.network.compiled else "")

    def __call__(self, x_t: Tensor, t: int | np.ndarray) -> Prediction:
        """Estimate the data behind noisy examples.

        Parameters
        ----------
        x_t : Tensor, shape (B, ...)
            Noisy examples; the result is computed in their dtype, the network runs in float32.
        t : int or ndarray of int, shape (B,)
            Timesteps in 1 … T.

        Raises
        ------
        InputError
            If the network's output has another shape, or is not finite; the timestep is named.
        """
        timesteps = np.broadcast_to(np.asarray(t), len(x_t))
        output, v = self.network_output(x_t, timesteps)
        f, g = (self._per_example(c[timesteps], x_t) for c in (self.noise.f, self.noise.g))
        if self.predicts == "eps":
            x0 = (x_t - g * output) / f
        elif self.predicts == "v":
            x0 = f * x_t - g * output
        else:
            x0 = output
        return Prediction(x0.clamp(-1, 1) if self.clip else x0, v)

    def network_output(self, x_t: Tensor, timesteps: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """The network's prediction and ``v``, in the dtype of ``x_t``, checked."""
        index = torch.as_tensor(timesteps - 1, device=x_t.device)
        output = self.network(x_t.float(), index)
        output = getattr(output, "sample", output)
        channels = self.shape[0] * (2 if self.network_variance == "learned_range" else 1)
        expected = (len(x_t), channels, *self.shape[1:])
        if tuple(output.shape) != expected:
            raise InputError(
                f"at timestep {timesteps[0]} the network returned shape {tuple(output.shape)}, "
                f"expected {expected} (variance {self.network_variance!r}, shape {self.shape})"
            )
        finite = output.isfinite().flatten(1).all(1)
        if not finite.all():
            t = timesteps[int(torch.argmin(finite.int()))]
            raise InputError(f"the network's output is not finite at timestep {t}")
        output = output.to(x_t.dtype)
        if self.network_variance != "learned_range":
            return output, None
        prediction, raw = output.chunk(2, dim=1)
        return prediction, (raw + 1) / 2

    def log_ratio(self, t: int, s: int, v: Tensor | None) -> Tensor:
        """``u = log(σ² / g̃_ts²)`` of a jump ``t → s``, ``0 < s < t``, float64, broadcastable."""
        a = self.noise.log_ratio(t, s)
        if self.variance == "learned_range":
            return a * v.double()
        if self.variance == "optimal":
            a = np.log1p(self.noise.snr_gap(t, s) * self.mse[t] / self.dims)
        if self.variance == "small":
            a = 0.0
        return torch.tensor(a, dtype=torch.float64, device=self.device)

    def decoder_log_variance(self, t: int, v: Tensor | None) -> Tensor:
        """``log σ²`` of the last jump ``t → 0``, float64, broadcastable. It depends on t alone.

        ``learned_range`` interpolates ``log g̃²(t+1, t)`` and ``log g(t)²`` (at ``t = T`` the
        lower end is that of ``T - 1``); ``optimal`` is ``log(m(t)/D)``. ``small`` would be zero,
        since ``g̃_t0² = 0``, so it uses ``g(t)²`` as ``large`` does.
        """
        high = self.noise.log_g2[t]
        if self.variance == "learned_range":
            low = self.decoder_floor(t)
            return low + (high - low) * v.double()
        if self.variance == "optimal":
            high = np.log(self.mse[t] / self.dims)
        return torch.tensor(high, dtype=torch.float64, device=self.device)

    def decoder_floor(self, t: int) -> float:
        """``log g̃²(t+1, t)``, the lower end of the learned decoder variance."""
        t = min(t, self.noise.T - 1)
        return self.noise.posterior(t + 1, t)[2] if t > 0 else self.noise.log_g2[1]

    @staticmethod
    def _per_example(values: np.ndarray, like: Tensor) -> Tensor:
        shape = (-1,) + (1,) * (like.ndim - 1)
        return torch.as_tensor(values, dtype=like.dtype, device=like.device).reshape(shape)
