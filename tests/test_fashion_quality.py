"""The classifier of Fashion-MNIST, and that distances in its features grow as pictures get worse.

``data/fashion_labelled.npz`` holds the last 512 images of the official test set (MIT licence).
Pictures are compared with images of the training set, none of which is among them.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dpdiff.data import scaled
from dpdiff.errors import InputError
from dpdiff.quality import (
    fashion_classifier,
    fashion_features,
    fashion_reference,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from dpdiff.quality.fashion import HOME

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from spoiling import DROP, SPOILT, without_classes  # noqa: E402

with np.load(ROOT / "tests" / "data" / "fashion_labelled.npz") as archive:
    IMAGES, LABELS = archive["images"], archive["labels"]
RECORD = json.loads((ROOT / "benchmarks" / "results" / "fashion_classifier.json").read_text())


def features_of(images):
    return fashion_features(scaled(images, 256))


def measures(features):
    """All measures as numbers that are small for good samples."""
    real = fashion_reference("train")[:2000]
    precision, recall = precision_recall(features, real)
    return {
        "frechet": frechet_distance(features, real, resamples=0).value,
        "kernel": kernel_distance(features, real).value,
        "missed precision": 1 - precision.value,
        "missed recall": 1 - recall.value,
    }


@pytest.fixture(scope="module")
def clean():
    return features_of(IMAGES)


def growing(steps):
    return steps == sorted(set(steps))


@pytest.mark.parametrize("kind", SPOILT)
def test_spoiling_pictures_makes_them_worse_in_order(clean, kind):
    spoil, strengths = SPOILT[kind]
    steps = [measures(clean), *(measures(features_of(spoil(IMAGES, s))) for s in strengths)]
    for name in ("frechet", "kernel", "missed precision"):
        assert growing([step[name] for step in steps]), name


def test_dropping_classes_makes_samples_worse_in_order(clean):
    count = len(without_classes(LABELS, max(DROP), len(LABELS)))
    rows = [without_classes(LABELS, dropped, count) for dropped in (0, *DROP)]
    steps = [measures(clean[row]) for row in rows]
    for name in ("frechet", "kernel", "missed recall"):
        assert growing([step[name] for step in steps]), name
    # Each looks real: precision stays, within three standard errors of so few images.
    shares = np.array([steps[0]["missed precision"], steps[-1]["missed precision"]])
    error = np.sqrt((shares * (1 - shares)).sum() / count)
    assert shares[1] < shares[0] + 3 * error


def test_the_classifier_reads_what_the_record_says(clean):
    assert RECORD["accuracy"]["test"]["images"] == 10_000
    assert RECORD["accuracy"]["test"]["all"] > 0.9
    read = fashion_classifier()(torch.from_numpy(scaled(IMAGES, 256)).float()).argmax(dim=1)
    right = (read.numpy() == LABELS).mean()
    error = np.sqrt(0.9 * 0.1 / len(LABELS))
    assert abs(right - RECORD["accuracy"]["test"]["all"]) < 3 * error


def test_scores_are_linear_in_the_features(clean):
    classifier = fashion_classifier()
    scores = classifier.scores(torch.from_numpy(clean).float())
    expected = classifier(torch.from_numpy(scaled(IMAGES, 256)).float())
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-3)
    assert not any(weight.requires_grad for weight in classifier.parameters())


def test_the_reference_is_what_the_classifier_gives(clean):
    """Rounded to float16; the images are the last of the test set."""
    assert fashion_reference("test")[-512:] == pytest.approx(clean, rel=1e-3, abs=1e-4)
    for split in ("test", "train"):
        assert fashion_reference(split).shape == (10_000, clean.shape[1])
        assert not fashion_reference(split).flags.writeable
    assert fashion_reference("train").var(axis=0).mean() == pytest.approx(1, abs=0.05)
    with pytest.raises(InputError, match="got 'validation'"):
        fashion_reference("validation")


def test_the_recorded_distance_of_real_images_is_what_the_reference_gives():
    recorded = RECORD["real"]["10,000 train against 10,000 test"]["frechet"]
    again = frechet_distance(fashion_reference("train"), fashion_reference(), resamples=0)
    assert again.value == pytest.approx(recorded[0], rel=0.01)


def test_features_see_256_levels_and_no_batches(clean):
    shaken = scaled(IMAGES, 256) + np.random.default_rng(0).uniform(-0.003, 0.003, IMAGES.shape)
    np.testing.assert_array_equal(fashion_features(shaken.clip(-1, 1)), clean)
    np.testing.assert_allclose(features_of(IMAGES[300:303]), clean[300:303], atol=1e-5)
    assert features_of(IMAGES[:0]).shape == (0, clean.shape[1])


def test_pictures_that_are_no_clothes_are_refused():
    for pictures in (
        np.zeros((3, 28, 28)),
        np.full((1, 1, 28, 28), 3.0),
        np.full((1, 1, 28, 28), np.nan),
    ):
        with pytest.raises(InputError, match=r"\(N, 1, 28, 28\)"):
            fashion_features(pictures)


def test_the_bundle_is_small_and_says_what_it_is():
    assert sum(file.stat().st_size for file in HOME.iterdir()) < 2_000_000
    card = (HOME / "README.md").read_text()
    assert f"{RECORD['accuracy']['test']['all']:.2%}".replace("%", " %") in card
    assert f"{RECORD['real']['10,000 train against 10,000 test']['frechet'][0]:.4f}" in card
