"""Schedulers with which a stock diffusers pipeline runs any schedule.

Put one in place of the pipeline's own, after the pipeline has been made::

    pipe.scheduler = AncestralScheduler.from_config(pipe.scheduler.config, schedule=schedule)
    images = pipe(num_inference_steps=schedule.steps).images
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
from dpdiff.sampling import ancestral, ddim
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

    Those made with ``from_config(pipe.scheduler.config, schedule=…)`` take everything but the
    schedule from the pipeline's own scheduler; :meth:`from_denoiser` takes it from a denoiser.

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
    clip_sample, clip_sample_range, thresholding, rescale_betas_zero_snr
        Whether x̂_0 is clipped to [-1, 1]; other values of the others are refused.

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
        """Begin anew with the schedule's timesteps; another number of steps is an InputError."""
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
        (t, s), denoiser = self._jump(timestep), self._denoiser(output, sample)
        x = sample.to(torch.promote_types(sample.dtype, torch.float32))
        prediction, noise = denoiser(x, t), torch.zeros_like(x)
        if random and s > 0:
            noise = randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        moved = step(denoiser, prediction, x, t, s, noise)
        return StepOutput(moved.to(sample.dtype), prediction.x0.to(sample.dtype))

    def __len__(self) -> int:
        return self.noise.T


class AncestralScheduler(ScheduleScheduler):
    """Ancestral sampling over any schedule, under any variance rule, as :func:`dpdiff.sample`.

    diffusers' own ``DDPMScheduler`` can be given a list of timesteps too, but not through a
    pipeline's call; and unless the list ends at 0, it adds noise to the final images under
    every rule but ``fixed_small``.

    Examples
    --------
    >>> from diffusers import DDPMPipeline
    >>> from dpdiff.models import HOME
    >>> pipe = DDPMPipeline.from_pretrained(HOME / "digits")
    >>> pipe.set_progress_bar_config(disable=True)
    >>> config = pipe.scheduler.config
    >>> pipe.scheduler = AncestralScheduler.from_config(config, schedule=[0, 90, 900, 4000])
    >>> pipe(batch_size=2, num_inference_steps=3, output_type="pt").images.shape
    torch.Size([2, 1, 8, 8])
    """

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> StepOutput | tuple[Tensor, Tensor]:
        """Draw from ``p(x_s | x_t)``, where s is the schedule's next timestep.

        Parameters
        ----------
        model_output : Tensor
            The network's output, with the channels of a learned variance if it has them.
        timestep : int or Tensor
            0-based, one of ``timesteps``.
        sample : Tensor
            ``x_t``; the result has its dtype.
        generator : torch.Generator, optional
            Of the noise.
        return_dict : bool
            Return a ``StepOutput``, else the tuple ``(prev_sample, x̂_0)``.
        """
        output = self._moved(ancestral, model_output, timestep, sample, generator, True)
        return output if return_dict else output.to_tuple()


class UnevenDDIMScheduler(ScheduleScheduler):
    """DDIM over any schedule, as :func:`dpdiff.sample` with ``sampler="ddim"``.

    diffusers' own ``DDIMScheduler`` takes ``t - T // K`` for the next timestep, whatever its list
    says, so it is right for even schedules only. ``DDIMPipeline`` makes that class out of any
    scheduler it is built or loaded with: assign this one to ``pipe.scheduler`` afterwards. The
    variance rule plays no part.
    """

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = None,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> StepOutput | tuple[Tensor, Tensor]:
        """One DDIM step to the schedule's next timestep.

        Parameters
        ----------
        model_output, timestep, sample, generator, return_dict
            As for :meth:`AncestralScheduler.step`.
        eta : float
            Share of the ``small`` standard deviation, in [0, 1].
        use_clipped_model_output : bool, optional
            The noise estimate is always derived anew from the clipped x̂_0, which is what True
            means; False is refused.
        """
        if use_clipped_model_output is False or not 0 <= eta <= 1:
            raise InputError(
                f"eta lies in [0, 1], got {eta}, and use_clipped_model_output is None or True, "
                f"got {use_clipped_model_output}"
            )
        step = partial(ddim, eta=eta)
        output = self._moved(step, model_output, timestep, sample, generator, eta > 0)
        return output if return_dict else output.to_tuple()
