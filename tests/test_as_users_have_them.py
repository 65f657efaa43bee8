"""Networks and images as they lie around: of any dtype, functions, tensors, pictures, loaders."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from dpdiff.conditioned import Conditioned
from dpdiff.costs import measure
from dpdiff.data import check, levels
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.evaluation import evaluate
from dpdiff.network import identity
from dpdiff.noise import NoiseSchedule
from dpdiff.sampling import sample
from dpdiff.schedule import Schedule
from dpdiff.solvers import Constrained

NOISE = NoiseSchedule.cosine(6, first_beta=0.0025)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 6)).astype(np.uint8)


def silent(x, index):
    return 0 * x


class Shifted(torch.nn.Module):
    """Depends on its weights, and insists on getting their dtype."""

    def __init__(self, dims=2):
        super().__init__()
        torch.manual_seed(0)
        kind = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[dims]
        self.layer = kind(1, 1, 3, padding=1)

    def forward(self, x, index):
        return self.layer(x)


def model(network=silent, shape=(1, 4, 4), **settings):
    return Denoiser(network, NOISE, shape=shape, **settings)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_dtype_are_given_their_own(dtype):
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    full, own = model(Shifted()), model(Shifted().to(dtype))
    assert own.dtype == dtype
    x0 = own(x, 3).x0
    assert x0.dtype == torch.float64
    assert (x0 - full(x, 3).x0).abs().max() < (0.1 if dtype != torch.float64 else 1e-5)
    assert own.precision == {"float16": "float16", "bfloat16": "bf16"}.get(
        str(dtype)[6:], "float64"
    )
    measured = measure(own, np.zeros((2, 1, 4, 4), int), per_step=128, progress=False)
    assert measured.provenance["precision"] == own.precision


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_convolutions_of_any_dimension_run_in_any_precision(dims, precision):
    shape = (1, *(4,) * dims)
    reduced = model(Shifted(dims), shape).with_precision(precision)
    x = torch.randn(2, *shape)
    assert (reduced(x, 2).x0 - reduced.unwrapped(x, 2).x0).abs().max() < 0.05


def test_outputs_may_be_tuples():
    x = torch.randn(2, 1, 4, 4)
    for wrapped in (lambda x, index: (x, "more"), lambda x, index: [x]):
        assert (model(wrapped, predicts="x0", clip=False)(x, 3).x0 == x).all()
    with pytest.raises(InputError, match="returned a str"):
        model(lambda x, index: "x")(x, 3)


def test_functions_have_the_device_they_are_given():
    assert model().device == torch.device("cpu")
    assert model(device="meta").device == torch.device("meta")
    assert model(Shifted(), device="meta").device == torch.device("cpu")  # where its weights are
    assert model(device="meta").with_variance("small").device == torch.device("meta")
    with pytest.raises(InputError, match="torch device"):
        model(device="nope")


def scaled(by):
    return lambda x, index: by * x


def test_two_functions_do_not_pass_for_each_other():
    one, same, other = (model(scaled(by)) for by in (0.5, 0.5, 0.25))
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != other.fingerprint
    assert model(lambda x, i: x).fingerprint != model(lambda x, i: -x).fingerprint
    costs = measure(one, np.zeros((2, 1, 4, 4), int), per_step=128, progress=False)
    with pytest.raises(InputError, match="measure it first"):
        other.with_variance("optimal", costs)
    layers = [Shifted(), Shifted()]
    layers[1].layer.weight.data += 1
    networks = [model(partial(lambda net, x, i: net(x, i), net)) for net in layers]
    assert networks[0].fingerprint != networks[1].fingerprint


def test_functions_that_cannot_be_seen_through_are_known_in_this_process_only():
    hidden = scaled([0.5])
    assert identity(hidden).startswith("unseen-")
    assert identity(hidden) == identity(hidden)
    assert identity(hidden) != identity(scaled([0.5]))
    named = (model(scaled([0.5]), identity=name) for name in ("a", "a", "b"))
    one, same, other = (m.fingerprint for m in named)
    assert one == same != other


def test_conditional_networks_are_sent_to_conditioned():
    def guided(x, index, y=None):
        assert y is not None, "must specify y if and only if the model is class-conditional"
        return x * y[:, None, None, None]

    def diffusers(x, index, class_labels):
        return x * class_labels[:, None, None, None]

    for network, condition in ((guided, "y"), (diffusers, "class_labels")):
        with pytest.raises(InputError, match=r"dpdiff\.Conditioned"):
            model(network)(torch.ones(2, 1, 4, 4), 3)
        model(Conditioned(network, **{condition: 1}))(torch.ones(2, 1, 4, 4), 3)


def test_a_failing_network_is_blamed_in_one_message():
    with pytest.raises(InputError, match="network failed at timestep 3: RuntimeError"):
        model(torch.nn.Conv2d(7, 1, 3).forward and (lambda x, i: x @ torch.ones(9)))(
            torch.ones(2, 1, 4, 4), 3
        )


class Pairs(Dataset):
    """A Dataset as people write them: it need not end by itself."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], 7


class Stream(IterableDataset):
    def __iter__(self):
        return iter({"image": torch.from_numpy(x), "label": 3} for x in IMAGES)


def pictures():
    from PIL import Image

    return [Image.fromarray(x.transpose(1, 2, 0)) for x in IMAGES]


@pytest.mark.parametrize(
    "given",
    [
        IMAGES,
        IMAGES.transpose(0, 2, 3, 1),
        list(IMAGES),
        list(IMAGES.transpose(0, 2, 3, 1)),
        torch.from_numpy(IMAGES),
        [torch.from_numpy(x) for x in IMAGES],
        IMAGES.astype(np.float32),
        IMAGES / 255,
        IMAGES / 127.5 - 1,
        torch.from_numpy(IMAGES / 255).float().requires_grad_(),
        torch.from_numpy(IMAGES.astype(np.int64)),
        pictures(),
        Pairs(IMAGES),
        Pairs(torch.from_numpy(IMAGES) / 255),
        Pairs(pictures()),
        Stream(),
        TensorDataset(torch.from_numpy(IMAGES), torch.zeros(5)),
        DataLoader(Pairs(IMAGES), batch_size=2),
        DataLoader(torch.from_numpy(IMAGES), batch_size=2),
        DataLoader(Pairs(torch.from_numpy(IMAGES) / 255), batch_size=None),
    ],
    ids=lambda given: type(given).__name__,
)
def test_images_of_every_kind_are_the_same_images(given):
    images = check(given, (3, 4, 6), 256)
    assert images.dtype.kind in "iu"
    assert (images == IMAGES).all()


def test_bfloat16_images_are_the_nearest_levels():
    images = check(torch.from_numpy(IMAGES / 255).bfloat16(), (3, 4, 6), 256)
    assert np.abs(images.astype(int) - IMAGES).max() <= 1


def test_one_channel_may_be_left_out():
    assert check(IMAGES[:, 0], (1, 4, 6), 256).shape == (5, 1, 4, 6)


def test_what_was_recognised_is_said_once(capsys):
    levels.say_once.cache_clear()
    for _ in range(2):
        check(IMAGES / 127.5 - 1, (3, 4, 6), 256)
    assert capsys.readouterr().err.count("taken as [-1, 1]") == 1
    check(IMAGES / 255, (3, 4, 6), 256)
    assert "taken as [0, 1]" in capsys.readouterr().err


def test_images_that_are_none_are_refused():
    for given, message in (
        ({"images": IMAGES}, "a dict"),
        ([], "empty"),
        (Pairs([]), "empty"),
        ([IMAGES[0], IMAGES[0, :, :2]], "different shapes"),
        (Pairs([{"picture": 3}] * 2), "hold picture; known are"),
        (np.full((2, 3, 4, 6), np.inf), "floats from inf"),
    ):
        with pytest.raises(InputError, match=message):
            check(given, (3, 4, 6), 256)


@pytest.mark.parametrize(
    "settings",
    [
        {"levels": float("nan")},
        {"levels": 2.5},
        {"levels": 0},
        {"clip": "no"},
        {"outputs_variance": "yes"},
        {"shape": ()},
        {"shape": (1, 0)},
        {"shape": (1.5, 4)},
        {"shape": 4},
        {"predicts": ["eps"]},
        {"variance": ["small"]},
        {"network": None},
        {"identity": 3},
    ],
    ids=str,
)
def test_settings_of_other_types_are_refused(settings):
    with pytest.raises(InputError):
        model(**settings)


@pytest.mark.parametrize("t", [0, 7, -1, 1.5, "3", [1, 2, 3], None, True], ids=str)
def test_timesteps_that_are_none_are_refused(t):
    with pytest.raises(InputError):
        model()(torch.zeros(2, 1, 4, 4), t)


def test_examples_of_another_kind_are_refused():
    for x in (np.zeros((2, 1, 4, 4)), torch.zeros(2, 4, 4), torch.zeros(2, 1, 4, 4, dtype=int)):
        with pytest.raises(InputError, match="noisy examples"):
            model()(x, 3)


@pytest.mark.parametrize("seed", [-1, 1.5, 10**40, "0", None])
def test_seeds_that_are_none_are_refused(seed):
    images = np.zeros((2, 1, 4, 4), int)
    for use in (
        lambda: measure(model(), images, seed=seed, per_step=128, progress=False),
        lambda: sample(model(), Schedule([0, 6]), n=2, seed=seed, progress=False),
        lambda: evaluate(model(), images, Schedule([0, 6]), seed=seed, progress=False),
    ):
        with pytest.raises(InputError, match="seed is an integer"):
            use()


@pytest.mark.parametrize("count", [0, -3, 2.0, "4"])
def test_counts_that_are_none_are_refused(count):
    images = np.zeros((2, 1, 4, 4), int)
    for use in (
        lambda: measure(model(), images, batch_size=count, per_step=128, progress=False),
        lambda: measure(model(), images, per_step=count, progress=False),
        lambda: sample(model(), Schedule([0, 6]), n=count, progress=False),
        lambda: sample(model(), Schedule([0, 6]), n=2, batch_size=count, progress=False),
        lambda: evaluate(model(), images, Schedule([0, 6]), batch_size=count, progress=False),
        lambda: Constrained(np.zeros((3, 3)), min_jump=count),
        lambda: Constrained(np.zeros((3, 3)), max_jump=count),
        lambda: Schedule.even(1000, count),
        lambda: Schedule.quadratic(1000, count),
    ):
        with pytest.raises(InputError):
            use()


def test_more_samples_than_memory_are_refused_at_once():
    for n in (10**12, 10**18, 10**30):
        with pytest.raises(InputError, match="memory does not hold"):
            sample(model(), Schedule([0, 6]), n=n, progress=False)


def test_the_last_beta_alone_may_be_one():
    with pytest.raises(InputError, match="β_2 = 1"):
        NoiseSchedule.from_betas([0.1, 1.0, 0.5])
    ended = NoiseSchedule.from_betas([0.1, 1.0])
    with pytest.raises(InputError, match='predicts "x0", "v" or "flow"'):
        Denoiser(silent, ended, predicts="eps", shape=(2,))
    assert torch.isfinite(sample(Denoiser(silent, ended, "x0", shape=(2,)), Schedule([0, 2]))).all()


def test_smoothing_has_a_width():
    costs = measure(model(), np.zeros((2, 1, 4, 4), int), per_step=128, progress=False)
    for width in (-1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="from 0 on"):
            costs.smoothed(width)


def test_a_schedule_of_another_noise_schedule_is_refused():
    own = Schedule([0, 3, 6], provenance={"noise_schedule": NOISE.fingerprint})
    other = Schedule([0, 3, 6], provenance={"noise_schedule": "0123", "model": "dogs"})
    images = np.zeros((2, 1, 4, 4), int)
    for use in (
        lambda schedule: sample(model(), schedule, n=2, progress=False),
        lambda schedule: evaluate(model(), images, schedule, progress=False),
        lambda schedule: schedule.to_sigmas(NOISE),
    ):
        use(own)
        with pytest.raises(InputError, match=r"found for model 'dogs'"):
            use(other)
