"""How far drawn samples are from real ones, in the features of a classifier.

Features: :func:`digit_features` of the 8×8 digits, :func:`fashion_features` of Fashion-MNIST.
Measures of any features: :func:`frechet_distance`, :func:`frechet_difference`,
:func:`kernel_distance` and :func:`precision_recall`.
"""

from dpdiff.quality.digits import digit_features, digit_labels, digits_classifier
from dpdiff.quality.estimate import Estimate
from dpdiff.quality.fashion import fashion_classifier, fashion_features, fashion_reference
from dpdiff.quality.frechet import frechet_difference, frechet_distance
from dpdiff.quality.kernel import kernel_distance
from dpdiff.quality.neighbours import PrecisionRecall, precision_recall

__all__ = [
    "Estimate",
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
