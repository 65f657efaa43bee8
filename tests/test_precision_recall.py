"""Precision and recall against brute force, a closed form and simulation."""

import numpy as np
import pytest

from dpdiff.errors import InputError
from dpdiff.quality import Distance, precision_recall

RNG = np.random.default_rng(3)


def squared(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def covered_by_loops(points, centres, k):
    """The share of points in a ball, from the definition."""
    points, centres = points.tolist(), centres.tolist()
    radii = [
        sorted(squared(centre, other) for j, other in enumerate(centres) if j != i)[k - 1]
        for i, centre in enumerate(centres)
    ]
    inside = [
        any(squared(point, c) <= r for c, r in zip(centres, radii, strict=True)) for point in points
    ]
    return sum(inside) / len(points)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("whole", [False, True], ids=["reals", "ties"])
def test_values_equal_loops_over_the_definition(k, whole):
    """Whole numbers have many ties and repeated rows: a point on a ball's surface counts."""
    samples, real = RNG.normal(size=(40, 2)) * 3 + 3, RNG.normal(size=(60, 2)) * 2
    samples[:8] += 50  # never covered, so that neither share is one
    real[:8] -= 50
    if whole:
        samples, real = samples.round(), real.round()
    precision, recall = precision_recall(samples, real, neighbours=k)
    assert precision.value == covered_by_loops(samples, real, k)
    assert recall.value == covered_by_loops(real, samples, k)
    assert 0 < precision.value < 1
    assert 0 < recall.value < 1


def test_values_do_not_depend_on_blocks_or_a_far_origin(monkeypatch):
    samples, real = RNG.normal(size=(70, 3)), RNG.normal(size=(50, 3)) + 0.5
    expected = precision_recall(samples, real)
    assert precision_recall(samples + 1e6, real + 1e6) == expected
    monkeypatch.setitem(precision_recall.__globals__, "ENTRIES", 333)
    assert precision_recall(samples, real) == expected


def test_dropping_modes_costs_recall_and_spreading_costs_precision():
    modes = np.repeat(10 * np.eye(4), 50, axis=0)
    rng = np.random.default_rng(1)
    real, samples = (modes + rng.normal(size=modes.shape) for _ in range(2))
    whole = precision_recall(samples, real)
    assert min(whole.precision.value, whole.recall.value) > 0.85
    two = precision_recall(samples[:100], real)
    assert two.precision.value > 0.85
    assert 0.4 < two.recall.value <= 0.5
    wide = precision_recall(modes + 3 * rng.normal(size=modes.shape), real)
    assert wide.precision.value < 0.5
    assert wide.recall.value > 0.9


def test_the_standard_error_is_that_of_points_judged_by_given_balls():
    """Precision with the same real set, again and again."""
    real = RNG.normal(size=(200, 4))
    runs = [precision_recall(RNG.normal(size=(150, 4)) * 1.4, real).precision for _ in range(120)]
    values, errors = np.array(runs).T
    assert 0.8 < np.sqrt((errors**2).mean()) / values.std(ddof=1) < 1.2


def test_sets_that_are_equal_or_apart():
    a = RNG.normal(size=(30, 2))
    assert precision_recall(a, a) == ((1, 0), (1, 0))
    assert precision_recall(a, a + 100) == ((0, 0), (0, 0))
    assert isinstance(precision_recall(a, a).recall, Distance)


def test_bad_features_are_refused():
    a = np.zeros((4, 2))
    for neighbours in (0, 4):
        with pytest.raises(InputError, match=f"got {neighbours} with 4 examples"):
            precision_recall(a, np.zeros((9, 2)), neighbours=neighbours)
    with pytest.raises(InputError, match="same d"):
        precision_recall(a, np.zeros((9, 3)))
