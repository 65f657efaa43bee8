"""Pipelines of diffusers as denoisers: what their networks are called with, and on what.

A new pipeline is a new class here and an entry of :data:`PIPELINES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dpdiff.conditioned import Conditioned, Guided
from dpdiff.denoiser import Denoiser
from dpdiff.diffusers.configs import read_scheduler
from dpdiff.errors import InputError


@dataclass(frozen=True, eq=False)
class Conditions:
    """What a conditional model is asked for, in the words of diffusers' pipelines.

    Parameters
    ----------
    class_label : int, optional
        Of a class-conditional network.
    prompt, negative_prompt : str, optional
        Texts, for a pipeline in memory that has its text encoders.
    prompt_embeds, negative_prompt_embeds : Tensor, shape (tokens, width), optional
        Embeddings instead of texts; a batch dimension of 1 may come first.
    pooled_prompt_embeds, negative_pooled_prompt_embeds : Tensor, shape (width,), optional
        Those of the whole text, where a pipeline has them.
    guidance_scale : float, optional
        As the pipeline's own call takes it, and with the same default; up to 1 means none.
    height, width : int, optional
        Of the picture, in pixels; by default the network's own.
    """

    class_label: int | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    pooled_prompt_embeds: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None

    @property
    def given(self) -> list[str]:
        """The names of what was given."""
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]

    def check(self, taken: Iterable[str], source: Any) -> None:
        """Refuse what a model does not take."""
        other = [name for name in self.given if name not in taken]
        if other:
            can = ", ".join(taken) or "no conditions"
            raise InputError(f"{source} takes {can}; {', '.join(other)} is not for it")
        for name in ("prompt", "negative_prompt"):
            if not isinstance(getattr(self, name), str | None):
                raise InputError(f"{name} is one text: another text is another model")

    def label(self, classes: int, source: Any) -> int:
        """The class label, one of so many."""
        label = self.class_label
        if type(label) is not int or not 0 <= label < classes:
            said = "" if label is None else f", got {label!r}"
            raise InputError(
                f"{source} is class-conditional, and a schedule is best for one class: say which, "
                f"load(…, class_label=…), an integer in 0…{classes - 1}{said}"
            )
        return label

    def embedding(self, name: str, axes: int, source: Any) -> Tensor:
        """One embedding, without a batch dimension."""
        value = getattr(self, name)
        if value is None:
            what = "negative_prompt" if name.startswith("negative") else "prompt"
            raise InputError(
                f"{source} needs {name}: give that, or, to a pipeline with text encoders, {what}"
            )
        value = torch.as_tensor(value).detach()
        if value.ndim == axes + 1 and len(value) == 1:
            value = value[0]
        if value.ndim != axes or not value.is_floating_point():
            axis_names = ("tokens", "width")[-axes:]
            raise InputError(
                f"{name} is a tensor of floats for one example, shape ({', '.join(axis_names)}); "
                f"got {value.dtype}, shape {tuple(value.shape)}"
            )
        return value


def conditions_of(given: dict[str, Any]) -> Conditions:
    """Conditions from keyword arguments.

    Examples
    --------
    >>> conditions_of({"class_label": 3}).given
    ['class_label']
    """
    names = [f.name for f in fields(Conditions)]
    unknown = sorted(given.keys() - set(names))
    if unknown:
        raise InputError(f"load takes the conditions {', '.join(names)}; got {', '.join(unknown)}")
    return Conditions(**given)


class Adapter(torch.nn.Module):
    """A network behind another way to call it."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network


class Halves(Adapter):
    """A network of images in [0, 1], for those in [-½, ½]: ``network(x + ½, time)``.

    As the score networks of Song et al. (2021) are. Noise is added to both alike.
    """

    def forward(self, x: Tensor, time: Tensor, **conditions: Any) -> Any:
        return self.network(x + 0.5, time, **conditions)


class WithSizes(Adapter):
    """The U-Net of Stable Diffusion XL: the pooled text and the picture's sizes go into one."""

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor,
        time_ids: Tensor,
    ) -> Any:
        added = {"text_embeds": text_embeds, "time_ids": time_ids}
        return self.network(x, time, encoder_hidden_states, added_cond_kwargs=added)


class Packed(Adapter):
    """The transformer of Flux on latents (B, C, H, W): it sees 2×2 of them as one token.

    Where it was distilled from a guided network, guidance is an input of its own, and it says
    what the guided one said: then it is a guided network itself.
    """

    @property
    def guided(self) -> bool:
        return bool(self.network.config.guidance_embeds)

    def forward(
        self, x: Tensor, time: Tensor, encoder_hidden_states: Tensor, **conditions: Tensor
    ) -> Tensor:
        height, width = x.shape[2] // 2, x.shape[3] // 2
        output = self.network(
            packed(x),
            encoder_hidden_states,
            timestep=time.to(x.dtype) / 1000,
            img_ids=torch.stack(
                [
                    torch.zeros(height * width).to(x),
                    torch.arange(height).to(x).repeat_interleave(width),
                    torch.arange(width).to(x).repeat(height),
                ],
                dim=1,
            ),
            txt_ids=x.new_zeros(encoder_hidden_states.shape[1], 3),
            **conditions,
        ).sample
        return unpacked(output, height, width)


def packed(x: Tensor) -> Tensor:
    """(B, C, 2 H, 2 W) as (B, H W, 4 C): four neighbours are one token.

    Examples
    --------
    >>> packed(torch.arange(8.0).reshape(1, 1, 2, 4))
    tensor([[[0., 1., 4., 5.],
             [2., 3., 6., 7.]]])
    """
    blocks = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # B C H 2 W 2
    return blocks.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """What :func:`packed` made of it.

    Examples
    --------
    >>> x = torch.arange(24.0).reshape(1, 2, 2, 6)
    >>> bool((unpacked(packed(x), 1, 3) == x).all())
    True
    """
    blocks = tokens.unflatten(2, (-1, 2, 2)).unflatten(1, (height, width))  # B H W C 2 2
    return blocks.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


LATENT_FACTOR = 8  # pixels a latent on a side, where no autoencoder says
Pair = tuple[dict[str, Any], dict[str, Any]]


class PipelineParts(NamedTuple):
    """What is used of a pipeline, in memory or in a folder.

    ``scheduler`` and ``vae`` are configs, the first with the scheduler's class; ``pipe`` is None
    for a folder.
    """

    name: str
    network: torch.nn.Module
    scheduler: Mapping[str, Any]
    vae: Mapping[str, Any]
    pipe: Any = None


class LatentPipeline:
    """A pipeline whose network denoises latents and takes no conditions."""

    part, network_class = "unet", "UNet2DModel"  # the network's name and class
    vae = "vae"
    adapter: type[Adapter] | None = None
    takes: tuple[str, ...] = ()
    guidance = False  # whether two outputs are combined
    scale = 1.0  # by default, as in the pipeline's own call
    multiple = 1  # of latents, on a side

    def denoiser(self, parts: PipelineParts, given: Conditions) -> Denoiser:
        """The denoiser of latents under given conditions."""
        given.check(self.takes, parts.name)
        settings = read_scheduler(parts.scheduler, parts.name)
        network = self.adapter(parts.network) if self.adapter else parts.network
        shape = self.shape(parts, given)
        outputs = parts.network.config.out_channels or parts.network.config.in_channels
        if outputs not in (self._inputs(parts), 2 * self._inputs(parts)):
            raise InputError(
                f"the network of the {parts.name} takes {self._inputs(parts)} channels and gives "
                f"{outputs}: one that fills in or edits pictures is no denoiser of them"
            )
        return Denoiser(
            self._conditioned(parts, network, given),
            settings.noise,
            predicts=settings.predicts,
            variance=settings.variance,
            shape=shape,
            levels=None,
            clip=settings.clip,
            outputs_variance=outputs == 2 * self._inputs(parts),
            sigma_data=settings.sigma_data,
        )

    def _conditioned(
        self, parts: PipelineParts, network: Any, given: Conditions
    ) -> torch.nn.Module:
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

    def encoded(self, parts: PipelineParts, given: Conditions, guided: bool) -> Conditions:
        """Conditions with embeddings instead of texts."""
        return given

    def conditions(self, parts: PipelineParts, given: Conditions, guided: bool) -> Pair:
        """What the network is called with, and what without the conditions, if guided."""
        return {}, {}

    def shape(self, parts: PipelineParts, given: Conditions) -> tuple[int, int, int]:
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
        return 2 ** (len(widths) - 1) if known else LATENT_FACTOR

    def _inputs(self, parts: PipelineParts) -> int:
        return parts.network.config.in_channels

    def _channels(self, parts: PipelineParts) -> int:
        return self._inputs(parts)

    def _side(self, parts: PipelineParts) -> Any:
        return parts.network.config.sample_size


class Unconditional(LatentPipeline):
    """LDMPipeline."""

    vae = "vqvae"


class Classes(LatentPipeline):
    """DiTPipeline: a class, or the one past the last for none."""

    part, network_class = "transformer", "DiTTransformer2DModel"
    takes = ("class_label", "guidance_scale")
    guidance, scale = True, 4.0

    def conditions(self, parts, given, guided):
        classes = parts.network.config.num_embeds_ada_norm
        return {"class_labels": given.label(classes, parts.name)}, {"class_labels": classes}


class Text(LatentPipeline):
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
                f"the network of this {parts.name} takes its guidance as an embedding "
                "(timestep_cond): give that to dpdiff.Conditioned, and wrap it in dpdiff.Denoiser"
            )
        sets = []
        for prefix in ("", "negative_") if guided else ("",):
            named = ((prefix + name, *about) for name, about in self.arguments.items())
            texts = {own: given.embedding(name, axes, parts.name) for name, axes, own in named}
            sets.append(texts | self.further(parts, given))
        if any(sets[0][own].shape != sets[-1][own].shape for _, own in self.arguments.values()):
            raise InputError("embeddings and their negative ones have the same shape")
        return sets[0], sets[-1]

    def further(self, parts: PipelineParts, given: Conditions) -> dict[str, Any]:
        """Conditions that are no texts."""
        return {}


POOLED = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")


class TextAndSizes(Text):
    """StableDiffusionXLPipeline: with the picture's size, uncropped."""

    takes, adapter, scale = (*Text.takes, *POOLED), WithSizes, 5.0
    arguments = Text.arguments | {"pooled_prompt_embeds": (1, "text_embeds")}
    returned = (*Text.returned, *POOLED)

    def further(self, parts, given):
        size = [n * self.factor(parts.vae) for n in self.shape(parts, given)[1:]]
        return {"time_ids": torch.tensor([*size, 0, 0, *size], dtype=torch.float32)}


class TextToFlow(Text):
    """StableDiffusion3Pipeline."""

    part, network_class = "transformer", "SD3Transformer2DModel"
    takes, scale = (*Text.takes, *POOLED), 7.0
    arguments = Text.arguments | {"pooled_prompt_embeds": (1, "pooled_projections")}
    returned, others = (*Text.returned, *POOLED), ("prompt_2", "prompt_3")
    multiple = 2


class Embedded(TextToFlow):
    """FluxPipeline: guidance is an input, or none at all."""

    network_class, adapter = "FluxTransformer2DModel", Packed
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


PIPELINES: dict[str, LatentPipeline] = {
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
