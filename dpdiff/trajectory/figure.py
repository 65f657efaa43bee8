"""The picture of a comparison."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from dpdiff.plotting.style import look, styled
from dpdiff.trajectory.comparison import Comparison


@styled
def plot_distances(comparisons: Mapping[int, Comparison], *, ax: Axes | None = None) -> Axes:
    """Mean distance to the teacher's samples against the number of steps, one line a schedule.

    Parameters
    ----------
    comparisons : mapping of int to Comparison
        Number of steps to what ``paths.compare`` returned. Bars are two standard errors either
        way; paired differences are surer than these bars say.
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
    >>> plot_distances({4: result}).get_ylabel()
    'distance to the teacher'
    """
    ax = ax or plt.subplots(figsize=(6.4, 3.8))[1]
    names = list(dict.fromkeys(name for c in comparisons.values() for name in c.distances))
    for name in names:
        steps = sorted(k for k, c in comparisons.items() if name in c.distances)
        ax.errorbar(
            steps,
            [comparisons[k].mean(name) for k in steps],
            yerr=[2 * comparisons[k].stderr(name) for k in steps],
            capsize=3,
            **look(name),
        )
    ticks = sorted(comparisons)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="steps K (network calls)", ylabel="distance to the teacher")
    ax.legend()
    return ax
