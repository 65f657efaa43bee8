"""What a jump costs images, straight from what the network predicts at its beginning."""

from __future__ import annotations

from torch import Tensor

from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.elbo import decoder_cost, jump_cost
from dpdiff.noise import per_example
from dpdiff.schedule import Schedule


def jump_nats(
    denoiser: Denoiser,
    schedule: Schedule,
    edge: int,
    x0: Tensor,
    prediction: Prediction,
    two_node_decoder: bool,
) -> Tensor:
    """The cost of one jump of a schedule for each image, in nats.

    Parameters
    ----------
    denoiser, schedule, two_node_decoder
        As for :func:`dpdiff.evaluate`.
    edge : int
        Which jump, the decoder's being 0.
    x0 : Tensor, shape (B, ...)
        The images in [-1, 1].
    prediction : Prediction
        What the denoiser says of them at the jump's beginning.

    Returns
    -------
    Tensor, shape (B,)
    """
    t, s = schedule.jumps[edge]
    if s > 0:
        gap, u = denoiser.noise.snr_gap(t, s), denoiser.log_ratio(t, s, prediction)
        costs = jump_cost(u, (x0 - prediction.x0) ** 2, gap)
    else:
        log_variance = denoiser.decoder_log_variance(t, prediction)
        if two_node_decoder:
            log_variance = _two_node_log_variance(denoiser, schedule, prediction)
        costs = decoder_cost(x0, prediction.x0, log_variance, denoiser.levels)
    return costs.flatten(1).sum(1)


def _two_node_log_variance(
    denoiser: Denoiser, schedule: Schedule, prediction: Prediction
) -> Tensor:
    """improved-diffusion's decoder variance: ``large`` too starts from the posterior's there."""
    noise, first = denoiser.noise, schedule.timesteps[1]
    low = noise.posterior(schedule.timesteps[2], first)[2] - noise.log_total[first]
    if denoiser.variance == "learned_range":
        return low + (noise.log_g2[first] - noise.log_total[first] - low) * prediction.v
    return per_example(low, prediction.x0)
