"""Time ``dpdiff.sample`` against a stock diffusers pipeline, and what both do between calls.

The network is the U-Net of Improved DDPM for CIFAR-10 (learned variance, 53 million weights) with
random weights. All candidates draw the same number of images with as many network calls:

- ``stock``: ``DDPMPipeline`` with diffusers' own ``DDPMScheduler``;
- ``sample``: ``dpdiff.sample``;
- ``scheduler``: the same pipeline with ``AncestralScheduler`` and an optimal-style schedule.

One repetition runs each of them once, in an order that rotates; what counts is the median over
repetitions of the ratio within a repetition. On the CPU, time is processor time, which other work
on the machine disturbs less than the clock on the wall. A clock around the network tells the share
of the time that is spent outside of it. Writes ``results/sampling.json``; ``--quick`` takes a small
network and writes nothing. With ``--device cuda`` take more: ``--n 256 --steps 32``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
from cases import machine
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import dpdiff
from dpdiff.diffusers import AncestralScheduler
from dpdiff.models import improved_diffusion
from dpdiff.models.improved_diffusion import Flags
from dpdiff.runtime.files import replacing

HERE = Path(__file__).parent
T = 4000


class Clock:
    """Adds up the time a network takes, forward pass by forward pass."""

    def __init__(self, network: torch.nn.Module, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0
        self.hooks = [
            network.register_forward_pre_hook(self.begin),
            network.register_forward_hook(self.end),
        ]

    def begin(self, *_: object) -> None:
        self.begun = now(self.device)

    def end(self, *_: object) -> None:
        self.seconds += now(self.device) - self.begun

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()


def now(device: torch.device) -> float:
    """Seconds: of the processor, or on the wall once the GPU has done all it was asked."""
    if device.type == "cpu":
        return process_time()
    torch.cuda.synchronize(device)
    return perf_counter()


def build(quick: bool, device: torch.device) -> UNet2DModel:
    """The network of the preset ``cifar10_hybrid``, or a narrow one, with random weights."""
    flags = Flags.read("--image_size 32 --num_channels 32 --learn_sigma True")
    flags = flags if quick else Flags.read("cifar10_hybrid")
    torch.manual_seed(0)
    return UNet2DModel.from_config(improved_diffusion._empty(flags).config).eval().to(device)


def candidates(network: UNet2DModel, n: int, steps: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    noise = dpdiff.NoiseSchedule.cosine(T)
    denoiser = dpdiff.Denoiser(network, noise, variance="learned_range", shape=(3, 32, 32))
    schedule = dpdiff.Schedule.quadratic(T, steps)
    stock = DDPMScheduler(T, trained_betas=noise.betas, variance_type="learned_range")
    pipes = [
        DDPMPipeline(network, scheduler)
        for scheduler in (stock, AncestralScheduler.from_denoiser(denoiser, schedule))
    ]
    for pipe in pipes:
        pipe.set_progress_bar_config(disable=True)
    settings = {"batch_size": n, "num_inference_steps": steps, "output_type": "pt"}
    return {
        "stock": lambda: pipes[0](**settings).images.cpu(),
        "sample": lambda: dpdiff.sample(denoiser, schedule, n, batch_size=n, progress=False),
        "scheduler": lambda: pipes[1](**settings).images.cpu(),
    }


def run(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that some work takes."""
    begun = now(device)
    work()
    return now(device) - begun


def clocked(
    work: Callable[[], object], network: UNet2DModel, device: torch.device
) -> tuple[float, float]:
    """Seconds, and the share of them that is spent outside the network."""
    clock = Clock(network, device)
    seconds = run(work, device)
    clock.remove()
    share = 1 - clock.seconds / seconds
    # The clock makes a GPU wait at every call: without it, work can overlap.
    return (seconds if device.type == "cpu" else run(work, device)), share


def quartiles(values: list[float]) -> dict[str, float]:
    """Median and quartiles, rounded."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": round(middle, 4), "quartiles": [round(low, 4), round(high, 4)]}


def main() -> None:
    """Time everything and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--n", type=int, default=4, help="images, all in one batch")
    parser.add_argument("--steps", type=int, default=3, help="network calls")
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="a small network, nothing written")
    options = parser.parse_args()
    device = torch.device(options.device)
    network = build(options.quick, device)
    work = candidates(network, options.n, options.steps)
    seconds: dict[str, list[float]] = {name: [] for name in work}
    shares: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(options.repeats + 1):
        for i in range(len(work)):
            name = list(work)[(i + repeat) % len(work)]
            taken, share = clocked(work[name], network, device)
            if repeat > 0:  # the first round warms up
                seconds[name].append(taken)
                shares[name].append(share)
    report = {
        "machine": machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "network_weights": sum(weights.numel() for weights in network.parameters()),
        "images": options.n,
        "steps": options.steps,
        "repeats": options.repeats,
        "seconds_per_call": {
            k: quartiles([s / options.steps for s in v]) for k, v in seconds.items()
        },
        "throughput_over_stock": {
            name: quartiles([a / b for a, b in zip(seconds["stock"], seconds[name], strict=True)])
            for name in ("sample", "scheduler")
        },
        "share_outside_network": {name: quartiles(values) for name, values in shares.items()},
    }
    print(json.dumps(report, indent=1))
    if not options.quick:
        name = "sampling.json" if device.type == "cpu" else f"sampling_{device.type}.json"
        with replacing(HERE / "results" / name) as file:
            file.write((json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
