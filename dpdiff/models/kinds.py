"""What pipelines of latents share: a network and its scheduler become a denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.models import calls
from dpdiff.models.conditioned import Conditioned
from dpdiff.models.conditions import Conditions
from dpdiff.models.folders import read_scheduler
from dpdiff.models.guided import Guided

FACTOR = 8  # pixels a latent on a side, where no autoencoder says
Pair = tuple[dict[str, Any], dict[str, Any]]


class Parts(NamedTuple):
    """What is used of a pipeline, in memory or in a folder.

    ``scheduler`` and ``vae`` are configs, the first with the scheduler's class; ``pipe`` is None
    for a folder.
    """

    kind: str
    network: torch.nn.Module
    scheduler: Mapping[str, Any]
    vae: Mapping[str, Any]
    pipe: Any = None


class Kind:
    """A pipeline whose network denoises latents and takes no conditions."""

    part, network_class = "unet", "UNet2DModel"  # the network's name and class
    vae = "vae"
    call: type[calls.Call] | None = None
    takes: tuple[str, ...] = ()
    guidance = False  # whether two outputs are combined
    scale = 1.0  # by default, as in the pipeline's own call
    multiple = 1  # of latents, on a side

    def denoiser(self, parts: Parts, given: Conditions) -> Denoiser:
        """The denoiser of latents under given conditions."""
        given.check(self.takes, parts.kind)
        reading = read_scheduler(parts.scheduler, parts.kind)
        network = self.call(parts.network) if self.call else parts.network
        shape = self.shape(parts, given)
        outputs = parts.network.config.out_channels or parts.network.config.in_channels
        if outputs not in (self._inputs(parts), 2 * self._inputs(parts)):
            raise InputError(
                f"the network of the {parts.kind} takes {self._inputs(parts)} channels and gives "
                f"{outputs}: one that fills in or edits pictures is no denoiser of them"
            )
        return Denoiser(
            self._conditioned(parts, network, given),
            reading.noise,
            predicts=reading.predicts,
            variance=reading.variance,
            shape=shape,
            levels=None,
            clip=parts.scheduler.get("clip_sample", False),  # else its samplers do not
            outputs_variance=outputs == 2 * self._inputs(parts),
            sigma_data=reading.sigma_data,
        )

    def _conditioned(self, parts: Parts, network: Any, given: Conditions) -> torch.nn.Module:
        scale = self.scale_of(given)
        if self.guidance and scale > 1:
            conditions, without = self.conditions(parts, self.encoded(parts, given, True), True)
            return Guided(network, scale, conditions, without)
        conditions, _ = self.conditions(parts, self.encoded(parts, given, False), False)
        return Conditioned(network, **conditions) if conditions else network

    def scale_of(self, given: Conditions) -> float:
        """The guidance scale that was given, or the pipelines' own default."""
        scale = self.scale if given.guidance_scale is None else given.guidance_scale
        if not isinstance(scale, int | float) or not 0 <= scale < 1e6:
            raise InputError(f"guidance_scale is a number, and up to 1 means none; got {scale!r}")
        return scale

    def encoded(self, parts: Parts, given: Conditions, guided: bool) -> Conditions:
        """Conditions with embeddings instead of texts."""
        return given

    def conditions(self, parts: Parts, given: Conditions, guided: bool) -> Pair:
        """What the network is called with, and what without the conditions, if guided."""
        return {}, {}

    def shape(self, parts: Parts, given: Conditions) -> tuple[int, int, int]:
        """(C, H, W) of the latents."""
        side = self._side(parts)
        own = side if isinstance(side, list | tuple) else (side, side)
        factor = self.factor(parts.vae)
        sides = []
        for pixels, latents in ((given.height, own[0]), (given.width, own[1])):
            unit = factor * self.multiple
            if pixels is not None and (type(pixels) is not int or pixels < 1 or pixels % unit):
                raise InputError(f"height and width are multiples of {unit} here, got {pixels!r}")
            sides.append(latents if pixels is None else pixels // factor)
        return (self._channels(parts), *sides)

    @staticmethod
    def factor(vae: Mapping[str, Any]) -> int:
        """How many pixels are one latent, on a side."""
        widths = vae.get("block_out_channels")
        known = isinstance(widths, list | tuple) and 0 < len(widths) < 16
        return 2 ** (len(widths) - 1) if known else FACTOR

    def _inputs(self, parts: Parts) -> int:
        return parts.network.config.in_channels

    def _channels(self, parts: Parts) -> int:
        return self._inputs(parts)

    def _side(self, parts: Parts) -> Any:
        return parts.network.config.sample_size
