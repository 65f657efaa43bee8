"""Lines."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Lines(NamedTuple):
    """Costs that are lines in a number that belongs to t.

    ``L(t, s) = const[t] + intercept[s] + slope[s] * x[t]`` for ``1 <= s < t`` and
    ``L(t, 0) = first[t]``; all five are float64 arrays of length T + 1, and ``slope`` is monotone
    over s = 1 … T, in either direction. Entries that no jump uses (``first[0]``, ``intercept[0]``,
    ``slope[0]`` …) are not read.
    """

    const: np.ndarray
    x: np.ndarray
    intercept: np.ndarray
    slope: np.ndarray
    first: np.ndarray
