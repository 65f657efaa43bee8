"""The bundled Fashion-MNIST models: files, shipped costs, and what their schedules are worth.

``data/fashion_sample.npz`` holds 32 images of the official test set (MIT licence).
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import dpdiff
from dpdiff import models
from dpdiff.training import RECIPES
from dpdiff.training.recipes import build_network

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"
BOTH = ("fashion-short", "fashion")
ALL = (*BOTH, "fashion-linear")
RULES = ("small", "large", "learned_range", "optimal")


@pytest.fixture(scope="module")
def images():
    with np.load(HERE / "data" / "fashion_sample.npz") as archive:
        return archive["images"]


def recorded(model="fashion"):
    return json.loads((RESULTS / f"{model}.json").read_text())


@pytest.mark.parametrize("model", ALL)
def test_it_is_the_recipes_network_and_small(model):
    denoiser, folder = dpdiff.load(model), models.HOME / model
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size < 16_000_000
    recipe = RECIPES[model]
    with torch.device("meta"):
        expected = {k: w.shape for k, w in build_network(recipe).state_dict().items()}
    assert {k: w.shape for k, w in denoiser.network.state_dict().items()} == expected
    assert (denoiser.noise.T, denoiser.levels, denoiser.shape) == (recipe.T, 256, (1, 28, 28))
    assert (denoiser.predicts, denoiser.variance) == (recipe.predicts, recipe.variance)
    about = json.loads((folder / "dpdiff.json").read_text())
    own = json.loads(json.dumps(asdict(recipe)))
    assert {name: own[name] for name in about["recipe"]} == about["recipe"]
    judged = "bits_per_dim" if recipe.variance == "learned_range" else "l_simple"
    steps, losses = zip(*about[f"validation_{judged}"], strict=True)
    assert steps[-1] == recipe.steps
    assert losses[-1] == min(losses)


@pytest.mark.parametrize(("model", "per_step"), list(zip(ALL, (256, 83, 166), strict=True)))
def test_shipped_costs_are_those_of_the_shipped_model(model, per_step, images):
    """Other images with other noise: as far apart as chance allows, and no further."""
    denoiser, costs = dpdiff.load(model), dpdiff.load_costs(model)
    costs.check_model(denoiser.fingerprint)
    assert (costs.provenance["name"], costs.provenance["per_step"]) == (model, per_step)
    assert costs.provenance["split"] == "validation"
    for t in np.array([1, 40, 400, 1500, 3000]) * costs.noise.T // 4000 + 1:
        x0, mean = predict(denoiser, images, int(t))
        errors = ((x0 - mean) ** 2).flatten(1).sum(1).numpy()
        stderr = np.sqrt(costs.statistics["mse_var"][t] * (1 / len(images) + 1 / per_step))
        assert abs(errors.mean() - costs.mse[t]) < 4 * stderr, t


def predict(denoiser, images, t):
    from dpdiff import noising

    rows = np.arange(len(images))
    batch = noising.prepare(denoiser, images, np.full(len(rows), t), rows, seed=11)
    x0, prediction = noising.predict(denoiser, batch)
    return x0, prediction.x0


@pytest.mark.parametrize("model", ALL)
def test_recorded_scores_are_of_this_model(model):
    fingerprint = dpdiff.load(model).fingerprint
    assert recorded(model)["costs"]["model"] == fingerprint
    dpdiff.load_costs(model).check_model(fingerprint)


def test_longer_training_lowered_the_bound(images):
    """Of the same images with the same noise and steps, none of which either was fitted to."""
    schedule = dpdiff.Schedule.quadratic(4000, 16)
    before, after = (
        dpdiff.evaluate(dpdiff.load(model), images, schedule, seed=1, progress=False)
        for model in BOTH
    )
    less, error = after.minus(before)
    assert less < -0.1
    assert less < -5 * error


def test_longer_training_reached_every_layer():
    """A compiler's gradients of zero once left inner layers to weight decay, which only shrinks."""
    before, after = (dpdiff.load(model).network.state_dict() for model in BOTH)
    for name, weight in before.items():
        if weight.ndim > 1:
            cosine = torch.cosine_similarity(weight.flatten(), after[name].flatten(), dim=0)
            assert cosine < 0.999, name


@pytest.mark.parametrize("model", ALL)
def test_the_optimal_schedule_is_best_on_held_out_images(model):
    by_rule = recorded(model)["bits_per_dim"]
    assert set(by_rule) == set(RULES) - ({"learned_range"} if model == "fashion-linear" else set())
    for rule, scores in by_rule.items():
        for steps in scores["dp"]:
            best = min(scores["even"][steps][0], scores["quadratic"][steps][0])
            assert scores["dp"][steps][0] < best, (rule, steps)


@pytest.mark.parametrize("rule", RULES)
def test_quadratic_beats_even_only_where_the_variance_adapts(rule):
    scores = recorded()["bits_per_dim"][rule]
    quadratic_is_better = scores["quadratic"]["32"][0] < scores["even"]["32"][0]
    assert quadratic_is_better == (rule in ("learned_range", "optimal"))


@pytest.mark.parametrize("model", ALL)
def test_a_recorded_score_can_be_computed_again(model, images):
    """The first of the held-out images are the sample's: their score is near the recorded one."""
    scores, denoiser, costs = recorded(model), dpdiff.load(model), dpdiff.load_costs(model)
    schedule = dpdiff.solve(costs.smoothed().with_variance("optimal"), max_steps=8).schedule(8)
    score = dpdiff.evaluate(
        denoiser.with_variance("optimal", costs),
        images,
        schedule,
        seed=scores["seed"],
        progress=False,
    )
    if "of_the_first_32" in scores:
        assert score.mean == pytest.approx(scores["of_the_first_32"]["optimal"], abs=1e-3)
    mean, stderr = scores["bits_per_dim"]["optimal"]["dp"]["8"]
    spread = stderr * np.sqrt(scores["images"] / len(images))
    assert abs(score.mean - mean) < 3 * spread
    assert score.stderr == pytest.approx(spread, rel=0.5)
