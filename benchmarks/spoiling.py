"""Ways to make good pictures worse, each in three strengths, to see whether distances notice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

NOISE = (16, 32, 64)  # standard deviation, in levels of 256
BLUR = (1, 2, 4)  # standard deviation, in pixels
CROP = (2, 4, 6)  # width of the black frame, in pixels
DROP = (2, 5, 8)  # how many of the ten classes are missing


def noisy(images: np.ndarray, deviation: float) -> np.ndarray:
    """Gaussian noise on every pixel; images are uint8, (N, 1, H, W)."""
    noise = np.random.default_rng(0).normal(scale=deviation, size=images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


def blurred(images: np.ndarray, deviation: float) -> np.ndarray:
    """A Gaussian blur over black surroundings."""
    size = images.shape[-1]
    gaps = np.subtract.outer(np.arange(size), np.arange(-4 * size, 5 * size))
    weights = np.exp(-(gaps**2) / (2 * deviation**2))
    inside = weights[:, 4 * size : 5 * size] / weights.sum(axis=1, keepdims=True)
    return (inside @ images @ inside.T).round().astype(np.uint8)


def cropped(images: np.ndarray, width: int) -> np.ndarray:
    """A black frame over the borders."""
    middle = slice(width, images.shape[-1] - width)
    framed = np.zeros_like(images)
    framed[..., middle, middle] = images[..., middle, middle]
    return framed


def without_classes(labels: np.ndarray, dropped: int, count: int) -> np.ndarray:
    """The first ``count`` rows of classes that are left when the last ``dropped`` go."""
    return np.flatnonzero(labels < 10 - dropped)[:count]


SPOILT: dict[str, tuple[Callable[[np.ndarray, float], np.ndarray], tuple[float, ...]]] = {
    "noise": (noisy, NOISE),
    "blur": (blurred, BLUR),
    "crop": (cropped, CROP),
}
