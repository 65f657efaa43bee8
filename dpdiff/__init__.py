"""Optimal few-step schedules for diffusion models, by dynamic programming on the ELBO.

The whole job in five lines::

    denoiser = dpdiff.load("digits")
    costs    = dpdiff.measure(denoiser, dpdiff.images("digits", split="validation"), seed=0)
    plan     = dpdiff.solve(costs)
    schedule = plan.schedule(32)
    samples  = dpdiff.sample(denoiser, schedule, n=64, seed=0)
"""

from __future__ import annotations

from dpdiff.facade import lazy
from dpdiff.version import __version__

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
    "fit": "dpdiff.trajectory.fine_runs",
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
__getattr__, __dir__ = lazy(__name__, _HOMES)
