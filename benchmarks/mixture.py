"""Whether a model mixes its classes as the images do, and what precision has to do with it.

    python benchmarks/mixture.py fashion-short fashion

Samples are the ones that ``few_steps.py`` calls the teacher's, of 64 DDIM steps, drawn in bfloat16
and compiled; the first 512 are drawn by the plain network in float32 too. Classes are those that
the bundled classifier sees in them. To ``results/mixture.json`` go the share of each class with its
standard error, the Fréchet distance to the test images, and by how much the plain network changes
it on the same noises. Models that are not named stay there as they were. The table is printed; a
test compares the card of ``fashion`` with it.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from cases import machine
from few_steps import (
    FIRST_SEED,
    PARTS,
    RESULTS,
    TEACHER_SAMPLES,
    TEACHER_STEPS,
    Classifier,
    features,
    rounded,
)
from tables import table

import dpdiff
from dpdiff import quality
from dpdiff.models import BUNDLED
from dpdiff.runtime.files import replacing
from dpdiff.strides import node_grid

CLASSES = (
    "T-shirt", "trousers", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
COMPARED = 512
TARGET = RESULTS / "mixture.json"


def shares(rows: np.ndarray) -> dict[str, list[float]]:
    """How many of the images are of each class: [share, standard error]."""
    scores = quality.fashion_classifier().scores(torch.tensor(rows).float())
    share = np.bincount(scores.argmax(dim=1), minlength=len(CLASSES)) / len(rows)
    error = np.sqrt(share * (1 - share) / len(rows))
    pairs = np.stack([share, error], axis=1).round(4).tolist()
    return dict(zip(CLASSES, pairs, strict=True))


def mixture(model: str, test: np.ndarray) -> dict:
    """All that is said of a model."""
    where, denoiser = machine(), dpdiff.load(model)
    fast, eye = denoiser.with_precision("bf16", compile=True), Classifier(denoiser)
    nodes = dpdiff.Schedule(node_grid(denoiser.noise, TEACHER_STEPS))
    drawn = features(fast, nodes, "ddim", TEACHER_SAMPLES, eye)
    plain = features(denoiser, nodes, "ddim", COMPARED, eye)
    return {
        "fingerprint": denoiser.fingerprint,
        "classes": shares(drawn),
        "distance": rounded(quality.frechet_distance(drawn, test)),
        "plain_less_fast": rounded(quality.frechet_difference(plain, drawn[:COMPARED], test)),
        "precision": fast.precision,
        "dpdiff": dpdiff.__version__,
        "machine": where,
    }


def markdown() -> str:
    """What is recorded, as a table: per cent of each class."""
    record = json.loads(TARGET.read_text())
    rows = {"test images": record["real"]}
    rows |= {f"`{model}`": mixed["classes"] for model, mixed in record["models"].items()}
    lines = [
        [name, *(f"{100 * shares[kind][0]:.1f}" for kind in CLASSES)]
        for name, shares in rows.items()
    ]
    return table(["", *CLASSES], lines)


def main() -> None:
    """Draw, count and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", choices=BUNDLED[1:])
    options = parser.parse_args()
    torch.set_num_threads(1)
    PARTS.mkdir(parents=True, exist_ok=True)
    test = quality.fashion_reference("test")
    models = json.loads(TARGET.read_text())["models"] if TARGET.exists() else {}
    models |= {model: mixture(model, test) for model in options.models}
    document = {
        "what": "samples of 64 DDIM steps by the classes that the bundled classifier sees",
        "samples": TEACHER_SAMPLES,
        "samples_of_the_plain_network": COMPARED,
        "seeds": f"{FIRST_SEED} and on, one for every 64 samples",
        "real": shares(test),
        "models": models,
    }
    with replacing(TARGET) as file:
        file.write((json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode())
    print(markdown())


if __name__ == "__main__":
    main()
