"""What the schedulers for diffusers pipelines share: a schedule, a noise schedule, a config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.models.vocabulary import PREDICTION_TYPES, VARIANCE_TYPES, their_word
from dpdiff.noise import NoiseSchedule
from dpdiff.schedule import Schedule

Generators = torch.Generator | list[torch.Generator] | None
RULES = VARIANCE_TYPES | {"optimal": "optimal"}


@dataclass
class StepOutput(BaseOutput):
    """What a step returns: the examples at the next timestep, and x̂_0."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class ScheduleScheduler(SchedulerMixin, ConfigMixin):
    """What both schedulers share: a noise schedule, a :class:`dpdiff.Schedule`, the config.

    Use :class:`AncestralScheduler` or :class:`UnevenDDIMScheduler`. Those made with
    ``from_config(pipe.scheduler.config, schedule=…)`` take everything but the schedule from the
    pipeline's own scheduler; :meth:`from_denoiser` takes it from a denoiser. ``save_pretrained``
    and ``from_pretrained`` keep the schedule.

    Parameters
    ----------
    schedule : Schedule or sequence of int
        The nodes ``0 … T``.
    num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas
        The training grid, as diffusers describes it.
    prediction_type : {"epsilon", "sample", "v_prediction"}
        What the network estimates.
    variance_type : str
        ``fixed_small``, ``fixed_large``, ``learned_range`` or ``optimal``.
    error : sequence of float, optional
        m(t)/D at ``τ_1 … τ_K``, which ``optimal`` needs.
    clip_sample : bool
        Clip x̂_0 to [-1, 1].
    clip_sample_range, thresholding, rescale_betas_zero_snr
        Known so that other values than these are refused and not overlooked.

    Raises
    ------
    InputError
        If the schedule is of another grid, or a setting is not one that dpdiff has.
    """

    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        schedule: Sequence[int] | Schedule | None = None,
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        prediction_type: str = "epsilon",
        variance_type: str = "fixed_small",
        error: Sequence[float] | None = None,
        clip_sample: bool = True,
        clip_sample_range: float = 1.0,
        thresholding: bool = False,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        if schedule is None:
            raise InputError("which schedule? from_config(pipe.scheduler.config, schedule=…)")
        if not isinstance(schedule, Schedule):
            schedule = Schedule(tuple(schedule))
        self.schedule = schedule
        self.register_to_config(schedule=list(schedule.timesteps))
        self.noise = NoiseSchedule.from_diffusers(self.config)
        self._check(variance_type, prediction_type)
        self._error = None
        if variance_type == "optimal":
            self._error = np.full(self.noise.T + 1, np.nan)
            self._error[list(schedule.timesteps[1:])] = error
        self.set_timesteps(schedule.steps)

    def _check(self, variance_type: str, prediction_type: str) -> None:
        settings = self.config
        self.schedule.check_noise(self.noise)
        for name, value, known in (
            ("variance_type", variance_type, RULES),
            ("prediction_type", prediction_type, PREDICTION_TYPES),
        ):
            if value not in known:
                raise InputError(f"{name} is one of {', '.join(known)}; got {value!r}")
        if variance_type == "optimal" and len(settings.error or ()) != self.schedule.steps:
            raise InputError(
                "the optimal variance needs m(t)/D at each of the schedule's steps; measure the "
                'costs and use from_denoiser(denoiser.with_variance("optimal", costs), schedule)'
            )
        plain = not (settings.thresholding or settings.rescale_betas_zero_snr)
        if not plain or (settings.clip_sample and settings.clip_sample_range != 1):
            raise InputError(
                "thresholding, rescale_betas_zero_snr and a clip_sample_range other than 1 are "
                "not known here: make the scheduler from a config without them"
            )

    @classmethod
    def from_denoiser(cls, denoiser: Denoiser, schedule: Schedule) -> Self:
        """A scheduler with a denoiser's noise schedule, parameterisation and variance rule.

        Examples
        --------
        >>> import dpdiff
        >>> denoiser = dpdiff.load("digits").with_variance("large")
        >>> scheduler = AncestralScheduler.from_denoiser(denoiser, Schedule([0, 90, 4000]))
        >>> scheduler.timesteps
        tensor([3999,   89])
        """
        optimal = denoiser.variance == "optimal"
        return cls(
            schedule=schedule.timesteps,
            num_train_timesteps=denoiser.noise.T,
            trained_betas=denoiser.noise.betas.tolist(),
            prediction_type=their_word(PREDICTION_TYPES, denoiser.predicts),
            variance_type=their_word(VARIANCE_TYPES, denoiser.variance),
            error=denoiser.error[list(schedule.timesteps[1:])].tolist() if optimal else None,
            clip_sample=denoiser.clip,
        )

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None
    ) -> None:  # the pipelines' own call, so its arguments are theirs
        """Begin anew; ``timesteps`` are the schedule's, 0-based and descending.

        Raises
        ------
        InputError
            If ``num_inference_steps`` is not the schedule's number of steps.
        """
        steps = self.schedule.steps
        if num_inference_steps not in (None, steps):
            raise InputError(
                f"this scheduler's schedule has {steps} steps, the pipeline asks for "
                f"{num_inference_steps}: pass num_inference_steps={steps}"
            )
        self.num_inference_steps = steps
        self.timesteps = torch.tensor(self.schedule.to_diffusers(), device=device)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample itself: variance-preserving models need no scaling."""
        return sample

    def _jump(self, timestep: int | Tensor) -> tuple[int, int]:
        """The jump ``(t, s)`` that begins at a 0-based timestep."""
        t, nodes = int(timestep) + 1, self.schedule.timesteps
        if t not in nodes[1:]:
            raise InputError(
                f"timestep {t - 1} is not in this scheduler's schedule; iterate over its "
                f"timesteps, {self.schedule.to_diffusers()}"
            )
        return t, nodes[nodes.index(t) - 1]

    def _denoiser(self, output: Tensor, sample: Tensor) -> Denoiser:
        """A denoiser whose network has spoken already."""
        rule = RULES[self.config.variance_type]
        learned = rule == "learned_range" or output.shape[1] == 2 * sample.shape[1]
        return Denoiser(
            lambda x, index: output,
            self.noise,
            predicts=PREDICTION_TYPES[self.config.prediction_type],
            variance=rule,
            shape=tuple(sample.shape[1:]),
            clip=self.config.clip_sample,
            outputs_variance=learned,
            error=self._error,
            device=sample.device,
        )

    def _moved(
        self,
        step: Callable[..., Tensor],
        output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generators,
        random: bool,
    ) -> StepOutput:
        """Take a step of :mod:`dpdiff.sampling`, in float32 at least."""
        t, s = self._jump(timestep)
        x, noise = sample.to(torch.promote_types(sample.dtype, torch.float32)), None
        if random and s > 0:
            noise = randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        denoiser = self._denoiser(output, sample)
        prediction = denoiser(x, t)
        moved = step(denoiser, prediction, x, t, s, torch.zeros_like(x) if noise is None else noise)
        return StepOutput(moved.to(sample.dtype), prediction.x0.to(sample.dtype))

    def __len__(self) -> int:
        return self.noise.T
