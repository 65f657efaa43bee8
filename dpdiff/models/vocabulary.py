"""diffusers' words and ours."""

from __future__ import annotations

PREDICTION_TYPES = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCE_TYPES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
    "learned_range": "learned_range",
}


def their_word(types: dict[str, str], ours: str) -> str:
    """diffusers' first word for one of ours; ours where it has none.

    Examples
    --------
    >>> their_word(PREDICTION_TYPES, "v"), their_word(VARIANCE_TYPES, "optimal")
    ('v_prediction', 'optimal')
    """
    return next((theirs for theirs, word in types.items() if word == ours), ours)
