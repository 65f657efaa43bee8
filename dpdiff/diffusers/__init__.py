"""Schedules in the tools people already use."""

from __future__ import annotations

from dpdiff.facade import lazy

_HOMES = {
    "AncestralScheduler": "dpdiff.diffusers.schedulers",
    "Conditions": "dpdiff.diffusers.pipelines",
    "ScheduleScheduler": "dpdiff.diffusers.schedulers",
    "UnevenDDIMScheduler": "dpdiff.diffusers.schedulers",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
