"""Schedulers with which a stock diffusers pipeline runs any schedule.

Put one in place of the pipeline's own, after the pipeline has been made::

    pipe.scheduler = AncestralScheduler.from_config(pipe.scheduler, schedule=schedule)
    images = pipe(num_inference_steps=schedule.steps).images
"""

from __future__ import annotations

from functools import partial

from diffusers import SchedulerMixin  # noqa: F401 - pipelines look here for it when they load one
from torch import Tensor

from dpdiff.errors import InputError
from dpdiff.integrations.scheduler import Generators, ScheduleScheduler, StepOutput
from dpdiff.sampling import ancestral, ddim


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
