"""Time the solvers against the paper's listing; check first that they all agree.

Writes ``results/solvers.json`` and the book's figure. ``--quick`` does a small grid only, to see
that everything works, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
from cases import (
    DIMS,
    digits_costs,
    double_loop,
    machine,
    processor_limit,
    random_table,
    relaxations,
    synthetic_lines,
    timed,
)

from dpdiff.solvers import jump_costs, recursion, solve

HERE = Path(__file__).parent
MEASURED = 256  # the budgets for which the slow methods are run; beyond, a multiple of that


def say(text: str) -> None:
    print(f"[{perf_counter() - BEGIN:6.0f} s] {text}", flush=True)


def alone(task: str, *numbers: int, fresh: bool = False) -> dict:
    """Measure in a process of its own, on demand with an empty cache of compiled functions."""
    with tempfile.TemporaryDirectory() as empty:
        env = {**os.environ, "NUMBA_CACHE_DIR": empty} if fresh else None
        command = [sys.executable, str(HERE / "alone.py"), task, *map(str, numbers)]
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def check_equality(name: str, costs, few: int) -> dict:
    """All totals of all methods on one set of costs, and what it takes to get them."""
    begin = perf_counter()
    table, report = np.full((costs.T + 1, costs.T + 1), np.inf), {}
    for start in range(0, costs.T + 1, recursion.BLOCK):
        stop = min(start + recursion.BLOCK, costs.T + 1)
        table[start:stop, :stop] = costs.rows(start, stop)
    report["making_table_s"] = perf_counter() - begin
    exact, rough = solve(table, method="sweep"), solve(table, method="sweep32")
    for best, _ in (recursion.reference(table, few), double_loop(table, few)):
        np.testing.assert_array_equal(best[1:, -1], exact.totals[1 : few + 1])
    made = solve(costs, method="sweep")
    np.testing.assert_allclose(made.totals[1:], exact.totals[1:], rtol=1e-12)
    report["sweep_making_rows_s"] = timed(lambda: solve(costs, method="sweep"))
    gap = rough.totals[1:] - exact.totals[1:]
    report["float32_regret_bits_per_dim"] = float(gap.max() / (DIMS * np.log(2)))
    if costs.lines() is not None:
        plan = solve(costs, method="envelope")
        difference = np.abs(plan.totals[1:] / exact.totals[1:] - 1).max()
        assert difference <= 1e-12, (name, difference)
        for steps in (1, 2, 8, 32, 256, exact.T):
            total = sum(table[jump] for jump in plan.schedule(steps).jumps)
            np.testing.assert_allclose(total, exact.totals[steps], rtol=1e-12)
        report["envelope_relative_difference"] = float(difference)
        report["envelope_s"] = timed(lambda: solve(costs, method="envelope"))
    say(f"{name}: all totals equal ({perf_counter() - begin:.1f} s); {report}")
    return report


def time_methods(T: int, repeats: int) -> list[dict]:
    """Every method on the same grid, for 32, 256 and all budgets."""
    lines, results = synthetic_lines(T, "small"), []
    table = lines.rows(0, T + 1)
    few, slow = min(T, MEASURED), {}
    for K in (32, few, T):
        work = {
            "listing": lambda k=K: recursion.reference(table, k),
            "double loop": lambda k=K: double_loop(table, k),
            "sweep": lambda k=K: solve(table, k),
            "sweep32": lambda k=K: solve(table, k, method="sweep32"),
            "sweep, rows on demand": lambda k=K: solve(lines, k, method="sweep"),
            "envelope": lambda k=K: solve(lines, k),
        }
        for name, run in work.items():
            result = {"method": name, "T": T, "budgets": K, "extrapolated_from": None}
            if name not in ("listing", "double loop"):
                seconds = timed(run, repeats)
            elif few < K:  # each budget costs the same
                seconds, result["extrapolated_from"] = slow[name] * K / few, few
            else:
                seconds = slow[name] = timed(run)
            if name == "listing":
                yardstick = seconds
            result["seconds"] = seconds
            result["times_faster_than_listing"] = yardstick / seconds
            result["additions_per_second"] = relaxations(T, K) / seconds
            results.append(result)
            note = f", extrapolated from {few} budgets" if result["extrapolated_from"] else ""
            say(f"T = {T}, {K} budgets, {name}: {seconds:.3f} s, {yardstick / seconds:.0f} x{note}")
    return results


def growth(repeats: int, shrink: int) -> dict:
    """Exponents of time against T and K beside those of the operations counted."""
    square = [(T, T) for T in (1000, 2000, 4000)]
    series = {
        ("sweep", "T"): [(T, 256) for T in (1000, 1414, 2000, 2828, 4000)],
        ("sweep", "K"): [(4000, K) for K in (256, 512, 1024, 2048)],
        ("sweep", "T = K"): square,
        ("envelope", "T"): [(T, 64) for T in (16_000, 32_000, 64_000, 128_000)],
        ("envelope", "K"): [(16_000, K) for K in (64, 128, 256, 512)],
        ("envelope", "T = K"): square,
    }
    fits = {}
    for (method, name), sizes in series.items():
        x, times, counts = [], [], []
        for T, K in ((T // shrink, K // shrink) for T, K in sizes):
            lines = synthetic_lines(T, "small")
            costs = lines if method == "envelope" else lines.rows(0, T + 1)
            x.append(K if name == "K" else T)
            times.append(timed(lambda c=costs, k=K: solve(c, k), repeats))
            counts.append(relaxations(T, K) if method == "sweep" else K * T * np.log2(T))
        slope, theory = (float(np.polyfit(np.log(x), np.log(y), 1)[0]) for y in (times, counts))
        fits[f"{method}, {name}"] = {"exponent": slope, "theory": theory, "seconds": times}
        say(f"growth of the {method}'s time with {name}: exponent {slope:.2f}, theory {theory:.2f}")
    return fits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small grid, nothing written")
    options = parser.parse_args()
    quick, repeats = options.quick, 3
    grids = (300, 600) if quick else (1000, 4000)
    report: dict = {"machine": machine()}
    say(f"machine: {report['machine']}")
    report["first_call_s"] = {
        "compiling": alone("compilation", fresh=True),
        "from the cache": (alone("compilation"), alone("compilation"))[1],
    }
    say(f"first calls: {report['first_call_s']}")
    report["processor_additions_per_second"] = {
        dtype.__name__: processor_limit(dtype) for dtype in (np.float64, np.float32)
    }
    say(f"processor: {report['processor_additions_per_second']}")
    double_loop(np.ones((3, 3)), 1)
    report["agreement"] = {
        name: check_equality(name, costs, 32)
        for name, costs in {
            "random": jump_costs.Table(random_table(grids[-1])),
            "synthetic small": synthetic_lines(grids[-1], "small"),
            "synthetic large": synthetic_lines(grids[-1], "large"),
            **({} if quick else digits_costs()),
        }.items()
    }
    report["times"] = [result for T in grids for result in time_methods(T, repeats)]
    report["growth"] = growth(repeats, 10 if quick else 1)
    report["memory"] = {str(K): alone("memory", grids[-1], K) for K in (32, 256, grids[-1])}
    say(f"memory of the sweep: {report['memory']}")
    say("the envelope on a very long grid, in a process of its own ...")
    report["long_grid"] = alone("long_grid", 10_000 if quick else 1_000_000, 256)
    say(f"long grid: {report['long_grid']}")
    if not quick:
        (HERE / "results" / "solvers.json").write_text(json.dumps(report, indent=1) + "\n")
        import figure

        figure.draw(report)


if __name__ == "__main__":
    BEGIN = perf_counter()
    main()
