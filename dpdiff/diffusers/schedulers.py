"""Schedulers with which a stock diffusers pipeline runs any schedule.

Put one in place of the pipeline's own, after the pipeline has been made::

    pipe.scheduler = AncestralScheduler.from_config(pipe.scheduler, schedule=schedule)
    images = pipe(num_inference_steps=schedule.steps).images
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from dpdiff.denoiser import Denoiser
from dpdiff.diffusers import configs
from dpdiff.errors import InputError
from dpdiff.sampling import ancestral, ddim
from dpdiff.schedule import Schedule

Generators = torch.Generator | list[torch.Generator] | None


@dataclass
class StepOutput(BaseOutput):
    """What a step returns: the examples at the next timestep, and x̂_0."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class ScheduleScheduler(SchedulerMixin, ConfigMixin):
    """What both schedulers share: a noise schedule, a :class:`dpdiff.Schedule`, the config.

    Those made with ``from_config(pipe.scheduler, schedule=…)`` take everything but the schedule
    from the pipeline's own scheduler, of any class that :meth:`dpdiff.NoiseSchedule.from_diffusers`
    knows; :meth:`from_denoiser` takes it from a denoiser. The config keeps the settings of the
    one it came from, so that diffusers' own schedulers can be made of it again.

    Parameters
    ----------
    about : mapping
        The config of the scheduler it comes from, with that one's class as ``source``.
    schedule : Schedule or sequence of int
        The nodes ``0 … T``.
    variance_type : str, optional
        ``fixed_small``, ``fixed_large``, ``learned_range`` or ``optimal``; by default the
        config's, else ``fixed_small``.
    error : sequence of float, optional
        m(t)/D at ``τ_1 … τ_K``, which ``optimal`` needs.

    Attributes
    ----------
    timesteps : Tensor, shape (K,)
        What the network is told at ``τ_K … τ_1``: the noise schedule's time inputs.
    init_noise_sigma : float
        π of the prior ``N(0, π² I)``.

    Raises
    ------
    InputError
        If the schedule is of another grid, or a setting is not one that dpdiff has.
    """

    order = 1

    def __init__(
        self,
        about: Mapping[str, Any],
        schedule: Sequence[int] | Schedule | None = None,
        variance_type: str | None = None,
        error: Sequence[float] | None = None,
    ) -> None:
        if schedule is None:
            raise InputError("which schedule? from_config(pipe.scheduler, schedule=…)")
        if not isinstance(schedule, Schedule):
            schedule = Schedule(tuple(schedule))
        self.schedule, self.reading = schedule, configs.scheduler_settings(about, variance_type)
        self.noise = self.reading.noise
        schedule.check_noise(self.noise)
        self._error = configs.spread_error(self.reading, schedule, error)
        own = {"schedule": list(schedule.timesteps), "variance_type": variance_type, "error": error}
        self.register_to_config(**{**about, "num_train_timesteps": self.noise.T, **own})
        self.init_noise_sigma = self.noise.prior_scale
        self.set_timesteps(schedule.steps)

    @classmethod
    def from_config(
        cls, config: Any = None, return_unused_kwargs: bool = False, **changes: Any
    ) -> Any:
        """A scheduler with the settings of another one.

        Parameters
        ----------
        config : scheduler or mapping
            The pipeline's own scheduler, or its config. Not all configs tell the class that
            gives them their meaning, so the scheduler itself is always right.
        return_unused_kwargs : bool
            As diffusers asks; none are unused.
        **changes
            ``schedule``, and whatever else is not to be as the config has it: ``variance_type``,
            ``error``, ``clip_sample`` …
        """
        about = configs.settings_of(config) | changes
        own = {name: about.pop(name, None) for name in ("schedule", "variance_type", "error")}
        made = cls(about, **own)
        return (made, {}) if return_unused_kwargs else made

    @classmethod
    def from_denoiser(cls, denoiser: Denoiser, schedule: Schedule) -> Self:
        """A scheduler with a denoiser's noise schedule, parameterisation and variance rule.

        Examples
        --------
        >>> import dpdiff
        >>> denoiser = dpdiff.load("digits").with_variance("large")
        >>> scheduler = ScheduleScheduler.from_denoiser(denoiser, Schedule([0, 90, 4000]))
        >>> scheduler.timesteps
        tensor([3999,   89])
        """
        error = None
        if denoiser.variance == "optimal":
            error = denoiser.error[list(schedule.timesteps[1:])].tolist()
        rule = configs.their_rule(denoiser.variance)
        return cls(configs.settings_of_denoiser(denoiser), schedule, rule, error)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:  # the pipelines' own call, so its arguments are theirs
        """Begin anew with the schedule's timesteps; another number of steps is an InputError.

        Pipelines of flow models give ``sigmas`` and ``mu``, from which their own schedulers would
        make a schedule: of these, only the number of sigmas is looked at.
        """
        steps = self.schedule.steps
        asked = num_inference_steps if sigmas is None else len(sigmas)
        if asked not in (None, steps):
            raise InputError(
                f"this scheduler's schedule has {steps} steps, the pipeline asks for {asked}: pass "
                f"num_inference_steps={steps}"
            )
        self.num_inference_steps = steps
        times = self._times[::-1].copy()
        self.timesteps = torch.from_numpy(times).to(device)

    @property
    def _times(self) -> np.ndarray:
        """What the network is told at ``τ_1 … τ_K``, in a dtype that every device has."""
        times = self.noise.time_inputs[np.array(self.schedule.timesteps[1:]) - 1]
        return times if times.dtype == np.int64 else times.astype(np.float32)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Nothing: a step looks its timestep up."""

    def strength(self, t: int) -> Fraction:
        """The ``strength`` at which image-to-image pipelines begin at the largest node ≤ t.

        Exact, because they multiply it with the number of steps and cut the product off.

        Examples
        --------
        >>> import dpdiff
        >>> schedule = Schedule([0, 100, 500, 1000, 4000])
        >>> ScheduleScheduler.from_denoiser(dpdiff.load("digits"), schedule).strength(999)
        Fraction(1, 2)
        """
        count = sum(node <= t for node in self.schedule.timesteps[1:])
        if count == 0:
            raise InputError(f"the schedule's first step is at {self.schedule.timesteps[1]} > {t}")
        return Fraction(count, self.schedule.steps)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the network sees of a sample: itself, but under Karras et al.'s preconditioning."""
        if not self.reading.predicts.startswith("edm"):
            return sample
        return configs.input_scale(self.reading, self._jump(timestep)[0], sample) * sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``x_t = f(t) x_0 + g(t) ε`` at one of ``timesteps``, where a partial run begins."""
        t = self._jump(torch.as_tensor(timesteps).flatten()[0])[0]
        f, g = self.noise.at(t, original_samples)
        return f * original_samples + g * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """:meth:`add_noise`, as pipelines of flow models call it."""
        return self.add_noise(sample, noise, timestep)

    def _jump(self, timestep: float | Tensor) -> tuple[int, int]:
        """The jump ``(t, s)`` that begins where the network is told so."""
        nodes = self.schedule.timesteps
        places = np.flatnonzero(self._times.astype(np.float32) == np.float32(float(timestep)))
        if len(places) == 0:
            raise InputError(
                f"timestep {float(timestep):g} is not in this scheduler's schedule; iterate over "
                f"its timesteps, {self._times[::-1].tolist()}"
            )
        return nodes[places[0] + 1], nodes[places[0]]

    def _denoiser(self, output: Tensor, sample: Tensor, rule: str) -> Denoiser:
        """A denoiser whose network has spoken already."""
        learned = rule == "learned_range" or output.shape[1] == 2 * sample.shape[1]
        return Denoiser(
            lambda x, index: output,
            self.noise,
            predicts=self.reading.predicts,
            variance=rule,
            shape=tuple(sample.shape[1:]),
            clip=self.reading.clip,
            outputs_variance=learned,
            sigma_data=self.reading.sigma_data,
            error=self._error,
            device=sample.device,
        )

    def _moved(
        self,
        step: Callable[..., Tensor],
        output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators,
        random: bool,
        rule: str,
    ) -> StepOutput:
        """Take a step of :mod:`dpdiff.sampling`, in float32 at least."""
        (t, s), denoiser = self._jump(timestep), self._denoiser(output, sample, rule)
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
    >>> schedule = [0, 90, 900, 4000]
    >>> pipe.scheduler = AncestralScheduler.from_config(pipe.scheduler, schedule=schedule)
    >>> pipe(batch_size=2, num_inference_steps=3, output_type="pt").images.shape
    torch.Size([2, 1, 8, 8])
    """

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> StepOutput | tuple[Tensor, Tensor]:
        """Draw from ``p(x_s | x_t)``, where s is the schedule's next timestep.

        Parameters
        ----------
        model_output : Tensor
            The network's output, with the channels of a learned variance if it has them.
        timestep : number or Tensor
            One of ``timesteps``.
        sample : Tensor
            ``x_t``; the result has its dtype.
        generator : torch.Generator, optional
            Of the noise.
        return_dict : bool
            Return a ``StepOutput``, else the tuple ``(prev_sample, x̂_0)``.
        """
        rule = self.reading.variance
        output = self._moved(ancestral, model_output, timestep, sample, generator, True, rule)
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
        timestep: float | Tensor,
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
        output = self._moved(step, model_output, timestep, sample, generator, eta > 0, "small")
        return output if return_dict else output.to_tuple()
