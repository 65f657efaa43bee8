"""Fréchet and kernel distances, precision and recall of samples, in a classifier's features.

Features: :func:`digit_features` of the 8×8 digits, :func:`fashion_features` of Fashion-MNIST.
Measures of any features: :func:`frechet_distance`, :func:`frechet_difference`,
:func:`kernel_distance` and :func:`precision_recall`.
"""

from __future__ import annotations

from dpdiff.quality.digits import digit_features, digit_labels, digits_classifier
from dpdiff.quality.distances import (
    Distance,
    PrecisionRecall,
    frechet_difference,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from dpdiff.quality.fashion import fashion_classifier, fashion_features, fashion_reference

__all__ = [
    "Distance",
    "PrecisionRecall",
    "digit_features",
    "digit_labels",
    "digits_classifier",
    "fashion_classifier",
    "fashion_features",
    "fashion_reference",
    "frechet_difference",
    "frechet_distance",
    "kernel_distance",
    "precision_recall",
]
