"""Features of Fashion-MNIST, by a small bundled classifier, and those of real images."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from dpdiff.data.lazy import bar
from dpdiff.errors import InputError
from dpdiff.quality.distances import checked_images

HOME = Path(__file__).parent / "fashion_classifier"  # weights, reference features and the card
WEIGHTS, REFERENCE = "classifier.safetensors", "reference.safetensors"
SHAPE = (1, 28, 28)
WIDTHS = (24, 48, 40)
CLASSES = 10
BATCH = 250


class FashionClassifier(nn.Module):
    """Three convolutions, then the mean over positions: the features, in which scores are linear.

    It takes images (N, 1, 28, 28) in [-1, 1] and gives a score (N, 10) for each class, in the
    order of the data set's labels. The classifier that distances refer to is
    :func:`fashion_classifier`; one made anew is untrained.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second, last = WIDTHS
        self.halved = nn.Conv2d(1, first, 5, stride=2, padding=2)
        self.shaped = nn.Conv2d(first, second, 3, padding=1)
        self.joined = nn.Conv2d(second, last, 3, padding=1)
        self.scores = nn.Linear(last, CLASSES)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The mean activations (N, 40) of the last convolution."""
        x = functional.relu(self.halved(x))
        x = functional.max_pool2d(functional.relu(self.shaped(x)), 2)
        return functional.relu(self.joined(x)).mean(dim=(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A score for each class."""
        return self.scores(self.features(x))


@cache
def fashion_classifier() -> FashionClassifier:
    """The classifier of Fashion-MNIST whose features distances are taken in.

    Its weights never change within a version of this package, so distances compare. What it was
    trained on, and how well it reads the test images, stands in ``fashion_classifier/README.md``
    beside this module.

    Returns
    -------
    FashionClassifier
        On the CPU, in float32 and frozen.

    Examples
    --------
    >>> fashion_classifier()(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 10])
    """
    from safetensors.torch import load_file

    classifier = FashionClassifier()
    classifier.load_state_dict(load_file(HOME / WEIGHTS))  # float16 there
    return classifier.eval().requires_grad_(False)


def fashion_features(images: Any, *, progress: bool = True) -> np.ndarray:
    """The last hidden layer of :func:`fashion_classifier`, in which distances are taken.

    Parameters
    ----------
    images : array_like, shape (N, 1, 28, 28)
        Values in [-1, 1], as :func:`dpdiff.sample` draws them. They are rounded to 256 levels
        first, as a file would hold them.
    progress : bool
        Show a progress bar if it takes more than two seconds.

    Returns
    -------
    ndarray of float64, shape (N, 40)
        Not negative, in a unit in which the variances of the training images' features have
        mean 1.

    Raises
    ------
    InputError
        If these are not images of that shape and range.

    Examples
    --------
    >>> fashion_features(np.zeros((2, 1, 28, 28))).shape
    (2, 40)
    """
    pixels = torch.as_tensor(checked_images("fashion", images, SHAPE, 256), dtype=torch.float32)
    classifier, features = fashion_classifier(), np.empty((len(pixels), WIDTHS[-1]))
    with torch.inference_mode():
        for start in bar(range(0, len(pixels), BATCH), "features", progress):
            levels = ((pixels[start : start + BATCH] + 1) * 127.5).round()
            features[start : start + BATCH] = classifier.features(levels / 127.5 - 1).numpy()
    return features


@cache
def fashion_reference(split: str = "test") -> np.ndarray:
    """Features of 10,000 real images, to compare samples with.

    Parameters
    ----------
    split : {"test", "train"}
        All 10,000 images of the test set, or the first 10,000 of the training set, which the
        classifier was trained on.

    Returns
    -------
    ndarray of float64, shape (10000, 40)
        :func:`fashion_features` of the images in their official order, read-only, rounded to
        float16.

    Raises
    ------
    InputError
        If there is no such split.

    Examples
    --------
    >>> fashion_reference().shape
    (10000, 40)
    """
    from safetensors.numpy import load_file

    known = load_file(HOME / REFERENCE)
    if split not in known:
        raise InputError(f"split is one of {', '.join(sorted(known))}; got {split!r}")
    features = known[split].astype(np.float64)
    features.flags.writeable = False
    return features
