"""Folders of PNG, JPEG and WebP images, decoded when indexed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dpdiff.data.lazy import Lazy, bar, file_errors
from dpdiff.errors import InputError

KNOWN = "a folder of .png, .jpg or .webp images"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SUBFOLDERS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
GREY = ("1", "L", "LA")
DEEP = ("I", "F")  # and "I;16" in its variants
LARGEST = 2**26  # pixels
KEPT = 2**30  # bytes of decoded images that are remembered


class Pictures(Lazy):
    """The image files of a folder, as (N, C, H, W).

    Decoded images are remembered until they fill a gibibyte: measuring comes back to each.

    Parameters
    ----------
    paths : list of Path
        The files.
    size : tuple of int
        One image, (C, H, W), with 1 channel (grey) or 3 (red, green, blue).
    resize : bool
        Bring every image to that size by :func:`fitted`.
    progress : bool
        Show progress bars.
    """

    def __init__(
        self, paths: list[Path], size: tuple[int, ...], *, resize: bool, progress: bool
    ) -> None:
        super().__init__((len(paths), *size), progress=progress)
        self._paths, self._resize = paths, resize
        self._kept: dict[int, np.ndarray] = {}
        self._room = KEPT // int(np.prod(size))

    def _read(self, rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for place, row in enumerate(rows.tolist()):
            pixels = self._kept.get(row)
            if pixels is None:
                pixels = self._decode(self._paths[row])
                if len(self._kept) < self._room:
                    self._kept[row] = pixels
            images[place] = pixels
        return images

    def _decode(self, path: Path) -> np.ndarray:
        channels, height, width = self.shape[1:]
        with file_errors(path), Image.open(path) as image:
            _check_picture(image, path)
            if image.mode in ("1", "P"):  # their numbers are no brightness to average
                image = image.convert("RGB")
            if self._resize:
                image = fitted(image, height, width)
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def fitted(image: Image.Image, height: int, width: int) -> Image.Image:
    """Shrink or enlarge an image to cover a size, and cut the middle out.

    Halved by averaging while no side would become too short, then bicubic to the size where one
    side fits, then cut: for squares what improved-diffusion's ``image_datasets.py`` does, on
    which the published models were trained. Orientation tags are not looked at, as there.

    Examples
    --------
    >>> fitted(Image.new("RGB", (500, 375)), 64, 64).size
    (64, 64)
    """
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    size = (round(image.width * scale), round(image.height * scale))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def recognises(path: Path) -> bool:
    """Whether this is a folder at all."""
    return path.is_dir()


def read(
    folder: Path, split: str, shape: tuple[int, ...] | None, progress: bool
) -> tuple[Pictures, bool]:
    """The pictures of a folder, and whether its subfolders divide it."""
    others = SUBFOLDERS["validation"] + SUBFOLDERS["test"]
    divided = (folder / "train").is_dir() and any((folder / name).is_dir() for name in others)
    if divided:
        names = [name for name in SUBFOLDERS[split] if (folder / name).is_dir()]
        if not names:
            raise InputError(f"{folder} has no subfolder {' or '.join(SUBFOLDERS[split])}")
        folder = folder / names[0]
    paths = image_files(folder, progress)
    if shape is None:
        return Pictures(
            paths, common_size(paths, progress), resize=False, progress=progress
        ), divided
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(f"{folder} holds pictures of 1 or 3 channels, the model takes {shape}")
    return Pictures(paths, shape, resize=True, progress=progress), divided


def image_files(folder: Path, progress: bool) -> list[Path]:
    """All image files in a folder and its subfolders, sorted by path."""
    every = bar(folder.rglob("*"), f"list {folder.name}", progress, unit="file")
    paths = sorted(
        path
        for path in every
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not paths:
        raise InputError(
            f"there are no images in the folder {folder}: read are {', '.join(SUFFIXES)} files, "
            "and the files of MNIST, Fashion-MNIST, CIFAR-10 and ImageNet64 under their own names"
        )
    return paths


def common_size(paths: list[Path], progress: bool) -> tuple[int, int, int]:
    """(C, H, W) of images that all have one size: C is 1 if all are grey. Only headers are read."""
    sizes: dict[tuple[int, int], Path] = {}
    channels = 1
    for path in bar(paths, "look at sizes", progress, unit="file"):
        with file_errors(path), Image.open(path) as image:
            _check_picture(image, path)
            sizes.setdefault(image.size, path)
            channels = channels if image.mode in GREY else 3
        if len(sizes) > 1:
            (one, first), (two, other) = sizes.items()
            raise InputError(
                f"the images have different sizes: {first} is {one[0]}×{one[1]}, {other} "
                f"{two[0]}×{two[1]}; with shape=(C, H, W) they are cut and resized"
            )
    width, height = next(iter(sizes))
    return channels, height, width


def _check_picture(image: Image.Image, path: Path) -> None:
    if image.width * image.height > LARGEST:
        raise InputError(f"{path} has {image.width}×{image.height} pixels, more than are decoded")
    if image.mode in DEEP or image.mode.startswith("I;16"):
        raise InputError(
            f"{path} has more than 8 bits a pixel (mode {image.mode}); convert it first"
        )
