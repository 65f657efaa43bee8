"""What test_restart.py runs in processes of its own: the command, on a slow toy network."""

import os
import sys
import time

import numpy as np
import torch
from conftest import ToyNetwork

import dpdiff
from dpdiff.cli import main
from dpdiff.denoiser import Denoiser
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime.checkpoints import locked

T, LONG = 40, 200
IMAGES = np.random.default_rng(5).integers(0, 17, size=(6, 1, 4, 4)).astype(np.uint8)
MORE = np.random.default_rng(6).integers(0, 17, size=(20, 1, 4, 4)).astype(np.uint8)
AMOUNTS = {
    "dense": ["--per-step", "6"],
    "few": ["--calls", "80"],
    "rounds": ["--regret", "1e-9"],  # on a longer grid, until no images are left
}


class SlowNetwork(ToyNetwork):
    """Each call takes a moment, and is counted."""

    calls, seconds = 0, 0.0

    def forward(self, x, index):
        SlowNetwork.calls += 1
        time.sleep(self.seconds)
        return super().forward(x, index)


def toy(seconds=0.0, steps=T):
    network = SlowNetwork(T=steps)
    network.seconds = seconds
    noise = NoiseSchedule.cosine(steps, first_beta=0.0025)
    return Denoiser(network, noise, variance="learned_range", shape=(1, 4, 4), levels=17)


def command(out, *more, amount="dense", seconds=0.0):
    """The exit code of `dpdiff measure`, were the toy a model on disk."""
    torch.set_num_threads(1)
    steps, images = (LONG, MORE) if amount == "rounds" else (T, IMAGES)
    dpdiff.load, dpdiff.images = (lambda *a, **k: toy(seconds, steps)), (lambda *a, **k: images)
    return main(["measure", "--batch-size", "6", *AMOUNTS[amount], "--out", str(out), *more])


def commands(folder):
    """The exit codes of all amounts."""
    return [command(f"{folder}/{amount}.npz", amount=amount) for amount in AMOUNTS]


def measure_slowly(out, amount, ready):
    with open(os.devnull, "w") as sys.stderr:  # no progress bars
        ready.set()
        sys.exit(command(out, amount=amount, seconds=0.02 if amount == "dense" else 0.01))


def measure_as_nobody(out, log):
    """Even a superuser's tests must see what a read-only folder does."""
    if os.getuid() == 0:
        os.setuid(65534)
    with open(log, "w") as sys.stderr:
        sys.exit(command(out))


def hold(folder, ready):
    with locked(folder):
        ready.set()
        time.sleep(60)


if __name__ == "__main__":
    sys.exit(max(commands(sys.argv[1])))
