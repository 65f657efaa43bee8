"""Schedulers with which a stock diffusers pipeline draws what :func:`dpdiff.sample` draws.

Put one in place of the pipeline's own, after the pipeline has been made::

    pipe.scheduler = AncestralScheduler.from_config(pipe.scheduler, schedule=schedule)
    images = pipe(num_inference_steps=schedule.steps).images

They take their steps with the sampler objects of :mod:`dpdiff.sampling`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
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
from dpdiff.diffusers import configs
from dpdiff.errors import InputError
from dpdiff.sampling import DDIM, Call, Sampler, sampler_for
from dpdiff.schedule import Schedule, finite_sigmas
from dpdiff.variance import rule_named

Generators = torch.Generator | list[torch.Generator] | None


@dataclass
class StepOutput(BaseOutput):
    """What a step returns: the examples at the next timestep, and x̂_0."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class ScheduleScheduler(SchedulerMixin, ConfigMixin):
    """Any sampler over any schedule, in the place of a pipeline's own scheduler.

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
        ``fixed_small``, ``fixed_large``, ``learned_range``, ``optimal`` or any rule of
        ``dpdiff.variance``; by default the config's, else ``fixed_small``.
    error : sequence of float, optional
        m(t)/D at ``τ_1 … τ_K``, which ``optimal`` needs.
    sampler : str or dpdiff.sampling.Sampler, optional
        What takes the steps; by default the class's own, else what the schedule was made for: the
        coefficients of a solver that :func:`dpdiff.fit` found.
    coefficients : sequence of sequences of float, optional
        Of a solver, where ``schedule`` is a list, as configs hold it.

    Attributes
    ----------
    timesteps : Tensor, shape (K,)
        What the network is told at every call, from T down: the noise schedule's time inputs.
    sigmas : Tensor, shape (K + 1,)
        The noise levels there, and 0: ``g`` of a flow, else ``g/f``.
    init_noise_sigma : float
        π of the prior ``N(0, π² I)``.
    begin_index, step_index, alphas_cumprod
        As pipelines ask for them.

    Raises
    ------
    InputError
        If the schedule is of another grid, or a setting is not one that dpdiff has.
    """

    order = 1
    begin_index: int | None = None
    default_sampler: str | None = None

    def __init__(
        self,
        about: Mapping[str, Any],
        schedule: Sequence[int] | Schedule | None = None,
        variance_type: str | None = None,
        error: Sequence[float] | None = None,
        sampler: str | Sampler | None = None,
        coefficients: Sequence[Sequence[float]] | None = None,
    ) -> None:
        if schedule is None:
            raise InputError("which schedule? from_config(pipe.scheduler, schedule=…)")
        if not isinstance(schedule, Schedule):
            schedule = Schedule(tuple(schedule), {}, coefficients)
        self.schedule, self.settings = schedule, configs.of_settings(about, variance_type)
        self.noise = self.settings.noise
        schedule.check_noise(self.noise)
        self._check_clipping(schedule)
        self.sampler = sampler_for(schedule, sampler or self.default_sampler)
        self._calls: deque[Call] = deque(maxlen=self.sampler.memory)
        self._error = self.settings.spread_error(schedule, error)
        own = {"schedule": list(schedule.timesteps), "variance_type": variance_type, "error": error}
        own |= {"sampler": self.sampler.name, "coefficients": schedule.coefficients}
        if self.noise.betas is not None or "num_train_timesteps" not in about:
            own["num_train_timesteps"] = self.noise.T  # else, what its times are counted in
        self.register_to_config(**{**about, **own})
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
            ``schedule``, and whatever else is not to be as the config has it: ``sampler``,
            ``variance_type``, ``error``, ``clip_sample`` …
        """
        about = configs.settings_of(config) | changes
        names = ("schedule", "variance_type", "error", "sampler", "coefficients")
        made = cls(about, **{name: about.pop(name, None) for name in names})
        return (made, {}) if return_unused_kwargs else made

    def _check_clipping(self, schedule: Schedule) -> None:
        """Refuse a solver that was fitted to a model which clips otherwise."""
        clip = schedule.provenance.get("clip")
        if schedule.coefficients is not None and clip not in (None, self.settings.clip):
            raise InputError(
                f"the solver was fitted with clip = {clip}, this scheduler's clip_sample is "
                f"{self.settings.clip}: from_config(pipe.scheduler, schedule=…, clip_sample={clip})"
            )

    @classmethod
    def from_denoiser(
        cls, denoiser: Denoiser, schedule: Schedule, sampler: str | Sampler | None = None
    ) -> Self:
        """A scheduler with a denoiser's noise schedule, parameterisation and variance rule.

        Examples
        --------
        >>> import dpdiff
        >>> denoiser = dpdiff.load("digits").with_variance("large")
        >>> scheduler = ScheduleScheduler.from_denoiser(denoiser, Schedule([0, 90, 4000]))
        >>> scheduler.timesteps
        tensor([3999,   89])
        """
        rule, error = denoiser.rule, None
        if rule.needs_error:
            error = denoiser.error[list(schedule.timesteps[1:])].tolist()
        about = configs.settings_of_denoiser(denoiser)
        return cls(about, schedule, rule.variance_type, error, sampler)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:  # the pipelines' own call, so its arguments are theirs
        """Begin anew with the schedule's timesteps; another number of steps is an InputError.

        Pipelines give lists and ``mu``, of which their own schedulers would make a schedule: only
        the numbers of their members are looked at.
        """
        steps = self.schedule.steps
        lists = [len(given) for given in (sigmas, timesteps) if given is not None]
        for asked in lists or [num_inference_steps]:
            if asked in (None, steps):
                continue
            raise InputError(
                f"this scheduler's schedule has {steps} steps, the pipeline asks for {asked}: pass "
                f"num_inference_steps={steps}"
            )
        self.num_inference_steps = steps
        self._calls.clear()
        self._place = 0
        self.timesteps = torch.from_numpy(self._times.copy()).to(device)
        levels = finite_sigmas(self.noise)[[*self._nodes, 0]]
        self.sigmas = torch.from_numpy(levels.astype(np.float32))

    @property
    def _nodes(self) -> tuple[int, ...]:
        """The timesteps at which the network is called, from T down."""
        return self.sampler.timesteps(self.schedule)

    @property
    def _times(self) -> np.ndarray:
        """What the network is told there, in a dtype that every device has."""
        times = self.noise.time_inputs[np.array(self._nodes) - 1]
        return times if times.dtype == np.int64 else times.astype(np.float32)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Where pipelines say that a run begins; a step looks its timestep up all the same."""
        self.begin_index = begin_index

    @property
    def step_index(self) -> int:
        """Which call of the network comes next, or was the last to be asked about."""
        return self._place

    @property
    def alphas_cumprod(self) -> Tensor:
        """``f²`` at ``t = 1 … T``, as some pipelines look it up."""
        return torch.from_numpy((self.noise.f[1:] ** 2).astype(np.float32))

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
        if not self.settings.predicts.startswith("edm"):
            return sample
        return self.settings.input_scale(self._node(timestep), sample) * sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``x_t = f(t) x_0 + g(t) ε`` at one of ``timesteps``, where a partial run begins."""
        t = self._node(torch.as_tensor(timesteps).flatten()[0])
        f, g = self.noise.at(t, original_samples)
        return f * original_samples + g * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """:meth:`add_noise`, as pipelines of flow models call it."""
        return self.add_noise(sample, noise, timestep)

    def _node(self, timestep: float | Tensor) -> int:
        """The timestep t at which the network is told so; the place of that call is kept."""
        times = self._times.astype(np.float32)
        places = np.flatnonzero(times == np.float32(float(timestep)))
        if len(places) == 0:
            raise InputError(
                f"timestep {float(timestep):g} is not in this scheduler's schedule; iterate over "
                f"its timesteps, {self._times.tolist()}"
            )
        if self._place not in places:  # a run begins, or begins anew, here
            self._calls.clear()
            self._place = int(places[0])
        return self._nodes[self._place]

    def _denoiser(self, output: Tensor, sample: Tensor) -> Denoiser:
        """A denoiser whose network has spoken already."""
        rule = self.settings.variance if self.sampler.random else "small"
        learned = rule_named(rule).needs_output or output.shape[1] == 2 * sample.shape[1]
        return Denoiser(
            lambda x, index: output,
            self.noise,
            predicts=self.settings.predicts,
            variance=rule,
            shape=tuple(sample.shape[1:]),
            clip=self.settings.clip,
            outputs_variance=learned,
            sigma_data=self.settings.sigma_data,
            error=self._error,
            device=sample.device,
        )

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
        *,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = None,
    ) -> StepOutput | tuple[Tensor, Tensor]:
        """Go on to the next call of the network, in float32 at least.

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
        eta : float
            Of DDIM: share of the ``small`` standard deviation, in [0, 1].
        use_clipped_model_output : bool, optional
            DDIM's noise estimate is always derived anew from the clipped x̂_0, which is what True
            means; False is refused.
        """
        sampler = DDIM(eta) if isinstance(self.sampler, DDIM) else self.sampler
        if use_clipped_model_output is False or (eta != 0 and sampler is self.sampler):
            raise InputError(
                f"eta is ddim's alone, got {eta}, and use_clipped_model_output is None or True, "
                f"got {use_clipped_model_output}"
            )
        t, denoiser = self._node(timestep), self._denoiser(model_output, sample)
        s = (*self._nodes, 0)[self._place + 1]
        x = sample.to(torch.promote_types(sample.dtype, torch.float32))
        self._calls.append(Call(t, x, denoiser(x, t)))
        noise = torch.zeros_like(x)
        if sampler.random and s > 0:
            noise = randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        moved = sampler.step(denoiser, self._calls, s, noise)
        self._place += 1
        x0 = self._calls[-1].prediction.x0
        output = StepOutput(moved.to(sample.dtype), x0.to(sample.dtype))
        return output if return_dict else output.to_tuple()

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

    default_sampler = "ancestral"


class UnevenDDIMScheduler(ScheduleScheduler):
    """DDIM over any schedule, as :func:`dpdiff.sample` with ``sampler="ddim"``.

    diffusers' own ``DDIMScheduler`` takes ``t - T // K`` for the next timestep, whatever its list
    says, so it is right for even schedules only. ``DDIMPipeline`` makes that class out of any
    scheduler it is built or loaded with: assign this one to ``pipe.scheduler`` afterwards. The
    variance rule plays no part.
    """

    default_sampler = "ddim"
