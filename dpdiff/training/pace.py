"""How fast weights move, and how fast their average forgets."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from dpdiff.training.recipes import Recipe


def forgetting(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """An average whose mean age is a tenth of all updates, until ``decay`` makes it shorter."""

    def average(means: list[Tensor], weights: list[Tensor], count: Tensor) -> None:
        share = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        for mean, weight in zip(means, weights, strict=True):
            mean.lerp_(weight, share)

    return average


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a half cosine down to zero."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
