"""The pictures that schedules need, in one style."""

from __future__ import annotations

from dpdiff.plotting.plots import plot_bits, plot_path, plot_samples, plot_steps
from dpdiff.plotting.style import COLOURS, LABELS, line_style, use_style

__all__ = [
    "COLOURS",
    "LABELS",
    "line_style",
    "plot_bits",
    "plot_path",
    "plot_samples",
    "plot_steps",
    "use_style",
]
