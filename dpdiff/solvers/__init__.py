"""The shortest path with exactly K jumps, for every K. What costs mean is not known here."""

from __future__ import annotations

from dpdiff.facade import lazy

_HOMES = {
    "Constrained": "dpdiff.solvers.jump_costs",
    "Envelope": "dpdiff.solvers.envelope",
    "JumpCosts": "dpdiff.solvers.jump_costs",
    "Lines": "dpdiff.solvers.jump_costs",
    "PairCosts": "dpdiff.solvers.pairs",
    "Pairs": "dpdiff.solvers.pairs",
    "Plan": "dpdiff.solvers.plan",
    "Reference": "dpdiff.solvers.recursion",
    "Solver": "dpdiff.solvers.jump_costs",
    "Subset": "dpdiff.solvers.jump_costs",
    "Sweep": "dpdiff.solvers.sweep",
    "Table": "dpdiff.solvers.jump_costs",
    "Unit": "dpdiff.solvers.jump_costs",
    "best_paths": "dpdiff.solvers.plan",
    "reference": "dpdiff.solvers.recursion",
    "solve": "dpdiff.solvers.plan",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
