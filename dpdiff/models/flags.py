"""The flags a published checkpoint was trained with: its file does not tell them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dpdiff.errors import InputError
from dpdiff.noise.configs import LONGEST
from dpdiff.runtime import documents

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
            most = LONGEST if name == "diffusion_steps" else LARGEST
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
        return documents.read(text)
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
