"""A network with all that is needed to read its output as a denoiser."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dpdiff.errors import InputError
from dpdiff.network import (
    DeviceField,
    InPrecision,
    ask,
    checked_arguments,
    checked_shape,
    dtype_of,
    finite,
)
from dpdiff.network import identity as identity_of
from dpdiff.noise import NoiseSchedule, per_example
from dpdiff.parameterization import Parameterization, check_parameterization, parameterization_named
from dpdiff.variance import Moments, Rule, rule_named


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
        ``network(x, time)`` takes a tensor ``(B, *shape)``, in the dtype of its weights (float32
        if it has none), and the noise schedule's ``time_inputs`` there, ``(B,)``: the index
        ``t - 1`` as int64 unless it says otherwise. It returns a tensor, a tuple that begins
        with one, or an object with ``.sample``. A ``torch.nn.Module`` is put in evaluation mode.
    noise : NoiseSchedule
        The schedule it was trained with.
    predicts : {"eps", "x0", "v", "flow", "score", "edm", "edm_v"}
        What the output estimates: the noise, the data, ``v = f ε - g x_0``, a flow's ``ε - x_0``,
        the score, or what the preconditioning of Karras et al. (2022) leaves to the network; see
        ``dpdiff.parameterization``.
    variance : {"small", "large", "learned_range"}
        The reverse variance, a rule of ``dpdiff.variance``. With ``learned_range`` the
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
    sigma_data : float
        Of ``edm`` and ``edm_v``: the data's standard deviation that the network was trained with.
    error : ndarray, shape (T + 1,), optional
        ``m(t)/D`` as measured, which ``optimal`` needs. :meth:`with_variance` fills it in.
    device : str or torch.device, optional
        Where a plain function computes; by default the CPU. A network with weights is run where
        they are, whatever this says.
    identity : str, optional
        A name for what the network computes, which goes into the fingerprint. A plain function
        needs one, if costs are to be saved and used again, where its code and what it closes
        over cannot be seen through (``dpdiff.network``). Change it
        whenever the function changes.

    Raises
    ------
    InputError
        If an argument is not one of the above, or ``predicts`` is ``eps`` and nothing of the
        data is left at T (β_T = 1), where the noise says nothing of them.

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
    _: KW_ONLY
    shape: tuple[int, ...]
    levels: int | None = 256
    clip: bool | None = None
    outputs_variance: bool | None = None
    sigma_data: float = 0.5
    error: np.ndarray | None = field(default=None, repr=False)
    device: torch.device = DeviceField()  # noqa: RUF009 - a descriptor, as dataclasses know them
    identity: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.network) or not isinstance(self.noise, NoiseSchedule):
            raise InputError(
                "a Denoiser is made of a network, which is called as network(x, time), and a "
                f"NoiseSchedule; got {type(self.network).__name__} and {type(self.noise).__name__}"
            )
        check_parameterization(self.predicts, self.sigma_data, self.noise)
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
        if self.clip is None:
            object.__setattr__(self, "clip", self.levels is not None)
        object.__setattr__(self, "shape", checked_shape(self.shape))
        self._check_settings()
        if isinstance(self.network, torch.nn.Module):
            self.network.eval()

    def _check_settings(self) -> None:
        levels = self.levels
        if levels is not None and (not isinstance(levels, int | np.integer) or levels < 2):
            raise InputError(f"levels is None or an integer, at least 2, got {levels!r}")
        for name in ("clip", "outputs_variance"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise InputError(f"{name} is True or False, got {getattr(self, name)!r}")
        if self.identity is not None and not isinstance(self.identity, str):
            raise InputError(f"identity is a string, got {self.identity!r}")

    @property
    def dims(self) -> int:
        """D, the number of dimensions of one example."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """What the network's inputs are cast to: the dtype of its weights, or float32."""
        return dtype_of(self.network)

    @property
    def output_key(self) -> tuple[Any, ...]:
        """All that decides how an output is read, apart from the noise schedule."""
        output = "learned_range" if self.outputs_variance else "fixed"
        sigma_data = (self.sigma_data,) if self.predicts.startswith("edm") else ()
        return (self.predicts, output, self.shape, self.levels, self.clip, *sigma_data)

    @property
    def fingerprint(self) -> str:
        """A digest of weights, noise schedule and parameterisation, kept with measured costs.

        A network without weights (a plain function) counts by what is seen of its code, or by
        ``identity``. One whose weights do not tell all that it computes can say the rest in a
        string ``layout``.
        """
        network = self.unwrapped.network
        digest = hashlib.sha256()
        digest.update(repr(self.output_key).encode() + self.noise.fingerprint.encode())
        digest.update(str(getattr(network, "layout", "")).encode())
        weights = getattr(network, "state_dict", dict)()
        if self.identity is not None:
            digest.update(b"identity" + self.identity.encode())
        elif not weights:
            digest.update(identity_of(network).encode())
        for name in sorted(weights):
            digest.update(name.encode())
            digest.update(weights[name].detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def rule(self) -> Rule:
        """The variance rule in force."""
        return rule_named(self.variance)

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
            Inputs are laid out channels last. ``float32`` leaves torch's own
            settings alone, under which recent GPUs take TF32 for convolutions.
        compile : bool
            Pass the network through ``torch.compile``; new batch sizes may be compiled anew. Not
            for training: on CPUs the gradients of torch 2.13's compiler are wrong for U-Nets.

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
        """What :meth:`with_precision` was given: ``bf16``, ``bf16, compiled`` … or the weights'."""
        if not isinstance(self.network, InPrecision):
            return str(self.dtype).removeprefix("torch.").replace("bfloat16", "bf16")
        return self.network.precision + (", compiled" if self.network.compiled else "")

    def __call__(self, x_t: Tensor, t: int | np.ndarray) -> Prediction:
        """Estimate the data behind noisy examples.

        Parameters
        ----------
        x_t : Tensor, shape (B, ...)
            Noisy floats; the result is computed in their dtype, the network runs in its own.
        t : int or ndarray of int, shape (B,)
            Timesteps in 1 … T.

        Raises
        ------
        InputError
            If arguments or the network's output have another shape, a timestep lies outside
            1 … T, or the network fails. An output that is not finite is refused too, and the
            timestep named; on other devices than the CPU, where looking would mean waiting, it
            becomes NaN, which :func:`dpdiff.measure` and the like refuse when they see it.
        """
        timesteps = checked_arguments(x_t, t, self.shape, self.noise.T)
        output, v = self.network_output(x_t, timesteps)
        return Prediction(self.read(x_t, timesteps, output), v)

    def read(self, x_t: Tensor, t: int | np.ndarray, output: Tensor) -> Tensor:
        """x̂_0 from the network's output, clipped if the denoiser clips."""
        x0 = self._output.data(*self.noise.at_trained(t, x_t), x_t, output)
        x0 = x0 / self.noise.data_scale
        return x0.clamp(-1, 1) if self.clip else x0

    @property
    def _output(self) -> Parameterization:
        return parameterization_named(self.predicts, self.sigma_data)

    def network_output(self, x_t: Tensor, timesteps: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """The network's prediction and ``v``, in the dtype of ``x_t``, checked."""
        channels = self.shape[0] * (2 if self.outputs_variance else 1)
        scale = self._output.input_scale(*self.noise.at_trained(timesteps, x_t))
        x = (scale * x_t).to(self.device, self.dtype)
        times = self.noise.time_inputs[timesteps - 1]
        output = ask(self.network, x, times, timesteps, (len(x), channels, *self.shape[1:]))
        output = finite(output, timesteps).to(x_t.device, x_t.dtype)
        if not self.outputs_variance:
            return output, None
        prediction, raw = output.chunk(2, dim=1)
        return prediction, (raw + 1) / 2

    def target(self, x0: Tensor, t: int | np.ndarray, eps: Tensor) -> Tensor:
        """What the network's output estimates, for data and the noise that was put on it."""
        y_0 = self.noise.data_scale * x0
        return self._output.target(*self.noise.at_trained(t, x0), y_0, eps)

    def log_ratio(self, t: int, s: int, prediction: Prediction) -> Tensor:
        """``u = log(σ²/g̃_ts²)`` of a jump ``t → s``, ``0 < s < t``; broadcasts against x̂_0."""
        u = self.rule.log_ratio(self.noise, t, s, prediction.v, self.error)
        return per_example(u, prediction.x0)

    def decoder_log_variance(self, t: int, prediction: Prediction) -> Tensor:
        """``log σ²`` of the last jump ``t → 0``; broadcasts against x̂_0."""
        error = None if self.error is None else self.error[t]
        log_variance = self.rule.decoder_log_variance(self.noise, t, prediction.v, error)
        return per_example(log_variance, prediction.x0)
