"""Features of the 8×8 digits, by a classifier that is fitted on first use."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from dpdiff import data
from dpdiff.quality.distances import checked_images


@cache
def digits_classifier() -> Any:
    """A small network that reads the digits, with one hidden layer of 32 tanh units.

    It is fitted to the training split of ``dpdiff.images("digits")`` in a third of a second, with
    a fixed seed. Of the held-out digits it reads 96 in 100.

    Returns
    -------
    sklearn.neural_network.MLPClassifier
        Fitted. It takes rows of 64 pixels in [-1, 1].

    Examples
    --------
    >>> digits_classifier().predict(data.scaled(data.images("digits"), 17).reshape(-1, 64)[:3])
    array([0, 1, 2])
    """
    from sklearn.neural_network import MLPClassifier

    images = data.images("digits", split="train")
    classifier = MLPClassifier((32,), activation="tanh", tol=1e-3, max_iter=300, random_state=0)
    return classifier.fit(data.scaled(images, 17).reshape(-1, 64), digit_labels(images))


def digit_labels(images: np.ndarray) -> np.ndarray:
    """Which digit each image of ``dpdiff.images("digits")`` shows; no two images are the same."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    known = zip(digits.images.astype(np.uint8), digits.target, strict=True)
    label = {image.tobytes(): int(digit) for image, digit in known}
    return np.array([label[image.tobytes()] for image in images])


def digit_features(images: Any) -> np.ndarray:
    """The hidden layer of :func:`digits_classifier`: what decides which digit it reads.

    Parameters
    ----------
    images : array_like, shape (N, 1, 8, 8)
        Values in [-1, 1], as :func:`dpdiff.sample` draws them. They are rounded to the digits'
        17 levels first, as a file would hold them.

    Returns
    -------
    ndarray of float64, shape (N, 32)
        In [-1, 1].

    Raises
    ------
    InputError
        If these are not images of that shape and range.

    Examples
    --------
    >>> digit_features(data.scaled(data.images("digits", split="test"), 17)).shape
    (359, 32)
    """
    pixels, classifier = checked_images("digits'", images, (1, 8, 8), 17), digits_classifier()
    rounded = ((pixels * 8).round() / 8).reshape(-1, 64)
    return np.tanh(rounded @ classifier.coefs_[0] + classifier.intercepts_[0])
