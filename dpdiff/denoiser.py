"""A network with all that is needed to read its output as a denoiser."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule, per_example
from dpdiff.runtime.networks import InPrecision
from dpdiff.variance import Moments, rule_named

# What a network's output estimates: x̂_0 from (f, g, x_t, output), and the target that it is
# trained on from (f, g, x_0, ε).
READINGS: dict[str, tuple[Callable, Callable]] = {
    "eps": (lambda f, g, x, out: (x - g * out) / f, lambda f, g, x0, eps: eps),
    "x0": (lambda f, g, x, out: out, lambda f, g, x0, eps: x0),
    "v": (lambda f, g, x, out: f * x - g * out, lambda f, g, x0, eps: f * eps - g * x0),
}


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
        The reverse variance, a rule of :mod:`dpdiff.variance`. With ``learned_range`` the
        network returns twice the channels; the second half ``o`` means ``v = (o + 1) / 2``,
        which is not clamped. ``optimal`` needs measured costs: see :meth:`with_variance`.
    shape : tuple of int
        One example without the batch dimension: ``(1, 28, 28)``, ``(16000,)`` …
    levels : int or None
        How many values the data takes (256 for uint8 images); ``None`` for continuous data.
    clip : bool, optional
        Clip x̂_0 to [-1, 1], as the samplers of image models do; by default where there are
        levels. Continuous data may reach further.
    outputs_variance : bool, optional
        Whether the network returns twice the channels, whatever rule is in force; by default
        that follows from ``variance``.
    error : ndarray, shape (T + 1,), optional
        ``m(t)/D`` as measured, which ``optimal`` needs. :meth:`with_variance` fills it in.

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
    clip: bool | None = field(default=None, kw_only=True)
    outputs_variance: bool | None = field(default=None, kw_only=True)
    error: np.ndarray | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if self.predicts not in READINGS:
            raise InputError(f"predicts is one of {', '.join(READINGS)}; got {self.predicts!r}")
        rule = rule_named(self.variance)
        if rule.needs_error and self.error is None:
            raise InputError(
                f"the {rule.name} variance is found by measuring: build the denoiser with its own "
                f'variance, measure its costs, then denoiser.with_variance("{rule.name}", costs)'
            )
        if self.outputs_variance is None:
            object.__setattr__(self, "outputs_variance", rule.needs_output)
        if rule.needs_output and not self.outputs_variance:
            raise InputError(f"this network has no variance output, so {rule.name} is not for it")
        if self.levels is not None and self.levels < 2:
            raise InputError(f"levels is None or at least 2, got {self.levels}")
        if self.clip is None:
            object.__setattr__(self, "clip", self.levels is not None)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
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
    def reading(self) -> tuple[Any, ...]:
        """All that decides how an output is read, apart from the noise schedule."""
        output = "learned_range" if self.outputs_variance else "fixed"
        return (self.predicts, output, self.shape, self.levels, self.clip)

    @property
    def fingerprint(self) -> str:
        """A digest of weights, noise schedule and parameterisation, kept with measured costs.

        A network without weights (a plain function) is told apart by the rest alone. One whose
        weights do not tell all that it computes can say the rest in a string ``layout``.
        """
        digest = hashlib.sha256()
        digest.update(repr(self.reading).encode() + self.noise.fingerprint.encode())
        digest.update(getattr(self.network, "layout", "").encode())
        weights = getattr(self.network, "state_dict", dict)()
        for name in sorted(weights):
            digest.update(name.encode())
            digest.update(weights[name].detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def with_variance(self, variance: str, costs: Moments | None = None) -> Denoiser:
        """The same network under another variance rule.

        Parameters
        ----------
        variance : {"small", "large", "learned_range", "optimal"}
            The rule.
        costs : Costs, optional
            Measured costs of this denoiser; ``optimal`` takes m(t) from them.

        Raises
        ------
        InputError
            If the network has no learned variance, or the costs are of another model.
        """
        rule, error = rule_named(variance), None
        if rule.needs_error:
            if costs is None:
                raise InputError(
                    f'the {rule.name} variance needs costs: with_variance("{rule.name}", costs)'
                )
            costs.check_model(self.fingerprint)
            error = costs.mse / costs.dims
        return replace(self, variance=variance, error=error)

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
        return replace(self, network=InPrecision(self.unwrapped.network, precision, compile))

    @property
    def unwrapped(self) -> Denoiser:
        """As it was before :meth:`with_precision`."""
        if not isinstance(self.network, InPrecision):
            return self
        return replace(self, network=self.network.original)

    @property
    def precision(self) -> str:
        """What :meth:`with_precision` was given: ``bf16``, ``bf16, compiled`` … or ``float32``."""
        if not isinstance(self.network, InPrecision):
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
        return Prediction(self.read(x_t, timesteps, output), v)

    def read(self, x_t: Tensor, t: int | np.ndarray, output: Tensor) -> Tensor:
        """x̂_0 from the network's output, clipped if the denoiser clips."""
        to_x0, _ = READINGS[self.predicts]
        x0 = to_x0(*self.noise.at(t, x_t), x_t, output)
        return x0.clamp(-1, 1) if self.clip else x0

    def network_output(self, x_t: Tensor, timesteps: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """The network's prediction and ``v``, in the dtype of ``x_t``, checked."""
        index = torch.as_tensor(timesteps - 1, device=x_t.device)
        output = self.network(x_t.float(), index)
        output = getattr(output, "sample", output)
        channels = self.shape[0] * (2 if self.outputs_variance else 1)
        expected = (len(x_t), channels, *self.shape[1:])
        if tuple(output.shape) != expected:
            raise InputError(
                f"at timestep {timesteps[0]} the network returned shape {tuple(output.shape)}, "
                f"expected {expected} (shape {self.shape}, "
                f"outputs_variance {self.outputs_variance})"
            )
        finite = output.isfinite().flatten(1).all(1)
        if not finite.all():
            t = timesteps[int(torch.argmin(finite.int()))]
            raise InputError(f"the network's output is not finite at timestep {t}")
        output = output.to(x_t.dtype)
        if not self.outputs_variance:
            return output, None
        prediction, raw = output.chunk(2, dim=1)
        return prediction, (raw + 1) / 2

    def target(self, x0: Tensor, t: int | np.ndarray, eps: Tensor) -> Tensor:
        """What the network's output estimates, for data and the noise that was put on it."""
        _, target = READINGS[self.predicts]
        return target(*self.noise.at(t, x0), x0, eps)

    def log_ratio(self, t: int, s: int, prediction: Prediction) -> Tensor:
        """``u = log(σ²/g̃_ts²)`` of a jump ``t → s``, ``0 < s < t``; broadcasts against x̂_0."""
        u = rule_named(self.variance).log_ratio(self.noise, t, s, prediction.v, self.error)
        return per_example(u, prediction.x0)

    def decoder_log_variance(self, t: int, prediction: Prediction) -> Tensor:
        """``log σ²`` of the last jump ``t → 0``; broadcasts against x̂_0."""
        error = None if self.error is None else self.error[t]
        rule = rule_named(self.variance)
        return per_example(
            rule.decoder_log_variance(self.noise, t, prediction.v, error), prediction.x0
        )
