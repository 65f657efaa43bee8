"""Train the classifier of Fashion-MNIST whose features distances are taken in, and measure it.

    python benchmarks/fashion_classifier.py --data FOLDER [--train]

FOLDER holds the four official idx files of images and labels, gzipped or not. Without an option the
shipped classifier is measured again. ``--train`` trains it first, in about ten minutes of one core,
and writes it and its reference features over the shipped ones. Either way accuracies, the
distances between real images, and those of spoilt ones go to
``benchmarks/results/fashion_classifier.json``.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as serialised
from spoiling import DROP, SPOILT, without_classes
from torch import nn
from torch.nn import functional
from tqdm import tqdm

import dpdiff
from dpdiff.data import scaled
from dpdiff.quality import (
    fashion_classifier,
    fashion_features,
    fashion_reference,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from dpdiff.quality.fashion import HOME, REFERENCE, WEIGHTS, FashionClassifier
from dpdiff.runtime.files import replacing

SEED = 0
EPOCHS = 12
BATCH = 128
RATE = 6e-3  # the highest of a one-cycle schedule
DECAY = 1e-3
REAL, SPOILT_IMAGES = 10_000, 2_000
CONVOLUTIONS = ("halved", "shaped", "joined")
RESULT = Path(__file__).parent / "results" / "fashion_classifier.json"
LABELS = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}


def labels_of(folder: Path, name: str) -> np.ndarray:
    """The classes in an idx file, gzipped or not."""
    path = folder / name
    packed = folder / f"{name}.gz"
    raw = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    assert raw[:4] == bytes((0, 0, 8, 1)), f"{path} is no idx file of labels"
    return np.frombuffer(raw, np.uint8, offset=8)


def splits(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels of each split; validation is the end of the official training set."""
    labels = {split: labels_of(folder, name) for split, name in LABELS.items()}
    images = {s: dpdiff.images(folder, split=s)[:] for s in ("train", "validation", "test")}
    labels["train"], labels["validation"] = np.split(labels["train"], [len(images["train"])])
    return {split: (images[split], labels[split]) for split in images}


def as_input(images: np.ndarray) -> torch.Tensor:
    """What the classifier takes."""
    return torch.from_numpy(scaled(images, 256)).float()


def trained(images: np.ndarray, labels: np.ndarray) -> FashionClassifier:
    """A classifier fitted with batch normalisation, which is folded into the weights at the end."""
    torch.manual_seed(SEED)
    classifier = FashionClassifier()
    for name in CONVOLUTIONS:
        layer = getattr(classifier, name)
        setattr(classifier, name, nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels)))
    fit(classifier, images, labels)
    for name in CONVOLUTIONS:
        setattr(classifier, name, folded(*getattr(classifier, name)))
    return classifier


def fit(classifier: FashionClassifier, images: np.ndarray, labels: np.ndarray) -> None:
    """Minimise the cross-entropy, and freeze the weights."""
    rng = np.random.default_rng(SEED)
    classifier.to(memory_format=torch.channels_last)
    per_epoch = len(images) // BATCH
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=EPOCHS * per_epoch, pct_start=0.2
    )
    x, y = as_input(images), torch.from_numpy(labels).long()
    with tqdm(total=EPOCHS * per_epoch, desc="train") as bar:
        for _ in range(EPOCHS):
            order = rng.permutation(len(x))[: per_epoch * BATCH]
            for rows in torch.from_numpy(order).split(BATCH):
                loss = functional.cross_entropy(classifier(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
    classifier.eval().requires_grad_(False)


def folded(layer: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution that does what both did."""
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    layer.bias.copy_((layer.bias - norm.running_mean) * factor + norm.bias)
    layer.weight.mul_(factor[:, None, None, None])
    return layer


def rescaled(classifier: FashionClassifier, images: np.ndarray) -> None:
    """Bring the features to a mean variance of one, and leave the scores as they are."""
    features = torch.cat([classifier.features(batch) for batch in as_input(images).split(500)])
    unit = features.var(dim=0).mean().sqrt()
    classifier.joined.weight.div_(unit)
    classifier.joined.bias.div_(unit)
    classifier.scores.weight.mul_(unit)


def save(classifier: FashionClassifier, real: dict[str, np.ndarray]) -> None:
    """Write the weights, and then the reference features that the written weights give."""
    HOME.mkdir(exist_ok=True)
    weights = {k: v.contiguous().half() for k, v in classifier.state_dict().items()}
    write(weights, HOME / WEIGHTS)
    fashion_classifier.cache_clear()
    features = {k: torch.from_numpy(features_of(v)).half() for k, v in real.items()}
    write(features, HOME / REFERENCE)
    fashion_reference.cache_clear()


def write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """A file of tensors, replaced as a whole."""
    with replacing(path) as file:
        file.write(serialised(tensors))


def features_of(images: np.ndarray) -> np.ndarray:
    """Features of uint8 images."""
    return fashion_features(scaled(images, 256))


def accuracy(images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The share of images that are read as what they are, in all and by class."""
    scores = torch.cat([fashion_classifier()(batch) for batch in as_input(images).split(500)])
    right = scores.argmax(dim=1).numpy() == labels
    return {
        "images": len(images),
        "all": round(float(right.mean()), 4),
        "by_class": [round(float(right[labels == c].mean()), 3) for c in range(10)],
    }


def distances(samples: np.ndarray, real: np.ndarray) -> dict[str, list[float]]:
    """Every measure of two sets of features, with its standard error."""
    precision, recall = precision_recall(samples, real)
    measures = {
        "frechet": frechet_distance(samples, real),
        "kernel": kernel_distance(samples, real),
        "precision": precision,
        "recall": recall,
    }
    return {name: [round(x, 5) for x in estimate] for name, estimate in measures.items()}


def spoilt(images: np.ndarray, labels: np.ndarray, real: np.ndarray) -> dict[str, dict]:
    """Distances of spoilt images, by what was done and how strongly."""
    few = images[:SPOILT_IMAGES]
    table: dict[str, dict] = {
        name: {str(s): distances(features_of(spoil(few, s)), real) for s in strengths}
        for name, (spoil, strengths) in SPOILT.items()
    }
    rows = {dropped: without_classes(labels, dropped, SPOILT_IMAGES) for dropped in (0, *DROP)}
    table["drop"] = {str(k): distances(features_of(images[row]), real) for k, row in rows.items()}
    return table


def main() -> None:
    """Train if asked to, measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the four idx files")
    parser.add_argument("--train", action="store_true", help="train anew and replace the shipped")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = splits(options.data)
    real = {split: known[split][0][:REAL] for split in ("train", "test")}
    if options.train:
        classifier = trained(*known["train"])
        rescaled(classifier, known["train"][0])
        save(classifier, real)
    test, train = fashion_reference("test"), fashion_reference("train")
    unseen = features_of(known["validation"][0])
    document: dict[str, Any] = {"dpdiff": dpdiff.__version__, "seed": SEED}
    document["accuracy"] = {
        split: accuracy(images[:REAL], labels[:REAL]) for split, (images, labels) in known.items()
    }
    document["real"] = {
        "10,000 train against 10,000 test": distances(train, test),
        "6,000 validation against 10,000 test": distances(unseen, test),
    }
    document["2,000 spoilt test against 2,000 train"] = spoilt(
        *known["test"], train[:SPOILT_IMAGES]
    )
    with replacing(RESULT) as file:
        file.write(json.dumps(document, indent=1).encode())
    print(json.dumps(document["accuracy"], indent=1))
    print(json.dumps(document["real"], indent=1))


if __name__ == "__main__":
    main()
