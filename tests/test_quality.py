"""Sample-quality distances against closed forms, other implementations and simulation."""

import numpy as np
import pytest
import scipy.linalg

from dpdiff import data
from dpdiff.errors import InputError
from dpdiff.quality import (
    digit_features,
    digit_labels,
    digits_classifier,
    frechet_difference,
    frechet_distance,
    kernel_distance,
)

RNG = np.random.default_rng(7)
A = RNG.normal(size=(60, 5)) @ RNG.normal(size=(5, 5)) + 1
B = RNG.normal(size=(45, 5)) @ RNG.normal(size=(5, 5))


def with_moments(mean, covariance, n=50):
    """Points whose mean and covariance are exactly these."""
    points = np.random.default_rng(0).normal(size=(n, len(mean)))
    points -= points.mean(axis=0)
    points = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points, rowvar=False))).T
    return points @ np.linalg.cholesky(covariance).T + mean


def test_frechet_of_known_gaussians():
    # Commuting covariances: the sum of squared differences of means and standard deviations.
    a = with_moments([1.0, 2.0, 0.0], np.diag([1.0, 4.0, 9.0]))
    b = with_moments([0.0, 0.0, 2.0], np.diag([16.0, 4.0, 1.0]))
    expected = (1 + 4 + 4) + (3**2 + 0 + 2**2)
    np.testing.assert_allclose(frechet_distance(a, b, resamples=0).value, expected, rtol=1e-12)


def test_frechet_equals_the_formula_with_sqrtm():
    ca, cb = np.cov(A, rowvar=False), np.cov(B, rowvar=False)
    root = scipy.linalg.sqrtm(ca @ cb).real
    expected = ((A.mean(0) - B.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * root)
    np.testing.assert_allclose(frechet_distance(A, B).value, expected, rtol=1e-10)


def test_frechet_of_singular_covariances():
    """Dead features and copies of features change nothing, where a plain sqrtm breaks down."""
    plain = frechet_distance(A, B, resamples=0).value
    dead = [np.hstack([x, np.zeros((len(x), 3))]) for x in (A, B)]
    np.testing.assert_allclose(frechet_distance(*dead, resamples=0).value, plain, rtol=1e-10)
    twice = [np.hstack([x, x]) for x in (A, B)]
    np.testing.assert_allclose(frechet_distance(*twice, resamples=0).value, 2 * plain, rtol=1e-7)
    assert abs(frechet_distance(dead[0], dead[0], resamples=0).value) < 1e-8


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance])
def test_distances_are_symmetric_and_do_not_see_rotations(measure):
    turn = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    expected = measure(A, B)
    np.testing.assert_allclose(measure(B, A).value, expected.value, rtol=1e-10)
    np.testing.assert_allclose(measure(A @ turn, B @ turn), expected, rtol=1e-8)


def test_frechet_does_not_see_a_common_shift_and_scales_with_the_square():
    expected = frechet_distance(A, B)
    np.testing.assert_allclose(frechet_distance(A + 50, B + 50), expected, rtol=1e-8)
    np.testing.assert_allclose(
        frechet_distance(3 * A, 3 * B), [9 * v for v in expected], rtol=1e-10
    )
    assert frechet_distance(A, B, seed=1).stderr != expected.stderr
    assert np.isnan(frechet_distance(A, B, resamples=0).stderr)


def kernel_by_double_loop(a, b):
    def mean(pairs):
        return np.mean([(x @ y / len(x) + 1) ** 3 for x, y in pairs])

    def others(x):
        return [(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]

    return mean(others(a)) + mean(others(b)) - 2 * mean([(x, y) for x in a for y in b])


def test_kernel_distance_equals_a_double_loop():
    a, b = A[:12], B[:9]
    distance = kernel_distance(a, b)
    np.testing.assert_allclose(distance.value, kernel_by_double_loop(a, b), rtol=1e-10)
    variance = 0
    for left in (
        [kernel_by_double_loop(np.delete(a, i, axis=0), b) for i in range(len(a))],
        [kernel_by_double_loop(a, np.delete(b, i, axis=0)) for i in range(len(b))],
    ):
        variance += (len(left) - 1) / len(left) * np.sum((left - np.mean(left)) ** 2)
    np.testing.assert_allclose(distance.stderr, np.sqrt(variance), rtol=1e-10)


def test_kernel_distance_does_not_depend_on_blocks(monkeypatch):
    expected = kernel_distance(A, B)
    monkeypatch.setattr(kernel_distance.__globals__["_kernel_sums"], "__defaults__", (7,))
    np.testing.assert_allclose(kernel_distance(A, B), expected, rtol=1e-12)


def true_kernel_distance(shift, d):
    """The population's value for N(0, I) and N(shift, I).

    Over independent x and y, E (x·y/d + 1)³ needs E x·y, E (x·y)² and E (x·y)³. With means
    p and q, y given, x·y is normal with mean p·y and variance |y|².
    """
    zero, moved = np.zeros(d), np.full(d, shift)

    def mean(p, q):
        y = np.random.default_rng(1).normal(size=(400_000, d))
        y = np.vstack([y, -y]) + q
        m, v = y @ p, (y**2).sum(axis=1)
        return np.mean(1 + 3 * m / d + 3 * (m**2 + v) / d**2 + (m**3 + 3 * m * v) / d**3)

    return mean(zero, zero) + mean(moved, moved) - 2 * mean(zero, moved)


def simulated(measure, shift, *, runs, n=60, d=3):
    rng = np.random.default_rng(3)
    values = [
        measure(rng.normal(size=(n, d)), rng.normal(size=(n - 20, d)) + shift) for _ in range(runs)
    ]
    return np.array(values)


@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_kernel_distance_is_unbiased(shift):
    values = simulated(kernel_distance, shift, runs=2000)[:, 0]
    error = values.std(ddof=1) / np.sqrt(len(values))
    truth = true_kernel_distance(shift, 3)
    assert abs(values.mean() - truth) < 3.5 * error + 0.002
    assert error < (0.02 if shift == 0 else 0.06)
    assert (values.min() < 0) == (shift == 0)


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance])
def test_standard_errors_are_those_of_repeated_experiments(measure):
    """The error that one experiment reports is the spread of many, within a fifth."""
    values, errors = simulated(measure, 1.0, runs=300, n=120).T
    spread = values.std(ddof=1)
    assert 0.8 < np.sqrt((errors**2).mean()) / spread < 1.2
    # 95 % of two-sided intervals around their own mean hold it, give or take three errors.
    covered = np.abs(values - values.mean()) < 1.96 * errors
    assert 0.90 < covered.mean() < 0.985


@pytest.mark.parametrize(("measure", "most"), [(frechet_distance, 2.2), (kernel_distance, 1.75)])
def test_standard_errors_are_never_too_small_and_too_large_for_equal_sets(measure, most):
    values, errors = simulated(measure, 0.0, runs=150, n=120).T
    assert 1.1 < np.sqrt((errors**2).mean()) / values.std(ddof=1) < most


def test_frechet_is_biased_upwards_and_less_so_with_more_examples():
    few = simulated(frechet_distance_alone, 0.0, runs=200, n=60)[:, 0].mean()
    many = simulated(frechet_distance_alone, 0.0, runs=200, n=240)[:, 0].mean()
    assert few > 2 * many > 0


def frechet_distance_alone(a, b):
    return frechet_distance(a, b, resamples=0)


def twins(rng, n=150, d=4):
    """Two sets whose rows i began the same way, and a reference."""
    common = rng.normal(size=(n, d))
    a, b = (common + 0.3 * rng.normal(size=(n, d)) for _ in range(2))
    return a + 0.3, b + 0.2, rng.normal(size=(2 * n, d))


def test_frechet_difference_is_the_difference_of_the_distances():
    a, b, real = twins(RNG)
    expected = frechet_distance_alone(a, real).value - frechet_distance_alone(b, real).value
    np.testing.assert_allclose(frechet_difference(a, b, real).value, expected, rtol=1e-12)
    np.testing.assert_allclose(frechet_difference(b, a, real).value, -expected, rtol=1e-12)
    np.testing.assert_allclose(frechet_difference(a, a, real), (0, 0), atol=1e-12)
    assert np.isnan(frechet_difference(a, b, real, resamples=0).stderr)


def test_the_error_of_a_frechet_difference_is_that_of_repeated_experiments():
    rng = np.random.default_rng(5)
    runs = [frechet_difference(*twins(rng), resamples=30) for _ in range(80)]
    values, errors = np.array(runs).T
    assert 0.8 < np.sqrt((errors**2).mean()) / values.std(ddof=1) < 1.35


def test_pairs_make_a_frechet_difference_surer():
    a, b, real = twins(np.random.default_rng(6))
    paired = frechet_difference(a, b, real).stderr
    shuffled = frechet_difference(a, RNG.permutation(b), real).stderr
    assert paired < 0.6 * shuffled
    apart = [frechet_distance(x, real).stderr for x in (a, b)]
    assert paired < 0.6 * np.hypot(*apart)


def test_sets_that_are_no_pairs_are_refused():
    a, b, real = twins(RNG)
    with pytest.raises(InputError, match="got 150 and 149"):
        frechet_difference(a, b[1:], real)
    with pytest.raises(InputError, match="same d"):
        frechet_difference(a, b, real[:, 1:])
    with pytest.raises(InputError, match="at least 5 examples, got 4"):
        frechet_difference(a, b, real[:4])


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance])
def test_bad_features_are_refused(measure):
    with pytest.raises(InputError, match="same d"):
        measure(A, B[:, :3])
    with pytest.raises(InputError, match="same d"):
        measure(A[:, 0], B[:, 0])
    with pytest.raises(InputError, match="NaN"):
        measure(A, np.where(B > 1, np.nan, B))


def test_too_few_examples_are_refused():
    with pytest.raises(InputError, match="at least 6 examples, got 5"):
        frechet_distance(A, B[:5])
    with pytest.raises(InputError, match="three examples"):
        kernel_distance(A, B[:2])
    with pytest.raises(InputError, match="resamples"):
        frechet_distance(A, B, resamples=1)


def real(split):
    return data.scaled(data.images("digits", split=split), 17)


def test_the_classifier_reads_digits_it_has_not_seen():
    for split, least in (("validation", 0.95), ("test", 0.95), ("train", 0.99)):
        labels = digit_labels(data.images("digits", split=split))
        assert digits_classifier().score(real(split).reshape(-1, 64), labels) > least
    assert len({image.tobytes() for image in data.images("digits")}) == 1295


def test_features_are_those_of_the_classifier():
    classifier, features = digits_classifier(), digit_features(real("test"))
    scores = features @ classifier.coefs_[-1] + classifier.intercepts_[-1]
    np.testing.assert_array_equal(
        scores.argmax(axis=1), classifier.predict(real("test").reshape(-1, 64))
    )
    np.testing.assert_array_equal(digit_features(real("test") * 0.97), features)  # rounded


def test_distances_tell_digits_from_other_pictures():
    held_out = digit_features(real("test"))
    same = kernel_distance(digit_features(real("validation")), held_out)
    assert abs(same.value) < 3 * same.stderr
    upside_down = digit_features(real("test")[:, :, ::-1])
    for measure, least in ((kernel_distance, 5), (frechet_distance, 10)):
        distance = measure(upside_down, held_out)
        assert distance.value > least * distance.stderr


def test_pictures_that_are_no_digits_are_refused():
    for pictures in (np.zeros((3, 64)), np.full((1, 1, 8, 8), 3.0), np.full((1, 1, 8, 8), np.nan)):
        with pytest.raises(InputError, match=r"\(N, 1, 8, 8\)"):
            digit_features(pictures)
