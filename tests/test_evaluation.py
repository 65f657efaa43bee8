"""Scores of many schedules at once, and their differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dpdiff.errors import InputError
from dpdiff.evaluation import evaluate, evaluate_many
from dpdiff.schedule import Schedule


class Counted(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.asked = network, []

    def forward(self, x, index):
        self.asked += (index + 1).tolist()
        return self.network(x, index)


@pytest.fixture
def counted(toy):
    return replace(toy, network=Counted(toy.network))


def test_scoring_together_equals_scoring_apart(counted, toy_images):
    schedules = [Schedule.even(4000, 5), Schedule.quadratic(4000, 5), Schedule([0, 160, 4000])]
    jobs = [
        (counted.with_variance(rule), schedule)
        for rule in ("small", "learned_range")
        for schedule in schedules
    ]
    together = evaluate_many(jobs, toy_images, seed=3, batch_size=4, progress=False)
    visited = sorted(set().union(*(schedule.timesteps[1:] for schedule in schedules)))
    assert sorted(counted.network.asked) == sorted(visited * len(toy_images))
    for (denoiser, schedule), score in zip(jobs, together, strict=True):
        alone = evaluate(denoiser, toy_images, schedule, seed=3, batch_size=4, progress=False)
        np.testing.assert_array_equal(score.image_bits, alone.image_bits)
        np.testing.assert_array_equal(score.edge_bits, alone.edge_bits)
        assert score.prior_bits == alone.prior_bits


def test_a_set_evaluated_in_parts_has_the_bounds_of_the_whole(toy, toy_images):
    jobs = [(toy, Schedule.even(4000, 5)), (toy.with_variance("small"), Schedule([0, 160, 4000]))]
    whole = evaluate_many(jobs, toy_images, seed=3, progress=False)
    parts = [
        evaluate_many(jobs, part, seed=3, first_row=row, progress=False)
        for row, part in ((0, toy_images[:2]), (2, toy_images[2:]))
    ]
    for bound, *pieces in zip(whole, *parts, strict=True):
        bits = np.concatenate([piece.image_bits for piece in pieces])
        np.testing.assert_allclose(bits, bound.image_bits, rtol=1e-6)
    again = evaluate(toy, toy_images[2:], jobs[0][1], seed=3, progress=False)
    assert abs(again.image_bits - whole[0].image_bits[2:]).min() > 1e-3  # other noise
    with pytest.raises(InputError, match="first_row is an integer in 0"):
        evaluate_many(jobs, toy_images, first_row=-1)


def test_two_networks_cannot_be_scored_in_one_call(toy, counted, toy_images):
    schedule = Schedule.even(4000, 2)
    with pytest.raises(InputError, match="share one network"):
        evaluate_many([(toy, schedule), (counted, schedule)], toy_images)


def test_a_difference_is_taken_image_by_image(toy, toy_images):
    one, other = (
        evaluate(toy, toy_images, Schedule.even(4000, steps), progress=False) for steps in (4, 8)
    )
    mean, stderr = one.minus(other)
    assert mean == pytest.approx(one.mean - other.mean)
    differences = one.image_bits - other.image_bits
    assert stderr == pytest.approx(np.std(differences, ddof=1) / np.sqrt(len(toy_images)))
    assert one.minus(one) == (0, 0)
    few = evaluate(toy, toy_images[:3], Schedule.even(4000, 4), progress=False)
    with pytest.raises(InputError, match="same ones"):
        one.minus(few)
