"""A grid of samples as a PNG file."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

from dpdiff.errors import InputError
from dpdiff.runtime.files import replacing


def image_grid(samples: np.ndarray) -> np.ndarray:
    """Lay samples out in rows, as nearly square as can be, with a pixel between them.

    Parameters
    ----------
    samples : array_like, shape (N, C, H, W)
        Values in [-1, 1]; one or three channels.

    Returns
    -------
    ndarray of uint8, shape (height, width) or (height, width, 3)
        Small images are enlarged by a whole factor, to at least 32 pixels.

    Raises
    ------
    InputError
        If the samples are not images.

    Examples
    --------
    >>> image_grid(np.zeros((4, 1, 32, 32))).shape
    (65, 65)
    """
    samples = np.asarray(samples)
    if samples.ndim != 4 or samples.shape[1] not in (1, 3):
        raise InputError(f"a picture needs samples of shape (N, 1 or 3, H, W), got {samples.shape}")
    if samples.size == 0 or samples.dtype.kind not in "biuf":
        raise InputError(f"there is nothing to show in {samples.dtype} of shape {samples.shape}")
    count, channels, height, width = samples.shape
    factor = max(1, math.ceil(32 / min(height, width)))
    pixels = ((samples.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
    pixels = pixels.repeat(factor, axis=2).repeat(factor, axis=3).transpose(0, 2, 3, 1)
    height, width = height * factor, width * factor
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), 128, np.uint8)
    for i, picture in enumerate(pixels):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        canvas[top : top + height, left : left + width] = picture
    return canvas[..., 0] if channels == 1 else canvas


def save_image_grid(samples: np.ndarray, path: str | Path) -> None:
    """Write :func:`image_grid` as a PNG file; the file is complete or absent."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image_grid(samples)).save(buffer, format="PNG")
    with replacing(path) as file:
        file.write(buffer.getvalue())
