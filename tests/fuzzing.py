"""Damaged and hostile files for every reader: test_fuzz.py runs a few, this script many.

    python tests/fuzzing.py --cases 20000

The only outcomes are the same numbers or InputError, each within 10 s, all within 1 GB.
"""

import argparse
import collections
import gzip
import io
import json
import random
import resource
import shutil
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch

import dpdiff
from dpdiff import models
from dpdiff.costs import Costs, measure
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.models.improved_diffusion import Flags
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import formats
from dpdiff.runtime.checkpoints import Checkpoints
from dpdiff.schedule import Schedule

T = 12
SECONDS, MEMORY = 10, 2**30
WORDS = ["", "epsilon", "DDPMScheduler", "UNet2DModel", "σ²", "nan", "9" * 30, "../..", "\ud800"]
NUMBERS = [0, -1, 1, 2, 1000, 2**31, 10**12, 10**400, 0.5, -0.5, 1e308, 1e-320]


def anything(rng, depth=3):
    """JSON of any shape."""
    kind = rng.randrange(8 if depth else 5)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind in (1, 2):
        return rng.choice(NUMBERS)
    if kind in (3, 4):
        return rng.choice(WORDS)
    if kind == 5:
        return {rng.choice(WORDS): anything(rng, depth - 1) for _ in range(rng.randrange(4))}
    return [anything(rng, depth - 1) for _ in range(rng.randrange(4))]


def damaged(rng, content):
    """Bits flipped, cut short, made longer, or pieces of it moved."""
    kind, content = rng.randrange(5), bytearray(content)
    place = rng.randrange(len(content)) if content else 0
    if kind <= 1 and content:
        for _ in range(rng.choice([1, 1, 1, 2, 30])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del content[place:]
    elif kind == 3:
        content[place:place] = rng.randbytes(rng.choice([1, 8, 1000]))
    else:
        del content[place : place + rng.choice([1, 4, 100])]
    return bytes(content)


def edited(rng, document):
    """JSON with a value replaced, a name lost or changed, or of another shape altogether."""
    if rng.random() < 0.1:
        return anything(rng)
    document = json.loads(json.dumps(document))
    inner = document
    while True:
        names = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        name = rng.choice(names)
        if isinstance(inner[name], dict | list) and inner[name] and rng.random() < 0.7:
            inner = inner[name]
            continue
        kind = rng.randrange(4)
        if kind == 0:
            del inner[name]
        elif kind == 1 and isinstance(inner, dict):
            inner[rng.choice([*WORDS, f"{name}_"])] = inner.pop(name)
        else:
            inner[name] = anything(rng)
        return document


def as_text(document):
    return json.dumps(document).encode()


def retyped(rng, array):
    """An array of another type, shape or with impossible numbers."""
    kind = rng.randrange(7)
    if kind == 0:
        return array.astype(rng.choice(["f4", "f2", "i8", "c16", "?", ">f8", "U5", "S3", "u1"]))
    if kind == 1:
        return array[: len(array) // 2] if array.ndim else array.reshape(1)
    if kind == 2:
        return np.stack([array, array])
    if kind == 3:
        return np.full(rng.choice([(0,), (), (1, 1), (T + 1, 3), (T + 1,)]), np.nan)
    if kind == 4:
        return np.asfortranarray(array) if array.ndim > 1 else array.reshape(-1, 1)
    array = array.copy()
    array.reshape(-1)[rng.randrange(array.size)] = rng.choice([np.nan, np.inf, -np.inf])
    return array


def member(rng, array, promising):
    """The bytes of an ``.npy``, whose header may promise what is not there."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getvalue()
    if promising:
        huge = rng.choice(["(1000000000000,)", "(-1,)", "(0, 99999999999)", "(2, 2)", "()"])
        shape = str(array.shape)
        content = content.replace(shape.encode(), huge.ljust(len(shape)).encode(), 1)
    return content


def forged(rng, path):
    """A sealed archive with members missing, renamed, retyped, oversized or packed otherwise."""
    with np.load(path) as archive:
        arrays = dict(archive)
    about, name = json.loads(str(arrays["about"])), rng.choice(sorted(arrays))
    kind = rng.randrange(6)
    if kind == 0:
        del arrays[name]
    elif kind == 1:
        arrays[name + rng.choice("_x")] = arrays.pop(name)
    elif kind == 2 and name != "about":
        arrays[name] = retyped(rng, arrays[name])
    elif kind == 3:
        arrays[rng.choice(["extra", "decoder_odd", "mse.npy", "../mse"])] = np.zeros(T + 1)
    else:
        arrays["about"] = np.array(json.dumps(edited(rng, about)))
    packing = rng.choice([0, *6 * [8], zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as target:
        for key, array in arrays.items():
            promising = key == name and rng.random() < 0.2
            target.writestr(f"{key}.npy", member(rng, array, promising))
    content = bytearray(buffer.getvalue())
    if rng.random() < 0.2:  # sizes and offsets in the directory
        content[-rng.randrange(3, min(len(content), 500))] ^= 1 << rng.randrange(8)
    return formats.with_checksum(bytes(content)) if content[-2:] == b"\0\0" else bytes(content)


def toy(noise):
    def network(x, index):
        return torch.cat([0.1 * x, 0.3 * x], 1)

    return Denoiser(network, noise, variance="learned_range", shape=(1, 2, 2), levels=17)


def same(one, other):
    """Whether two nested results are equal, arrays and tensors included."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, torch.Tensor | np.ndarray):
        return one.dtype == other.dtype and np.array_equal(np.asarray(one), np.asarray(other))
    return one == other


class Kept:
    """A file, the reader of it, and ways to spoil it. ``exact``: what is read must not differ."""

    exact = True

    def __init__(self, folder):
        self.folder = folder
        self.path = self.make()
        self.whole = self.path.read_bytes()
        self.expected = self.read()

    def spoilt(self, rng):
        return damaged(rng, self.whole)

    def attempt(self, rng):
        """Spoil the file, read it, and tell what came of it."""
        self.path.write_bytes(self.spoilt(rng))
        started = time.perf_counter()
        try:
            values = self.read()
        except InputError:
            values = None
        finally:
            self.path.write_bytes(self.whole)
        assert time.perf_counter() - started < SECONDS
        if values is None:
            return "refused"
        assert not self.exact or same(values, self.expected), "other numbers"
        return "same" if self.exact else "read"


class CostsFile(Kept):
    noise = NoiseSchedule.cosine(T)

    def make(self):
        images = np.random.default_rng(0).integers(0, 17, (4, 1, 2, 2))
        costs = measure(toy(self.noise), images, per_step=128, progress=False)
        costs.save(self.folder / "costs.npz")
        return self.folder / "costs.npz"

    def read(self):
        costs = Costs.load(self.path)
        return costs.statistics | costs.noise.arrays()

    def spoilt(self, rng):
        return forged(rng, self.path) if rng.random() < 0.6 else damaged(rng, self.whole)


class ScalesCostsFile(CostsFile):
    """Of a grid that is kept as two scales a timestep, not as betas."""

    noise = NoiseSchedule.from_sigmas(np.geomspace(0.01, 5, T))


class Part(Kept):
    """What a finished block holds is there whole, or not at all."""

    def make(self):
        self.kept = Checkpoints(self.folder, {"seed": 0})
        self.kept.save(np.arange(1, 5), {"mse": np.arange(4.0), "error": np.ones((4, 3))})
        return self.folder / "0-000001.part"

    def read(self):
        blocks = dict(self.kept.finished([np.arange(1, 5), np.arange(5, 9)]))
        if not blocks:
            raise InputError("counted as not there")
        return {str(first): values for first, values in blocks.items()}


class ForgedPart(Part):
    """With a digest that fits: what stands in it is judged when the costs are put together."""

    exact = False

    def spoilt(self, rng):
        return forged(rng, self.path)


class ScheduleFile(Kept):
    def make(self):
        provenance = {"model": "digits", "bits_per_dim": 1.5, "costs": {"seed": 0}}
        Schedule([0, 3, 7, T], provenance).save(self.folder / "dp.json")
        return self.folder / "dp.json"

    def read(self):
        schedule = Schedule.load(self.path)
        return {"timesteps": schedule.timesteps, "provenance": schedule.provenance}

    def spoilt(self, rng):
        document = json.loads(self.whole)
        if rng.random() < 0.4:
            return as_text(edited(rng, document))
        return damaged(rng, self.whole)


class SignedSchedule(ScheduleFile):
    """Forged: a digest that fits; it may hold other numbers, but only proper ones."""

    exact = False

    def spoilt(self, rng):
        document = json.loads(self.whole)
        del document["digest"]
        document = edited(rng, document)
        try:
            return formats.signed_json(document).encode()
        except (TypeError, ValueError):
            return as_text(document)


class TrainingCheckpoint(Kept):
    def make(self):
        state = {"step": 3, "history": [(1, 0.5)], "network": {"w": torch.arange(6.0)}}
        formats.write_tensors(self.folder / "training.pt", state)
        return self.folder / "training.pt"

    def read(self):
        return formats.read_tensors(self.path, "cpu")


class OthersTensors(TrainingCheckpoint):
    exact = False

    def read(self):
        try:
            return formats.read_state_dict(self.path, "network")
        finally:
            torch.set_default_dtype(torch.float32)


class Folder(Kept):
    """A model folder of which one file is spoilt; ours know the digests of all."""

    signed = True

    def make(self):
        self.model = self.folder / "model"
        torch.manual_seed(0)
        models.save(tiny_model(), self.model)
        if not self.signed:
            (self.model / "dpdiff.json").unlink()
        self.names = sorted(
            path
            for path in self.model.rglob("*")
            if path.is_file() and path.name != "model_index.json"
        )
        return self.names[0]

    def read(self):
        denoiser = dpdiff.load(self.model)
        reading = [*denoiser.output_key, denoiser.variance]
        weights = denoiser.network.state_dict()
        return {"reading": reading, "betas": denoiser.noise.betas, "weights": weights}

    def attempt(self, rng):
        self.path = rng.choice(self.names)
        self.whole = self.path.read_bytes()
        return super().attempt(rng)

    def spoilt(self, rng):
        if self.path.suffix == ".json" and rng.random() < 0.6:
            return as_text(edited(rng, json.loads(self.whole)))
        return damaged(rng, self.whole)


class OthersFolder(Folder):
    signed, exact = False, False


def tiny_model():
    from diffusers import UNet2DModel

    blocks = {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}
    blocks |= {"up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
    sizes = {"in_channels": 1, "out_channels": 1, "block_out_channels": [8, 8]}
    sizes |= {"layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4}
    network = UNet2DModel(sample_size=8, **sizes, **blocks)
    return Denoiser(network, NoiseSchedule.linear(30), shape=(1, 8, 8), levels=17)


class FlagsFile(Kept):
    exact = False

    def make(self):
        path = self.folder / "flags.json"
        path.write_bytes(as_text({"image_size": 32, "num_res_blocks": 3, "channel_mult": "1,2"}))
        return path

    def read(self):
        return Flags.read(self.path)

    def spoilt(self, rng):
        if rng.random() < 0.7:
            return as_text(edited(rng, json.loads(self.whole)))
        return damaged(rng, self.whole)


class Images(Kept):
    """Pixels that change are not noticed; they are read as what they are, or refused."""

    exact = False
    pixels = np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4)

    def read(self):
        images = np.asarray(dpdiff.images(self.path, progress=False))
        assert images.dtype.kind in "iuf"
        assert images.ndim == 4
        return images


class Npy(Images):
    def make(self):
        np.save(self.folder / "images.npy", self.pixels)
        return self.folder / "images.npy"

    def spoilt(self, rng):
        return member(rng, self.pixels, True) if rng.random() < 0.3 else damaged(rng, self.whole)


class Npz(Images):
    def make(self):
        np.savez_compressed(self.folder / "images.npz", images=self.pixels)
        return self.folder / "images.npz"

    def spoilt(self, rng):
        if rng.random() < 0.7:
            return damaged(rng, self.whole)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", rng.choice([0, 8, 12, 14])) as target:
            target.writestr(
                "images.npy", member(rng, retyped(rng, self.pixels.astype(float)), False)
            )
        return buffer.getvalue()


class Idx(Images):
    name, pack = "train-images-idx3-ubyte", staticmethod(bytes)

    def make(self):
        self.raw = bytes((0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 4)) + self.pixels.tobytes()
        (self.folder / self.name).write_bytes(self.pack(self.raw))
        return self.folder / self.name

    def spoilt(self, rng):
        inside = rng.random() < 0.5
        return self.pack(damaged(rng, self.raw)) if inside else damaged(rng, self.whole)


class IdxGz(Idx):
    name, pack = "train-images-idx3-ubyte.gz", staticmethod(gzip.compress)


class Picture(Images):
    def make(self):
        from PIL import Image

        (self.folder / "pictures").mkdir()
        Image.fromarray(self.pixels[0]).save(self.folder / "pictures" / "1.png")
        return self.folder / "pictures" / "1.png"

    def read(self):
        return np.asarray(dpdiff.images(self.path.parent, progress=False))


READERS = {
    "costs": (CostsFile, 4),
    "costs of two scales": (ScalesCostsFile, 2),
    "part": (Part, 2),
    "forged part": (ForgedPart, 2),
    "schedule": (ScheduleFile, 4),
    "signed schedule": (SignedSchedule, 2),
    "training checkpoint": (TrainingCheckpoint, 2),
    "tensors of others": (OthersTensors, 2),
    "model folder": (Folder, 2),
    "model folder of others": (OthersFolder, 2),
    "flags": (FlagsFile, 2),
    "npy": (Npy, 1),
    "npz": (Npz, 2),
    "idx": (Idx, 1),
    "idx.gz": (IdxGz, 1),
    "picture": (Picture, 1),
}


def run(cases, seed):
    """Outcomes by reader; whatever else happens is raised, with the case that it was."""
    torch.set_num_threads(1)
    folder, counts = Path(tempfile.mkdtemp()), {}
    total = sum(share for _, share in READERS.values())
    for name, (kind, share) in READERS.items():
        (folder / name).mkdir()
        kept, counts[name] = kind(folder / name), collections.Counter()
        for case in range(-(-cases * share // total)):
            try:
                counts[name][kept.attempt(random.Random(f"{seed} {name} {case}"))] += 1
            except Exception as error:
                error.add_note(f"{name}, case {case} of seed {seed}")
                raise
        print(name, dict(counts[name]), flush=True)
    shutil.rmtree(folder)
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    counts = run(options.cases, options.seed)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert grown < MEMORY, grown
    print(
        f"{sum(c.total() for c in counts.values())} cases, {grown / 2**20:.0f} MB", file=sys.stderr
    )
