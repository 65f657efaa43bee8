"""Optimal few-step schedules for diffusion models, by dynamic programming on the ELBO.

The whole job in five lines::

    denoiser = dpdiff.load("digits")
    costs    = dpdiff.measure(denoiser, dpdiff.images("digits", split="validation"), seed=0)
    plan     = dpdiff.solve(costs)
    schedule = plan.schedule(32)
    samples  = dpdiff.sample(denoiser, schedule, n=64, seed=0)
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dpdiff.version import __version__

# Names are imported when first used: torch alone takes longer to load than a command's --help.
_HOMES = {
    "Bound": "dpdiff.evaluation",
    "Conditioned": "dpdiff.conditioned",
    "Costs": "dpdiff.costs.costs",
    "Denoiser": "dpdiff.denoiser",
    "InputError": "dpdiff.errors",
    "NoiseSchedule": "dpdiff.noise",
    "Plan": "dpdiff.solvers.plan",
    "Schedule": "dpdiff.schedule",
    "decode": "dpdiff.diffusers.latents",
    "evaluate": "dpdiff.evaluation",
    "images": "dpdiff.data",
    "latents": "dpdiff.diffusers.latents",
    "load": "dpdiff.models",
    "load_costs": "dpdiff.models",
    "measure": "dpdiff.costs.measurement",
    "sample": "dpdiff.sampling",
    "solve": "dpdiff.solvers.plan",
    "train": "dpdiff.training.trainer",
    "trajectories": "dpdiff.trajectory.run",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dpdiff' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
