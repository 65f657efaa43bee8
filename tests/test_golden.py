"""Our bound against Improved DDPM's reference implementation."""

import numpy as np
import pytest
import torch

from dpdiff.denoiser import Denoiser
from dpdiff.evaluation import evaluate
from dpdiff.noise import NoiseSchedule
from dpdiff.noising import prior_costs
from dpdiff.schedule import Schedule

RULES = {"learned_range": "learned_range", "fixed_large": "large", "fixed_small": "small"}
BITS = 1 / (3 * 32 * 32 * np.log(2))


@pytest.fixture
def replay(golden, monkeypatch):
    """A denoiser that answers with the recorded outputs, and the recorded noise to go with it."""
    at = {int(t): i for i, t in enumerate(golden["path"][1:])}

    def network(x, index):
        assert len(x) == 4, "the recording holds whole batches"
        return torch.from_numpy(golden["edge_output"][at[int(index[0]) + 1]])

    def noise(seed, t, rows, shape):
        return golden["noise"][at[t]][rows]

    monkeypatch.setattr("dpdiff.runtime.random_streams.gaussian", noise)

    def build(clip: bool) -> Denoiser:
        return Denoiser(
            network,
            NoiseSchedule.cosine(4000),
            variance="learned_range",
            shape=(3, 32, 32),
            clip=clip,
        )

    return build


def test_cosine_schedule_equals_the_reference(golden):
    ours = NoiseSchedule.cosine(4000).f[1:] ** 2
    np.testing.assert_allclose(ours, golden["alphas_cumprod"], rtol=1e-10)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_every_jump_equals_the_reference(golden, replay, rule, clip):
    denoiser = replay(clip).with_variance(RULES[rule])
    images = golden["images_uint8"].transpose(0, 3, 1, 2)
    expected = golden[f"vb_{rule}_clip{int(clip)}"]
    score = evaluate(
        denoiser, images, Schedule(golden["path"]), two_node_decoder=True, progress=False
    )
    np.testing.assert_allclose(score.edge_bits[1:], expected.mean(0)[1:], rtol=1e-5)
    assert abs(score.edge_bits[0] - expected.mean(0)[0]) < 1e-3
    totals = expected.sum(1) + golden["prior_bpd"]
    np.testing.assert_allclose(score.image_bits, totals, rtol=1e-5, atol=1e-3)


def test_prior_equals_the_reference(golden, replay):
    images = golden["images_uint8"].transpose(0, 3, 1, 2)
    ours = prior_costs(replay(True), images) * BITS
    np.testing.assert_allclose(ours, golden["prior_bpd"], rtol=1e-5)
