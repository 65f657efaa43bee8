"""Every kind of source, written here by other means and read back; and every way it can break."""

import gzip
import io
import os
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import dpdiff
from dpdiff.cli import main
from dpdiff.costs import measure
from dpdiff.data import check, pictures, training_sets
from dpdiff.data.lazy import ROWS_AT_ONCE, Lazy
from dpdiff.data.levels import say_once
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.evaluation import evaluate
from dpdiff.noise import NoiseSchedule
from dpdiff.noising import prior_costs
from dpdiff.schedule import Schedule
from dpdiff.training import RECIPES, Trainer, recipes
from dpdiff.training.recipes import build_network


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write_pictures(folder, images, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:04d}{suffix}", lossless=True)
    return folder


def write_idx(path, images):
    """By hand, as the format's description has it: magic, sizes, bytes."""
    content = struct.pack(">IIII", 0x00000803, *images.shape) + images.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_cifar_binary(path, images):
    with path.open("wb") as file:
        for number, image in enumerate(images):
            file.write(bytes([number % 10]))
            for plane in image:
                for line in plane:
                    file.write(bytes(line.tolist()))


def write_cifar(folder, writer, suffix):
    """Five batches of 4 and a test batch of 3; returns the 20 and the 3."""
    batches = [pixels(4, 3, 32, 32, seed=n) for n in range(5)]
    test = pixels(3, 3, 32, 32, seed=9)
    for number, images in enumerate(batches, 1):
        writer(folder / f"data_batch_{number}{suffix}", images)
    writer(folder / f"test_batch{suffix}", test)
    return np.concatenate(batches), test


def splits(source, **settings):
    names = ("train", "validation", "test")
    return [np.asarray(dpdiff.images(source, split=name, **settings)) for name in names]


def assert_divided(source, train, test):
    """The official division: the last tenth of the training set apart."""
    cut = len(train) - len(train) // 10
    expected = (train[:cut], train[cut:], test)
    for images, wanted in zip(splits(source), expected, strict=True):
        np.testing.assert_array_equal(images, wanted)


# --- what is read ---


def test_npy_in_all_its_arrangements(tmp_path):
    images = pixels(5, 3, 6, 8)
    path = tmp_path / "images.npy"
    for stored, wanted, shape in (
        (images, images, None),
        (images.transpose(0, 2, 3, 1), images, None),
        (images.transpose(0, 2, 3, 1), images, (3, 6, 8)),
        (images[:, 0], images[:, :1], None),
        (images[:, 0], images[:, :1], (1, 6, 8)),
        (images.reshape(5, -1), images, (3, 6, 8)),
        (images[:, 0].astype(np.int64), images[:, :1], None),
        (np.asfortranarray(images), images, None),
    ):
        np.save(path, stored)
        array = dpdiff.images(path, shape=shape)
        assert isinstance(array, np.memmap)
        np.testing.assert_array_equal(array, wanted)


def test_an_ambiguous_array_has_its_channels_first_unless_the_shape_says_otherwise(tmp_path):
    images = pixels(4, 3, 2, 1)
    np.save(tmp_path / "images.npy", images)
    assert dpdiff.images(tmp_path / "images.npy").shape == (4, 3, 2, 1)
    last = dpdiff.images(tmp_path / "images.npy", shape=(1, 3, 2))
    np.testing.assert_array_equal(last[:, 0], images[..., 0])


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("key", ["images", "arr_0", "data", "of_any_name"])
def test_npz_with_one_set(tmp_path, write, key):
    path, images = tmp_path / "set.npz", pixels(7, 5, 6)
    others = {} if key == "of_any_name" else {"labels": np.arange(7)}
    write(path, **{key: np.asfortranarray(images)}, **others)
    for split in splits(path):
        np.testing.assert_array_equal(split, images[:, None])


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(("one", "two"), [("train_images", "test_images"), ("x_train", "x_test")])
def test_npz_with_a_test_set(tmp_path, write, one, two):
    train, test = pixels(25, 4, 4, 3), pixels(3, 4, 4, 3, seed=1)
    write(tmp_path / "set.npz", **{one: train, two: test, "labels": np.arange(25)})
    assert_divided(tmp_path / "set.npz", train.transpose(0, 3, 1, 2), test.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx(tmp_path, end):
    train, test = pixels(30, 28, 28), pixels(4, 28, 28, seed=1)
    write_idx(tmp_path / f"train-images-idx3-ubyte{end}", train)
    write_idx(tmp_path / f"t10k-images-idx3-ubyte{end}", test)
    assert_divided(tmp_path, train[:, None], test[:, None])
    one_file = dpdiff.images(tmp_path / f"t10k-images-idx3-ubyte{end}", split="validation")
    np.testing.assert_array_equal(one_file, test[:, None])


def test_cifar10_binary(tmp_path):
    assert_divided(tmp_path, *write_cifar(tmp_path, write_cifar_binary, ".bin"))


def test_cifar10_pickles_are_refused_unread(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"anything")
    with pytest.raises(InputError, match="download the binary version"):
        dpdiff.images(tmp_path)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_imagenet64(tmp_path, write):
    batches = [pixels(2, 3, 64, 64, seed=n) for n in range(10)]
    test = pixels(3, 3, 64, 64, seed=10)
    for number, batch in enumerate(batches, 1):
        write(tmp_path / f"train_data_batch_{number}.npz", data=batch.reshape(2, -1), labels=[1, 2])
    write(tmp_path / "val_data.npz", data=test.reshape(3, -1), mean=np.zeros(3))
    assert_divided(tmp_path, np.concatenate(batches), test)


def test_pictures_in_folders_sorted_by_path(tmp_path):
    images = pixels(6, 5, 7, 3)
    write_pictures(tmp_path / "b", images[3:5])
    write_pictures(tmp_path / "a" / "deep", images[:3], ".webp")
    Image.fromarray(images[5]).save(tmp_path / "c.PNG")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"no image either")
    lazy = dpdiff.images(tmp_path)
    assert (lazy.shape, lazy.dtype) == ((6, 3, 5, 7), np.uint8)
    np.testing.assert_array_equal(lazy[:], images.transpose(0, 3, 1, 2))


def test_grey_and_coloured_pictures(tmp_path):
    grey = write_pictures(tmp_path / "grey", pixels(2, 4, 4))
    np.testing.assert_array_equal(dpdiff.images(grey)[:], pixels(2, 4, 4)[:, None])
    as_colour = dpdiff.images(grey, shape=(3, 4, 4))[:]
    np.testing.assert_array_equal(as_colour, np.repeat(pixels(2, 4, 4)[:, None], 3, axis=1))
    colour = write_pictures(tmp_path / "colour", pixels(2, 4, 4, 3), ".jpg")
    # Of the decoded file, by the weights of ITU-R 601.
    luma = np.asarray(Image.open(colour / "0001.jpg")) @ [0.299, 0.587, 0.114]
    assert np.abs(dpdiff.images(colour, shape=(1, 4, 4))[1][0] - luma).max() <= 0.51


def test_pictures_divided_by_their_folders(tmp_path):
    images = pixels(6, 4, 4)
    write_pictures(tmp_path / "train" / "cats", images[:3])
    write_pictures(tmp_path / "val", images[3:5])
    train, validation = (
        np.asarray(dpdiff.images(tmp_path, split=s)) for s in ("train", "validation")
    )
    np.testing.assert_array_equal(train, images[:3, None])
    np.testing.assert_array_equal(validation, images[3:5, None])
    with pytest.raises(InputError, match="has no subfolder test"):
        dpdiff.images(tmp_path, split="test")


# --- resizing ---


def box(x):
    return (x > -0.5) & (x <= 0.5)


def cubic(x):
    """The cubic convolution kernel with a = -1/2."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def resampled(image, height, width, kernel):
    """Across, then down, each a weighted mean rounded to bytes; kernels widen when shrinking."""
    for axis, target in ((1, width), (0, height)):
        count = image.shape[axis]
        scale = count / target
        centres = (np.arange(target) + 0.5) * scale
        weights = kernel((np.arange(count) + 0.5 - centres[:, None]) / max(scale, 1))
        weights = weights / weights.sum(1, keepdims=True)
        image = np.moveaxis(np.tensordot(weights, image, (1, axis)), 0, axis)
        image = np.clip(np.floor(image + 0.5), 0, 255)
    return image


def by_the_rule(image, size):
    while min(image.shape[:2]) >= 2 * size:
        image = resampled(image, image.shape[0] // 2, image.shape[1] // 2, box)
    height, width = (round(side * size / min(image.shape[:2])) for side in image.shape[:2])
    image = resampled(image, height, width, cubic)
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size].transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("height", "width"), [(8, 8), (12, 20), (20, 12), (36, 64), (40, 34), (6, 5), (16, 18)]
)
def test_pictures_are_cut_and_resized_by_the_rule(tmp_path, height, width):
    write_pictures(tmp_path, [pixels(height, width, 3)])
    image = dpdiff.images(tmp_path, shape=(3, 8, 8))[0]
    expected = by_the_rule(pixels(height, width, 3), 8)
    # Weights in 22 bits may round a value that lies on an edge the other way.
    assert np.abs(image.astype(float) - expected).max() <= 1
    assert (image != expected).mean() <= 0.02


def test_oblong_shapes_are_covered(tmp_path):
    flat = np.zeros((40, 40, 3), np.uint8)
    flat[10:30] = 255  # the middle half, the very part that a 2:1 cut keeps
    write_pictures(tmp_path, [flat])
    assert dpdiff.images(tmp_path, shape=(3, 10, 20)).shape == (1, 3, 10, 20)
    assert dpdiff.images(tmp_path, shape=(3, 10, 20))[0][:, 1:-1].min() > 250


# --- laziness ---


@pytest.fixture
def folder_of_twelve(tmp_path):
    return write_pictures(tmp_path / "twelve", pixels(12, 4, 4))


def test_rows_are_picked_as_numpy_picks_them(folder_of_twelve, tmp_path):
    np.savez_compressed(tmp_path / "a.npz", images=pixels(12, 4, 4))
    whole = pixels(12, 4, 4)[:, None]
    for source in (folder_of_twelve, tmp_path / "a.npz"):
        lazy = dpdiff.images(source)
        assert isinstance(lazy, Lazy)
        assert len(lazy) == 12
        mask = np.arange(12) % 5 == 1
        for index in (3, -1, slice(2, 9, 3), slice(None, None, -1), [4, 4, 0, -2], mask, slice(0)):
            rows = lazy[index]
            assert isinstance(rows, np.ndarray)
            np.testing.assert_array_equal(rows, whole[index])
        for index in (12, [0, 12], mask[:5]):
            with pytest.raises(IndexError):
                lazy[index]
        assert [int(image.sum()) for image in lazy] == whole.sum((1, 2, 3)).tolist()


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that were decoded."""
    names, decode = [], pictures.Pictures._decode

    def counting(self, path):
        names.append(path.name)
        return decode(self, path)

    monkeypatch.setattr(pictures.Pictures, "_decode", counting)
    return names


def test_only_what_is_asked_for_is_decoded_and_once(folder_of_twelve, decoded):
    lazy = dpdiff.images(folder_of_twelve, shape=(1, 4, 4))
    assert check(lazy, (1, 4, 4), 256) is lazy
    assert not decoded
    lazy[[7, 3, 7]], lazy[3]
    assert decoded == ["0007.png", "0003.png"]


def test_memory_for_decoded_pictures_is_bounded(folder_of_twelve, decoded, monkeypatch):
    monkeypatch.setattr(pictures, "KEPT", 5 * 16)
    lazy = dpdiff.images(folder_of_twelve)
    for _ in range(2):
        np.testing.assert_array_equal(lazy[:], pixels(12, 4, 4)[:, None])
    assert len(decoded) == 12 + 7


def test_measuring_a_folder_decodes_what_it_shows(folder_of_twelve, decoded):
    denoiser = Denoiser(lambda x, i: 0 * x, NoiseSchedule.cosine(20), shape=(1, 4, 4))
    lazy = dpdiff.images(folder_of_twelve)
    array = pixels(12, 4, 4)[:, None]
    measured = (
        measure(denoiser, lazy, per_step=128, progress=False),
        measure(denoiser, array, per_step=128, progress=False),
    )
    np.testing.assert_array_equal(*(costs.table() for costs in measured))
    scores = [evaluate(denoiser, im, Schedule([0, 9, 20]), progress=False) for im in (lazy, array)]
    np.testing.assert_array_equal(*(score.image_bits for score in scores))
    assert len(decoded) == 12


def test_the_prior_of_a_large_set_takes_a_few_images_spread_over_it():
    class Million(Lazy):
        def __init__(self):
            super().__init__((10**6, 1, 2, 2), progress=False)
            self.seen = []

        def _read(self, rows):
            self.seen += rows.tolist()
            return np.broadcast_to(
                (rows % 256).astype(np.uint8)[:, None, None, None], (len(rows), 1, 2, 2)
            )

    denoiser = Denoiser(lambda x, i: 0 * x, NoiseSchedule.cosine(20), shape=(1, 2, 2))
    million = Million()
    assert len(prior_costs(denoiser, million, at_most=4096)) == 4096
    gaps = np.diff(million.seen)
    assert million.seen[0] == 0
    assert set(gaps) == {10**6 // 4096, 10**6 // 4096 + 1}
    small = pixels(5, 1, 2, 2)
    np.testing.assert_array_equal(prior_costs(denoiser, small, 4096), prior_costs(denoiser, small))


def test_many_rows_are_read_in_pieces(tmp_path):
    images = pixels(2 * ROWS_AT_ONCE + 5, 2, 2)
    np.savez(tmp_path / "a.npz", images=images)
    np.testing.assert_array_equal(dpdiff.images(tmp_path / "a.npz")[:], images[:, None])


def test_a_progress_bar_comes_if_it_takes_long(folder_of_twelve, tmp_path, capsys, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", images=pixels(2 * ROWS_AT_ONCE, 2, 2))

    def read(progress):
        dpdiff.images(tmp_path / "a.npz", progress=progress)[:]
        dpdiff.images(folder_of_twelve, progress=progress)[:]
        return capsys.readouterr().err

    assert read(progress=True) == ""
    monkeypatch.setattr("dpdiff.data.lazy.PATIENCE", 0)
    assert read(progress=False) == ""
    shown = read(progress=True)
    for title in ("unpack a.npz", "read images", "list twelve", "look at sizes"):
        assert title in shown


def test_a_batch_is_not_unpacked_before_it_is_needed(tmp_path, monkeypatch):
    for number in range(1, 11):
        data = np.full((2, 12), number, np.uint8)
        np.savez_compressed(tmp_path / f"train_data_batch_{number}.npz", data=data)
    from dpdiff.data import arrays, lazy

    unpacked, unpack = [], lazy.unpacked
    monkeypatch.setattr(
        arrays,
        "unpacked",
        lambda s, n, path, p: unpacked.append(path.name) or unpack(s, n, path, p),
    )
    validation = dpdiff.images(tmp_path, split="validation")
    assert not unpacked
    assert validation[:].tolist() == np.full((2, 3, 2, 2), 10).tolist()
    validation[0]
    assert unpacked == ["train_data_batch_10.npz"]


def test_a_set_larger_than_memory_is_opened(tmp_path):
    """A sparse file of a terabyte of images: its last one is read."""
    path = tmp_path / "huge.npy"
    count = 10**12 // 784
    path.write_bytes(npy_header((count, 28, 28)))
    os.truncate(path, path.stat().st_size + count * 784)
    images = dpdiff.images(path, shape=(1, 28, 28))
    assert check(images, (1, 28, 28), 256)[count - 1].sum() == 0


def test_levels_below_the_dtypes_are_looked_at(folder_of_twelve):
    with pytest.raises(InputError, match="lie in 0…16"):
        check(dpdiff.images(folder_of_twelve), (1, 4, 4), 17)
    assert check(dpdiff.images(folder_of_twelve), (1, 4, 4), 256).shape == (12, 1, 4, 4)


@pytest.mark.parametrize("begin", [0, -1])
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_files_of_floats_are_recognised(tmp_path, begin, ending, capsys):
    """Half of the users' arrays are in [0, 1], the other half in [-1, 1]."""
    levels, path = pixels(20, 8, 8), tmp_path / f"floats.{ending}"
    levels[0] = 0, 0, 0, 0, 255, 255, 255, 255
    floats = (levels / 255 * (1 - begin) + begin).astype(np.float32)
    (np.save if ending == "npy" else np.savez)(path, floats)
    say_once.cache_clear()
    images = check(dpdiff.images(path, shape=(1, 8, 8)), (1, 8, 8), 256)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images[:, 0], levels)
    assert f"taken as [{begin}, 1]" in capsys.readouterr().err
    recipe = replace(
        RECIPES["fashion-short"], shape=(1, 8, 8), channels=(16, 16), attention=(False,) * 2
    )
    trainer = Trainer(recipe, tmp_path / "run", path)
    assert {int(x) for x in trainer.images.unique()} <= set(levels.ravel().tolist())
    assert trainer.images.max() == 255


# --- what is refused ---


def npz(path, **arrays):
    np.savez(path, **arrays)


def npy_header(shape):
    file = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


BROKEN = {
    "complex.npy": (lambda p: np.save(p, np.zeros((2, 4, 4), complex)), "complex128 values"),
    "bool.npy": (lambda p: np.save(p, np.zeros((2, 4, 4), bool)), "bool values"),
    "object.npy": (lambda p: np.save(p, np.array([{}, {}])), "cannot read"),
    "flat.npy": (lambda p: np.save(p, np.zeros((2, 16), int)), r"shape \(2, 16\)"),
    "none.npy": (lambda p: np.save(p, np.zeros((0, 4, 4), int)), "no images"),
    "empty.npy": (lambda p: p.write_bytes(b""), "cannot read"),
    "archive.npy": (lambda p: np.savez(p.open("wb"), images=np.zeros(3)), "ending .npz"),
    "text.npz": (lambda p: p.write_text("text"), "cannot read"),
    "words.npz": (lambda p: npz(p, images=np.full((2, 4, 4), "a")), "<U1 values"),
    "object.npz": (lambda p: npz(p, images=np.array([{}, {}])), "object values"),
    "keys.npz": (lambda p: npz(p, cats=np.zeros(3), dogs=np.zeros(3)), "holds cats, dogs"),
    "member.npz": (lambda p: zipfile.ZipFile(p, "w").writestr("a.npy", b"text"), "cannot read"),
    "x-idx3-ubyte": (lambda p: p.write_bytes(bytes(16)), "begins with 00 00 00 00"),
    "labels-idx3-ubyte.gz": (
        lambda p: p.write_bytes(gzip.compress(struct.pack(">II", 0x801, 9) + bytes(9))),
        "begins with 00 00 08 01",
    ),
    "short-idx3-ubyte": (
        lambda p: p.write_bytes(struct.pack(">IIII", 0x803, 9, 4, 4) + bytes(5)),
        "header promises 160",
    ),
    "plain-idx3-ubyte.gz": (lambda p: p.write_bytes(bytes(99)), "cannot read"),
    "vast.npz": (
        lambda p: zipfile.ZipFile(p, "w").writestr("a.npy", npy_header((10**40,))),
        "cannot read",
    ),
    "short.npz": (
        lambda p: zipfile.ZipFile(p, "w").writestr("a.npy", npy_header((9, 4, 4)) + bytes(9)),
        "cannot read",
    ),
    "a.tiff": (lambda p: p.write_bytes(b""), "unknown kind"),
    "nowhere": (lambda p: None, "no data set, file or folder"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(tmp_path, name, capsys):
    make, message = BROKEN[name]
    make(tmp_path / name)
    with pytest.raises(InputError, match=message) as caught:
        dpdiff.images(tmp_path / name)[0]
    assert str(tmp_path / name) in str(caught.value)


def cut(path, keep=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def test_truncated_archives_are_named_when_they_are_read(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    write_idx(path, pixels(9, 28, 28))
    cut(path)
    images = dpdiff.images(path)
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz"):
        images[0]
    liar = struct.pack(">IIII", 0x803, 9, 4, 4) + bytes(160)
    for content, words in ((liar[:-20], "fewer"), (liar, "more")):
        path.write_bytes(gzip.compress(content))
        with pytest.raises(InputError, match=rf"{path.name} holds {words} bytes"):
            dpdiff.images(path)[0]


def test_a_damaged_npz_is_named(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=pixels(50, 8, 8))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npz"):
        dpdiff.images(path)[0]


def test_a_full_disk_is_explained(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", images=pixels(5, 8, 8))

    class Full(io.BytesIO):
        def write(self, content):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    with pytest.raises(InputError, match=r"a\.npz into .*No space left.*TMPDIR"):
        dpdiff.images(tmp_path / "a.npz")[0]


def test_pictures_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no images in the folder .*empty"):
        dpdiff.images(tmp_path / "empty")
    mixed = write_pictures(tmp_path / "mixed", [pixels(4, 4), pixels(4, 5)])
    with pytest.raises(InputError, match=r"0000\.png is 4×4, .*0001\.png 5×4"):
        dpdiff.images(mixed)
    assert dpdiff.images(mixed, shape=(1, 4, 4))[:].shape == (2, 1, 4, 4)
    with pytest.raises(InputError, match=r"mixed holds pictures of 1 or 3 channels"):
        dpdiff.images(mixed, shape=(4, 4, 4))
    (mixed / "0001.png").write_text("no picture")
    with pytest.raises(InputError, match=r"cannot read .*0001\.png"):
        dpdiff.images(mixed)
    with pytest.raises(InputError, match=r"cannot read .*0001\.png"):
        dpdiff.images(mixed, shape=(1, 4, 4))[1]
    for suffix in (".png", ".jpg", ".webp"):
        folder = write_pictures(tmp_path / suffix, [pixels(40, 40, 3)], suffix)
        cut(folder / f"0000{suffix}")
        with pytest.raises(InputError, match=rf"cannot read .*0000\{suffix}"):
            dpdiff.images(folder, shape=(3, 8, 8))[0]
    deep = tmp_path / "deep"
    deep.mkdir()
    Image.fromarray(pixels(4, 4).astype(np.uint16)).save(deep / "a.png")
    for shape in (None, (1, 4, 4)):
        with pytest.raises(InputError, match=r"a\.png has more than 8 bits"):
            dpdiff.images(deep, shape=shape)[0]


def test_incomplete_sets_name_what_is_missing(tmp_path):
    write_cifar(tmp_path, write_cifar_binary, ".bin")
    (tmp_path / "data_batch_3.bin").unlink()
    assert dpdiff.images(tmp_path, split="test").shape == (3, 3, 32, 32)
    with pytest.raises(InputError, match=r"data_batch_3\.bin is missing"):
        dpdiff.images(tmp_path)
    cut(tmp_path / "test_batch.bin")
    with pytest.raises(InputError, match=r"test_batch\.bin has .* bytes"):
        dpdiff.images(tmp_path, split="test")
    (tmp_path / "mnist").mkdir()
    write_idx(tmp_path / "mnist" / "train-images-idx3-ubyte", pixels(9, 4, 4))
    with pytest.raises(InputError, match="mnist has no t10k-images-idx3-ubyte"):
        dpdiff.images(tmp_path / "mnist", split="test")
    with pytest.raises(InputError, match="no images in its split 'validation'"):
        dpdiff.images(tmp_path / "mnist", split="validation")
    (tmp_path / "imagenet").mkdir()
    npz(tmp_path / "imagenet" / "train_data_batch_2.npz", data=pixels(2, 12))
    with pytest.raises(InputError, match=r"train_data_batch_1\.npz is missing"):
        dpdiff.images(tmp_path / "imagenet")
    npz(tmp_path / "imagenet" / "train_data_batch_1.npz", data=pixels(2, 13))
    with pytest.raises(InputError, match=r"train_data_batch_1\.npz holds uint8 of shape \(2, 13\)"):
        dpdiff.images(tmp_path / "imagenet")


def test_splits_and_shapes_that_do_not_exist(tmp_path):
    for nothing in ("", "x" * 5000, "a\0b"):
        with pytest.raises(InputError, match="no data set, file or folder"):
            dpdiff.images(nothing)
    with pytest.raises(InputError, match="split is one of"):
        dpdiff.images("digits", split="dev")
    with pytest.raises(InputError, match=r"digits have shape \(1, 8, 8\), not \(1, 9, 9\)"):
        dpdiff.images("digits", shape=(1, 9, 9))
    np.save(tmp_path / "a.npy", pixels(2, 4, 4))
    with pytest.raises(InputError, match=r"a\.npy .*\(2, 4, 4\).* for \(1, 5, 5\) images"):
        dpdiff.images(tmp_path / "a.npy", shape=(1, 5, 5))


# --- training and the command line ---


def test_recipes_hold_what_they_promise():
    assert {name: recipe.dataset for name, recipe in RECIPES.items()} == {
        name: name.partition("-")[0] for name in RECIPES
    }
    for name, most in (
        ("fashion", 4_000_000),
        ("fashion-large", 8_000_000),
        ("cifar10", 8_000_000),
    ):
        recipe = RECIPES[name]
        with torch.device("meta"):
            network = build_network(recipe)
        assert sum(weight.numel() for weight in network.parameters()) <= most
        assert (recipe.levels, recipe.T) == (256, 4000)


def test_training_sets_of_an_undivided_source_do_not_overlap(tmp_path):
    images = np.arange(5000, dtype=np.int32).reshape(-1, 1, 1, 1)
    np.save(tmp_path / "a.npy", images)
    train, validation = training_sets(tmp_path / "a.npy", (1, 1, 1))
    assert (len(train), len(validation)) == (4744, 256)
    together = np.sort(np.concatenate([train, validation]).ravel())
    np.testing.assert_array_equal(together, np.arange(5000))
    assert set(np.diff(validation.ravel())) == {19, 20}
    np.save(tmp_path / "a.npy", images[:9])
    with pytest.raises(InputError, match=r"a\.npy has 9 images"):
        training_sets(tmp_path / "a.npy", (1, 1, 1))


def test_training_sets_of_a_divided_source_are_its_own(tmp_path):
    train = pixels(3000, 2, 2)
    np.savez(tmp_path / "a.npz", train_images=train, test_images=train[:1])
    sets = training_sets(tmp_path / "a.npz", (1, 2, 2))
    np.testing.assert_array_equal(sets[0], train[:2700, None])
    np.testing.assert_array_equal(sets[1], train[2700:2956, None])


def test_training_reads_images_of_ones_own(tmp_path, monkeypatch):
    source = write_pictures(tmp_path / "images", pixels(20, 30, 40, 3))
    tiny = replace(
        RECIPES["fashion-short"],
        shape=(1, 8, 8),
        channels=(16, 16),
        attention=(False, False),
        steps=2,
        batch=4,
        validate_every=1,
    )
    monkeypatch.setitem(recipes.RECIPES, "fashion-short", tiny)
    trainer = Trainer(tiny, tmp_path / "run", source)
    assert (trainer.images.dtype, trainer.images.shape) == (torch.uint8, (18, 1, 8, 8))
    assert (trainer.validation.dtype, len(trainer.validation)) == (torch.float32, 2)
    wanted = trainer.images.double() * (2 / 255) - 1
    assert (trainer._scaled(trainer.images) == wanted.float()).all()
    assert (
        main(["train", "fashion-short", "--data", str(source), "--out", str(tmp_path / "model")])
        == 0
    )
    assert dpdiff.load(tmp_path / "model").shape == (1, 8, 8)


@pytest.mark.parametrize("name", ["fashion", "cifar10"])
def test_sets_that_are_not_bundled_have_to_be_brought(tmp_path, name):
    with pytest.raises(
        InputError, match=rf"'{name}' trains on images that you bring: download .*--data"
    ):
        dpdiff.train(name, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_the_command_line_refuses_bad_sources_in_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "float.npy", np.full((12, 8, 8), 1.5))
    np.save(tmp_path / "small.npy", pixels(4, 7, 7))
    write_pictures(tmp_path / "bright", pixels(12, 9, 9))
    for source in ("nowhere", "empty", "float.npy", "small.npy", "bright"):
        for command in (
            ["measure", "--out", tmp_path / "c.npz"],
            ["evaluate", "--schedule", "even:2"],
            ["train", "digits", "--out", tmp_path / "run"],
        ):
            code = main([str(word) for word in [*command, "--data", tmp_path / source]])
            error = capsys.readouterr().err
            assert (code, error.count("\n")) == (2, 1), (source, command)
            assert error.startswith("dpdiff: error: ")
            # What is fine in itself, but not for the model, is told by its values.
            assert source in error or source in ("bright", "float.npy")
    assert not (tmp_path / "run").exists()


def test_the_command_line_brings_pictures_to_the_models_shape(tmp_path, capsys):
    dark = [image // 15 for image in pixels(4, 20, 24, 3)]  # at most 17, then averaged
    source = write_pictures(tmp_path / "dark", [np.minimum(image, 16) for image in dark])
    command = ["evaluate", "--schedule", "even:2", "--data", str(source)]
    assert main(command) == 0
    assert "on 4 images" in capsys.readouterr().out
