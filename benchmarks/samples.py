"""How near few-step samples are to the many-step sampler's, schedule by schedule.

For every number of steps, DDIM draws from the same held-out noises under each schedule, and the
distances to the end points of a finer teacher go to ``results/samples_<name>.json``: mean,
standard error, geometric mean, and the paired difference from ``flow`` with its standard error.

    python samples.py --model fashion --n 32 --teacher 96 --guard 16 --budgets 4 6 8 12 \
        --greedy 8 --greedy-noises 2 --price

- ``flow``, ``aligned`` and ``plain`` come from ``--calls`` noises on ``max(64, 4 K)`` nodes;
  ``guard`` is what ``recommend`` takes, chosen on noises of its own, and ``moved`` what it makes of
  that with ``--moves`` moves;
- ``GITS`` and ``Optimal Stepsize`` are written anew from their formulas: the first with as many
  noises as fit into ours' network calls, the second with ``--greedy-noises`` up to ``--greedy``
  steps, each of which takes up to 64 calls a noise;
- ``ELBO``, ``weighted`` and ``entropy`` need measured costs: the bundled ones, or ``--costs``.

``price`` holds the same distance for schedules from fewer and from more network calls. Distances
are kept in ``results/samples_<name>.parts``, so a run that was stopped goes on, and one with a
larger ``--n`` draws the difference. Seeds: 0 for trajectories, 2 for the guard, from 100 on for
what is reported.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from time import process_time

import numpy as np
import torch
from cases import compared, faster, machine, with_speed

import dpdiff
from benchmarks import rivals
from dpdiff import strides
from dpdiff.models import BUNDLED
from dpdiff.runtime.files import replacing
from dpdiff.strides import node_grid
from dpdiff.trajectory import Comparison
from dpdiff.trajectory.trajectories import COSTS

RESULTS = Path(__file__).parent / "results"
BUDGETS = (4, 5, 6, 8, 10, 12, 16, 24, 32)
KINDS = [kind for kind, (sampler, _) in COSTS.items() if sampler == "ddim"]
PRICES = ((4, 32), (8, 32), (16, 32), (32, 32), (8, 64), (16, 64), (32, 64))
SEED, HELD_OUT = 0, 100
CHUNK = 64  # noises of one seed, from HELD_OUT on
SEARCH = ("calls", "guard", "moves", "greedy", "greedy_noises")  # options that decide schedules
MOVED = 12  # steps, above which moving them would take most of the calls

Table = dict[str, dict[int, dpdiff.Schedule]]


class Bench:
    """A model, its held-out noises, and the samplers' end points on disk."""

    def __init__(self, denoiser: dpdiff.Denoiser, options: argparse.Namespace) -> None:
        self.denoiser, self.options = denoiser, options
        self.folder = RESULTS / f"samples_{options.name}.parts"
        self.folder.mkdir(parents=True, exist_ok=True)
        T = denoiser.noise.T
        self.teacher = dpdiff.Schedule(node_grid(denoiser.noise, min(options.teacher, T)))
        chunks = range(-(-options.n // CHUNK))
        self.goals = [self.kept_array(self.teacher, c, lambda drawn: drawn) for c in chunks]

    def kept_array(
        self, schedule: dpdiff.Schedule, chunk: int, make: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """What is made of a chunk's end points, from disk if it is there."""
        model = (self.denoiser.fingerprint, self.denoiser.precision)
        job = (*model, self.teacher.timesteps, schedule.timesteps, chunk)
        path = self.folder / (hashlib.sha256(repr(job).encode()).hexdigest()[:20] + ".npy")
        if not path.exists():
            drawn = dpdiff.sample(
                self.denoiser, schedule, CHUNK, seed=HELD_OUT + chunk, sampler="ddim",
                batch_size=CHUNK, progress=False,
            )  # fmt: skip
            with replacing(path) as file:
                np.save(file, make(drawn.flatten(1).double().numpy()))
        return np.load(path)

    def distances(self, schedule: dpdiff.Schedule) -> np.ndarray:
        """To the teacher's end points, one a noise."""
        parts = [
            self.kept_array(schedule, c, lambda drawn, g=goal: np.linalg.norm(drawn - g, axis=1))
            for c, goal in enumerate(self.goals)
        ]
        return np.concatenate(parts)[: self.options.n]

    def compared(self, schedules: dict[str, dpdiff.Schedule]) -> Comparison:
        """Distances of some schedules."""
        return Comparison({k: self.distances(s) for k, s in schedules.items()}, HELD_OUT)

    def kept(self, name: str, make: Callable[[], Table]) -> Table:
        """Schedules that take network calls to find, from disk if they are there."""
        job = repr((self.denoiser.fingerprint, self.denoiser.precision, name))
        path = self.folder / (hashlib.sha256(job.encode()).hexdigest()[:20] + ".json")
        if not path.exists():
            made = {
                kind: {k: schedule.timesteps for k, schedule in some.items()}
                for kind, some in make().items()
            }
            with replacing(path) as file:
                file.write(json.dumps(made).encode())
        read = json.loads(path.read_text())
        return {
            kind: {int(k): dpdiff.Schedule(nodes) for k, nodes in some.items()}
            for kind, some in read.items()
        }

    def flow(self, budgets: list[int], n: int, nodes: int) -> dict[int, dpdiff.Schedule]:
        """Flow's schedules from so many noises and nodes."""

        def make() -> Table:
            paths = dpdiff.trajectories(self.denoiser, n, nodes, seed=SEED, progress=False)
            plan = dpdiff.solve(paths.costs(), max(budgets))
            return {"flow": dict(zip(budgets, plan.schedules(budgets), strict=True))}

        return self.kept(f"flow {n} {nodes} {budgets}", make)["flow"]


def ours(bench: Bench, steps: int) -> Table:
    """Schedules of every kind of costs, and guarded ones, from nodes enough for the budget."""
    options, nodes = bench.options, max(64, 4 * steps)
    folder = bench.folder / f"trajectories_{nodes}"
    paths = dpdiff.trajectories(
        bench.denoiser, options.calls, nodes, seed=SEED, resume=folder, progress=False
    )
    made = {kind: dpdiff.solve(paths.costs(kind), steps).schedule(steps) for kind in KINDS}
    moves = options.moves if steps <= MOVED else 0
    best = paths.recommend(steps, moves=moves, n=options.guard, progress=False)
    chosen = min(best.candidates.keys() - {"moved"}, key=best.comparison.mean)
    made["guard"] = best.candidates[chosen]
    if steps <= MOVED:
        made["moved"] = best.schedule
    return {kind: {steps: schedule} for kind, schedule in made.items()}


def theirs(bench: Bench) -> Table:
    """The two published ways, with as many noises as fit into ours' network calls, or one."""
    options, budgets = bench.options, list(BUDGETS)
    calls = 64 * options.calls
    greedy = [k for k in budgets if k <= options.greedy]
    return {
        "GITS": rivals.gits(bench.denoiser, budgets, max(1, calls // rivals.GITS_NODES), SEED),
        "Optimal Stepsize": rivals.optimal_stepsize(
            bench.denoiser, greedy, node_grid(bench.denoiser.noise, 64), options.greedy_noises, SEED
        ),
    }


def free(bench: Bench, costs: dpdiff.Costs | None, budgets: list[int]) -> Table:
    """Strides, and what measured likelihood costs say."""
    noise = bench.denoiser.noise
    goal = bench.goals[0]  # of the first chunk alone, so that more noises change no schedule
    centred = goal - goal.mean(0)
    made: Table = {}
    plans = {}
    if costs is not None:
        smooth = costs.smoothed()
        plans = {
            "ELBO": dpdiff.solve(smooth, max(budgets)),
            "weighted": dpdiff.solve(smooth.weighted(), max(budgets)),
        }
    for k in budgets:
        some = strides.usual(noise, k, float(np.square(centred).mean()))
        some |= {name: plan.schedule(k) for name, plan in plans.items()}
        if costs is not None:
            some["entropy"] = strides.entropy(noise, k, smooth.mse)
        for name, schedule in some.items():
            made.setdefault(name, {})[k] = schedule
    return made


def rows(result: Comparison, schedules: dict[str, dpdiff.Schedule]) -> dict[str, dict]:
    """Numbers for one budget."""
    return {
        name: numbers | {"timesteps": list(schedules[name].timesteps)}
        for name, numbers in compared(result).items()
    }


def price(bench: Bench, budgets: list[int]) -> list[dict]:
    """Distances of schedules from fewer and more calls, over those from the most."""
    most = bench.flow(budgets, *PRICES[-1])
    report = []
    for n, nodes in PRICES:
        some = bench.flow(budgets, n, nodes)
        for k in budgets:
            result = bench.compared({"this": some[k], "most": most[k]})
            ratio = [round(v, 5) for v in result.ratio("this", "most")]
            means = [round(result.mean(name), 5) for name in ("this", "most")]
            gap = [round(v, 5) for v in result.difference("this", "most")]
            report.append(
                {"noises": n, "nodes": nodes, "calls": n * nodes, "steps": k, "means": means,
                 "difference": gap, "ratio": ratio}
            )  # fmt: skip
            print(f"price {n * nodes:5} calls, {k:2} steps: {ratio[0]:.3f} ± {ratio[1]:.3f}")
    return report


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="digits", help="a bundled name or a folder")
    parser.add_argument("--costs", help="measured costs of a model that is not bundled")
    parser.add_argument("--name", help="of the results; by default the model's")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--price", type=int, nargs="*", default=[4, 8, 12], help="steps")
    parser.add_argument("--n", type=int, default=512, help="held-out noises")
    parser.add_argument("--calls", type=int, default=32, help="noises for our trajectories")
    parser.add_argument("--guard", type=int, default=64, help="noises for the guard")
    parser.add_argument("--moves", type=int, default=24, help="that are tried after the guard")
    parser.add_argument("--teacher", type=int, default=256, help="steps of the teacher")
    parser.add_argument("--greedy", type=int, default=32, help="Optimal Stepsize's largest K")
    parser.add_argument("--greedy-noises", type=int, default=8)
    with_speed(parser)
    options = parser.parse_args()
    options.name = options.name or Path(options.model).stem
    return options


def main() -> None:
    """Draw, compare and write the table."""
    torch.set_num_threads(1)
    options, begun = parsed(), process_time()
    denoiser = faster(dpdiff.load(options.model, device=options.device), options)
    costs = None
    if options.costs or options.model in BUNDLED:
        costs = dpdiff.Costs.load(options.costs) if options.costs else dpdiff.load_costs(
            options.model
        )  # fmt: skip
        costs.check_model(denoiser.fingerprint)
    bench = Bench(denoiser, options)
    table = free(bench, costs, options.budgets)
    search = {name: getattr(options, name) for name in SEARCH}
    table |= bench.kept(f"theirs {search}", lambda: theirs(bench))
    distances = {}
    for k in options.budgets:
        own = bench.kept(f"ours {k} {search}", lambda k=k: ours(bench, k))
        schedules = {name: some[k] for name, some in (table | own).items() if k in some}
        result = bench.compared(schedules)
        distances[k] = rows(result, schedules)
        print(f"{k} steps\n{result}\n", flush=True)
    document = {
        "what": "distance of DDIM samples to a finer teacher's end points from the same noise",
        "model": {"name": options.name, "fingerprint": denoiser.fingerprint},
        "settings": {k: v for k, v in vars(options).items() if k not in ("model", "costs")},
        "seeds": {
            "trajectories": SEED,
            "guard": SEED + 2,
            "held out": f"{HELD_OUT} and on, one for every {CHUNK} noises",
        },
        "dpdiff": dpdiff.__version__,
        "machine": machine(),
        "distances": distances,
        "price": price(bench, options.price) if options.price else [],
        "processor_seconds_of_last_run": round(process_time() - begun),
    }
    with replacing(RESULTS / f"samples_{options.name}.json") as file:
        file.write((json.dumps(document, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
