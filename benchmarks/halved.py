"""What bf16 does to samples: how far end points move, and what it makes of recorded distances.

    python benchmarks/halved.py fashion-linear

The same 64 noises, the first of those in ``samples.py``, are drawn in float32 and in bf16, by DDIM
on 128 nodes: the distance between the two is printed. Then, in each precision, the distances to the
end points of 256 steps under the schedules of ``results/samples_<model>.json``, as geometric means.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from samples import CHUNK, HELD_OUT
from tables import read

import dpdiff
from dpdiff.models import BUNDLED
from dpdiff.strides import node_grid

MOVED, TEACHER = 128, 256  # steps
BUDGETS, SCHEDULES = ("8", "32"), ("flow", "even")


def drawn(denoiser: dpdiff.Denoiser, schedule: dpdiff.Schedule) -> torch.Tensor:
    """End points from the held-out noises, a row each."""
    options = {"seed": HELD_OUT, "sampler": "ddim", "batch_size": CHUNK, "progress": False}
    return dpdiff.sample(denoiser, schedule, CHUNK, **options).flatten(1)


def apart(one: torch.Tensor, other: torch.Tensor) -> np.ndarray:
    """Distances, row by row."""
    return (one - other).norm(dim=1).numpy()


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=BUNDLED)
    model = parser.parse_args().model
    torch.set_num_threads(1)
    whole = dpdiff.load(model)
    both = {"float32": whole, "bf16": whole.with_precision("bf16")}
    fine = dpdiff.Schedule(node_grid(whole.noise, MOVED))
    moved = apart(*(drawn(denoiser, fine) for denoiser in both.values()))
    error = moved.std(ddof=1) / np.sqrt(CHUNK)
    print(f"end points of {MOVED} steps move by {moved.mean():.3f} ± {error:.3f}", flush=True)
    fine = dpdiff.Schedule(node_grid(whole.noise, TEACHER))
    goals = {name: drawn(denoiser, fine) for name, denoiser in both.items()}
    recorded = read(f"samples_{model}")["distances"]
    for k in BUDGETS:
        for name in SCHEDULES:
            schedule = dpdiff.Schedule(recorded[k][name]["timesteps"])
            means = [
                np.exp(np.log(apart(drawn(denoiser, schedule), goals[precision])).mean())
                for precision, denoiser in both.items()
            ]
            print(f"{k:>3} {name:5}", *(f"{mean:.3f}" for mean in means), flush=True)


if __name__ == "__main__":
    main()
