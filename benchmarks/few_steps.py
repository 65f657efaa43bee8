"""Fréchet distance of samples of few steps to held-out images, schedule by schedule.

    python benchmarks/few_steps.py fashion --sampler ddim --n 10000
    python benchmarks/few_steps.py digits --sampler ancestral --budgets 4 8 16
    python benchmarks/few_steps.py fashion-linear --sampler 2m --schedules even flow Karras

Sample i starts from the same noise under every schedule, so they are compared pair by pair: beside
each distance stands its excess over that of ``flow`` (of ``variance`` for ancestral sampling). The
floor is the distance of as many real images; ``teacher`` is that of at most 2,048 samples of 64
DDIM steps, to which DDIM with few is asked to come near. ``2m`` is DPM-Solver++(2M) as
diffusers has it, with the schedule's timesteps. Schedules cost 32 noises on 64 nodes; ``variance``
as many again.

Samples are drawn in chunks of 64, each with a seed of its own from 100 on, and only their features
are kept, in ``results/few_steps.parts``: a run that was stopped goes on, and one with a larger
``--n`` draws the difference. The tables go to ``results/few_steps_<name>.json``. Features are the
bundled classifiers'; with ``--pixels`` they are 48 principal components of the pixels.

``roughness`` of ancestral samples is the denoiser's squared error on 64 of them, noised to log SNR
2, over that on the teacher's: above 1, they hold what the model does not expect of an image.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import diffusers
import numpy as np
import torch
from cases import faster, machine, with_speed

import dpdiff
from dpdiff import noising, quality, strides
from dpdiff.data import scaled
from dpdiff.models import BUNDLED, HOME
from dpdiff.runtime import random_streams
from dpdiff.runtime.files import replacing
from dpdiff.strides import node_grid
from dpdiff.trajectory import VarianceLoss, variance_loss

RESULTS = Path(__file__).parent / "results"
PARTS = RESULTS / "few_steps.parts"
CHUNK, FIRST_SEED = 64, 100
TEACHER_STEPS, TEACHER_SAMPLES = 64, 2048
COMPONENTS = 48
ROUGH_AT = 2.0  # log SNR
BUDGETS = {"ddim": (4, 6, 8, 12), "2m": (4, 6, 8, 12), "ancestral": (4, 8, 16)}
SCHEDULES = {
    "ddim": ("even", "quadratic", "Karras", "log SNR", "ELBO", "flow"),
    "2m": ("even", "quadratic", "Karras", "log SNR", "flow"),
    "ancestral": ("even", "quadratic", "weighted", "flow", "variance"),
}


class Finder:
    """Schedules of a model by name; what takes network calls is made once."""

    def __init__(self, denoiser: dpdiff.Denoiser, model: str) -> None:
        self.denoiser, self.model = denoiser, model

    @cached_property
    def costs(self) -> dpdiff.Costs:
        """The shipped ones."""
        costs = dpdiff.load_costs(self.model).with_variance(self.denoiser.variance)
        costs.check_model(self.denoiser.fingerprint)
        return costs.smoothed()

    @cached_property
    def paths(self) -> dpdiff.trajectory.trajectories.Trajectories:
        """Of 32 noises on 64 nodes."""
        return dpdiff.trajectories(
            self.denoiser,
            resume=PARTS / f"trajectories_{digest(identity(self.denoiser))}",
            progress=False,
        )

    @cached_property
    def makers(self) -> dict[str, Callable[[int], dpdiff.Schedule]]:
        """A function of K for every name."""
        noise = self.denoiser.noise
        return {
            "even": lambda k: dpdiff.Schedule.even(noise.T, k),
            "quadratic": lambda k: dpdiff.Schedule.quadratic(noise.T, k),
            "Karras": lambda k: strides.karras(noise, k),
            "log SNR": lambda k: strides.log_snr(noise, k),
            "ELBO": lambda k: dpdiff.solve(self.costs, k).schedule(k),
            "weighted": lambda k: dpdiff.solve(self.costs.weighted(), k).schedule(k),
            "flow": lambda k: dpdiff.solve(self.paths.costs(), k).schedule(k),
            "variance": lambda k: self.loss.schedule(k),
        }

    @cached_property
    def loss(self) -> VarianceLoss:
        """From 64 samples of the teacher."""
        return variance_loss(self.paths, progress=False)

    def __call__(self, name: str, steps: int) -> dpdiff.Schedule:
        """A schedule, from disk if it was found before."""
        measured = digest((HOME / self.model / "costs.npz").read_bytes())
        known = (*identity(self.denoiser), measured, name, steps)
        path = PARTS / f"{digest(known)}.json"
        if not path.exists():
            self.makers[name](steps).save(path)
        return dpdiff.Schedule.load(path)


def identity(denoiser: dpdiff.Denoiser, sampler: str = "ancestral") -> tuple[str | None, ...]:
    """All that decides a model's samples from a schedule and a seed."""
    libraries = (torch.__version__, diffusers.__version__)
    kind = torch.device(denoiser.device).type
    rule = denoiser.variance if sampler == "ancestral" else None  # the others add no noise
    return denoiser.fingerprint, rule, denoiser.precision, kind, *libraries


def digest(what: object) -> str:
    """A file's name for what it holds."""
    return hashlib.sha256(repr(what).encode()).hexdigest()[:20]


class Classifier:
    """Images as the bundled classifiers see them."""

    name, key = "classifier", ()

    def __init__(self, denoiser: dpdiff.Denoiser) -> None:
        self.levels, self.digits = denoiser.levels, denoiser.shape[-1] == 8

    def features(self, images: np.ndarray) -> np.ndarray:
        """Of samples, or of images in [-1, 1]."""
        if self.digits:
            return quality.digit_features(images)
        return quality.fashion_features(images, progress=False)

    def real(self, split: str) -> np.ndarray:
        """Features of real images."""
        if not self.digits:
            return quality.fashion_reference(split)
        return self.features(scaled(dpdiff.images("digits", split=split), self.levels))


class Pixels:
    """Images by their principal components, those of 10,000 training images."""

    name = "pixels"

    def __init__(self, denoiser: dpdiff.Denoiser, data: str) -> None:
        self.images = {
            split: scaled(dpdiff.images(data, split=split)[:10_000], denoiser.levels)
            for split in ("train", "test")
        }
        flat = self.images["train"].reshape(len(self.images["train"]), -1).astype(np.float64)
        self.mean = flat.mean(0)
        self.axes = np.linalg.eigh(np.cov(flat.T))[1][:, -COMPONENTS:]
        self.key = (self.name, digest((self.mean.tobytes(), self.axes.tobytes())))

    def features(self, images: np.ndarray) -> np.ndarray:
        """Of samples, or of images in [-1, 1]."""
        return (images.reshape(len(images), -1) - self.mean) @ self.axes

    def real(self, split: str) -> np.ndarray:
        """Features of real images."""
        return self.features(self.images[split])


def features(
    denoiser: dpdiff.Denoiser,
    schedule: dpdiff.Schedule,
    sampler: str,
    n: int,
    eye: Classifier | Pixels,
) -> np.ndarray:
    """Of n samples, chunk by chunk."""
    rows = []
    for seed in range(FIRST_SEED, FIRST_SEED - (-n // CHUNK)):
        job = (*identity(denoiser, sampler), schedule.timesteps, sampler, seed, *eye.key)
        path = PARTS / f"{digest(job)}.npy"
        if not path.exists():
            drawn = dpdiff.sample(
                denoiser, schedule, CHUNK, seed=seed, sampler=sampler, progress=False
            )
            with replacing(path) as file:
                np.save(file, eye.features(drawn.numpy()))
        rows.append(np.load(path))
    return np.concatenate(rows)[:n]


@torch.inference_mode()
def errors(denoiser: dpdiff.Denoiser, drawn: torch.Tensor) -> float:
    """``E‖x_0 - x̂_0‖²`` of samples that are noised to log SNR 2."""
    t = int(np.abs(denoiser.noise.log_snr - ROUGH_AT).argmin())
    rows = np.arange(len(drawn))
    noise = torch.from_numpy(random_streams.gaussian(FIRST_SEED - 1, t, rows, denoiser.shape))
    batch = noising.Batch(np.full(len(drawn), t), drawn.double().to(denoiser.device), noise)
    clean, prediction = noising.predict(denoiser, batch)
    return float((clean - prediction.x0).square().flatten(1).sum(1).mean())


def roughness(denoiser: dpdiff.Denoiser, schedules: dict[str, dpdiff.Schedule]) -> dict[str, float]:
    """Such errors on ancestral samples, over those on as many of the teacher's."""
    nodes = dpdiff.Schedule(node_grid(denoiser.noise, TEACHER_STEPS))
    drawn = {
        name: dpdiff.sample(
            denoiser, schedule, CHUNK, seed=FIRST_SEED, sampler=sampler, progress=False
        )
        for name, schedule, sampler in [
            ("teacher", nodes, "ddim"),
            *((name, schedule, "ancestral") for name, schedule in schedules.items()),
        ]
    }
    squares = {name: errors(denoiser, x) for name, x in drawn.items()}
    return {name: round(squares[name] / squares["teacher"], 3) for name in schedules}


def rounded(estimate: quality.Distance) -> list[float]:
    """A value and its standard error."""
    return [round(float(estimate.value), 4), round(float(estimate.stderr), 4)]


def teacher(denoiser: dpdiff.Denoiser, n: int, eye: Classifier | Pixels, test: np.ndarray) -> dict:
    """The distance of the many-step samples that schedules are asked to come near to."""
    n = min(n, TEACHER_SAMPLES)
    nodes = dpdiff.Schedule(node_grid(denoiser.noise, TEACHER_STEPS))
    drawn = features(denoiser, nodes, "ddim", n, eye)
    distance = rounded(quality.frechet_distance(drawn, test))
    return {"sampler": "ddim", "steps": TEACHER_STEPS, "samples": n, "distance": distance}


def main() -> None:
    """Draw, measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=BUNDLED)
    parser.add_argument("--sampler", choices=tuple(SCHEDULES), default="ddim")
    parser.add_argument("--n", type=int, default=2000, help="samples")
    parser.add_argument("--budgets", type=int, nargs="+")
    parser.add_argument("--schedules", nargs="+", help="by default those of the sampler")
    parser.add_argument("--variance", help="rule; by default the model's own")
    parser.add_argument("--pixels", metavar="DATA", help="compare pixels, not features")
    parser.add_argument("--name", help="of the results; by default from the options")
    with_speed(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    PARTS.mkdir(parents=True, exist_ok=True)
    where = machine()
    denoiser = faster(dpdiff.load(options.model, device=options.device), options)
    costs = dpdiff.load_costs(options.model)
    denoiser = denoiser.with_variance(options.variance or denoiser.variance, costs)
    find, n = Finder(denoiser, options.model), options.n
    names = options.schedules or SCHEDULES[options.sampler]
    ours = names[-1]
    eye = Pixels(denoiser, options.pixels) if options.pixels else Classifier(denoiser)
    test, train = eye.real("test"), eye.real("train")
    tables = {}
    for k in options.budgets or BUDGETS[options.sampler]:
        schedules = {name: find(name, k) for name in names}
        drawn = {
            name: features(denoiser, schedule, options.sampler, n, eye)
            for name, schedule in schedules.items()
        }
        tables[k] = {
            name: {
                "distance": rounded(quality.frechet_distance(drawn[name], test)),
                f"over_{ours}": rounded(quality.frechet_difference(drawn[name], drawn[ours], test)),
                "timesteps": list(schedule.timesteps),
            }
            for name, schedule in schedules.items()
        }
        if options.sampler == "ancestral":
            for name, value in roughness(denoiser, schedules).items():
                tables[k][name]["roughness"] = value
        for name, row in tables[k].items():
            print(k, f"{name:12}", row["distance"], row[f"over_{ours}"], flush=True)
    document = {
        "what": "Fréchet distance to held-out images: [value, standard error]",
        "features": eye.name,
        "model": {"name": options.model, "fingerprint": denoiser.fingerprint},
        "sampler": options.sampler,
        "variance": denoiser.variance if options.sampler == "ancestral" else None,
        "precision": denoiser.precision,
        "samples": n,
        "teacher": teacher(denoiser, n, eye, test),
        "floor": rounded(quality.frechet_distance(train[:n], test)),
        "seeds": f"{FIRST_SEED} and on, one for every {CHUNK} samples",
        "dpdiff": dpdiff.__version__,
        "machine": where,
        "distances": tables,
    }
    parts = (options.model, options.sampler, options.variance, "pixels" if options.pixels else "")
    name = options.name or "_".join(filter(None, parts))
    with replacing(RESULTS / f"few_steps_{name}.json") as file:
        file.write((json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
