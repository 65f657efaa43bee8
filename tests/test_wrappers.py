"""Reduced precision, compilation and scarce memory: what changes, and what must not."""

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import dpdiff
from dpdiff.cli import main
from dpdiff.costs import measure
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.evaluation import evaluate, rounding_effect
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime.batches import Batches
from dpdiff.sampling import sample
from dpdiff.schedule import Schedule

T = 20


class Convolutions(torch.nn.Module):
    """What autocast touches, and a look at what it was given."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Conv2d(1, 16, 3, padding=1)
        self.last = torch.nn.Conv2d(16, 2, 3, padding=1)
        self.seen = []

    def forward(self, x, index):
        hidden = self.first(x)
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        self.seen.append((hidden.dtype, channels_last, len(x)))
        return self.last(torch.tanh(hidden + index[:, None, None, None] / T))


@pytest.fixture
def model():
    noise = NoiseSchedule.cosine(T, first_beta=0.0025)
    return Denoiser(Convolutions(), noise, variance="learned_range", shape=(1, 4, 4), levels=17)


def ran(denoiser):
    """What the copy that was run has seen."""
    return denoiser.network._run.seen


def test_precisions_change_the_numbers_a_little_and_the_fingerprint_not(model, toy_images):
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before, layout = model(x, 5).x0, model.network.first.weight.stride()
    for precision, dtype, size in (
        ("float32", torch.float32, 1e-5),
        ("bf16", torch.bfloat16, 0.05),
        ("fp16", torch.float16, 0.01),
    ):
        reduced = model.with_precision(precision)
        after = reduced(x, 5).x0
        assert after.dtype == torch.float64
        assert (after - before).abs().max() < size
        assert (precision == "float32") == ((after - before).abs().max() < 1e-6)
        assert ran(reduced)[-1] == (dtype, True, 3)
        assert reduced.fingerprint == model.fingerprint
        assert reduced.precision == precision
        assert reduced.device == model.device
        assert reduced.with_precision("fp16").network.original is model.network
        assert copy.deepcopy(reduced.network).precision == precision
    assert model.network.first.weight.stride() == layout  # the original is left alone
    assert (model(x, 5).x0 == before).all()


def test_precision_is_part_of_the_provenance_and_of_the_job(model, toy_images, tmp_path):
    options = {"per_step": 6, "progress": False, "resume": tmp_path / "parts"}
    full = measure(model, toy_images, **options)
    assert full.provenance["precision"] == "float32"
    with pytest.raises(InputError, match="precision was float32 and is now bf16"):
        measure(model.with_precision("bf16"), toy_images, **options)
    reduced = measure(model.with_precision("bf16"), toy_images, per_step=128, progress=False)
    assert reduced.provenance["precision"] == "bf16"
    assert reduced.provenance["model"] == full.provenance["model"]
    model.with_variance("optimal", reduced)  # the costs are still this model's
    np.testing.assert_allclose(reduced.mse, full.mse, rtol=0.02)
    assert (reduced.mse != full.mse).any()


def test_unknown_precision(model):
    with pytest.raises(InputError, match=r"one of float32, bf16, fp16; got 'int8'"):
        model.with_precision("int8")


def test_rounding_effect_is_the_difference_of_two_scores(model, toy_images):
    reduced, schedule = model.with_precision("bf16"), Schedule.quadratic(T, T)
    ours, theirs = (
        evaluate(m, toy_images, schedule, progress=False).image_bits for m in (reduced, model)
    )
    mean, stderr = rounding_effect(reduced, toy_images)
    assert mean == pytest.approx((ours - theirs).mean())
    assert stderr == pytest.approx((ours - theirs).std(ddof=1) / 6**0.5)
    assert 0 < stderr < 0.01
    assert rounding_effect(model.with_precision("float32"), toy_images)[0] < 1e-6


def test_compiled_networks_keep_their_names(model, toy_images):
    """Through the real compiler, with the backend that takes no time."""
    compiled = model.with_precision("float32", compile=True)
    assert isinstance(compiled.network._run, torch._dynamo.OptimizedModule)
    assert compiled.fingerprint == model.fingerprint
    assert compiled.precision == "float32, compiled"
    fast = copy.copy(compiled.network)
    fast._run = torch.compile(compiled.network._run._orig_mod, backend="eager")
    costs = measure(replace(compiled, network=fast), toy_images, per_step=128, progress=False)
    np.testing.assert_allclose(
        costs.mse, measure(model, toy_images, per_step=128, progress=False).mse, rtol=1e-5
    )


def test_the_command_tells_what_precision_changes(model, monkeypatch, tmp_path, capsys, toy_images):
    monkeypatch.setattr(dpdiff, "load", lambda *a, **k: model)
    np.save(tmp_path / "images.npy", toy_images)
    data = ["--data", str(tmp_path / "images.npy"), "--precision", "bf16"]
    assert main(["measure", *data, "--out", str(tmp_path / "costs.npz")]) == 0
    assert main(["evaluate", *data, "--schedule", "even:4"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "changes the bound" in line]
    assert len(lines) == 2
    mean, stderr = rounding_effect(model.with_precision("bf16"), toy_images)
    match = re.match(r"bf16 .* of 20 quadratic steps by (\S+) ± (\S+) bits/dim \(6 im", lines[0])
    assert float(match[1]) == pytest.approx(mean, abs=1e-5)
    assert float(match[2]) == pytest.approx(stderr, abs=1e-5)
    assert dpdiff.Costs.load(tmp_path / "costs.npz").provenance["precision"] == "bf16"


def test_memory_that_runs_out_halves_the_batch(model, toy_images, capsys):
    sizes = []

    def hungry(x, index):
        sizes.append(len(x))
        if len(x) > 5:
            raise torch.OutOfMemoryError("out of memory")
        return model.network(x, index)

    scarce = replace(model, network=hungry)
    for use in (
        lambda m: measure(m, toy_images, batch_size=24, per_step=128, progress=False).mse,
        lambda m: sample(m, Schedule.even(T, 4), n=24, batch_size=24, progress=False),
        lambda m: (
            evaluate(
                m, np.tile(toy_images, (4, 1, 1, 1)), Schedule.even(T, 4), progress=False
            ).image_bits
        ),
    ):
        sizes.clear()
        np.testing.assert_allclose(use(scarce), use(model), rtol=1e-5, atol=1e-6)
        assert sizes[:3] == [24, 12, 6]  # each too many, and then never again
        assert max(sizes[3:]) == 3
        said = capsys.readouterr().err.splitlines()
        assert said == [
            "dpdiff: memory does not hold 24 examples a network call: going on with half as many, "
            "or fewer"
        ]


def test_memory_for_not_even_one(model, toy_images):
    def starved(x, index):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(InputError, match="a single example"):
        measure(replace(model, network=starved), toy_images, per_step=128, progress=False)


def test_what_is_kept_on_the_device_makes_room():
    """Memory is full of what earlier calls left: it is moved away, not given up."""
    kept, sizes = [], []

    class Result(int):
        def cpu(self):
            kept.remove(self)
            return int(self)

    def work(rows):
        sizes.append(len(rows))
        if len(kept) == 3:
            raise RuntimeError("MPS backend out of memory")
        kept.append(Result(rows[0]))
        return kept[-1]

    batches = Batches(batch_size=1)
    assert batches.halved(work, range(5)) == [0, 1, 2, 3, 4]
    assert sizes == [1] * 6
    assert kept == []
    kept += [1, 2, 3]
    with pytest.raises(InputError, match="single example"):
        batches.halved(work, range(2))


def test_what_was_given_up_is_not_counted(capsys):
    batches = Batches("tried", 4, progress=True)

    def ask(x):
        batches.called(1, x[:2])
        if len(x) == 4:
            raise torch.OutOfMemoryError("out of memory")
        return x

    (result,) = batches.run(ask, [torch.ones(6)], calls=[6])
    assert result.tolist() == [1] * 6
    assert "6/6" in capsys.readouterr().err


def test_what_is_not_finite_is_found_without_waiting():
    batches = Batches(batch_size=2)

    def ask(t):
        batches.called(t.numpy(), torch.where(t == 7, torch.nan, 1.0)[:, None])
        return t

    assert batches.run(ask, [torch.arange(5)])[0].tolist() == [*range(5)]
    with pytest.raises(InputError, match="not finite at timestep 7"):
        batches.run(ask, [torch.arange(9)])


def test_other_errors_are_not_taken_for_scarce_memory():
    def broken(rows):
        raise RuntimeError("bad shape")

    with pytest.raises(RuntimeError, match="bad shape"):
        Batches().halved(broken, range(4))


def test_memory_that_runs_out_in_the_statistics_halves_the_batch(model, toy_images, monkeypatch):
    from dpdiff.costs import statistics

    expected, per_image, sizes = (
        measure(model, toy_images, per_step=128, progress=False),
        statistics.per_image,
        [],
    )

    def scarce(denoiser, t, *rest):
        sizes.append(len(t))
        if len(t) > 5:
            raise torch.OutOfMemoryError("out of memory")
        return per_image(denoiser, t, *rest)

    monkeypatch.setattr(statistics, "per_image", scarce)
    costs = measure(model, toy_images, batch_size=24, per_step=128, progress=False)
    assert sizes[:3] == [24, 12, 6]
    assert max(sizes[3:]) == 3
    for name, values in expected.statistics.items():
        np.testing.assert_allclose(costs.statistics[name], values, rtol=1e-4, atol=1e-9)


def test_reduced_precision_copies_no_weights(model):
    reduced = model.with_precision("bf16")
    assert reduced.network._run is model.network
