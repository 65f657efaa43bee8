"""What several test files share: small models whose every property is known."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dpdiff.denoiser import Denoiser
from dpdiff.noise import NoiseSchedule

torch.set_num_threads(1)  # the networks here are too small to share

# The benchmarks and the tests share their synthetic costs.
sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

DATA = Path(__file__).parent / "data"

if os.name == "nt":  # these need rusage, pipes, a forkserver, or HOME
    collect_ignore = ["test_container.py", "test_fuzz.py", "test_restart.py"]


class ToyNetwork(torch.nn.Module):
    """A deterministic, smooth stand-in for a learned-range network: fast, and never constant."""

    def __init__(self, channels: int = 1, T: int = 4000) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.7))
        self.channels, self.T = channels, T

    def forward(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        phase = (index / self.T).reshape(-1, *(1,) * (x.ndim - 1))
        eps = self.scale * x * phase.sqrt() + 0.1 * torch.sin(5 * x + phase)
        raw = 1.2 * torch.sin(3 * x + 7 * phase)  # v reaches from -0.1 to 1.1
        return torch.cat([eps, raw], dim=1)


@pytest.fixture(scope="session")
def toy() -> Denoiser:
    """Learned-range variance on T = 4000 cosine steps, 1×4×4 examples of 17 levels."""
    noise = NoiseSchedule.cosine(4000, first_beta=0.0025)
    return Denoiser(ToyNetwork(), noise, variance="learned_range", shape=(1, 4, 4), levels=17)


@pytest.fixture(scope="session")
def toy_images() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 17, size=(6, 1, 4, 4)).astype(np.uint8)


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """Numbers of Improved DDPM's reference implementation (see tests/data/README.md)."""
    with np.load(DATA / "iddpm_tiny.npz") as archive:
        return {name: archive[name] for name in archive.files}
