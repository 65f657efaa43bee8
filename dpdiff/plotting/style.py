"""Matplotlib settings, and the colours, markers and lines of schedules.

The three colours stay apart for colour-blind readers, and the markers where there is no colour.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

INK = "#30363d"
PAPER = "#ffffff"
FAINT = "#d0d7de"
COLOURS = {"even": "#d55e00", "quadratic": "#0072b2", "dp": "#009e73"}
LABELS = {"even": "even", "quadratic": "quadratic", "dp": "optimal (DP)"}
MARKERS = {"even": "s", "quadratic": "^", "dp": "o"}
LINES = {"even": "--", "quadratic": "-.", "dp": "-"}

#: Light for cheap jumps, dark for costly ones; its darkness alone carries the order.
COSTS = LinearSegmentedColormap.from_list("costs", ["#ffffff", "#d3dce8", "#8fa6c4"])

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": "medium",
    "figure.dpi": 150,
    "figure.facecolor": PAPER,
    "figure.figsize": (6.4, 3.8),
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 6,
    "savefig.facecolor": PAPER,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def use_style() -> None:
    """Make every later figure of this session look like those of the book.

    Examples
    --------
    >>> use_style()
    >>> plt.rcParams["axes.grid"]
    True
    """
    plt.rcParams.update(STYLE)


def styled(draw: Callable[..., Axes]) -> Callable[..., Axes]:
    """Let a drawing function draw in the style, and leave the user's own settings as they were."""

    @wraps(draw)
    def drawn(*args: Any, **options: Any) -> Axes:
        # rc_context would also undo "interactive", which notebooks set on the first figure.
        before = {name: plt.rcParams[name] for name in STYLE}
        plt.rcParams.update(STYLE)
        try:
            return draw(*args, **options)
        finally:
            plt.rcParams.update(before)

    return drawn


def line_style(name: str) -> dict[str, Any]:
    """Colour, marker, line and label of a schedule by its name; unknown names stay neutral."""
    return {
        "color": COLOURS.get(name, INK),
        "marker": MARKERS.get(name, "D"),
        "linestyle": LINES.get(name, ":"),
        "label": LABELS.get(name, name),
    }
