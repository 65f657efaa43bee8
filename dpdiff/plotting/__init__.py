"""Plots of bounds, schedules, samples and distances, in one style."""

from __future__ import annotations

from dpdiff.facade import lazy

_HOMES = {
    "COLOURS": "dpdiff.plotting.style",
    "INK": "dpdiff.plotting.style",
    "LABELS": "dpdiff.plotting.style",
    "draw_schedule_line": "dpdiff.plotting.plots",
    "finish_distances": "dpdiff.plotting.plots",
    "line_style": "dpdiff.plotting.style",
    "plot_bits": "dpdiff.plotting.plots",
    "plot_distances": "dpdiff.plotting.plots",
    "plot_path": "dpdiff.plotting.plots",
    "plot_samples": "dpdiff.plotting.plots",
    "plot_steps": "dpdiff.plotting.plots",
    "use_style": "dpdiff.plotting.style",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
