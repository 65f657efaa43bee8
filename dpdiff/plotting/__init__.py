"""Plots of bounds, schedules, samples and distances, in one style."""

from __future__ import annotations

from dpdiff.plotting.plots import (
    draw_schedule_line,
    finish_distances,
    plot_bits,
    plot_distances,
    plot_path,
    plot_samples,
    plot_steps,
)
from dpdiff.plotting.style import COLOURS, INK, LABELS, line_style, use_style

__all__ = [
    "COLOURS",
    "INK",
    "LABELS",
    "draw_schedule_line",
    "finish_distances",
    "line_style",
    "plot_bits",
    "plot_distances",
    "plot_path",
    "plot_samples",
    "plot_steps",
    "use_style",
]
