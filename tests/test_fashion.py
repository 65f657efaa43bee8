"""The bundled Fashion-MNIST model: its files, its shipped costs, and what its schedules are worth.

``data/fashion_sample.npz`` holds 32 images of the official test set (MIT licence).
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import dpdiff
from dpdiff import models
from dpdiff.training.recipes import RECIPES, build_network

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results" / "fashion.json"
RULES = ("small", "large", "learned_range", "optimal")


@pytest.fixture(scope="module")
def denoiser():
    return dpdiff.load("fashion")


@pytest.fixture(scope="module")
def costs():
    return dpdiff.load_costs("fashion")


@pytest.fixture(scope="module")
def images():
    with np.load(HERE / "data" / "fashion_sample.npz") as archive:
        return archive["images"]


def test_it_is_the_recipes_network_and_small(denoiser):
    folder = models.HOME / "fashion"
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size < 16_000_000
    recipe = RECIPES["fashion"]
    with torch.device("meta"):
        expected = {k: w.shape for k, w in build_network(recipe).state_dict().items()}
    assert {k: w.shape for k, w in denoiser.network.state_dict().items()} == expected
    assert (denoiser.noise.T, denoiser.levels, denoiser.shape) == (4000, 256, (1, 28, 28))
    assert json.loads((folder / "dpdiff.json").read_text())["recipe"]["steps"] == recipe.steps


def test_shipped_costs_are_those_of_the_shipped_model(denoiser, costs, images):
    """Other images with other noise: as far apart as chance allows, and no further."""
    costs.check_model(denoiser.fingerprint)
    assert costs.provenance["per_step"] == 256
    assert costs.provenance["split"] == "validation"
    steps = np.array([1, 40, 400, 1500, 3000])
    for t in steps:
        x0, mean = predict(denoiser, images, int(t))
        errors = ((x0 - mean) ** 2).flatten(1).sum(1).numpy()
        stderr = np.sqrt(costs.statistics["mse_var"][t] * (1 / len(images) + 1 / 256))
        assert abs(errors.mean() - costs.mse[t]) < 4 * stderr, t


def predict(denoiser, images, t):
    from dpdiff import noising

    rows = np.arange(len(images))
    batch = noising.prepare(denoiser, images, np.full(len(rows), t), rows, seed=11)
    x0, prediction = noising.predict(denoiser, batch)
    return x0, prediction.x0


def test_recorded_scores_are_of_this_model(denoiser):
    recorded = json.loads(RESULTS.read_text())
    assert recorded["costs"]["model"] == denoiser.fingerprint


@pytest.mark.parametrize("rule", RULES)
def test_the_papers_order_on_held_out_images(rule):
    """DP is best at every budget. Quadratic beats even only where the variance adapts."""
    scores = json.loads(RESULTS.read_text())["bits_per_dim"][rule]
    for steps in scores["dp"]:
        best = min(scores["even"][steps][0], scores["quadratic"][steps][0])
        assert scores["dp"][steps][0] < best, steps
    quadratic_is_better = scores["quadratic"]["32"][0] < scores["even"]["32"][0]
    assert quadratic_is_better == (rule in ("learned_range", "optimal"))


def test_a_recorded_score_can_be_computed_again(denoiser, costs, images):
    """The first of the held-out images are the sample's: their score is near the recorded one."""
    recorded = json.loads(RESULTS.read_text())
    schedule = dpdiff.solve(costs.smoothed().with_variance("optimal"), max_steps=8).schedule(8)
    score = dpdiff.evaluate(
        denoiser.with_variance("optimal", costs),
        images,
        schedule,
        seed=recorded["seed"],
        progress=False,
    )
    mean, stderr = recorded["bits_per_dim"]["optimal"]["dp"]["8"]
    spread = stderr * np.sqrt(recorded["images"] / len(images))
    assert abs(score.mean - mean) < 3 * spread
    assert score.stderr == pytest.approx(spread, rel=0.5)
