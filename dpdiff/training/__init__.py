"""Training from recipes, restartable exactly."""

from __future__ import annotations

from dpdiff.facade import lazy

_HOMES = {
    "RECIPES": "dpdiff.training.recipes",
    "Recipe": "dpdiff.training.recipes",
    "Trainer": "dpdiff.training.trainer",
    "train": "dpdiff.training.trainer",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
