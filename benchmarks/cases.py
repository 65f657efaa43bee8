"""What the benchmark measures: costs, the yardsticks, and the machine."""

from __future__ import annotations

import argparse
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np
from numba import config, njit

import dpdiff
from dpdiff.network import PRECISIONS
from dpdiff.solvers import Lines
from dpdiff.trajectory import Comparison
from dpdiff.variance import RULES

DIMS = 3072


def synthetic_lines(T: int, kind: str, noise: float = 0.05, seed: int = 0) -> Lines:
    """Costs as a diffusion model of 3,072 dimensions has them, each m(t) with noise of its own."""
    t = np.arange(T + 1)
    g2 = np.sin((0.01 + 0.98 * t / T) * np.pi / 2) ** 2
    snr = (1 - g2) / g2
    spread = np.exp(noise * np.random.default_rng(seed).standard_normal(T + 1))
    m = 0.05 * DIMS * (1 + snr) ** -0.9 * spread
    first = DIMS * (6 + 0.5 * np.log(g2 + 1e-3))
    if kind == "small":
        return Lines(-0.5 * snr * m, 0.5 * m, 0 * m, snr, first)
    if kind == "large":
        const = 0.5 * (DIMS * (np.log(g2) - 1) + m / g2)
        return Lines(const, 0.5 * (DIMS - m / g2) / g2, -0.5 * DIMS * np.log(g2), g2, first)
    return Lines(t * m, m, 0 * m, -1.0 * t, t * m)


def random_table(T: int) -> np.ndarray:
    """Costs without any structure, filled row by row so that nothing else is ever allocated."""
    rng = np.random.default_rng(0)
    table = np.empty((T + 1, T + 1))
    for row in table:
        rng.random(out=row)
    return table


def digits_costs() -> dict:
    """The bundled model's costs under its four variance rules; empty where there are none."""
    try:
        costs = dpdiff.load_costs("digits")
    except (AttributeError, ImportError, OSError, ValueError):
        return {}
    return {f"digits {rule}": costs.with_variance(rule) for rule in RULES}


def timed(work, repeats: int = 1) -> float:
    """The least wall time of several runs, in seconds."""
    best = np.inf
    for _ in range(repeats):
        begin = perf_counter()
        work()
        best = min(best, perf_counter() - begin)
    return best


@njit(cache=True)
def double_loop(costs, max_steps):
    """The recursion in compiled code as one writes it first, budget by budget."""
    T = len(costs) - 1
    best = np.full((max_steps + 1, T + 1), np.inf)
    origin = np.full((max_steps + 1, T + 1), -1)
    best[0, 0] = 0.0
    for k in range(1, max_steps + 1):
        for t in range(1, T + 1):
            for s in range(t):
                bid = best[k - 1, s] + costs[t, s]
                if bid <= best[k, t]:
                    best[k, t], origin[k, t] = bid, s
    return best, origin


@njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})
def _busy(values, c, rounds):
    """Sixteen additions and sixteen comparisons, all at hand, for each number loaded."""
    a0, a1, a2, a3, a4, a5, a6, a7 = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
    b0, b1, b2, b3, b4, b5, b6, b7 = c[8], c[9], c[10], c[11], c[12], c[13], c[14], c[15]
    for _ in range(rounds):
        for k in range(len(values)):
            x = values[k]
            a = min(min(min(x + a0, x + a1), min(x + a2, x + a3)), min(x + a4, x + a5))
            b = min(min(min(x + b0, x + b1), min(x + b2, x + b3)), min(x + b4, x + b5))
            values[k] = min(x, min(min(a, b), min(min(x + a6, x + a7), min(x + b6, x + b7))))


def processor_limit(dtype: type, rounds: int = 20_000) -> float:
    """Additions, each with a comparison, that all cores do in a second on data at hand."""
    arrays = [np.ones(1024, dtype) for _ in range(config.NUMBA_NUM_THREADS)]
    numbers = np.random.default_rng(0).random(16).astype(dtype)
    _busy(arrays[0], numbers, 1)
    best = np.inf
    with ThreadPoolExecutor(len(arrays)) as pool:
        for _ in range(5):
            begin = perf_counter()
            for task in [pool.submit(_busy, values, numbers, rounds) for values in arrays]:
                task.result()
            best = min(best, perf_counter() - begin)
    return 16 * 1024 * rounds * len(arrays) / best


def relaxations(T: int, max_steps: int) -> int:
    """Finite sums that a solver of a general table must look at: from s to t in k steps, k - 1
    of them up to s, of which there are at most s."""
    s = np.arange(T)
    return int(((T - s) * np.where(s > 0, np.minimum(s, max_steps - 1), 1)).sum())


def compared(result: Comparison) -> dict[str, dict]:
    """Distances of every schedule, rounded: its own, and noise by noise beside flow's."""

    def rounded(*values: float) -> list[float]:
        return [round(value, 5) for value in values]

    return {
        name: {
            "mean": rounded(result.mean(name), result.stderr(name)),
            "geometric_mean": rounded(result.geometric_mean(name))[0],
            "over_flow": rounded(*result.difference(name, "flow")),
            "ratio_to_flow": rounded(*result.ratio(name, "flow")),
        }
        for name in result.distances
    }


def with_speed(parser: argparse.ArgumentParser) -> None:
    """The options that make a network's calls cheaper."""
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="float32")
    parser.add_argument("--compile", action="store_true")


def faster(denoiser: dpdiff.Denoiser, options: argparse.Namespace) -> dpdiff.Denoiser:
    """The denoiser as :func:`with_speed`'s options have it."""
    if options.precision == "float32" and not options.compile:
        return denoiser
    return denoiser.with_precision(options.precision, compile=options.compile)


def machine() -> dict:
    """What the figures depend on; nothing that names the machine."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = lines[0].split(":")[1].strip() if lines else model
    return {
        "processor": model,
        "architecture": platform.machine(),
        "cores": config.NUMBA_NUM_THREADS,
        "memory_GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "numba", "llvmlite", "torch", "diffusers")},
    }
