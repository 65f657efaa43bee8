r"""Schedules made for DPM-Solver++(2M) itself: what they are worth.

2M's step from t to s uses the predictions at t and at r, the node before it. From the teacher's own
x_t and predictions it misses the teacher's x_s by

.. math:: e_{rts} = g_s \Big(\sum_k w_k (D_k - D_t) - a c (D_t - D_r)\Big), \quad
          a = \sum_k w_k, \quad c = \frac{λ_s - λ_t}{2 (λ_t - λ_r)}, \quad λ = \log f/g,

in the words of ``dpdiff.trajectory.flow_costs``. So its weighted square is made of the same Gram
matrices, and the cheapest path of K steps is found exactly by a recursion over pairs (t, s). The
first step is of first order, and so is the last one, which lands on x̂_0.

    python benchmarks/second_order.py digits
    python benchmarks/second_order.py fashion-linear --n 64 --budgets 5 8 12
    python benchmarks/second_order.py digits --name digits_128 --calls 128 --held-out 200 \
        --teacher 128 --budgets 8 10 12 16 --schedules flow pairs "smooth pairs"
    python benchmarks/second_order.py fashion-linear --name fashion-linear_again --n 64 \
        --held-out 200 --teacher 96 --budgets 5 8 12 --schedules flow pairs even

2M, as diffusers has it, draws from the same held-out noises under every schedule. What is reported
is the distance to the end points of a fine teacher: mean, standard error, geometric mean, and
paired differences from ``flow``. There are two such goals: DDIM on ``--teacher`` nodes, and 2M on
half as many.

- ``flow`` and ``aligned`` are the package's costs, of first-order jumps;
- ``pairs`` is ``dpdiff.solve(paths.costs("2m"))``: it adds up the squares of the triples' errors;
- ``aligned pairs`` adds up their roots;
- ``smooth pairs`` and ``smooth aligned pairs`` are the same with the trapezoidal rule between the
  teacher's nodes, since DDIM's own steps are of first order and 2M may be nearer to the flow than
  they are.

The table of all triples is made here a second time, more plainly; the package's schedules must be
those that it gives.

Seeds: 0 for trajectories, ``--held-out`` for what is reported. End points are kept in
``results/second_order_<name>.parts`` until all is done, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from itertools import combinations
from pathlib import Path
from shutil import rmtree

import numpy as np
import torch
from cases import compared, machine
from diffusers import DPMSolverMultistepScheduler
from tqdm import tqdm

import dpdiff
from dpdiff import strides
from dpdiff.models import BUNDLED
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime.files import replacing
from dpdiff.sampling import start
from dpdiff.strides import node_grid
from dpdiff.trajectory import Comparison, Trajectories
from dpdiff.trajectory.run import predictions, states

RESULTS = Path(__file__).parent / "results"
BUDGETS = (4, 5, 6, 8, 10, 12, 16)
SEED, CHUNK = 0, 64
OURS = ("pairs", "aligned pairs", "smooth pairs", "smooth aligned pairs")


def triple_table(
    grams: np.ndarray, gains: np.ndarray, noise: NoiseSchedule, nodes: np.ndarray, smooth: bool
) -> np.ndarray:
    """``Σ_b gain_b(s) E‖P_b e(r, t, s)‖²`` at [r, t, s] by the index of a node.

    Infinite unless r > t > s. A step to 0 is of first order, so r does not matter there. A first
    step stands at r = t = T.
    """
    log_sigma = -noise.log_snr[nodes[1:]] / 2
    inverse = noise.f[nodes[1:]] / noise.g[nodes[1:]]
    weights = np.concatenate([[0.0], inverse[:-1] - inverse[1:]])
    count = len(nodes) - 1
    ahead = log_sigma[:, None] - log_sigma  # λ_s - λ_t at [t, s]; at [r, t] it is h_0
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = ahead[None] / (2 * ahead[:, :, None])  # c at [r, t, s]
    slope[~(ahead > 0)] = 0  # no r above t
    slope[-1, -1] = 0  # the first step
    a = inverse[None, :] - inverse[:, None]
    table = np.zeros((count + 1,) * 3)
    for gram, weight in zip(grams, noise.g[nodes[1:]] ** 2 * gains, strict=True):
        own = np.diag(gram)
        mixed, both = gram, gram  # of predictions with what the teacher's step adds, and of that
        if smooth:
            mixed = _halfway(gram)
            both = _halfway(mixed.T).T
        single = _sums_above(mixed * weights)
        double = _sums_above(_sums_above(both * weights * weights[:, None]).T).T
        ends = np.diag(double)
        path = ends[None, :] - 2 * double.T + ends[:, None]  # ‖Σ w_k P_k‖² at [t, s]
        reached = single[:, None, :] - single[:, :, None]  # ⟨D_r, Σ w_k P_k⟩ at [r, t, s]
        from_t = np.einsum("tts->ts", reached)
        missed = path - 2 * a * from_t + a**2 * own[:, None]
        along = from_t - a * own[:, None] - reached + a * gram[:, :, None]
        turn = own[:, None] - 2 * gram + own  # ‖D_t - D_r‖² at [r, t]
        step = a * slope
        table[1:, 1:, 1:] += weight * (missed - 2 * step * along + step**2 * turn[:, :, None])
        table[1:, 1:, 0] += gram[0, 0] - 2 * gram[0] + own
    table.clip(0, out=table)
    r, t, s = np.ogrid[: count + 1, : count + 1, : count + 1]
    table[~((t > s) & ((r > t) | ((r == count) & (t == count))))] = np.inf
    return table


def _halfway(products: np.ndarray) -> np.ndarray:
    """Products with ``(D_k + D_{k-1})/2`` in place of ``D_k``; the first has weight 0 anyhow."""
    return np.concatenate([products[:, :1], (products[:, 1:] + products[:, :-1]) / 2], axis=1)


def _sums_above(values: np.ndarray) -> np.ndarray:
    """``Σ_{k>j} values[i, k]`` at [i, j], from the noisy end where the weights are small."""
    sums = np.zeros_like(values)
    sums[:, :-1] = np.cumsum(values[:, :0:-1], axis=1)[:, ::-1]
    return sums


def costs_of_triples(paths: Trajectories, aligned: bool, smooth: bool) -> np.ndarray:
    """The flow cost of 2M's steps, or its root."""
    gains = paths.bands.gains(paths.denoiser.noise, paths.nodes[1:])
    table = triple_table(paths.grams.sum(0), gains, paths.denoiser.noise, paths.nodes, smooth)
    return np.sqrt(table) if aligned else table


def best_pairs(triples: np.ndarray, most: int) -> list[tuple[float, tuple[int, ...]]]:
    """The cheapest path of every budget up to ``most``, by the indices of nodes; exact.

    ``C_k(t, s)`` is the least cost of k steps down from T, the last of which goes from t to s:
    ``C_k(t, s) = min_r C_{k-1}(r, t) + L(r, t, s)``.
    """
    top = len(triples) - 1
    totals = np.full((top + 1,) * 2, np.inf)
    totals[top] = triples[top, top]
    found, origins = [(float(totals[top, 0]), (0, top))], []
    for _ in range(2, most + 1):
        bids = totals[:, :, None] + triples
        origins.append(bids.argmin(0))
        totals = np.take_along_axis(bids, origins[-1][None], axis=0)[0]
        path = [0, int(totals[:, 0].argmin())]
        for origin in reversed(origins):
            path.append(int(origin[path[-1], path[-2]]))
        found.append((float(totals[path[1], 0]), tuple(path)))
    return found


def total(triples: np.ndarray, path: tuple[int, ...]) -> float:
    """The cost of a path that rises from 0 to T."""
    top = path[-1]
    return sum(triples[r, t, s] for s, t, r in zip(path, path[1:], (*path[2:], top), strict=False))


def explicit(paths: Trajectories, r: int, t: int, s: int) -> float:
    """A triple's flow cost from a step of diffusers' scheduler in double precision."""
    denoiser, nodes, n = paths.denoiser, paths.nodes, len(paths.ends)
    x = start(denoiser, SEED, np.arange(n))
    means = predictions(denoiser, nodes, x)
    run, means = states(denoiser, nodes, x, means), means.double()
    noise = denoiser.noise
    solver = DPMSolverMultistepScheduler(
        noise.T, trained_betas=noise.betas, prediction_type="sample"
    )
    solver.sigmas = torch.from_numpy(noise.g[nodes[[r, t, s]]] / noise.f[nodes[[r, t, s]]])
    solver._step_index = 1
    outputs = [means[r - 1], means[t - 1]]
    if r == t or s == 0:
        landing = solver.dpm_solver_first_order_update(outputs[1], sample=run[t])
    else:
        landing = solver.multistep_dpm_solver_second_order_update(outputs, sample=run[t])
    error = (landing - (run[s] if s else means[0])).numpy()
    bands, gains = paths.bands, np.ones((len(paths.bands.sizes), 1))
    if s:
        gains = bands.gains(noise, nodes[[s]])
    return float((bands.of(error) * bands.sizes * gains[:, 0]).sum())


def checks(denoiser: dpdiff.Denoiser) -> dict[str, float]:
    """Triples against explicit steps, the recursion against all paths of a small grid."""
    paths = dpdiff.trajectories(denoiser, n=4, nodes=12, seed=SEED, progress=False)
    triples = costs_of_triples(paths, aligned=False, smooth=False)
    off = [
        abs(triples[some] / explicit(paths, *some) - 1)
        for some in ((12, 12, 9), (12, 10, 7), (11, 8, 3), (9, 5, 1), (6, 4, 2), (5, 3, 0))
    ]
    assert max(off) < 1e-6, off
    gaps = []
    for k, (least, path) in enumerate(best_pairs(triples, 6), start=1):
        every = [(0, *inner, 12) for inner in combinations(range(1, 12), k - 1)]
        best = min(every, key=lambda path: total(triples, path))
        assert path == best, (path, best)
        gaps.append(abs(least / total(triples, best) - 1))
    assert max(gaps) < 1e-12, gaps
    first = paths.costs().table
    np.testing.assert_allclose(triples[-1, -1, 1:-1], first[-1, 1:-1], rtol=1e-9)
    return {"off_explicit_steps": float(max(off)), "off_brute_force": float(max(gaps))}


class Bench:
    """A model and its end points on disk."""

    def __init__(self, denoiser: dpdiff.Denoiser, name: str, n: int, seed: int) -> None:
        self.denoiser, self.n, self.seed = denoiser, n, seed
        self.folder = RESULTS / f"second_order_{name}.parts"
        self.folder.mkdir(parents=True, exist_ok=True)

    def ends(self, schedule: dpdiff.Schedule, sampler: str = "2m") -> np.ndarray:
        """From disk if they are there."""
        job = (self.denoiser.fingerprint, schedule.timesteps, sampler, self.n, self.seed)
        path = self.folder / (hashlib.sha256(repr(job).encode()).hexdigest()[:20] + ".npy")
        if not path.exists():
            drawn = dpdiff.sample(
                self.denoiser, schedule, self.n, seed=self.seed, sampler=sampler,
                batch_size=CHUNK, progress=False,
            ).flatten(1).numpy()  # fmt: skip
            with replacing(path) as file:
                np.save(file, drawn)
        return np.load(path)

    def schedules(self, nodes: int, noises: int, budgets: list[int]) -> dict[int, dict]:
        """Of every budget, by name."""
        paths = dpdiff.trajectories(
            self.denoiser, noises, nodes, seed=SEED, resume=self.folder / f"t{nodes}_{noises}",
            progress=False,
        )  # fmt: skip
        noise, most = self.denoiser.noise, max(budgets)
        plans = {
            "flow": dpdiff.solve(paths.costs(), most),
            "aligned": dpdiff.solve(paths.costs("aligned"), most),
        }
        found = {
            name: best_pairs(costs_of_triples(paths, "aligned" in name, "smooth" in name), most)
            for name in OURS
        }
        made, own = {}, dpdiff.solve(paths.costs("2m"), most)
        for k in budgets:
            made[k] = {name: plan.schedule(k) for name, plan in plans.items()}
            for name, best in found.items():
                made[k][name] = dpdiff.Schedule(tuple(paths.nodes[list(best[k - 1][1])]))
            assert made[k]["pairs"] == own.schedule(k)
            made[k] |= strides.usual(noise, k, paths.spread**2 / paths.ends.shape[1])
            del made[k]["arctan"]  # flow's law for DDIM
        return made


def main() -> None:
    """Check, draw, compare and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=BUNDLED)
    parser.add_argument("--n", type=int, default=256, help="held-out noises")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--held-out", type=int, default=100, help="seed of those")
    parser.add_argument("--name", help="of the results; by default the model's")
    parser.add_argument("--schedules", nargs="+", help="flow and others; by default all")
    parser.add_argument("--nodes", type=int, default=64, help="of the trajectories")
    parser.add_argument("--calls", type=int, default=32, help="noises of the trajectories")
    parser.add_argument("--teacher", type=int, default=256, help="nodes of the goals")
    options = parser.parse_args()
    options.name = options.name or options.model
    torch.set_num_threads(1)
    denoiser = dpdiff.load(options.model)
    checked = checks(denoiser)
    print(checked, flush=True)
    bench = Bench(denoiser, options.name, options.n, options.held_out)
    schedules = {
        k: {name: s for name, s in some.items() if name in (options.schedules or some)}
        for k, some in bench.schedules(options.nodes, options.calls, options.budgets).items()
    }
    goals = {}
    for name, nodes in (("ddim", options.teacher), ("2m", options.teacher // 2)):
        fine = dpdiff.Schedule(tuple(node_grid(denoiser.noise, nodes)))
        goals[name] = bench.ends(fine, name).astype(np.float64)
    apart = np.linalg.norm(goals["ddim"] - goals["2m"], axis=1)
    print(f"goals apart {apart.mean():.4f}", flush=True)
    distances: dict[str, dict] = {name: {} for name in goals}
    for k in options.budgets:
        ends = {name: bench.ends(s) for name, s in tqdm(schedules[k].items(), desc=f"{k} steps")}
        for goal, points in goals.items():
            far = {name: np.linalg.norm(e - points, axis=1) for name, e in ends.items()}
            result = Comparison(far, options.held_out)
            distances[goal][k] = compared(result)
            print(f"{k} steps, goal {goal}\n{result}")
            for name in sorted(far.keys() & set(OURS)):
                print(name, "- flow: {:.4f} ± {:.4f}".format(*result.difference(name, "flow")))
            print(flush=True)
    document = {
        "what": "distance of 2M's samples to fine samplers' end points from the same noise",
        "model": {"name": options.model, "fingerprint": denoiser.fingerprint},
        "settings": {k: v for k, v in vars(options).items() if k != "model"},
        "seeds": {"trajectories": SEED, "held out": options.held_out},
        "dpdiff": dpdiff.__version__,
        "machine": machine(),
        "checks": checked,
        "goals_apart": [
            round(float(v), 5) for v in (apart.mean(), apart.std() / len(apart) ** 0.5)
        ],
        "timesteps": {
            k: {name: list(s.timesteps) for name, s in some.items()}
            for k, some in schedules.items()
        },
        "distances": distances,
    }
    with replacing(RESULTS / f"second_order_{options.name}.json") as file:
        file.write((json.dumps(document, indent=1) + "\n").encode())
    rmtree(bench.folder)


if __name__ == "__main__":
    main()
