"""Statistics of network outputs, once a timestep and image, for ``prices.py`` to draw from.

    python benchmarks/pool.py digits --knots 193 --images 143
    python benchmarks/pool.py fashion-short --data FOLDER --knots 97 --images 1320 --seconds 1500

A pool is a folder of blocks, each a few images at every one of some timesteps; killed and called
again it goes on. ``decoder_optimal`` depends on m(t), which a measurement of n images only
estimates: it is kept at three values of m(t) around the shipped one, and a parabola through them
in log m gives it at any other.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from cases import faster, with_speed

import dpdiff
from dpdiff import noising
from dpdiff.costs import statistics
from dpdiff.runtime.files import replacing
from dpdiff.strides import spread

BLOCK = 4  # images
AROUND = (-0.3, 0.0, 0.3)  # added to log m(t) for decoder_optimal
HERE = Path(__file__).parent / "pools"


@torch.inference_mode()
def ask(denoiser, images, rows, timesteps, mse, seed, batch_size=128):
    """Statistics of these images at these timesteps, arrays (timesteps, images, ...)."""
    t, row = np.repeat(timesteps, len(rows)), np.tile(rows, len(timesteps))
    pieces = []
    for start in range(0, len(t), batch_size):
        some = slice(start, start + batch_size)
        batch = noising.prepare(denoiser, images, t[some], row[some], seed)
        x0, prediction = noising.predict(denoiser, batch)
        seen = (batch.t, x0, prediction)
        values = statistics.per_image(denoiser, *seen)
        for i, shift in enumerate(AROUND):
            error = torch.from_numpy(mse[t[some]] * np.exp(shift))
            values[f"decoder_optimal_{i}"] = statistics.decoders(denoiser, *seen, error)[
                "decoder_optimal"
            ]
        pieces.append({k: v.cpu().numpy().astype(np.float32) for k, v in values.items()})
    shape = (len(timesteps), len(rows))
    joined = {k: np.concatenate([p[k] for p in pieces]) for k in pieces[0]}
    return {k: v.reshape(*shape, *v.shape[1:]) for k, v in joined.items()}


def load(name: str) -> dict[str, np.ndarray]:
    """All blocks of a pool; images of the last axis but one of every statistic."""
    blocks = []
    for path in sorted((HERE / name).glob("*.npz")):
        with np.load(path) as block:
            blocks.append(dict(block))
    alike = {"timesteps": blocks[0]["timesteps"]}
    return alike | {
        k: np.concatenate([b[k] for b in blocks], axis=1 if blocks[0][k].ndim > 1 else 0)
        for k in blocks[0]
        if k != "timesteps"
    }


def main() -> None:
    """Fill a pool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data")
    parser.add_argument("--knots", type=int, default=97, help="0: every timestep")
    parser.add_argument("--images", type=int, default=143)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1500)
    parser.add_argument("--name", help="of the pool; by default the model's and its fingerprint")
    with_speed(parser)
    options = parser.parse_args()
    denoiser = faster(dpdiff.load(options.model, device=options.device), options)
    costs = dpdiff.load_costs(options.model)
    images = dpdiff.images(options.data or options.model, split="validation")
    T = costs.T
    timesteps = spread(denoiser.noise, options.knots) if options.knots else np.arange(1, T + 1)
    order = np.random.default_rng(options.seed).permutation(len(images))[: options.images]
    folder = HERE / (options.name or f"{options.model}-{denoiser.fingerprint}")
    end = time.monotonic() + options.seconds
    folder.mkdir(parents=True, exist_ok=True)
    mse = costs.smoothed().mse
    for number, start in enumerate(range(0, len(order), BLOCK)):
        path, rows = folder / f"{number:04d}.npz", order[start : start + BLOCK]
        if path.exists() or time.monotonic() > end:
            continue
        values = ask(denoiser, images, rows, timesteps, mse, options.seed)
        with replacing(path) as file:
            np.savez(file, timesteps=timesteps, images=rows, **values)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
