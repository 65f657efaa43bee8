"""Time measuring against the bare network calls of the same batches, in the same run.

The network is a U-Net of CIFAR-10 size (improved-diffusion's, with learned variance and random
weights) on T = 4,000 steps; a few timesteps stand for all, since each takes the same work. Bare
calls and measuring take turns, and ratios are medians over the rounds. On a CPU, processor time is
compared, which other programs do not disturb. Adds a row to ``results/measure.json``.

    python benchmarks/measure.py
    python benchmarks/measure.py --device cuda --per-step 128 --batch-size 256 --timesteps 64
    torchrun --nproc-per-node 8 benchmarks/measure.py --device cuda …
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
from cases import machine

from dpdiff import noising
from dpdiff.costs import statistics
from dpdiff.costs.measurement import every_timestep, measured
from dpdiff.denoiser import Denoiser
from dpdiff.models.improved_diffusion import Flags, _empty
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import workers
from dpdiff.runtime.batches import Batches, cut
from dpdiff.runtime.checkpoints import Checkpoints

BLOCK = 8  # timesteps to a block on the whole grid
RESULTS = Path(__file__).parent / "results" / "measure.json"


def cifar_unet() -> torch.nn.Module:
    """The published CIFAR-10 network's architecture; its weights do not matter for its speed."""
    network = _empty(Flags.read("cifar10_hybrid")).to_empty(device="cpu")
    torch.manual_seed(0)
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.02)
        else:
            torch.nn.init.constant_(weight, float(name.endswith("weight")))
    return network.eval()


class Rounds:
    """One measurement, in one precision, and its parts one by one."""

    def __init__(self, denoiser: Denoiser, options: argparse.Namespace, own: slice) -> None:
        images = np.random.default_rng(0).integers(0, 256, (512, 3, 32, 32)).astype(np.uint8)
        self.denoiser, self.images, self.size = denoiser, images, options.batch_size
        stage = every_timestep(denoiser.noise.T, len(images), options.per_step, 0)
        chosen = np.linspace(1, denoiser.noise.T, options.timesteps).astype(int)[own]
        self.stage, self.cuda = replace(stage, timesteps=chosen), denoiser.device.type == "cuda"
        self.pieces = cut(chosen, max(1, self.size // stage.images))
        self.ready = [part for batch in self.preparing() for part in cut(batch, self.size)]
        self.inputs = [self.noised(batch) for batch in self.ready]
        self.outputs = [noising.predict(denoiser, batch) for batch in self.ready]

    def seconds(self, work: Callable[[], object]) -> float:
        clock = perf_counter if self.cuda else process_time
        begin = clock()
        work()
        if self.cuda:
            torch.cuda.synchronize()
        return clock() - begin

    @torch.inference_mode()
    def noised(self, batch: noising.Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """What `noising.predict` does before the network is called."""
        device = self.denoiser.device
        x0 = batch.x0.to(device)
        f, g = self.denoiser.noise.at(batch.t, x0)
        x_t = f * x0 + g * batch.noise.to(device).double()
        return x_t.float(), torch.as_tensor(batch.t - 1, device=device)

    @torch.inference_mode()
    def bare(self) -> None:
        for x, index in self.inputs:
            output = self.denoiser.network(x, index)
            getattr(output, "sample", output).sum().item()  # nothing may be left undone

    def measuring(self) -> dict[str, np.ndarray]:
        batches = Batches(batch_size=self.size)
        return measured(self.denoiser, self.images, self.stage, 0, batches)

    def preparing(self) -> list[noising.Batch]:
        return [
            noising.prepare(
                self.denoiser,
                self.images,
                timesteps.repeat(self.stage.images),
                np.concatenate([self.stage.rows(t) for t in timesteps]),
                0,
            )
            for timesteps in self.pieces
        ]

    def noising(self) -> list:
        return [self.noised(batch) for batch in self.ready]

    @torch.inference_mode()
    def summing(self) -> list:
        """All that is made of the network's outputs."""
        sums, denoiser = [], self.denoiser
        for batch, (x0, prediction) in zip(self.ready, self.outputs, strict=True):
            outcome = batch.t, x0, prediction
            values = statistics.per_image(denoiser, *outcome)
            values |= statistics.decoders(denoiser, *outcome, values["mse"])
            steps = len(np.unique(batch.t))
            sums.append(statistics.moments({k: v.cpu().numpy() for k, v in values.items()}, steps))
        return sums

    def writing(self, values: dict[str, np.ndarray]) -> None:
        """One finished block."""
        block = self.pieces[0]
        with tempfile.TemporaryDirectory() as folder:
            rows = {name: array[: len(block)] for name, array in values.items()}
            Checkpoints(folder, {"model": "random"}).save(block, rows)


def compare(denoiser: Denoiser, options: argparse.Namespace, team: workers.Workers) -> dict:
    rounds = Rounds(denoiser, options, slice(team.rank, None, team.count))
    parts = {
        "images and noise": rounds.preparing,
        "noising": rounds.noising,
        "statistics": rounds.summing,
    }
    found = rounds.measuring()  # warm
    rounds.bare()
    seconds: dict[str, list[float]] = {name: [] for name in ("bare", "measure", *parts, "blocks")}
    wall = []
    for _ in range(options.repeats):
        seconds["bare"].append(rounds.seconds(rounds.bare))
        team.broadcast(team.gather(None))  # all begin together
        begin = perf_counter()
        seconds["measure"].append(rounds.seconds(rounds.measuring))
        team.broadcast(team.gather(None))
        wall.append(perf_counter() - begin)
        for name, work in parts.items():
            seconds[name].append(rounds.seconds(work))
        block = rounds.seconds(lambda: rounds.writing(found))
        seconds["blocks"].append(block * len(rounds.stage.timesteps) / BLOCK)
    bare = np.array(seconds.pop("bare"))
    ratios = {name: np.array(times) / bare for name, times in seconds.items()}
    return {
        "ratio_to_bare_calls": float(np.median(ratios["measure"])),
        "ratios": [round(float(ratio), 4) for ratio in ratios["measure"]],
        "share_of_bare_calls": {
            name: float(np.median(ratio)) for name, ratio in ratios.items() if name != "measure"
        },
        "network_ms_per_image": 1e3 * float(np.median(bare)) / sum(map(len, rounds.ready)),
        "images_per_second_wall": options.timesteps * options.per_step / min(wall),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--per-step", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--timesteps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", nargs="+", default=["float32", "bf16"])
    options = parser.parse_args()
    team, device = workers.join(), workers.device(options.device)
    noise = NoiseSchedule.cosine(4000)
    network = cifar_unet().to(device)
    plain = Denoiser(network, noise, variance="learned_range", shape=(3, 32, 32))
    cuda = device.startswith("cuda")
    about = {
        "device": torch.cuda.get_device_name() if cuda else machine()["processor"],
        "workers": team.count,
        "threads": torch.get_num_threads(),
        "clock": "wall" if cuda else "processor time",
        "torch": torch.__version__,
        "batch_size": options.batch_size,
        "per_step": options.per_step,
        "timesteps": options.timesteps,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "load_average": machine()["load_average_at_start"],
    }
    rows = []
    for precision in options.precision:
        denoiser = plain if precision == "float32" else plain.with_precision(precision)
        rows.append({**about, "precision": precision, **compare(denoiser, options, team)})
        if team.first:
            print(json.dumps(rows[-1], indent=1), flush=True)
    if team.first:
        key = ("device", "workers", "precision")
        old = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        fresh = {tuple(row[k] for k in key) for row in rows}
        kept = [row for row in old if tuple(row[k] for k in key) not in fresh]
        RESULTS.write_text(json.dumps(kept + rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
