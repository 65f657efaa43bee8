"""Mistakes about devices, found without one: tensors that have a device and no values.

The meta device stands for a GPU. What mixes it with the CPU fails there as on a GPU, and so does
what would have to wait for a value. What is moved to the CPU on purpose arrives as ones. (Fake
CUDA tensors would bear the right name, but torch built without CUDA refuses to index or move
them.)
"""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dpdiff import noising
from dpdiff.costs import measure
from dpdiff.denoiser import Denoiser
from dpdiff.evaluation import evaluate_many
from dpdiff.noise import NoiseSchedule
from dpdiff.sampling import SAMPLERS, sample, walk
from dpdiff.schedule import Schedule

NOISE = NoiseSchedule.cosine(6, first_beta=0.0025)
IMAGES = np.random.default_rng(0).integers(0, 17, (4, 1, 4, 4)).astype(np.uint8)
RULES = ("small", "large", "learned_range")


class Arriving(TorchFunctionMode):
    """What is moved to the CPU arrives as ones; each time is counted."""

    def __init__(self):
        super().__init__()
        self.arrivals = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, tensor = kwargs or {}, args[0] if args else None
        if function in (torch.Tensor.to, torch.Tensor.cpu) and tensor.device.type == "meta":
            device, dtype = torch.device("cpu"), None
            if function is torch.Tensor.to:
                device, dtype, *_ = torch._C._nn._parse_to(*args[1:], **kwargs)
            if device is not None and device.type == "cpu":
                self.arrivals += 1
                return torch.ones(tensor.shape, dtype=dtype or tensor.dtype)
        return function(*args, **kwargs)


class NoDoubles(TorchDispatchMode):
    """Apple's GPUs have no float64: neither is any tensor on the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                assert tensor.dtype != torch.float64, f"{function} makes float64 there"
        return result


class Network(torch.nn.Module):
    def __init__(self, **place):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 2, 3, padding=1, **place)
        self.phase = torch.nn.Embedding(6, 1, **place)

    def forward(self, x, index):
        return self.layer(x) + self.phase(index)[:, :, None, None]


def model(rule="learned_range", dtype=torch.float32, device="meta"):
    network = Network(device=device, dtype=dtype)
    denoiser = Denoiser(network, NOISE, variance="learned_range", shape=(1, 4, 4), levels=17)
    # The digest of weights without values is that of no others.
    vars(denoiser.network)["state_dict"] = dict
    return denoiser.with_variance(rule)


@contextmanager
def without_doubles(monkeypatch):
    """The device that stands in is one of Apple's."""
    monkeypatch.setattr(noising, "place", lambda denoiser: torch.device("cpu"))
    with NoDoubles():
        yield


@pytest.fixture(params=["gpu", "apple"])
def device(request, monkeypatch):
    with Arriving() as arriving:
        if request.param == "gpu":
            yield arriving
        else:
            with without_doubles(monkeypatch):
                yield arriving


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_measuring(device, dtype):
    costs = measure(model(dtype=dtype), IMAGES, per_step=4, batch_size=6, progress=False)
    assert costs.mse.shape == (7,)
    assert device.arrivals


def test_measuring_when_memory_is_scarce(device, monkeypatch):
    """What was moved away to make room finds back."""
    calls = []

    class Hungry(Network):
        def forward(self, x, index):
            calls.append(len(x))
            if len(calls) == 2:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(x, index)

    monkeypatch.setitem(globals(), "Network", Hungry)
    costs = measure(model(), IMAGES, per_step=4, batch_size=2, progress=False)
    assert costs.mse.shape == (7,)
    assert calls[:4] == [2, 2, 1, 1]


def test_evaluating(device):
    one = model()
    jobs = [(one.with_variance(rule), Schedule([0, 2, 6])) for rule in RULES]
    bounds = evaluate_many(jobs, IMAGES, batch_size=3, progress=False)
    assert [len(bound.image_bits) for bound in bounds] == [4, 4, 4]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling(device, rule, sampler):
    samples = sample(model(rule), Schedule([0, 2, 6]), n=3, sampler=sampler, progress=False)
    assert (samples.device.type, samples.shape) == ("cpu", (3, 1, 4, 4))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_step_of_sampling_waits_for_the_device(sampler):
    """A GPU can be given all of its work ahead."""
    x = torch.zeros(2, 1, 4, 4, device="meta")
    with Arriving() as arriving:
        states = list(walk(model("small"), Schedule([0, 2, 6]), x, sampler))
    assert [state.x.device.type for state in states] == ["meta", "meta"]
    assert arriving.arrivals == 0


def test_numbers_are_float64_where_the_network_is():
    batch = noising.prepare(model(), IMAGES, np.full(4, 3), np.arange(4), 0)
    x0, prediction = noising.predict(model(), batch)
    for tensor in (x0, *prediction):
        assert (tensor.device.type, tensor.dtype) == ("meta", torch.float64)


def test_apples_numbers_are_reckoned_on_the_cpu():
    for kind, place in (("mps", "cpu"), ("cuda", "cuda"), ("cpu", "cpu")):
        assert noising.place(SimpleNamespace(device=torch.device(kind))).type == place


def test_functions_are_given_tensors_of_their_device():
    weight = torch.ones(1, device="meta")
    denoiser = Denoiser(
        lambda x, index: x * weight, NOISE, shape=(1, 4, 4), device="meta", identity="by one"
    )
    with Arriving():
        assert denoiser(torch.zeros(2, 1, 4, 4), 3).x0.device.type == "cpu"  # that of x_t
        measure(denoiser, IMAGES, per_step=4, progress=False)


@pytest.mark.parametrize("shape", [(5,), (2, 5), (1, 2, 3, 4)])
def test_every_shape(shape):
    denoiser = Denoiser(lambda x, index: x, NOISE, shape=shape, device="meta", identity="x")
    prediction = denoiser(torch.zeros(2, *shape, device="meta"), 3)
    assert prediction.x0.shape == (2, *shape)


def test_the_checks_can_fail(monkeypatch):
    there = torch.ones(2, device="meta")
    with pytest.raises(RuntimeError, match="device"):
        there + torch.ones(2)
    with pytest.raises(RuntimeError, match="meta"):
        there.sum().item()
    with without_doubles(monkeypatch), pytest.raises(AssertionError, match="float64"):
        there.double()
