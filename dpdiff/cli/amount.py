"""How much ``optimize`` measures, and what it says of how sure its schedules are."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dpdiff.costs.costs import Costs
    from dpdiff.denoiser import Denoiser
    from dpdiff.solvers.plan import Plan

REGRET = 0.01  # bits/dim


def regret(options: argparse.Namespace, denoiser: Denoiser) -> float | None:
    """The regret to measure down to, if no other amount is given; and how long a call takes."""
    given = (options.calls, options.regret, options.per_step) != (None, None, None)
    if given or options.run.__name__ != "optimize":
        return options.regret
    each, T = seconds_a_call(denoiser), denoiser.noise.T
    print(
        f"measuring in rounds until schedules lose less than {REGRET} bits/dim: at "
        f"{1000 * each:.2g} ms a network call, {T:,} calls take about {max(1, round(T * each))} s"
    )
    return REGRET


def seconds_a_call(denoiser: Denoiser, images: int = 8) -> float:
    """How long one image takes in a small batch, after a first one to warm up."""
    import torch

    x = torch.zeros((images, *denoiser.shape), dtype=torch.float64, device=denoiser.device)
    t = np.linspace(1, denoiser.noise.T, images).astype(int)
    with torch.inference_mode():
        denoiser(x, t)
        begun = time.perf_counter()
        denoiser(x, t).x0.cpu()
    return (time.perf_counter() - begun) / images


def error_bars(costs: Costs, budgets: Sequence[int], plan: Plan, width: float | None) -> str:
    """What the measurement's errors mean for the schedules, as lines of text."""
    from dpdiff.costs.uncertainty import uncertainty

    found = uncertainty(costs, sorted({*budgets}), width=width)
    lines = ["", "what measurement errors cost, in bits/dim with 95 % confidence"]
    for one in found.schedules:
        close = [name for name in one.strides if one.within_error(name)]
        note = f"   ({' and '.join(close)} may be as good)" if close else ""
        lines.append(f"  with {one.steps} steps: less than {one.regret95:.4f}{note}")
    few = found.fewest
    fewest = plan.fewest_steps(within=0.1)
    low, high = min(few.low, fewest), max(few.high, fewest)
    lines += ["", f"fewest steps within 0.1 bits/dim of the best: {fewest} ({low} to {high})"]
    return "\n".join(lines)
