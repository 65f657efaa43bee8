"""What our schedulers for diffusers share: all but the sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import numpy as np
import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.integrations import settings
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
        self.schedule, self.reading = schedule, settings.reading(about, variance_type)
        self.noise = self.reading.noise
        schedule.check_noise(self.noise)
        self._error = settings.spread_error(self.reading, schedule, error)
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
        about = settings.of(config) | changes
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
        rule = settings.their_rule(denoiser.variance)
        return cls(settings.of_denoiser(denoiser), schedule, rule, error)

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
        return settings.input_scale(self.reading, self._jump(timestep)[0], sample) * sample

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
