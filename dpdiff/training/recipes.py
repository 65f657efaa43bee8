"""Training recipes of the bundled models: data, network, optimisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dpdiff.noise import NoiseSchedule
from dpdiff.variance import rule_named

if TYPE_CHECKING:
    from diffusers import UNet2DModel


@dataclass(frozen=True)
class Recipe:
    """What decides a trained model, apart from hardware, libraries and ``trainer``'s own constants.

    ``grid`` is ``cosine`` (its β_1 replaced by ``first_beta``, if given) or ``linear``. The loss is
    L_simple, or with ``variance="learned_range"`` ``L_hybrid = L_simple + λ L_vlb`` (Nichol &
    Dhariwal 2021, eq. 16), where λ is ``vlb_weight``, L_vlb is in bits/dim, and its gradient
    reaches the variance output only.
    Training ends early after ``patience`` validations without a new best one. It begins with the
    weights of the bundled model ``begins``, if one is named, else with random ones.
    """

    dataset: str
    shape: tuple[int, int, int]
    levels: int
    channels: tuple[int, ...]
    layers: int
    attention: tuple[bool, ...]
    dropout: float
    T: int = 4000
    first_beta: float | None = None
    predicts: str = "v"
    variance: str = "learned_range"
    grid: str = "cosine"
    vlb_weight: float = 1e-3
    steps: int = 14_000
    batch: int = 64
    learning_rate: float = 1e-3
    warmup: int = 200
    ema: float = 0.999
    validate_every: int = 1_000
    patience: int = 3
    seed: int = 0
    begins: str | None = None

    @property
    def learns_variance(self) -> bool:
        """Whether the network has a variance output."""
        return rule_named(self.variance).needs_output


RECIPES = {
    "digits": Recipe(
        dataset="digits",
        shape=(1, 8, 8),
        levels=17,
        channels=(48, 64),
        layers=1,
        attention=(False, True),
        dropout=0.1,
        first_beta=0.0025,
    ),
    "fashion-short": Recipe(
        dataset="fashion",
        shape=(1, 28, 28),
        levels=256,
        channels=(16, 48, 112),
        layers=1,
        attention=(False, False, True),
        dropout=0.0,
        steps=8_000,
        validate_every=500,
    ),
    "fashion-linear": Recipe(
        dataset="fashion",
        shape=(1, 28, 28),
        levels=256,
        channels=(16, 48, 96),
        layers=1,
        attention=(False, False, True),
        dropout=0.0,
        T=1_000,
        grid="linear",
        predicts="eps",
        variance="large",
        steps=8_000,
        validate_every=500,
        patience=16,
    ),
    "cifar10": Recipe(
        dataset="cifar10",
        shape=(3, 32, 32),
        levels=256,
        channels=(64, 128, 192),
        layers=1,
        attention=(False, True, True),
        dropout=0.1,
        steps=200_000,
        batch=128,
        learning_rate=5e-4,
        warmup=1_000,
        ema=0.9999,
        validate_every=5_000,
    ),
}

# A further cycle: warm-up and half cosine anew, from the weights that are bundled.
RECIPES["fashion"] = replace(
    RECIPES["fashion-short"],
    steps=24_000,
    learning_rate=6e-4,
    validate_every=2_000,
    patience=12,
    seed=1,
    begins="fashion-short",
)

# For a GPU: twice as wide, ten times as long. Its weights are below 16 MB in float16.
RECIPES["fashion-large"] = replace(
    RECIPES["fashion-short"],
    channels=(32, 96, 224),
    dropout=0.1,
    steps=80_000,
    learning_rate=5e-4,
    warmup=1_000,
    ema=0.9999,
    validate_every=2_000,
    patience=10,
)

# Data sets that are too large to bundle: what users bring.
DOWNLOADS = {
    "fashion": "the four files of Fashion-MNIST, from github.com/zalandoresearch/fashion-mnist",
    "cifar10": "CIFAR-10, unpacked from its binary version at www.cs.toronto.edu/~kriz/cifar.html",
}


def build_noise(recipe: Recipe) -> NoiseSchedule:
    """The recipe's training grid."""
    if recipe.grid == "linear":
        return NoiseSchedule.linear(recipe.T)
    return NoiseSchedule.cosine(recipe.T, recipe.first_beta)


def build_network(recipe: Recipe) -> UNet2DModel:
    """The recipe's U-Net, untrained; with a learned variance, twice the channels come out."""
    from diffusers import UNet2DModel

    channels = recipe.shape[0]
    return UNet2DModel(
        sample_size=recipe.shape[1],
        in_channels=channels,
        out_channels=(2 if recipe.learns_variance else 1) * channels,
        layers_per_block=recipe.layers,
        block_out_channels=recipe.channels,
        down_block_types=[("Attn" if a else "") + "DownBlock2D" for a in recipe.attention],
        up_block_types=[("Attn" if a else "") + "UpBlock2D" for a in reversed(recipe.attention)],
        norm_num_groups=8,
        attention_head_dim=16,
        dropout=recipe.dropout,
        resnet_time_scale_shift="scale_shift",
    )
