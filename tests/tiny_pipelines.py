"""The smallest random pipelines that diffusers can make, in memory and as folders.

The pipelines of texts need transformers even to be imported. Where that is missing, an object with
the same name and parts stands in: nothing here calls a text encoder.
"""

import inspect
import json
from functools import cache, partial

import diffusers
import torch

from dpdiff.diffusers.pipelines import PIPELINES


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


TEXT = {"prompt_embeds": drawn(5, 8), "negative_prompt_embeds": 2 * drawn(4, 8)[:1].repeat(5, 1)}
POOLED = {"pooled_prompt_embeds": drawn(6), "negative_pooled_prompt_embeds": drawn(6).flip(0)}
# What each is asked for here.
CONDITIONS = {
    "LDMPipeline": {},
    "DiTPipeline": {"class_label": 7, "guidance_scale": 3.0},
    "StableDiffusionPipeline": TEXT | {"guidance_scale": 3.0},
    "StableDiffusionXLPipeline": TEXT | POOLED | {"guidance_scale": 3.0},
    "StableDiffusion3Pipeline": TEXT | POOLED | {"guidance_scale": 3.0},
    "FluxPipeline": {
        "prompt_embeds": TEXT["prompt_embeds"],
        "pooled_prompt_embeds": POOLED["pooled_prompt_embeds"],
        "guidance_scale": 3.0,
        "height": 16,
        "width": 24,
    },
}
BLOCKS = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
CODER = BLOCKS | {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 4,
}


def unet2d(**changes):
    torch.manual_seed(0)
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    sizes = {"sample_size": 8, "in_channels": 4, "out_channels": 4}
    return diffusers.UNet2DModel(**(BLOCKS | plain | sizes | changes)).eval()


def text_unet(**changes):
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **BLOCKS,
        **changes,
    ).eval()


def sized_unet():
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    return text_unet(projection_class_embeddings_input_dim=6 * 4 + 6, **added)


def transformer(kind, **settings):
    torch.manual_seed(0)
    return getattr(diffusers, kind)(num_attention_heads=2, **settings).eval()


dit = partial(
    transformer,
    "DiTTransformer2DModel",
    attention_head_dim=4,
    in_channels=4,
    out_channels=8,
    num_layers=1,
    sample_size=8,
)
sd3 = partial(
    transformer,
    "SD3Transformer2DModel",
    sample_size=8,
    in_channels=4,
    out_channels=4,
    num_layers=1,
    attention_head_dim=8,
    joint_attention_dim=8,
    caption_projection_dim=16,
    pooled_projection_dim=6,
    pos_embed_max_size=8,
)
flux = partial(
    transformer,
    "FluxTransformer2DModel",
    in_channels=16,
    num_layers=1,
    num_single_layers=1,
    attention_head_dim=8,
    joint_attention_dim=8,
    pooled_projection_dim=6,
    guidance_embeds=True,
    axes_dims_rope=(2, 2, 4),
)
NETWORKS = {
    "LDMPipeline": unet2d,
    "DiTPipeline": dit,
    "StableDiffusionPipeline": text_unet,
    "StableDiffusionXLPipeline": sized_unet,
    "StableDiffusion3Pipeline": sd3,
    "FluxPipeline": flux,
}


@cache
def autoencoder(kind):
    torch.manual_seed(1)
    if PIPELINES[kind].vae == "vqvae":
        return diffusers.VQModel(**CODER, num_vq_embeddings=16).eval()
    shift = {"shift_factor": 0.1} if "transformer" in PIPELINES[kind].part else {}
    return diffusers.AutoencoderKL(**CODER, **shift, scaling_factor=0.3).eval()


def scheduler(kind):
    if kind in ("StableDiffusion3Pipeline", "FluxPipeline"):
        dynamic = kind == "FluxPipeline"
        return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    if kind == "StableDiffusionXLPipeline":
        return diffusers.EulerDiscreteScheduler(**betas)
    if kind == "StableDiffusionPipeline":
        return diffusers.PNDMScheduler(**betas, skip_prk_steps=True, steps_offset=1)
    return diffusers.DDIMScheduler(**betas, clip_sample=False)


def parts(kind):
    return {
        PIPELINES[kind].part: NETWORKS[kind](),
        "scheduler": scheduler(kind),
        PIPELINES[kind].vae: autoencoder(kind),
    }


def stand_in(kind, **changes):
    """An object with a pipeline's name and parts."""

    def call(self, guidance_scale=7.5):
        raise NotImplementedError

    made = type(kind, (), {"__call__": call})()
    vars(made).update(parts(kind) | changes)
    return made


def pipeline(kind, name=None, **changes):
    """A pipeline of its own class, or of one that has the same parts, without text encoders."""
    own, given = getattr(diffusers, name or kind), parts(kind) | changes
    for argument, about in inspect.signature(own.__init__).parameters.items():
        if argument != "self" and about.default is inspect.Parameter.empty:
            given.setdefault(argument, None)
    if "safety_checker" in given:
        given["requires_safety_checker"] = False
    pipe = own(**given)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def folder(kind, path):
    """A pipeline's folder with what is read of it."""
    for name, part in parts(kind).items():
        part.save_pretrained(path / name)
    (path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    return path
