"""Published improved-diffusion and guided-diffusion checkpoints, as diffusers networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor

from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.models.conversion import diffusers_weights
from dpdiff.models.flags import NORM_GROUPS, Flags, conditional
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import tensors


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
    device: str | torch.device = "cpu",
) -> Denoiser:
    """Load an unconditional ``.pt`` checkpoint of improved-diffusion or guided-diffusion.

    Parameters
    ----------
    path : str or Path
        A state dict of the U-Net, as ``torch.save`` wrote it. It is read as tensors only: no code
        in it is run.
    flags : mapping, str or Path
        What it was trained with: see :meth:`dpdiff.models.flags.Flags.read`.
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
    settings = Flags.read(flags)
    try:
        network = convert(tensors.read(path), settings)
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
