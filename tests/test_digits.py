"""The bundled model: its files, its shipped costs, and what its schedules are worth."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dpdiff
from dpdiff import models
from dpdiff.costs.measurement import every_timestep, measured
from dpdiff.runtime.batches import Batches

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "digits.json"
BUDGETS = ("8", "16", "32", "64", "128", "256")


@pytest.fixture(scope="module")
def denoiser():
    return dpdiff.load("digits")


@pytest.fixture(scope="module")
def costs():
    return dpdiff.load_costs("digits")


def test_it_is_small_and_in_the_ecosystems_format(denoiser):
    weights = models.HOME / "digits" / "unet" / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size < 3_000_000
    from diffusers import DDPMPipeline

    pipeline = DDPMPipeline.from_pretrained(models.HOME / "digits")
    for name, weight in pipeline.unet.state_dict().items():
        assert (weight == denoiser.network.state_dict()[name]).all()


def test_its_grid_begins_at_the_datas_precision(denoiser):
    assert denoiser.levels == 17
    assert denoiser.noise.g[1] == pytest.approx(0.05)
    assert denoiser.noise.T == 4000


def test_shipped_costs_are_those_of_the_shipped_model(denoiser, costs):
    """Some timesteps measured again, with the same seed and images."""
    costs.check_model(denoiser.fingerprint)
    images, about = dpdiff.images("digits", split="validation"), costs.provenance
    assert (about["images"], about["data"], about["split"]) == (len(images), "digits", "validation")
    stage = every_timestep(4000, len(images), about["per_step"], about["seed"])
    for t in (1, 40, 1500, 4000):
        one = replace(stage, timesteps=np.array([t]))
        again = measured(denoiser, images, one, about["seed"], Batches(batch_size=128))
        for name, values in again.items():
            np.testing.assert_allclose(
                values[0], costs.statistics[name][t], rtol=2e-4, atol=1e-6, err_msg=f"{name} {t}"
            )


def test_recorded_scores_are_of_this_model(denoiser):
    assert json.loads(RESULTS.read_text())["costs"]["model"] == denoiser.fingerprint


@pytest.mark.parametrize("rule", ["small", "large", "learned_range", "optimal"])
def test_dp_is_best_at_every_budget_on_held_out_images(rule):
    scores = json.loads(RESULTS.read_text())["bits_per_dim"][rule]
    for steps in BUDGETS:
        best = scores["dp"][steps][0]
        assert best < scores["even"][steps][0], steps
        assert best < scores["quadratic"][steps][0], steps


def test_32_steps_come_within_a_tenth_of_a_bit_of_all_steps():
    scores = json.loads(RESULTS.read_text())["bits_per_dim"]
    assert scores["learned_range"]["dp_minus_all"]["32"][0] < 0.1
    difference, stderr = scores["optimal"]["dp_minus_all"]["32"]
    assert difference + 2 * stderr < 0.1


def test_smoothing_helps_on_held_out_images():
    """Schedules chosen on smoothed costs against those chosen on the costs as measured."""
    smooth, raw = (
        json.loads((RESULTS.parent / name).read_text())["bits_per_dim"]
        for name in ("digits.json", "digits_raw.json")
    )
    for rule in smooth:
        gains = [raw[rule]["dp"][k][0] - smooth[rule]["dp"][k][0] for k in BUDGETS]
        assert sum(gains) > 0.01, rule


@pytest.mark.parametrize("kind", ["even", "dp"])
def test_recorded_scores_can_be_computed_again(denoiser, costs, kind):
    """Eight steps, all held-out images, the optimal variance; and the DP's lead is no accident."""
    recorded = json.loads(RESULTS.read_text())
    images = dpdiff.images("digits", split="test")
    ruled = denoiser.with_variance("optimal", costs)
    schedule = dpdiff.Schedule.even(4000, 8)
    if kind == "dp":
        smooth = costs.smoothed().with_variance("optimal")
        schedule = dpdiff.solve(smooth, max_steps=8).schedule(8)
    score = dpdiff.evaluate(ruled, images, schedule, seed=recorded["seed"], progress=False)
    mean, stderr = recorded["bits_per_dim"]["optimal"][kind]["8"]
    assert score.mean == pytest.approx(mean, abs=2e-4)
    assert score.stderr == pytest.approx(stderr, rel=1e-2)


def test_an_own_network_takes_one_line(denoiser):
    own = dpdiff.Denoiser(
        denoiser.network,
        denoiser.noise,
        predicts="v",
        variance="learned_range",
        shape=(1, 8, 8),
        levels=17,
    )
    assert own.fingerprint == denoiser.fingerprint
    other = replace(own, clip=False)
    assert other.fingerprint != denoiser.fingerprint
