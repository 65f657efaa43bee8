"""Pipelines of diffusers as denoisers: what their networks are called with, and on what.

A new pipeline is a new class here and an entry of :data:`KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from dpdiff.errors import InputError
from dpdiff.models import calls
from dpdiff.models.conditions import Conditions
from dpdiff.models.kinds import Kind, Parts


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
        asked = {"prompt": given.prompt, "device": parts.network.device, "num_images_per_prompt": 1}
        asked |= dict.fromkeys(self.others)
        if self.guidance:
            asked |= {"do_classifier_free_guidance": guided}
            asked |= {"negative_prompt": given.negative_prompt}
        with torch.no_grad():
            embeddings = zip(self.returned, parts.pipe.encode_prompt(**asked), strict=False)
        return replace(given, **dict(embeddings))

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
        if any(sets[0][own].shape != sets[-1][own].shape for _, own in self.arguments.values()):
            raise InputError("embeddings and their negative ones have the same shape")
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
