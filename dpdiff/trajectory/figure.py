"""The picture of a comparison."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, ScalarFormatter

from dpdiff.plotting.style import COLOURS, INK, styled
from dpdiff.trajectory.comparison import Comparison

GREEN = COLOURS["dp"]
LOOKS = {  # colour, marker, line: what was optimized is green, what was guessed is dashed
    "flow": (GREEN, "o", "-"),
    "aligned": (GREEN, "+", "-."),
    "plain": (GREEN, "x", ":"),
    "guard": (GREEN, "D", "--"),
    "even": (COLOURS["even"], "s", "--"),
    "quadratic": (COLOURS["quadratic"], "^", "--"),
    "Karras": ("#cc79a7", "v", "--"),
    "log SNR": ("#e69f00", "D", "--"),
    "arctan": ("#56b4e9", "P", "--"),
    "ELBO": (INK, "*", "-"),
    "weighted": (INK, "x", ":"),
    "entropy": (INK, "|", "-."),
    "GITS": ("#7b3294", "p", "-."),
    "Optimal Stepsize": ("#8c510a", "h", "-."),
}


@styled
def plot_distances(
    comparisons: Mapping[int, Comparison], *, over: str | None = None, ax: Axes | None = None
) -> Axes:
    """Distance to the teacher's samples against the number of steps, one line a schedule.

    Parameters
    ----------
    comparisons : mapping of int to Comparison
        Number of steps to what ``paths.compare`` returned.
    over : str, optional
        A schedule's name: draw ratios of geometric means to its own instead of mean distances.
        Bars are two standard errors either way; those of ratios are of paired noises.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        Where it was drawn.

    Examples
    --------
    >>> import numpy as np
    >>> result = Comparison({"even": np.array([2.0, 3.0]), "flow": np.array([1.0, 2.0])}, seed=1)
    >>> plot_distances({4: result}, over="flow").get_ylabel()
    'distance to the teacher, over that of flow'
    """
    ax = ax or plt.subplots(figsize=(6.4, 3.8))[1]

    def value(result: Comparison, name: str) -> tuple[float, float]:
        if over is None:
            return result.mean(name), result.stderr(name)
        return result.ratio(name, over)

    names = dict.fromkeys(name for c in comparisons.values() for name in c.distances)
    for name in names:
        rows = {k: value(c, name) for k, c in sorted(comparisons.items()) if name in c.distances}
        draw_line(ax, name, rows)
    what = "distance to the teacher" + (f", over that of {over}" if over else "")
    finish(ax, sorted(comparisons), what)
    ax.legend()
    return ax


def draw_line(ax: Axes, name: str, rows: Mapping[int, tuple[float, float]]) -> None:
    """One schedule's values and standard errors by number of steps."""
    colour, marker, line = LOOKS.get(name, ("#8b949e", ".", "-."))
    ax.errorbar(
        list(rows),
        [value for value, _ in rows.values()],
        yerr=[2 * error for _, error in rows.values()],
        color=colour, marker=marker, linestyle=line, label=name, capsize=2, elinewidth=1,
    )  # fmt: skip


def finish(ax: Axes, steps: list[int], what: str) -> None:
    """Axes that are logarithmic and say plain numbers."""
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(steps, [str(k) for k in steps])
    ax.xaxis.set_minor_locator(NullLocator())
    for formatter in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        formatter(ScalarFormatter())
    ax.set(xlabel="steps K (network calls)", ylabel=what)
