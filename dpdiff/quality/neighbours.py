"""Precision and recall: how many samples look real, and how much of the real can be drawn."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dpdiff.data.reading import bar
from dpdiff.errors import InputError
from dpdiff.quality.estimate import Estimate, checked

ENTRIES = 2**21  # distances in a block, 16 MiB


class PrecisionRecall(NamedTuple):
    """The share of samples that look real, and the share of the real that samples cover."""

    precision: Estimate
    recall: Estimate


def precision_recall(
    samples: Any, real: Any, *, neighbours: int = 3, progress: bool = True
) -> PrecisionRecall:
    """Precision and recall of samples, by nearest neighbours [1]_.

    A set of features stands for the union of balls around its rows, each of which reaches to the
    row's ``neighbours``-th nearest other row of the same set. Precision is the share of samples
    within the balls of the real examples; recall is the share of real examples within the balls
    of the samples. A point on the surface of a ball lies within it.

    Parameters
    ----------
    samples, real : array_like, shape (n_samples, d) and (n_real, d)
        One row an example, more than ``neighbours`` rows each. The sets share no examples.
    neighbours : int
        The paper takes 3.
    progress : bool
        Show a progress bar if it takes more than two seconds.

    Returns
    -------
    PrecisionRecall
        Two pairs of a value in [0, 1] and its standard error. Both values depend on both sizes:
        compare values from equally many examples only. A standard error counts the chance in
        which points are judged, and takes the balls of the other set as given. Over experiments
        that draw both sets anew, values spread more, by up to twice.

    Raises
    ------
    InputError
        If the features are not two finite tables of equal width, or there are too few rows.

    Notes
    -----
    Samples that repeat themselves have small balls, so dropping modes lowers recall and may leave
    precision as it was; noise and blur lower precision. A set of outliers has large balls, so
    recall may even grow as samples get worse: it says something only beside precision.

    Time grows with ``d`` and the square of the number of rows; memory does not, since distances
    are made block by block, a few dozen MiB at a time.

    References
    ----------
    .. [1] Kynkäänniemi, Karras, Laine, Lehtinen, Aila, "Improved Precision and Recall Metric for
       Assessing Generative Models", 2019.

    Examples
    --------
    >>> real = np.arange(6.0)[:, None]  # balls of radius 1: [-1, 6]
    >>> samples = np.array([[2.5], [2.75], [9.0]])  # balls of radius ¼, ¼ and 6¼
    >>> precision, recall = precision_recall(samples, real, neighbours=1)
    >>> round(precision.value, 3), round(recall.value, 3)
    (0.667, 0.5)
    """
    drawn, true = checked(samples, real)
    for features in (drawn, true):
        if not 1 <= neighbours < len(features):
            raise InputError(
                f"neighbours lies between 1 and the number of examples less one, got {neighbours} "
                f"with {len(features)} examples: draw more, or ask for fewer neighbours"
            )
    # Squares lose fewer digits near the origin; a shift by whole numbers keeps ties exact.
    centre = true.mean(axis=0).round()
    drawn, true = drawn - centre, true - centre
    return PrecisionRecall(
        _share(_covered(drawn, true, neighbours, progress)),
        _share(_covered(true, drawn, neighbours, progress)),
    )


def _share(inside: np.ndarray) -> Estimate:
    """The mean of yes and no, and its standard error."""
    return Estimate(float(inside.mean()), float(inside.std(ddof=1) / np.sqrt(len(inside))))


def _covered(
    points: np.ndarray, centres: np.ndarray, neighbours: int, progress: bool
) -> np.ndarray:
    """Which points lie in a ball of the centres."""
    radii, inside = _radii(centres, neighbours, progress), np.empty(len(points), bool)
    for rows in bar(_blocks(points, centres), "coverage", progress):
        inside[rows] = (_squared(points[rows], centres) <= radii).any(axis=1)
    return inside


def _radii(centres: np.ndarray, neighbours: int, progress: bool) -> np.ndarray:
    """The squared distance of each centre to its k-th nearest other one."""
    radii = np.empty(len(centres))
    for rows in bar(_blocks(centres, centres), "neighbours", progress):
        squared = _squared(centres[rows], centres)
        np.fill_diagonal(squared[:, rows], np.inf)  # not its own neighbour
        radii[rows] = np.partition(squared, neighbours - 1, axis=1)[:, neighbours - 1]
    return radii


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances ``‖a_i - b_j‖²``, of which rounding must not make negative ones."""
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * (a @ b.T)
    return squared.clip(min=0, out=squared)


def _blocks(a: np.ndarray, b: np.ndarray) -> list[slice]:
    """Rows of a, in blocks that have at most ``ENTRIES`` distances to b."""
    height = max(1, ENTRIES // len(b))
    return [slice(start, start + height) for start in range(0, len(a), height)]
