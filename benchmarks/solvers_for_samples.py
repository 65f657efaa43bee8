"""How near few network calls come to the many-step sampler's end points, solver by solver.

    python benchmarks/solvers_for_samples.py digits --n 256
    python benchmarks/solvers_for_samples.py fashion --n 256 --budgets 4 6 8

Every solver draws from the same held-out noises; reported are mean distances to a fine teacher's
end points (DPM-Solver++(2M) on ``--teacher`` nodes), their standard errors, and the paired
differences from ``fitted``. ``fitted`` is ``dpdiff.fit`` with ``--calls`` network calls a budget.
The rivals are stock solvers on stock nodes (DDIM on the even stride, 2M on Karras' and on log SNR,
AB2 on the even stride, UniPC on log SNR); the same on nodes found for this model (``flow`` for
DDIM, ``2m`` for 2M: 32 noises, 64 nodes); and OLSS and PAS, fitted to as many noises as ``fitted``.

End points are kept in ``results/solvers_<name>.parts``, so that a run that was stopped goes on.
Seeds: 0 for all that is fitted or found, from 100 on for what is reported.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

import dpdiff
from dpdiff import Schedule, strides
from dpdiff.runtime.files import replacing
from dpdiff.sampling import Sampler, sampler_for
from dpdiff.trajectory.fine_runs import CALLS, affordable
from dpdiff.trajectory.rivals import olss, pas, teacher_runs

RESULTS = Path(__file__).parent / "results"
BUDGETS = (3, 4, 5, 6, 8, 10, 12, 16, 24)
SEED, HELD_OUT, CHUNK = 0, 100, 64
Drawer = tuple[Schedule, Sampler]


class Bench:
    """A model, its solvers by budget, and their end points on disk."""

    def __init__(self, name: str, n: int, teacher: int, calls: int) -> None:
        self.name, self.n, self.calls = name, n, calls
        self.denoiser = dpdiff.load(name)
        self.nodes = strides.node_grid(self.denoiser.noise, teacher)
        self.folder = RESULTS / f"solvers_{name}.parts"
        self.folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def paths(self) -> dpdiff.trajectory.Trajectories:
        """Of 32 noises on 64 nodes, 96 for the largest budgets."""
        return dpdiff.trajectories(self.denoiser, 32, 96, seed=SEED, progress=False)

    @cached_property
    def goals(self) -> np.ndarray:
        """The teacher's end points."""
        return self.ends((Schedule(self.nodes), sampler_for(Schedule(self.nodes), "2m")), "teacher")

    def ends(self, drawer: Drawer, key: str) -> np.ndarray:
        """End points of all held-out noises, float32, (n, D)."""
        schedule, sampler = drawer
        rows = []
        for chunk in range(-(-self.n // CHUNK)):
            about = (self.denoiser.fingerprint, schedule.timesteps, schedule.coefficients)
            job = (*about, sampler.name, key if sampler.name in ("olss", "pas") else "", chunk)
            path = self.folder / (hashlib.sha256(repr(job).encode()).hexdigest()[:20] + ".npy")
            if not path.exists():
                drawn = dpdiff.sample(
                    self.denoiser, schedule, CHUNK, seed=HELD_OUT + chunk, sampler=sampler,
                    progress=False,
                )  # fmt: skip
                with replacing(path) as file:
                    np.save(file, drawn.flatten(1).numpy())
            rows.append(np.load(path))
        return np.concatenate(rows)[: self.n]

    def solvers(self, steps: int) -> dict[str, Drawer]:
        """All that are compared at one budget."""
        noise, T = self.denoiser.noise, self.denoiser.noise.T
        even, karras = Schedule.even(T, steps), strides.karras(noise, steps)
        snr = strides.log_snr(noise, steps)
        flow = dpdiff.solve(self.paths.costs(), steps).schedule(steps)
        found = dpdiff.solve(self.paths.costs("2m"), steps).schedule(steps)
        fitted = self.fitted(steps)
        n, nodes = affordable(steps, self.calls, T)
        runs = teacher_runs(self.denoiser, n, nodes, seed=SEED)
        chosen = {
            "fitted": (fitted, "fitted"),
            "2M, fitted nodes": (fitted, "2m"),
            "2M, flow": (flow, "2m"),
            "2M, found": (found, "2m"),
            "2M, Karras": (karras, "2m"),
            "2M, log SNR": (snr, "2m"),
            "UniPC, log SNR": (snr, "unipc"),
            "UniPC, flow": (flow, "unipc"),
            "AB2, even": (even, "ab2"),
            "DDIM, even": (even, "ddim"),
            "DDIM, flow": (flow, "ddim"),
        }
        drawers = {name: (s, sampler_for(s, sampler)) for name, (s, sampler) in chosen.items()}
        on = self.on(runs.nodes, flow)
        for name, rival in (
            ("OLSS", olss(self.denoiser, steps, runs)),
            ("PAS, flow", pas(self.denoiser, on, runs)),
            ("PAS on UniPC, flow", pas(self.denoiser, on, runs, base="unipc")),
        ):
            drawers[name] = (rival.schedule, rival.sampler)
        return drawers

    def fitted(self, steps: int) -> Schedule:
        """From disk if it was found before."""
        path = self.folder / f"fitted_{steps}_{self.calls}.json"
        if not path.exists():
            dpdiff.fit(self.denoiser, steps, self.calls, seed=SEED).save(path)
        return Schedule.load(path)

    def on(self, nodes: np.ndarray, schedule: Schedule) -> Schedule:
        """The nearest nodes of a grid, each once."""
        taken: list[int] = [0]
        for left, t in zip(range(schedule.steps - 1, -1, -1), schedule.timesteps[1:], strict=True):
            place = int(np.abs(nodes - t).argmin())
            taken.append(min(max(place, taken[-1] + 1), len(nodes) - 1 - left))
        return Schedule(nodes[taken])

    def table(self, steps: int) -> dict[str, dict[str, float]]:
        """Mean distance, its standard error, and the paired difference from ``fitted``."""
        far = {
            name: np.linalg.norm(
                self.ends(drawer, f"{name} {steps} {self.calls}") - self.goals, axis=1
            )
            for name, drawer in self.solvers(steps).items()
        }
        root = np.sqrt(self.n)
        return {
            name: {
                "distance": float(d.mean()),
                "stderr": float(d.std(ddof=1) / root),
                "less_fitted": float((d - far["fitted"]).mean()),
                "less_fitted_stderr": float((d - far["fitted"]).std(ddof=1) / root),
            }
            for name, d in far.items()
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=256, help="held-out noises")
    parser.add_argument("--teacher", type=int, default=128, help="its nodes")
    parser.add_argument("--calls", type=int, default=CALLS, help="network calls of a fit")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    options = parser.parse_args()
    bench = Bench(options.model, options.n, options.teacher, options.calls)
    report = {
        "what": "mean distance to a fine teacher's end points, and what it is more than fitted's",
        "model": options.model, "fingerprint": bench.denoiser.fingerprint, "n": options.n,
        "teacher": options.teacher, "calls": options.calls, "torch": torch.__version__,
        "budgets": {},
    }  # fmt: skip
    for steps in options.budgets:
        report["budgets"][steps] = bench.table(steps)
        with replacing(RESULTS / f"solvers_{options.model}.json") as file:
            file.write((json.dumps(report, indent=1) + "\n").encode())
        row = report["budgets"][steps]
        print(steps, {name: round(one["distance"], 3) for name, one in row.items()}, flush=True)


if __name__ == "__main__":
    main()
