"""Tables and schedule files of measured costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import dpdiff
from dpdiff.runtime.files import write_all


def report_rounding(denoiser: dpdiff.Denoiser, images: np.ndarray, count: int = 8) -> None:
    """Say what reduced precision does to the bound, if the denoiser has it."""
    if denoiser.unwrapped is denoiser:
        return
    from dpdiff.evaluation import rounding_effect

    some = images[np.unique(np.linspace(0, len(images) - 1, count).astype(int))]
    mean, error = rounding_effect(denoiser, some)
    print(
        f"{denoiser.precision} changes the bound of {min(32, denoiser.noise.T)} quadratic steps by "
        f"{mean:+.5f} ± {error:.5f} bits/dim ({len(some)} images, the same noise)"
    )


def report(
    costs: dpdiff.Costs, budgets: Sequence[int], model: str, folder: Path, width: float | None
) -> None:
    """Write the schedules of some budgets and print what they are worth beside the strides."""
    plan = dpdiff.solve(
        costs.smoothed(width)
    )  # chosen on smoothed costs, reported on measured ones
    schedules = [
        replace(schedule, provenance=_provenance(costs, plan, schedule, model))
        for schedule in plan.schedules(sorted({*budgets}))
    ]
    table = _table(costs, plan, budgets)
    write_all({folder / f"dp_{s.steps}.json": s.to_json().encode() for s in schedules})
    print(f"schedules: {folder}/dp_*.json")
    print(
        f"\nbits/dim on the {costs.provenance.get('images', '')} measured images, variance "
        f"{costs.variance!r} (optimistic: score schedules on held-out images with `evaluate`)\n"
    )
    print("\n".join(table))
    print(_error_bars(costs, budgets, plan, width))


def _table(costs: dpdiff.Costs, plan: dpdiff.Plan, budgets: Sequence[int]) -> list[str]:
    """Optimal schedules and strides side by side, a line for each budget."""
    lines, close = [f"{'steps':>6} {'even':>10} {'quadratic':>10} {'dp':>10} {'± s.e.':>8}"], False
    for steps in sorted({*budgets, costs.T}):
        best, strides = plan.schedule(steps), _strides(costs.T, steps)
        even, quadratic = (costs.unit(costs.edge_costs(stride).sum()) for stride in strides)
        bits, error = costs.bound(best)
        gap, doubt = costs.difference(best, strides[int(quadratic < even)])
        mark = "~" if abs(gap) < 2 * doubt else ""
        close = close or bool(mark)
        name = "all" if steps == costs.T else steps
        line = f"{name:>6} {even:10.4f} {quadratic:10.4f} {bits:10.4f} {error:8.4f} {mark}"
        lines.append(line.rstrip())
    if close:
        lines.append(
            "\n~ dp and the better stride differ by less than two standard errors of their "
            "difference:\n  these images cannot tell them apart; more of them may"
        )
    return lines


def _strides(T: int, steps: int) -> tuple[dpdiff.Schedule, dpdiff.Schedule]:
    return dpdiff.Schedule.even(T, steps), dpdiff.Schedule.quadratic(T, steps)


def _provenance(
    costs: dpdiff.Costs, plan: dpdiff.Plan, schedule: dpdiff.Schedule, model: str
) -> dict[str, Any]:
    bits, stderr = costs.bound(schedule)
    return {
        "model": model,
        "noise_schedule": costs.noise.fingerprint,
        "variance": costs.variance,
        "method": plan.method,
        "bits_per_dim": bits,
        "stderr": stderr,
        "costs": costs.provenance,
    }


def _error_bars(
    costs: dpdiff.Costs, budgets: Sequence[int], plan: dpdiff.Plan, width: float | None
) -> str:
    """What the measurement's errors mean for the schedules, as lines of text."""
    from dpdiff.costs.bootstrap import uncertainty

    errors = uncertainty(costs, sorted({*budgets}), width=width)
    lines = ["", "what measurement errors cost, in bits/dim with 95 % confidence"]
    for one in errors.schedules:
        close = [name for name in one.strides if one.within_error(name)]
        note = f"   ({' and '.join(close)} may be as good)" if close else ""
        lines.append(f"  with {one.steps} steps: less than {one.regret95:.4f}{note}")
    few = errors.fewest
    fewest = plan.fewest_steps(within=0.1)
    low, high = min(few.low, fewest), max(few.high, fewest)
    lines += ["", f"fewest steps within 0.1 bits/dim of the best: {fewest} ({low} to {high})"]
    return "\n".join(lines)
