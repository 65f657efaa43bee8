"""Gaussian noise that depends on what it is for, never on how the work was split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np

from dpdiff.errors import InputError

LARGEST = 2**64 - 1  # of a key of the generator


def check_seed(seed: Any, name: str = "a seed") -> None:
    """Refuse a seed, or another part of a key, that the generator cannot take.

    Examples
    --------
    >>> check_seed(-1)
    Traceback (most recent call last):
    dpdiff.errors.InputError: a seed is an integer in 0…2⁶⁴ - 1, got -1
    """
    try:
        known = 0 <= index(seed) <= LARGEST
    except TypeError:
        known = False
    if not known:
        shown = str(seed) if len(str(seed)) < 30 else f"one of {len(str(seed))} digits"
        raise InputError(f"{name} is an integer in 0…2⁶⁴ - 1, got {shown}")


def gaussian(seed: int, t: int, rows: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    """The noise that brings examples ``rows`` to timestep ``t``.

    A counter-based generator gives every (seed, t, row) a stream of its own, so batch sizes,
    worker counts and restarts leave each draw as it is.

    Parameters
    ----------
    seed, t : int
        Key of the streams, each at least 0.
    rows : sequence of int
        Which examples, counted over the whole data set or the whole set of samples.
    shape : tuple of int
        One example.

    Returns
    -------
    ndarray of float32, shape (len(rows), ...)
        Standard normal draws.

    Examples
    --------
    >>> both = gaussian(0, 7, [3, 4], (2,))
    >>> bool((gaussian(0, 7, [4], (2,)) == both[1:]).all())
    True
    """
    bits = np.random.Philox(key=np.array([seed, t], dtype=np.uint64))
    generator, state = np.random.Generator(bits), bits.state
    noise = np.empty((len(rows), math.prod(shape)), dtype=np.float32)
    for row, out in zip(rows, noise, strict=True):
        # Jumping in the counter's top word is several times cheaper than a new generator.
        state["state"]["counter"][:] = (0, 0, 0, row)
        bits.state = state
        generator.standard_normal(out=out, dtype=np.float32)
    return noise.reshape(len(rows), *shape)
