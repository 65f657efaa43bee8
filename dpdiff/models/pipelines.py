"""Pipelines of diffusers as denoisers: what their networks are called with, and on what.

A new pipeline is a new class here and an entry of :data:`KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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


class Unconditional(Kind):
    """LDMPipeline."""

    vae = "vqvae"


class Classes(Kind):
    """DiTPipeline: a class, or the one past the last for none."""

    part, network_class = "transformer", "DiTTransformer2DModel"
    takes = ("class_label", "guidance_scale")
    guidance, scale = True, 4.0

    def conditions(self, parts, given, guided):
        classes = parts.network.config.num_embeds_ada_norm
        return {"class_labels": given.label(classes, parts.kind)}, {"class_labels": classes}


class Text(Kind):
    """StableDiffusionPipeline."""

    network_class = "UNet2DConditionModel"
    takes = (
        *("prompt", "negative_prompt", "prompt_embeds", "negative_prompt_embeds"),
        *("guidance_scale", "height", "width"),
    )
    guidance, scale = True, 7.5
    # Embeddings with their numbers of axes, and what the network calls them.
    arguments: Mapping[str, tuple[int, str]] = {"prompt_embeds": (2, "encoder_hidden_states")}
    returned = ("prompt_embeds", "negative_prompt_embeds")  # by the pipeline's encode_prompt
    others: tuple[str, ...] = ()  # further arguments that it needs, even if they are None

    def encoded(self, parts, given, guided):
        if given.prompt is None:
            return given
        if getattr(parts.pipe, "text_encoder", None) is None:
            raise InputError(
                "a prompt is encoded by a pipeline in memory that has its text encoders, as "
                "diffusers.DiffusionPipeline.from_pretrained(folder) makes them; give that, or "
                + " and ".join(self.arguments)
            )
        if given.prompt_embeds is not None:
            raise InputError("a text is given once: prompt or prompt_embeds")
        asked = {"prompt": given.prompt, "device": parts.pipe.device, "num_images_per_prompt": 1}
        asked |= dict.fromkeys(self.others)
        if self.guidance:
            asked |= {"do_classifier_free_guidance": guided}
            asked |= {"negative_prompt": given.negative_prompt}
        with torch.no_grad():
            found = zip(self.returned, parts.pipe.encode_prompt(**asked), strict=False)
        return replace(given, **dict(found))

    def conditions(self, parts, given, guided):
        if getattr(parts.network.config, "time_cond_proj_dim", None) is not None:
            raise InputError(
                f"the network of this {parts.kind} takes its guidance as an embedding "
                "(timestep_cond): give that to dpdiff.Conditioned, and wrap it in dpdiff.Denoiser"
            )
        sets = []
        for prefix in ("", "negative_") if guided else ("",):
            named = ((prefix + name, *about) for name, about in self.arguments.items())
            texts = {own: given.embedding(name, axes, parts.kind) for name, axes, own in named}
            sets.append(texts | self.further(parts, given))
        return sets[0], sets[-1]

    def further(self, parts: Parts, given: Conditions) -> dict[str, Any]:
        """Conditions that are no texts."""
        return {}


POOLED = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")


class TextAndSizes(Text):
    """StableDiffusionXLPipeline: with the picture's size, uncropped."""

    takes, call, scale = (*Text.takes, *POOLED), calls.WithSizes, 5.0
    arguments = Text.arguments | {"pooled_prompt_embeds": (1, "text_embeds")}
    returned = (*Text.returned, *POOLED)

    def further(self, parts, given):
        size = [n * self.factor(parts.vae) for n in self.shape(parts, given)[1:]]
        return {"time_ids": torch.tensor([*size, 0, 0, *size], dtype=torch.float32)}


class TextToFlow(Text):
    """StableDiffusion3Pipeline."""

    part, network_class = "transformer", "SD3Transformer2DModel"
    takes, call, scale = (*Text.takes, *POOLED), calls.TimeLater, 7.0
    arguments = Text.arguments | {"pooled_prompt_embeds": (1, "pooled_projections")}
    returned, others = (*Text.returned, *POOLED), ("prompt_2", "prompt_3")
    multiple = 2


class Embedded(TextToFlow):
    """FluxPipeline: guidance is an input, or none at all."""

    network_class, call = "FluxTransformer2DModel", calls.Packed
    takes = (
        *("prompt", "prompt_embeds", "pooled_prompt_embeds"),
        *("guidance_scale", "height", "width"),
    )
    guidance, scale = False, 3.5
    returned, others = ("prompt_embeds", "pooled_prompt_embeds"), ("prompt_2",)

    def further(self, parts, given):
        if not parts.network.config.guidance_embeds:
            return {}
        return {"guidance": torch.tensor(float(self.scale_of(given)))}

    def _channels(self, parts):
        return self._inputs(parts) // 4

    def _side(self, parts):
        return getattr(parts.pipe, "default_sample_size", 128)


class EmbeddedFromImages(Embedded):
    """FluxImg2ImgPipeline."""

    scale = 7.0


KINDS: dict[str, Kind] = {
    "LDMPipeline": Unconditional(),
    "DiTPipeline": Classes(),
    "StableDiffusionPipeline": Text(),
    "StableDiffusionXLPipeline": TextAndSizes(),
    "StableDiffusion3Pipeline": TextToFlow(),
    "FluxPipeline": Embedded(),
    "StableDiffusionImg2ImgPipeline": Text(),
    "StableDiffusion3Img2ImgPipeline": TextToFlow(),
    "FluxImg2ImgPipeline": EmbeddedFromImages(),
}
