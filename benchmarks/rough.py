"""A network with an embedding of its own for every timestep: how its schedules fare, held out.

    python benchmarks/rough.py

A small 1-D convolution learns to denoise random waves, with ``nn.Embedding(1000)`` for the time.
Its error leaps from timestep to timestep, so costs must not be smoothed as those of other
networks are. Schedules are chosen on one set of images and scored on another; the table says how
many bits/dim they cost more than the even one, image by image, with the standard error.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

import dpdiff
from dpdiff.costs.smoothing import ROUGH
from dpdiff.evaluation import evaluate_many

T, LENGTH = 1000, 16
BUDGETS = (8, 16, 32, 64, 128, 256)
RESULTS = Path(__file__).parent / "results" / "rough.json"


class Rough(nn.Module):
    """Two convolutions around what each timestep has learned on its own."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Embedding(T, width)
        self.first = nn.Conv1d(1, width, 5, padding=2)
        self.second = nn.Conv1d(width, width, 5, padding=2)
        self.last = nn.Conv1d(width, 1, 5, padding=2)

    def forward(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The noise in x."""
        h = torch.relu(self.first(x) + self.embedding(index)[:, :, None])
        return self.last(torch.relu(self.second(h) * (1 + self.embedding(index)[:, :, None])))


def waves(count: int, seed: int) -> np.ndarray:
    """Sines of random phase, length and height, in 256 levels; shape (count, 1, 16)."""
    rng = np.random.default_rng(seed)
    phase, speed, height = rng.uniform([0, 0.3, 0.3], [6.3, 1, 0.9], (count, 3)).T[:, :, None]
    values = height * np.sin(phase + speed * np.arange(LENGTH))
    return np.round((values[:, None] + 1) * 127.5).astype(np.uint8)


def trained(steps: int = 600, batch: int = 64) -> dpdiff.Denoiser:
    """The network after a few seconds of training, its timesteps uneven in what they know."""
    torch.manual_seed(0)
    noise, network = dpdiff.NoiseSchedule.linear(T), Rough()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    x0 = torch.from_numpy(waves(4000, 0) / 127.5 - 1).float()
    f, g = (torch.from_numpy(scale).float() for scale in (noise.f, noise.g))
    for _ in range(steps):
        t, rows = torch.randint(1, T + 1, (batch,)), torch.randint(len(x0), (batch,))
        eps = torch.randn(batch, 1, LENGTH)
        x = f[t, None, None] * x0[rows] + g[t, None, None] * eps
        loss = ((network(x, t - 1) - eps) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval().requires_grad_(False)
    return dpdiff.Denoiser(network, noise, variance="large", shape=(1, LENGTH))


def gains(
    denoiser: dpdiff.Denoiser, costs: dpdiff.Costs, budgets: tuple, images: np.ndarray
) -> dict[int, dict[str, tuple[float, float]]]:
    """Bits/dim more than the even schedule's on held-out images, with standard errors."""
    ways = {"chosen": costs.smoothed(), "raw": costs.smoothed(0), "width 0.2": costs.smoothed(0.2)}
    plans = {name: dpdiff.solve(some) for name, some in ways.items()}
    jobs = [(k, "even", dpdiff.Schedule.even(T, k)) for k in budgets]
    jobs += [(k, name, plan.schedule(k)) for name, plan in plans.items() for k in budgets]
    bounds = evaluate_many(
        [(denoiser, schedule) for _, _, schedule in jobs], images, seed=1, progress=False
    )
    score = {(k, name): bound for (k, name, _), bound in zip(jobs, bounds, strict=True)}
    return {
        k: {name: tuple(score[k, name].minus(score[k, "even"])) for name in plans} for k in budgets
    }


def draw(report: dict) -> None:
    """Write ``book/figures/rough.png``: what schedules cost beside the even one."""
    import matplotlib.pyplot as plt

    from dpdiff.plotting.style import STYLE

    with plt.rc_context({**STYLE, "savefig.dpi": 120}):
        figure, panels = plt.subplots(1, 2, figsize=(8, 3.4))
        for axes, (rule, table) in zip(panels, report["rules"].items(), strict=True):
            for name in next(iter(table.values())):
                means, errors = np.transpose([row[name] for row in table.values()])
                steps = [int(k) for k in table]
                axes.errorbar(steps, means, 2 * errors, marker="o", capsize=3, label=name)
            axes.axhline(0, color="0.3", linewidth=1)
            axes.set_xscale("log", base=2)
            axes.set_xticks(steps, steps)
            axes.set(title=rule, xlabel="steps K", ylabel="bits/dim more than even")
        panels[0].legend()
        figure.savefig(Path(__file__).parent.parent / "book" / "figures" / "rough.png")
        plt.close(figure)


def main() -> None:
    """Measure, score, and write the table."""
    denoiser = trained()
    few = dpdiff.measure(denoiser, waves(2000, 1), progress=False)
    report = {"what": "bits/dim more than even, held out: [mean, standard error]", "rules": {}}
    report["calls"], report["roughness"] = few.provenance["calls"], few.provenance.get("roughness")
    report["limit of roughness"] = ROUGH
    for rule in ("small", "large"):
        costs, model = few.with_variance(rule), denoiser.with_variance(rule)
        report["width"] = costs.smoothed().provenance["smoothing_width"]
        table = gains(model, costs, BUDGETS, waves(300, 2))
        report["rules"][rule] = {
            k: {name: [round(float(x), 4) for x in pair] for name, pair in row.items()}
            for k, row in table.items()
        }
    RESULTS.write_text(json.dumps(report, indent=1))
    print(json.dumps(report))
    draw(report)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
