"""Published improved-diffusion and guided-diffusion checkpoints, as diffusers networks."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import formats
from dpdiff.scheduler_table import LONGEST_GRID

# Of the networks published with Improved DDPM: what differs from the defaults of `Flags`.
_CIFAR10 = {"image_size": 32, "num_res_blocks": 3, "learn_sigma": True}
_IMAGENET64 = {"image_size": 64, "num_res_blocks": 3, "learn_sigma": True}
_COSINE = {"diffusion_steps": 4000, "noise_schedule": "cosine"}
PRESETS: dict[str, dict[str, Any]] = {
    "cifar10_hybrid": _CIFAR10 | _COSINE,
    "cifar10_vlb": _CIFAR10 | _COSINE,
    "imagenet64_hybrid": _IMAGENET64 | _COSINE,
    "imagenet64_vlb": _IMAGENET64 | _COSINE,
    "lsun_bedroom": {
        "image_size": 256,
        "num_heads": 1,
        "learn_sigma": True,
        "use_scale_shift_norm": False,
        "attention_resolutions": (16,),
        "rescale_timesteps": False,
    },
}

# How many times num_channels each level of the U-Net is wide, by image size.
MULTIPLIERS = {
    32: (1, 2, 2, 2),
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
}
NOISE_SCHEDULES = ("linear", "cosine")
NORM_GROUPS = 32
# What names begin with in single files of whole pipelines, and of the transformers of today's.
OF_PIPELINES = ("model.diffusion_model.", "first_stage_model.", "double_blocks.", "joint_blocks.")
LARGEST = 2**14  # of sizes in pixels, channels and blocks

# Flags of training and precision, which a trained network in float32 does not depend on.
IGNORED = {"dropout", "use_kl", "rescale_learned_sigmas", "use_checkpoint", "use_fp16", "lr"}
IGNORED |= {"batch_size", "microbatch", "schedule_sampler", "ema_rate", "lr_anneal_steps"}
IGNORED |= {"weight_decay", "fp16_scale_growth", "log_interval", "save_interval", "data_dir"}
IGNORED |= {"resume_checkpoint", "data", "val_data_dir", "num_workers", "seed"}
# Flags of the sampling scripts, which do not concern the network either. A line that has one says
# with timestep_respacing what was sampled, not what was trained.
SAMPLING = {"num_samples", "model_path", "use_ddim", "clip_denoised", "base_name", "base_samples"}
SAMPLING |= {"classifier_path", "classifier_scale", "classifier_use_fp16", "classifier_width"}
SAMPLING |= {"classifier_depth", "classifier_attention_resolutions", "classifier_pool"}
SAMPLING |= {"classifier_use_scale_shift_norm", "classifier_resblock_updown", "image_path"}
# Flags that only guided-diffusion has; there, timesteps are not rescaled unless a flag says so.
GUIDED = {"num_head_channels", "channel_mult", "resblock_updown", "use_new_attention_order"}

WORDS = dict.fromkeys(("yes", "true", "t", "y", "1"), True)
WORDS |= dict.fromkeys(("no", "false", "f", "n", "0"), False)
KINDS = {bool: "True or False", int: "an integer", tuple: "integers like '16,8'", str: "text"}


@dataclass(frozen=True)
class Flags:
    """What a checkpoint is: its U-Net, its noise schedule and what its output means.

    The names and the defaults are those of improved-diffusion's training script [1]_, with the
    flags that guided-diffusion [2]_ adds. ``-1`` and the empty tuple mean "not set".

    Raises
    ------
    InputError
        If the flags contradict each other, or describe a model that cannot be a denoiser here.

    References
    ----------
    .. [1] Nichol, Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021.
    .. [2] Dhariwal, Nichol, "Diffusion Models Beat GANs on Image Synthesis", 2021.

    Examples
    --------
    >>> flags = Flags.read("--image_size 32 --diffusion_steps 4000 --noise_schedule cosine")
    >>> flags.widths, flags.attention, flags.timestep_scale
    ((128, 256, 256, 256), (False, True, True, False), 0.25)
    """

    image_size: int = 64
    num_channels: int = 128
    num_res_blocks: int = 2
    num_heads: int = 4
    num_heads_upsample: int = -1
    num_head_channels: int = -1
    attention_resolutions: tuple[int, ...] = (16, 8)
    channel_mult: tuple[int, ...] = ()
    use_scale_shift_norm: bool = True
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    learn_sigma: bool = False
    sigma_small: bool = False
    predict_xstart: bool = False
    class_cond: bool = False
    diffusion_steps: int = 1000
    noise_schedule: str = "linear"
    timestep_respacing: str = ""
    rescale_timesteps: bool = True

    @classmethod
    def read(cls, flags: Mapping[str, Any] | str | Path | None) -> Flags:
        """Flags from a mapping, a JSON file, a command line's flags, or a preset's name.

        Parameters
        ----------
        flags : mapping, str or Path
            What is not set has improved-diffusion's default. Flags that only matter in training
            (``dropout``, ``use_kl``, ``lr`` …) or in sampling (``num_samples``, ``model_path``,
            ``classifier_scale`` …) are skipped.

        Raises
        ------
        InputError
            If a flag is unknown or its value is not of its kind; the flag is named.

        Examples
        --------
        >>> Flags.read("imagenet64_vlb").num_res_blocks
        3
        """
        given = _values(flags)
        skipped = IGNORED | SAMPLING | ({"timestep_respacing"} if SAMPLING & set(given) else set())
        given = {name: value for name, value in given.items() if name not in skipped}
        kinds = {f.name: type(f.default) for f in fields(cls)}
        unknown = sorted(set(given) - set(kinds))
        if unknown:
            raise InputError(f"unknown flag {unknown[0]!r}; known are {', '.join(kinds)}")
        if GUIDED & set(given):
            given.setdefault("rescale_timesteps", False)
        return cls(**{name: _value(name, v, kinds[name]) for name, v in given.items()})

    def __post_init__(self) -> None:
        if self.class_cond:
            raise InputError(conditional("the flag class_cond is set"))
        if self.timestep_respacing not in ("", str(self.diffusion_steps)):
            raise InputError(
                f"leave out timestep_respacing {self.timestep_respacing!r}: the steps to take are "
                "chosen here, from all that the network was trained on"
            )
        if self.noise_schedule not in NOISE_SCHEDULES:
            known = ", ".join(NOISE_SCHEDULES)
            raise InputError(f"noise_schedule is one of {known}; got {self.noise_schedule!r}")
        for name in ("image_size", "num_channels", "num_res_blocks", "diffusion_steps"):
            most = LONGEST_GRID if name == "diffusion_steps" else LARGEST
            if not 1 <= getattr(self, name) <= most:
                raise InputError(f"flag {name} lies in 1…{most}, got {getattr(self, name)}")
        if min(self.attention_resolutions, default=1) < 1:
            raise InputError(
                f"every number of attention_resolutions lies in 1…{LARGEST}, got "
                f"{min(self.attention_resolutions)}"
            )
        self._check_widths()

    def _check_widths(self) -> None:
        if not self.multipliers:
            raise InputError(
                f"image_size {self.image_size} has no layout of its own (those that do: "
                f"{', '.join(map(str, MULTIPLIERS))}); give channel_mult, such as '1,2,2'"
            )
        if self.multipliers[0] != 1 or self.image_size % 2 ** (len(self.multipliers) - 1):
            raise InputError(
                f"channel_mult {self.multipliers} must begin with 1, and image_size "
                f"{self.image_size} must be even at every level but the last"
            )
        if min(self.widths) < 1 or any(width % NORM_GROUPS for width in self.widths):
            raise InputError(f"levels have {self.widths} channels, no multiples of {NORM_GROUPS}")
        for width, up in self.attending:
            heads = self.heads(width, up=up)
            if heads < 1 or width % heads:
                raise InputError(f"{width} channels do not divide into attention heads as flagged")

    @property
    def multipliers(self) -> tuple[int, ...]:
        """The width of every level in units of ``num_channels``."""
        return self.channel_mult or MULTIPLIERS.get(self.image_size, ())

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level, the finest first."""
        return tuple(self.num_channels * m for m in self.multipliers)

    @property
    def attention(self) -> tuple[bool, ...]:
        """Whether a level attends; the middle of the network always does."""
        factors = {self.image_size // resolution for resolution in self.attention_resolutions}
        return tuple(2**level in factors for level in range(len(self.widths)))

    @property
    def attending(self) -> list[tuple[int, bool]]:
        """Width and direction (is it on the way up) of all attention."""
        widths = [w for w, attends in zip(self.widths, self.attention, strict=True) if attends]
        return [(self.widths[-1], False), *((w, up) for w in widths for up in (False, True))]

    def heads(self, width: int, *, up: bool) -> int:
        """Number of attention heads at a width: one number for all, or one for so many channels."""
        size = self.num_head_channels
        if size != -1:
            return width // size if size > 0 and width % size == 0 else 0
        return self.num_heads_upsample if up and self.num_heads_upsample != -1 else self.num_heads

    @property
    def timestep_scale(self) -> float:
        """The network is given ``index · timestep_scale``: as if there were 1,000 steps, or 1."""
        return 1000 / self.diffusion_steps if self.rescale_timesteps else 1.0


def conditional(reason: str) -> str:
    """Why class-conditional models are refused, and what to do with one."""
    return (
        f"{reason}: the model is class-conditional. Build it with its own code, hold the class "
        "fixed, and wrap that: dpdiff.Denoiser(dpdiff.Conditioned(network, y=3), noise, shape=...) "
        "is the model of one class"
    )


def _values(flags: Mapping[str, Any] | str | Path | None) -> dict[str, Any]:
    if isinstance(flags, Mapping):
        return dict(flags)
    if flags is None:
        raise InputError(
            "a .pt checkpoint does not tell its own layout: give flags, as a mapping, a JSON file, "
            f"a string like '--image_size 64 …', or a preset ({', '.join(PRESETS)})"
        )
    text, presets = str(flags).strip(), ", ".join(PRESETS)
    if text in PRESETS:
        return PRESETS[text]
    if text.startswith("-"):
        return _parse(text)
    try:
        return formats.read_json(text)
    except InputError as error:
        raise InputError(f"flags: no preset ({presets}), no JSON file: {error}") from error


def _parse(text: str) -> dict[str, str]:
    """``--name value`` and ``--name=value``; of a flag given twice, the last counts."""
    try:
        words = [part for word in shlex.split(text) for part in word.split("=", 1)]
    except ValueError as error:
        raise InputError(f"cannot read the flags {text!r}: {error}") from error
    names, values = words[::2], words[1::2]
    wrong = [name for name in names if not name.startswith("--")] or names[len(values) :]
    if wrong:
        raise InputError(f"flags are pairs '--name value'; {wrong[0]!r} breaks the row")
    return {name[2:]: value for name, value in zip(names, values, strict=True)}


def _value(name: str, value: Any, kind: type) -> Any:
    """A flag's value in its own kind, from text or JSON."""
    try:
        if kind is bool:
            return value if isinstance(value, bool) else WORDS[str(value).lower()]
        if kind is tuple:
            parts = value if isinstance(value, list | tuple) else str(value).split(",")
            return tuple(int(str(part)) for part in parts if str(part).strip())
        return kind(str(value))
    except (KeyError, ValueError) as error:
        raise InputError(f"flag {name} takes {KINDS[kind]}, got {value!r}") from error


# Layer names inside each kind of block: theirs → diffusers'.
LAYERS = {
    "ResnetBlock2D": {
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "time_emb_proj",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
        "skip_connection": "conv_shortcut",
    },
    "Attention": {"norm": "group_norm", "qkv": "to_q to_k to_v", "proj_out": "to_out.0"},
    "Downsample2D": {"op": "conv"},
    "Upsample2D": {"conv": "conv"},
}
# Layers outside of all blocks.
ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def diffusers_weights(
    state: Mapping[str, Tensor], network: nn.Module, *, new_order: bool = False
) -> dict[str, Tensor]:
    """The state dict of a ``UNet2DModel``, from one of improved-diffusion or guided-diffusion.

    There, ``input_blocks``, ``middle_block`` and ``output_blocks`` count residual blocks,
    attention and resampling in the order of use. Attention is 1×1 convolutions; q, k and v are
    one projection of shape (3C, C, 1), whose rows are packed (head, q|k|v, C/heads), or
    (q|k|v, head, C/heads) in guided-diffusion's new order.

    Parameters
    ----------
    state : mapping of str to Tensor
        The weights; it is left as it is.
    network : UNet2DModel
        The network they are for, with the right number of heads; its own weights are not read.
    new_order : bool
        Whether q, k and v are packed in the new order.

    Returns
    -------
    dict of str to Tensor
        float32, every key and shape as in ``network.state_dict()``.

    Raises
    ------
    InputError
        If a key is missing, unexpected, of the wrong shape, or not a floating-point tensor.
    """
    shapes = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    left, weights = dict(state), {}
    for theirs, ours, heads in _layers(network):
        for part in ("weight", "bias"):
            targets = [f"{name}.{part}" for name in ours]
            shape = _their_shape(theirs, shapes[targets[0]], len(ours))
            weight = _take(left, f"{theirs}.{part}", shape)
            pieces = _unpack(weight, heads, new_order) if len(ours) > 1 else [weight]
            for name, piece in zip(targets, pieces, strict=True):
                weights[name] = piece.reshape(shapes[name])
    if left:
        raise InputError(f"unexpected key {min(left)}: do the flags belong to this file?")
    return weights


def _blocks(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs (their name, ours) of residual blocks, attention and resampling."""
    count = 1
    for d, block in enumerate(network.down_blocks):
        for r in range(len(block.resnets)):
            yield f"input_blocks.{count}.0", f"down_blocks.{d}.resnets.{r}"
            if hasattr(block, "attentions"):
                yield f"input_blocks.{count}.1", f"down_blocks.{d}.attentions.{r}"
            count += 1
        if block.downsamplers is not None:
            yield f"input_blocks.{count}.0", f"down_blocks.{d}.downsamplers.0"
            count += 1
    for i, name in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        yield f"middle_block.{i}", f"mid_block.{name}"
    count = 0
    for u, block in enumerate(network.up_blocks):
        kinds = ["resnets", "attentions"] if hasattr(block, "attentions") else ["resnets"]
        for r in range(len(block.resnets)):
            for i, kind in enumerate(kinds):
                yield f"output_blocks.{count}.{i}", f"up_blocks.{u}.{kind}.{r}"
            count += 1
        if block.upsamplers is not None:  # it shares its place with the level's last block
            yield f"output_blocks.{count - 1}.{len(kinds)}", f"up_blocks.{u}.upsamplers.0"


def _layers(network: nn.Module) -> Iterator[tuple[str, list[str], int]]:
    """Their layers with weights: their name, our names, and the heads if it is attention."""
    for theirs, ours in ENDS.items():
        yield theirs, [ours], 0
    for theirs, ours in _blocks(network):
        block = network.get_submodule(ours)
        for layer, names in LAYERS[type(block).__name__].items():
            if layer == "skip_connection" and block.conv_shortcut is None:
                continue  # as many channels out as in
            targets = [f"{ours}.{name}" for name in names.split()]
            yield f"{theirs}.{layer}", targets, getattr(block, "heads", 0)


def _their_shape(layer: str, shape: tuple[int, ...], pieces: int) -> tuple[int, ...]:
    """The shape a weight has there: attention is 1×1 convolutions, q, k and v in one."""
    shape = (shape[0] * pieces, *shape[1:])
    convolution = layer.endswith(("qkv", "proj_out")) and len(shape) == 2
    return (*shape, 1) if convolution else shape


def _take(left: dict[str, Any], key: str, shape: tuple[int, ...]) -> Tensor:
    """Remove a weight from those that are left, in float32."""
    if key not in left:
        raise InputError(f"the key {key} is missing: do the flags belong to this file?")
    weight = left.pop(key)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise InputError(f"the key {key} holds no tensor of floating-point numbers")
    if tuple(weight.shape) != shape:
        raise InputError(
            f"the key {key} has shape {tuple(weight.shape)}, expected {shape}: "
            "do the flags belong to this file?"
        )
    return weight.detach().float()


def _unpack(qkv: Tensor, heads: int, new_order: bool) -> list[Tensor]:
    """q, k and v, each with its heads one after the other."""
    if new_order:
        return list(qkv.chunk(3))
    return list(qkv.unflatten(0, (heads, 3, -1)).unbind(1))


class ImprovedUNet(UNet2DModel):
    """A ``UNet2DModel`` with what its config has no word for.

    Its attention may have the same number of heads at every width, and it is asked at 0-based
    indices, of which it makes the timesteps of its training: ``index · timestep_scale``.
    """

    timestep_scale = 1.0

    @property
    def layout(self) -> str:
        """What the weights do not show: the heads of every attention, the scale of timesteps."""
        heads = [m.heads for m in self.modules() if type(m).__name__ == "Attention"]
        return f"{heads} {self.timestep_scale}"

    def forward(self, sample: Tensor, timestep: Tensor | float, *args: Any, **kwargs: Any) -> Any:
        """``UNet2DModel.forward`` at the rescaled timestep, in float32."""
        timestep = torch.as_tensor(timestep, dtype=torch.float32, device=sample.device)
        return super().forward(sample, timestep * self.timestep_scale, *args, **kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Refused: read back as a ``UNet2DModel``, the network would be another one."""
        raise InputError(
            "a diffusers folder cannot hold this network's attention heads or rescaled timesteps; "
            "keep its .pt file and its flags"
        )


def load_checkpoint(
    path: str | Path,
    flags: Mapping[str, Any] | str | Path | None,
    *,
    key: str | None = None,
    device: str | torch.device = "cpu",
) -> Denoiser:
    """Load an unconditional checkpoint of improved-diffusion or guided-diffusion.

    Parameters
    ----------
    path : str or Path
        A state dict of the U-Net, as ``torch.save`` wrote it, or ``.safetensors``. It is read as
        tensors only: no code in it is run.
    flags : mapping, str or Path
        What it was trained with: see :meth:`dpdiff.models.improved_diffusion.Flags.read`.
    key : str, optional
        Where in the file they are, if it holds more: see :func:`dpdiff.models.read_weights`.
    device : str or torch.device
        Where the weights go.

    Returns
    -------
    Denoiser
        In float32, for images of 256 levels, with x̂_0 clipped as the samplers there do. Noise
        schedule, prediction and variance are those of the flags: betas that are linear (scaled
        by 1000/T) or cosine; ``predict_xstart``; ``learn_sigma``, else ``sigma_small``.

    Raises
    ------
    InputError
        If the file is not a plain state dict, or does not fit the flags; the key is named.

    Notes
    -----
    Published unconditional checkpoints and the presets that are their flags [1]_:

    =================================== =====================
    file                                preset
    =================================== =====================
    cifar10_uncond_50M_500K.pt          ``cifar10_hybrid``
    cifar10_uncond_vlb_50M_500K.pt      ``cifar10_vlb``
    imagenet64_uncond_100M_1500K.pt     ``imagenet64_hybrid``
    imagenet64_uncond_vlb_100M_1500K.pt ``imagenet64_vlb``
    lsun_uncond_100M_1200K_bs128.pt     ``lsun_bedroom``
    lsun_uncond_100M_2400K_bs64.pt      ``lsun_bedroom``
    =================================== =====================

    References
    ----------
    .. [1] https://github.com/openai/improved-diffusion, README.

    Examples
    --------
    >>> load_checkpoint("cifar10_uncond_50M_500K.pt", "cifar10_hybrid")  # doctest: +SKIP
    Denoiser(...)
    """
    if flags is None and Path(path).suffix == ".safetensors":
        raise InputError(f"{path} tells weights and no layout: {_layout_of(path)}")
    settings = Flags.read(flags)
    try:
        network = convert(formats.read_state_dict(path, key), settings)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    fixed = "small" if settings.sigma_small else "large"
    return Denoiser(
        network.to(device),
        getattr(NoiseSchedule, settings.noise_schedule)(settings.diffusion_steps),
        predicts="x0" if settings.predict_xstart else "eps",
        variance="learned_range" if settings.learn_sigma else fixed,
        shape=(3, settings.image_size, settings.image_size),
    )


def _layout_of(path: str | Path) -> str:
    """What to do with a single file of weights whose names say what it is."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except Exception as error:  # a damaged file leads its reader to errors of any kind
        raise InputError(f"{path} cannot be read: {error}") from error
    if any(name.startswith(OF_PIPELINES) for name in names):
        return (
            "it is of a whole pipeline or its transformer. Let diffusers read it, pipe = "
            "diffusers.StableDiffusionPipeline.from_single_file(path), or the class that it is "
            "of, and load that: dpdiff.load(pipe, …)"
        )
    return (
        "of improved-diffusion or guided-diffusion, say its flags; a UNet2DModel of diffusers lies "
        "in a folder with config.json and scheduler_config.json; into a network of your own go "
        f"dpdiff.models.read_weights(path, key=…). Its first names are {', '.join(names[:3])}"
    )


def convert(state: Mapping[str, Tensor], flags: Flags) -> UNet2DModel:
    """Make the diffusers network of a state dict in improved-diffusion's layout.

    Parameters
    ----------
    state : mapping of str to Tensor
        The weights.
    flags : Flags
        The network's layout.

    Returns
    -------
    UNet2DModel
        In float32. It is an :class:`ImprovedUNet` when timesteps are rescaled or when heads
        differ in size from level to level, which a config of diffusers cannot say.

    Raises
    ------
    InputError
        If a key is missing, unexpected, of the wrong shape, or not a floating-point tensor.

    Examples
    --------
    >>> convert({}, Flags.read("cifar10_hybrid"))
    Traceback (most recent call last):
    dpdiff.errors.InputError: the key time_embed.0.weight is missing: do the flags belong to ...
    """
    if "label_emb.weight" in state:
        raise InputError(conditional("it has the key label_emb.weight"))
    if flags.num_res_blocks * len(flags.widths) > max(len(state), 1000):
        raise InputError(
            f"the flags ask for {flags.num_res_blocks} blocks at {len(flags.widths)} levels, the "
            f"file has {len(state)} keys"
        )
    network = _empty(flags)
    weights = diffusers_weights(state, network, new_order=flags.use_new_attention_order)
    network.load_state_dict(weights, assign=True)
    return network


def _empty(flags: Flags) -> UNet2DModel:
    """The network without weights: on torch's meta device, where nothing is drawn or stored."""
    sizes = {width // flags.heads(width, up=up) for width, up in flags.attending}
    plain = len(sizes) == 1 and flags.timestep_scale == 1
    down = "ResnetDownsampleBlock2D" if flags.resblock_updown else "DownBlock2D"
    up = "ResnetUpsampleBlock2D" if flags.resblock_updown else "UpBlock2D"
    with torch.device("meta"):
        network = (UNet2DModel if plain else ImprovedUNet)(
            sample_size=flags.image_size,
            in_channels=3,
            out_channels=6 if flags.learn_sigma else 3,
            block_out_channels=flags.widths,
            layers_per_block=flags.num_res_blocks,
            down_block_types=tuple("AttnDownBlock2D" if a else down for a in flags.attention),
            up_block_types=tuple("AttnUpBlock2D" if a else up for a in flags.attention[::-1]),
            downsample_type="resnet" if flags.resblock_updown else "conv",
            upsample_type="resnet" if flags.resblock_updown else "conv",
            attention_head_dim=math.gcd(*sizes),  # of several, one that divides every width
            norm_num_groups=NORM_GROUPS,
            attn_norm_num_groups=NORM_GROUPS,  # else scale-shift leaves the middle without norm
            norm_eps=1e-5,
            resnet_time_scale_shift="scale_shift" if flags.use_scale_shift_norm else "default",
        )
    if not plain:
        network.timestep_scale = flags.timestep_scale
        _set_heads(network, flags)
    return network


def _set_heads(network: UNet2DModel, flags: Flags) -> None:
    """Give each attention its own number of heads: the constructor knows one size for all."""
    for name, module in network.named_modules():
        if type(module).__name__ == "Attention":
            width = module.to_q.in_features
            module.heads = flags.heads(width, up=name.startswith("up_blocks"))
            module.scale = (width // module.heads) ** -0.5
