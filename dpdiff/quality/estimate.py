"""What every measure here gives and takes: a value with its error, from tables of features."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dpdiff.errors import InputError


class Estimate(NamedTuple):
    """An estimated number and its standard error."""

    value: float
    stderr: float


def checked(features_a: Any, features_b: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both sets as finite tables of equal width in float64, or an error that says why not."""
    a, b = (np.asarray(features, dtype=np.float64) for features in (features_a, features_b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] == 0:
        raise InputError(
            f"features are two tables (examples, d) of the same d, got {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("features are finite numbers; these hold NaN or infinity")
    return a, b
