"""Measurements that need a process of their own: first calls, and peak memory."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
from cases import random_table, synthetic_lines, timed

from dpdiff.solvers import solve


def peak() -> int:
    """The most memory this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's memory as well
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def compilation() -> dict:
    """The first call of each method, on a grid so small that only the compiler counts."""
    methods = {"sweep": "sweep", "sweep32": "sweep32", "envelope": "envelope"}
    costs = synthetic_lines(8, "small")
    return {
        name: timed(lambda m=m: solve(costs, method=m).schedule(3)) for name, m in methods.items()
    }


def memory(T: int, max_steps: int) -> dict:
    """What the sweep takes above its input and the loaded libraries."""
    solve(np.ones((65, 65))).schedule(2)
    table = random_table(T)
    before = peak()
    plan = solve(table, max_steps)
    plan.schedule(min(32, max_steps))
    return {"input": table.nbytes, "above_input": peak() - before}


def long_grid(T: int, max_steps: int) -> dict:
    """The envelope on a grid whose table nobody could store, with a path for each power of two."""
    solve(synthetic_lines(64, "small")).schedule(2)
    costs, before = synthetic_lines(T, "small"), peak()
    begin = perf_counter()
    plan = solve(costs, max_steps)
    solved = perf_counter()
    budgets = [k for k in (8, 16, 32, 64, 128, 256) if k <= max_steps]
    schedules = plan.schedules(budgets)
    done, (const, x, intercept, slope, first) = perf_counter(), costs.lines()
    for steps, schedule in zip(budgets, schedules, strict=True):
        nodes = np.array(schedule.timesteps[1:])
        t, s = nodes[1:], nodes[:-1]
        total = first[nodes[0]] + ((const[t] + slope[s] * x[t]) + intercept[s]).sum()
        np.testing.assert_allclose(total, plan.totals[steps], rtol=1e-12)
    return {
        "T": T,
        "budgets": max_steps,
        "solve_s": solved - begin,
        "paths_s": done - solved,
        "paths": budgets,
        "peak_bytes": peak(),
        "above_input_bytes": peak() - before,
    }


if __name__ == "__main__":
    task, *numbers = sys.argv[1:]
    work = {"compilation": compilation, "memory": memory, "long_grid": long_grid}[task]
    print(json.dumps(work(*map(int, numbers))))
