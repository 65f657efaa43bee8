"""Fréchet and kernel distances, precision and recall of samples, in a classifier's features.

Features: :func:`digit_features` of the 8×8 digits, :func:`fashion_features` of Fashion-MNIST.
Measures of any features: :func:`frechet_distance`, :func:`frechet_difference`,
:func:`kernel_distance` and :func:`precision_recall`.
"""

from __future__ import annotations

from dpdiff.facade import lazy

_HOMES = {
    "Distance": "dpdiff.quality.distances",
    "PrecisionRecall": "dpdiff.quality.distances",
    "digit_features": "dpdiff.quality.digits",
    "digit_labels": "dpdiff.quality.digits",
    "digits_classifier": "dpdiff.quality.digits",
    "fashion_classifier": "dpdiff.quality.fashion",
    "fashion_features": "dpdiff.quality.fashion",
    "fashion_reference": "dpdiff.quality.fashion",
    "frechet_difference": "dpdiff.quality.distances",
    "frechet_distance": "dpdiff.quality.distances",
    "kernel_distance": "dpdiff.quality.distances",
    "precision_recall": "dpdiff.quality.distances",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
