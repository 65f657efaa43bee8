"""Training: restartable to the same bits, and the model it writes is the model it trained."""

import copy
import json
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from dpdiff import models
from dpdiff.denoiser import Denoiser
from dpdiff.elbo import jump_cost
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import formats
from dpdiff.training import Trainer, recipes
from dpdiff.training import trainer as training

TINY = replace(
    recipes.RECIPES["digits"], channels=(16, 16), steps=6, batch=8, validate_every=2, warmup=2
)


def test_a_run_that_was_cut_off_ends_with_the_same_weights(tmp_path, monkeypatch):
    whole = Trainer(TINY, tmp_path / "whole").run(progress=False)

    cut = Trainer(TINY, tmp_path / "cut")
    update = cut._update

    def killed():
        if cut.step == 3:
            raise KeyboardInterrupt
        return update()

    monkeypatch.setattr(cut, "_update", killed)
    with pytest.raises(KeyboardInterrupt):
        cut.run(progress=False)
    resumed = Trainer(TINY, tmp_path / "cut")
    assert resumed.step == 2  # the last checkpoint
    again = resumed.run(progress=False)
    for one, other in zip(whole.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_in_bf16_goes_on_in_bf16_alone(tmp_path):
    """It learns about the same, and a run is never finished in another precision."""
    plain = Trainer(TINY, tmp_path / "plain")
    trainer = Trainer(TINY, tmp_path / "bf16", precision="bf16")
    losses = np.array([(plain._update(), trainer._update()) for _ in range(4)])
    assert (losses[:, 0] != losses[:, 1]).all()
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=0.02)
    for weight in (*trainer.network.parameters(), *trainer.average.module.parameters()):
        assert weight.dtype == torch.float32
    trainer._checkpoint()
    with pytest.raises(InputError, match="another precision"):
        Trainer(TINY, tmp_path / "bf16")
    assert Trainer(TINY, tmp_path / "bf16", precision="bf16").step == 4
    with pytest.raises(InputError, match="bf16 or float32"):
        training.train("digits", tmp_path / "fp16", precision="fp16")


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_every_weight_moves_by_the_gradient_of_the_loss(tmp_path, monkeypatch, precision):
    """Against the plain network: a compiler once gave the inner levels gradients of zero."""
    recipe = replace(TINY, dropout=0.0)
    trainer = Trainer(recipe, tmp_path, precision=precision)
    plain, loss_of = copy.deepcopy(trainer.network), training.losses

    def losses(updated, *batch):
        simple, bound = loss_of(trainer._denoiser(plain), *batch)
        (simple.mean() + recipe.vlb_weight * bound.mean()).backward()
        return loss_of(updated, *batch)

    monkeypatch.setattr(training, "losses", losses)
    trainer._update()
    whole = torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0).clamp(max=1.0)
    tolerance = 1e-6 if precision == "float32" else 0.05
    named = dict(plain.named_parameters())
    assert sum(weight.grad.norm() > 1e-3 * whole for weight in named.values()) > 0.5 * len(named)
    for name, weight in trainer.network.named_parameters():
        error = (weight.grad - named[name].grad).norm()
        assert error <= tolerance * (named[name].grad.norm() + 1e-3 * whole), name


@pytest.mark.parametrize(("decay", "age"), [(0.9999, 300), (0.99, 99), (0.9, 9)])
def test_the_average_is_a_mean_that_forgets(decay, age):
    """Of weights that are their own number: the mean age is n/10 or decay/(1 - decay)."""
    mean, average, updates = torch.ones(1, dtype=torch.float64), training.warmed_up_ema(decay), 3000
    for count in range(2, updates + 1):
        average([mean], [torch.full_like(mean, count)], torch.tensor(count))
    assert updates - mean.item() == pytest.approx(age, rel=0.02)


def test_training_learns_something(tmp_path):
    recipe = replace(TINY, steps=60, batch=32, validate_every=30, ema=0.9)
    trainer = Trainer(recipe, tmp_path)
    trainer._validate()
    trainer.run(progress=False)
    assert trainer.history[-1][1] < trainer.history[0][1] - 0.5


def test_a_further_cycle_begins_with_the_bundled_weights(tmp_path):
    recipe = replace(recipes.RECIPES["digits"], steps=1, begins="digits")
    trainer, bundled = Trainer(recipe, tmp_path), models.load("digits").network
    for one, other in zip(trainer.network.parameters(), bundled.parameters(), strict=True):
        assert torch.equal(one, other)
    trainer.run(progress=False)  # judged before the first update, as the bundled model was
    about = json.loads((models.HOME / "digits" / "dpdiff.json").read_text())
    best = min(bits for _, bits in about["validation_bits_per_dim"])
    assert [step for step, _ in trainer.history] == [0, 1]
    assert trainer.history[0][1] == pytest.approx(best, abs=2e-3)  # weights in float16
    before, longer = (asdict(recipes.RECIPES[name]) for name in ("fashion-short", "fashion"))
    assert {name for name in longer if longer[name] != before[name]} == {
        "steps",
        "learning_rate",
        "validate_every",
        "patience",
        "seed",
        "begins",
    }


def test_the_written_model_is_the_trained_one(tmp_path):
    denoiser = Trainer(TINY, tmp_path / "run").run(progress=False)
    models.save(denoiser, tmp_path / "model")
    loaded = models.load(tmp_path / "model")
    assert (loaded.predicts, loaded.variance, loaded.levels) == ("v", "learned_range", 17)
    assert loaded.shape == denoiser.shape
    assert (loaded.noise.betas == denoiser.noise.betas).all()
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        np.testing.assert_allclose(loaded(x, 700).x0, denoiser(x, 700).x0, atol=5e-3)  # float16


def test_the_bound_teaches_the_variance_and_the_error_the_mean():
    """At the decoder's timestep too."""
    weights = torch.zeros(2, 1, 1, requires_grad=True)
    denoiser = Denoiser(
        lambda x, index: torch.cat([x, x], dim=1) * weights + weights,
        NoiseSchedule.cosine(50),
        predicts="v",
        variance="learned_range",
        shape=(1, 2, 2),
        identity="two numbers",
    )
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand(3, 1, 2, 2, generator=generator) * 2 - 1
    eps = torch.randn(x0.shape, generator=generator)
    both = training.losses(denoiser, x0, np.array([1, 2, 40]), eps)
    for loss, taught in zip(both, (0, 1), strict=True):
        for part in loss:
            (gradient,) = torch.autograd.grad(part, weights, retain_graph=True)
            assert gradient[taught].abs() > 0
            assert gradient[1 - taught] == 0


def test_losses_are_the_hybrid_of_its_parts():
    """Against the KL divergence of explicit Gaussians, and the MSE of the target."""
    noise = NoiseSchedule.cosine(50)

    def network(x, index):
        return torch.cat([0.3 * x, 0.5 * x], dim=1)

    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand(4, 1, 2, 2, generator=generator) * 2 - 1
    eps = torch.randn(4, 1, 2, 2, generator=generator)
    t = np.array([2, 10, 30, 50])
    for predicts in ("eps", "v"):
        denoiser = Denoiser(
            network, noise, predicts=predicts, variance="learned_range", shape=(1, 2, 2)
        )
        simple, bound = training.losses(denoiser, x0, t, eps)
        for i, step in enumerate(t):
            f, g = noise.f[step], noise.g[step]
            x_t = f * x0[i] + g * eps[i]
            target = eps[i] if predicts == "eps" else f * eps[i] - g * x0[i]
            np.testing.assert_allclose(simple[i], (target - 0.3 * x_t).square().mean(), rtol=1e-4)
            mean, v = denoiser(x_t[None], int(step))
            u = noise.noise_gain(step, step - 1) * v[0]
            kl = jump_cost(u, (x0[i] - mean[0]) ** 2, noise.snr_gap(step, step - 1))
            np.testing.assert_allclose(bound[i], 50 * kl.mean() / np.log(2), rtol=1e-3)


def test_recipes_do_not_mix(tmp_path):
    Trainer(TINY, tmp_path)._checkpoint()
    with pytest.raises(InputError, match="another recipe"):
        Trainer(replace(TINY, seed=1), tmp_path)
    with pytest.raises(InputError, match="no recipe 'cats'"):
        training.train("cats", tmp_path)


def test_a_checkpoint_that_is_damaged_is_refused(tmp_path):
    Trainer(TINY, tmp_path)._checkpoint()
    path = tmp_path / training.CHECKPOINT
    whole = path.read_bytes()
    for content in (b"", b"garbage", whole[:-1], whole[:5000] + b"!" + whole[5001:]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            Trainer(TINY, tmp_path)


def test_a_killed_run_leaves_a_whole_checkpoint(tmp_path):
    """SIGKILL at a random moment; whatever is on disk loads."""
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from dataclasses import replace; from pathlib import Path; from dpdiff.training import "
        "trainer as training\n"
        "tiny = replace(training.RECIPES['digits'], channels=(16, 16), steps=10**6, batch=4,"
        " validate_every=1)\n"
        f"training.Trainer(tiny, Path({str(tmp_path)!r})).run(progress=False)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    checkpoint = tmp_path / training.CHECKPOINT
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(np.random.default_rng().uniform(0, 0.5))
    process.kill()
    process.wait()
    assert formats.read_tensors(checkpoint, "cpu")["step"] >= 1


def test_the_written_model_says_what_it_was_trained_with(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "digits", replace(TINY, steps=1))
    training.train("digits", tmp_path, device=torch.device("cpu"), progress=False)
    about = json.loads((tmp_path / "dpdiff.json").read_text())
    made_with = (about["precision"], about["device"], about["torch"])
    assert made_with == ("float32", "cpu", torch.__version__)
