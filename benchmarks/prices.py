"""What a schedule costs to choose: bits/dim lost against the calls that a measurement takes.

    python benchmarks/pool.py digits --knots 193 --images 143
    python benchmarks/pool.py fashion-short --data FOLDER --knots 97 --images 1320
    python benchmarks/prices.py digits fashion-short

Three designs: ``few``, what ``dpdiff.measure(calls=...)`` does; ``trial``, 50 timesteps through
which a curve is drawn without smoothing; ``dense``, every timestep with images of its own,
smoothed over 0.2 of log SNR.

The regret of a schedule is what it loses against the best one, on costs that are taken for the
truth. There are two of these. ``shipped`` are the costs that come with the model, smoothed; each
of their timesteps saw other images (not so for the digits), and what is left of that noise makes
the best schedule look better than it is: ``floor`` tells how much even a measurement without any
noise at 97 timesteps loses on them. ``pool`` is the fit to all images of the pool.

``few`` and ``trial`` are drawn from a pool of network outputs (``pool.py``) without replacement,
so that no output is asked for twice. Seeds share images like random subsets of the pool; the
report says which share of it a design takes, and above a half the spread between seeds is too
small. ``dense`` is simulated from the shipped means and variances, which are about 16 times as
precise, as :meth:`dpdiff.Costs.replicates` does it.

All schedules, the best ones included, are chosen among 512 timesteps. The script is restartable.
Results go to ``benchmarks/results/prices.json``, the picture to ``book/figures/prices.png``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from pool import AROUND, load

import dpdiff
from dpdiff.costs import Sample, uncertainty
from dpdiff.costs.bootstrap import some_timesteps
from dpdiff.costs.measurement import few_timesteps
from dpdiff.costs.statistics import redrawn
from dpdiff.runtime.files import replacing
from dpdiff.solvers import Subset
from dpdiff.strides import spread

SEEDS = 10
CALLS = (250, 1000, 4000, 16_000, 64_000)
BUDGETS = (8, 16, 32, 64, 128, 256)
RESULTS = Path(__file__).parent / "results" / "prices.json"


class Pool:
    """Outputs of one model, and measurements drawn from them."""

    def __init__(self, model: str, name: str | None = None) -> None:
        self.costs = dpdiff.load_costs(model)
        self.values = load(name or f"{model}-{self.costs.provenance['model']}")
        self.timesteps = self.values.pop("timesteps")
        self.images = len(self.values.pop("images"))
        self.optimal = np.stack([self.values.pop(f"decoder_optimal_{i}") for i in range(3)])
        shipped = self.costs.smoothed().mse[self.timesteps]
        self.log_mse = np.log(shipped)[:, None]

    def decoder_optimal(self, knots: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Of images (g, n) by index, at their own timestep's estimate of m(t)."""
        mse = self.values["mse"][knots[:, None], rows].mean(1, keepdims=True)
        x = (np.log(mse) - self.log_mse[knots]) / AROUND[2]
        low, middle, high = (values[knots[:, None], rows] for values in self.optimal)
        return middle + x * (high - low) / 2 + x**2 * (high + low - 2 * middle) / 2

    def cheap(self, knots: np.ndarray, count: int, seed: int, *, fresh: bool = False) -> Sample:
        """A measurement of so many images at these knots (indices)."""
        rng = np.random.default_rng([seed, count, len(knots)])
        if fresh:
            rows = np.stack([rng.choice(self.images, count, replace=False) for _ in knots])
        else:
            rows = np.tile(rng.choice(self.images, count, replace=False), (len(knots), 1))
        values = {k: v[knots[:, None], rows] for k, v in self.values.items()}
        values["decoder_optimal"] = self.decoder_optimal(knots, rows)
        return Sample(self.costs.noise, self.timesteps[knots], values)

    def fitted(self, sample: Sample) -> dpdiff.Costs:
        """The costs that such a measurement gives."""
        statistics = sample.statistics(spread=False) | {"prior": self.costs.statistics["prior"]}
        return replace(self.costs, statistics=statistics, sample=sample)

    def exact(self) -> dpdiff.Costs:
        """The shipped means at 97 timesteps, interpolated without smoothing."""
        truth = self.costs.smoothed()
        steps = spread(truth.noise, 97)
        kept = {k: v[steps] for k, v in truth.statistics.items() if k in self.values}
        kept["decoder_optimal"] = truth.statistics["decoder_optimal"][steps]
        sample = Sample(truth.noise, steps, {k: v[:, None] for k, v in kept.items()})
        sample.__dict__["width"] = 0.0
        return self.fitted(sample)

    def measured(self, design: str, calls: int, seed: int) -> tuple[dpdiff.Costs, dict] | None:
        """A measurement of this design and size, if there is one; and what to say of it."""
        costs = self.costs
        if design == "dense":
            n = calls // costs.T
            if n < 1:
                return None
            rng, about = np.random.default_rng([seed, n]), {"timesteps": costs.T, "images": n}
            means = costs.smoothed().statistics
            moved = redrawn({**costs.statistics, **means}, n + 1, rng)
            moved |= {"prior": costs.statistics["prior"]}
            raw = replace(costs, statistics={**costs.statistics, **moved})
            return raw.smoothed(0.2), about
        wanted, n = spread(costs.noise, 50), calls // 50
        if design == "few":
            count = costs.provenance["images"]
            stage = few_timesteps(costs.noise, count, calls, seed)
            wanted, n = stage.timesteps, stage.images
        place = np.searchsorted(self.timesteps, wanted)
        before, after = self.timesteps[np.maximum(place - 1, 0)], self.timesteps[place]
        knots = np.unique(np.where(wanted - before < after - wanted, place - 1, place))
        if n > self.images or len(knots) < 0.95 * len(wanted):
            return None
        sample = self.cheap(knots, n, seed)
        if design == "trial":
            sample.__dict__["width"] = 0.0
        about = {"timesteps": len(knots), "images": n, "share": round(n / self.images, 2)}
        return self.fitted(sample), about


class Scales:
    """What is taken for the truth, and the best schedules on it."""

    def __init__(self, truth: dpdiff.Costs) -> None:
        self.truth, self.best = truth, {}
        for rule in truth.variances:
            ruled = truth.with_variance(rule)
            schedules = chosen_among_some(ruled)
            self.best[rule] = [ruled.edge_costs(schedule).sum() for schedule in schedules]

    def regrets(self, rule: str, schedules: list[dpdiff.Schedule]) -> list[float]:
        """Bits/dim that schedules of these budgets lose."""
        ruled = self.truth.with_variance(rule)
        nats = [ruled.edge_costs(schedule).sum() for schedule in schedules]
        lost = (np.array(nats) - self.best[rule]) / ruled.unit.size
        return [round(float(x), 5) for x in lost]


def chosen_among_some(costs: dpdiff.Costs) -> list[dpdiff.Schedule]:
    """The best schedules of all budgets among the timesteps that draws are solved on."""
    few = Subset(costs, some_timesteps(costs.noise))
    return dpdiff.solve(few, max(BUDGETS)).schedules(BUDGETS)


def scored(costs: dpdiff.Costs, scales: dict[str, Scales]) -> dict:
    """Regrets by truth and rule, one number a budget."""
    chosen = {r: chosen_among_some(costs.with_variance(r)) for r in costs.variances}
    return {
        name: {rule: scale.regrets(rule, schedules) for rule, schedules in chosen.items()}
        for name, scale in scales.items()
    }


def main(models: list[str]) -> None:
    """Run what is not there yet, and write after every case."""
    report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"budgets": BUDGETS}
    for model in models:
        pool = Pool(model)
        every = pool.cheap(np.arange(len(pool.timesteps)), pool.images, 0)
        scales = {"shipped": Scales(pool.costs.smoothed()), "pool": Scales(pool.fitted(every))}
        own = pool.costs.provenance["model"]
        mine = report.setdefault(model, {"fingerprint": own})
        if mine["fingerprint"] != own:
            raise SystemExit(
                f"{RESULTS.name} holds results of another {model}: take them out first"
            )
        mine["pool"] = {"timesteps": len(pool.timesteps), "images": pool.images}
        mine["floor"] = scored(pool.exact(), scales)["shipped"]
        for seed in range(SEEDS):
            for calls in CALLS:
                for design in ("few", "trial", "dense"):
                    runs = mine.setdefault(design, {}).setdefault(str(calls), {"seeds": {}})
                    if str(seed) in runs["seeds"]:
                        continue
                    made = pool.measured(design, calls, seed)
                    if made is None:
                        mine[design].pop(str(calls))
                        continue
                    costs, about = made
                    runs.update(about)
                    runs["seeds"][str(seed)] = scored(costs, scales)
                    if design == "few" and calls == costs.T:
                        runs["seeds"][str(seed)]["stated95"] = stated(costs)
                    with replacing(RESULTS) as file:
                        file.write(json.dumps(report).encode())


def stated(costs: dpdiff.Costs) -> dict[str, list[float]]:
    """The regrets that the measurement itself is 95 % sure not to exceed."""
    regrets = {}
    for rule in costs.variances:
        errors = uncertainty(costs.with_variance(rule), BUDGETS, count=40).schedules
        regrets[rule] = [round(error.regret95, 5) for error in errors]
    return regrets


def draw(report: dict) -> None:
    """Write ``book/figures/prices.png``: regret against calls, one panel a model and rule."""
    import matplotlib.pyplot as plt

    from dpdiff.plotting.style import STYLE

    looks = {
        "few": ("#009e73", "o", "a few timesteps, the same images (default)"),
        "trial": ("#d55e00", "s", "50 timesteps, no smoothing"),
        "dense": ("#0072b2", "^", "every timestep, smoothed"),
    }
    models = [name for name in ("digits", "fashion-short") if name in report]
    with plt.rc_context({**STYLE, "savefig.dpi": 120}):
        figure, panels = plt.subplots(
            len(models), 4, figsize=(11, 2.9 * len(models)), sharex=True, sharey=True, squeeze=False
        )
        for row, model in zip(panels, models, strict=True):
            truth = "shipped" if model == "digits" else "pool"
            for axes, rule in zip(row, report[model]["floor"], strict=True):
                for design, (colour, marker, label) in looks.items():
                    cases = {int(c): run["seeds"] for c, run in report[model][design].items()}
                    calls = sorted(cases)
                    lost = [[s[truth][rule] for s in cases[c].values()] for c in calls]
                    worst = [np.mean(x, 0).max() for x in lost]  # of the budgets
                    axes.loglog(calls, worst, color=colour, marker=marker, label=label)
                axes.axhline(0.01, color="0.4", linewidth=1, linestyle=":")
                axes.set(title=f"{model}, {rule}", xlabel="network calls")
            row[0].set_ylabel("bits/dim lost, worst budget")
        lines, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(Path(__file__).parent.parent / "book" / "figures" / "prices.png")
        plt.close(figure)


if __name__ == "__main__":
    main(sys.argv[1:] or ["digits", "fashion-short"])
    draw(json.loads(RESULTS.read_text()))
