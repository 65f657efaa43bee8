"""Plots of bounds, schedules, samples and distances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, ScalarFormatter

from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.plotting.style import COLOURS, COSTS, INK, line_style, styled
from dpdiff.schedule import Schedule

if TYPE_CHECKING:
    from dpdiff.trajectory.comparison import Comparison


OPTIMIZED = COLOURS["dp"]
SCHEDULE_STYLES = {  # colour, marker, line: what was optimized is green, what was guessed is dashed
    "flow": (OPTIMIZED, "o", "-"),
    "aligned": (OPTIMIZED, "+", "-."),
    "plain": (OPTIMIZED, "x", ":"),
    "guard": (OPTIMIZED, "D", "--"),
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


def _new_axes(width: float, height: float) -> Axes:
    return plt.subplots(figsize=(width, height))[1]


@styled
def plot_bits(
    curves: Mapping[str, Mapping[int, float]],
    *,
    errors: Mapping[str, Mapping[int, float]] | None = None,
    best: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Bits/dim against the number of steps, one line a kind of schedule.

    Parameters
    ----------
    curves : mapping of str to mapping of int to float
        For each name (``even``, ``quadratic``, ``dp`` or one of your own): steps to bits/dim.
    errors : mapping of str to mapping of int to float, optional
        Standard errors in bits/dim, drawn as bars of two of them either way.
    best : float, optional
        Bits/dim of all steps, drawn as a level line.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        Where it was drawn.

    Examples
    --------
    >>> ax = plot_bits({"even": {8: 3.0, 16: 2.5}, "dp": {8: 2.6, 16: 2.3}}, best=2.0)
    >>> ax.get_ylabel()
    'bits/dim'
    """
    ax = ax or _new_axes(6.4, 3.8)
    for name, curve in curves.items():
        bars = (errors or {}).get(name)
        rows = {k: (curve[k], bars and bars[k]) for k in sorted(curve)}
        _line(ax, rows, capsize=3, **line_style(name))
    if best is not None:
        ax.axhline(best, color=INK, linewidth=1.2, linestyle=(0, (1, 2)), label="all steps")
    _label_steps(ax, sorted({k for curve in curves.values() for k in curve}), "bits/dim")
    ax.legend()
    return ax


@styled
def plot_steps(
    schedules: Mapping[str, Schedule],
    *,
    noise: NoiseSchedule | None = None,
    bands: Mapping[str, tuple[Any, Any]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Where schedules put their steps, one row of marks a schedule.

    Parameters
    ----------
    schedules : mapping of str to Schedule
        Name to schedule; each row is labelled with its name and number of steps.
    noise : NoiseSchedule, optional
        Draws along ``log SNR(t)``, noise on the left, instead of along ``t``. Timestep 0, where
        the SNR is infinite, is then left out, and T may lie off to the left.
    bands : mapping of str to (low, high), optional
        For each name, between which timesteps each step lies, arrays of the schedule's length:
        ``low`` and ``high`` of ``dpdiff.costs.bootstrap.ScheduleError``.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        Where it was drawn.

    Examples
    --------
    >>> ax = plot_steps({"even": Schedule.even(100, 4), "quadratic": Schedule.quadratic(100, 4)})
    >>> ax.get_xlabel()
    'timestep t'
    """
    ax = ax or _new_axes(6.4, 0.9 + 0.5 * len(schedules))
    nearest = np.inf  # the least log SNR before T, whose own may lie far out
    for row, (name, schedule) in enumerate(schedules.items()):
        nodes = np.array(schedule.timesteps)
        place = nodes if noise is None else noise.log_snr[nodes[1:]]
        if noise is not None and len(place) > 1:
            nearest = min(nearest, place[-2])
        color = line_style(name)["color"]
        ax.hlines(row, place.min(), place.max(), color=color, linewidth=0.8)
        for low, high in np.transpose((bands or {}).get(name, ([], []))).astype(int):
            ends = (low, high) if noise is None else noise.log_snr[[max(low, 1), max(high, 1)]]
            ax.fill_between(ends, row - 0.25, row + 0.25, color=color, alpha=0.2, linewidth=0)
        ax.plot(place, np.full(len(place), row), "|", color=color, markersize=15, markeredgewidth=2)
    rows = [f"{line_style(name)['label']}, {s.steps} steps" for name, s in schedules.items()]
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    if np.isfinite(nearest):
        ax.set_xlim(left=nearest - 1)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("timestep t" if noise is None else "log SNR(t)   (noise left, data right)")
    return ax


@styled
def plot_path(
    costs: Any,
    schedules: Mapping[str, Schedule],
    *,
    resolution: int = 250,
    ax: Axes | None = None,
) -> Axes:
    """Schedules as paths over the cost matrix: one corner a jump ``t → s``.

    The matrix is shown at ``resolution`` timesteps each way, so that it costs little at any T.
    It is coloured by ``log L(t, s)``; jumps that are forbidden or cost nothing stay blank.

    Parameters
    ----------
    costs : Costs or ndarray, shape (T + 1, T + 1)
        What :func:`dpdiff.measure` returns, or a bare array ``L[t, s]``.
    schedules : mapping of str to Schedule
        Name to schedule.
    resolution : int
        How many timesteps of each axis are looked at.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        Where it was drawn.

    Raises
    ------
    InputError
        If a schedule ends at another T than the costs.

    Examples
    --------
    >>> L = np.fromfunction(lambda t, s: np.where(s < t, (t - s) ** 2.0, np.inf), (51, 51))
    >>> plot_path(L, {"even": Schedule.even(50, 5)}).get_ylabel()
    'to s'
    """
    T = costs.T if hasattr(costs, "rows") else len(costs) - 1
    for name, schedule in schedules.items():
        if schedule.T != T:
            raise InputError(f"the costs end at T = {T}, the schedule {name!r} at {schedule.T}")
    ax = ax or _new_axes(5.6, 4.8)
    shown = np.unique(np.linspace(0, T, min(resolution, T) + 1).round().astype(int))
    rows = np.full((len(shown), len(shown)), np.nan)  # rows[i, j]: the jump shown[i] -> shown[j]
    for i, t in enumerate(shown[1:], start=1):
        row = costs.rows(t, t + 1)[0] if hasattr(costs, "rows") else costs[t, :t]
        rows[i, :i] = row[shown[:i]]
    rows[~(np.isfinite(rows) & (rows > 0))] = np.nan
    mesh = ax.pcolormesh(shown, shown, np.log10(rows).T, cmap=COSTS, shading="nearest")
    ax.figure.colorbar(mesh, ax=ax, label="log₁₀ L(t, s) in nats", shrink=0.8)
    for name, schedule in schedules.items():
        jumps = np.array(schedule.jumps)
        corners = [(0, 0)]
        for t, s in jumps:
            corners += [(t, s), (t, t)]
        style = line_style(name)
        ax.plot(*np.transpose(corners), color=style["color"], linewidth=1.2)
        ax.plot(
            *jumps.T,
            style["marker"],
            color=style["color"],
            markersize=4,
            label=style["label"],
        )
    ax.plot([0, T], [0, T], color=INK, linewidth=0.8)
    ax.set(xlabel="from t", ylabel="to s", xlim=(0, T), ylim=(0, T), aspect="equal")
    ax.grid(visible=False)
    ax.legend(loc="upper left")
    return ax


@styled
def plot_samples(samples: Any, *, columns: int = 8, ax: Axes | None = None) -> Axes:
    """A grid of images.

    Parameters
    ----------
    samples : tensor or ndarray, shape (n, C, H, W)
        Images in [-1, 1] with one or three channels, as :func:`dpdiff.sample` returns them.
    columns : int
        How many stand side by side.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes
        Where it was drawn.

    Raises
    ------
    InputError
        If the samples are not images.

    Examples
    --------
    >>> ax = plot_samples(np.zeros((6, 1, 8, 8)), columns=3)
    >>> ax.images[0].get_array().shape
    (19, 28)
    """
    images = np.asarray(samples)
    if images.ndim != 4 or len(images) == 0 or images.shape[1] not in (1, 3):
        raise InputError(f"samples are images (n, 1 or 3, H, W), got shape {images.shape}")
    n, channels, height, width = images.shape
    lines = -(-n // columns)
    grid = np.full((lines * (height + 1) + 1, columns * (width + 1) + 1, channels), 1.0)
    for i, image in enumerate(np.clip((images + 1) / 2, 0, 1)):
        y, x = (i // columns) * (height + 1) + 1, (i % columns) * (width + 1) + 1
        grid[y : y + height, x : x + width] = np.moveaxis(image, 0, -1)
    ax = ax or _new_axes(0.55 * columns, 0.55 * lines)
    ax.imshow(grid[..., 0] if channels == 1 else grid, cmap="gray", vmin=0, vmax=1)
    ax.set_axis_off()
    return ax


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
    >>> from dpdiff.trajectory.comparison import Comparison
    >>> result = Comparison({"even": np.array([2.0, 3.0]), "flow": np.array([1.0, 2.0])}, seed=1)
    >>> plot_distances({4: result}, over="flow").get_ylabel()
    'distance to the teacher, over that of flow'
    """
    ax = ax or _new_axes(6.4, 3.8)

    def value(result: Comparison, name: str) -> tuple[float, float]:
        if over is None:
            return result.mean(name), result.stderr(name)
        return result.ratio(name, over)

    names = dict.fromkeys(name for c in comparisons.values() for name in c.distances)
    for name in names:
        rows = {k: value(c, name) for k, c in sorted(comparisons.items()) if name in c.distances}
        draw_schedule_line(ax, name, rows)
    what = "distance to the teacher" + (f", over that of {over}" if over else "")
    finish_distances(ax, sorted(comparisons), what)
    ax.legend()
    return ax


def draw_schedule_line(ax: Axes, name: str, rows: Mapping[int, tuple[float, float]]) -> None:
    """One schedule's line in :func:`plot_distances`, in its own colour, marker and dashes.

    Parameters
    ----------
    ax : matplotlib Axes
        Where to draw.
    name : str
        The schedule's.
    rows : mapping of int to (float, float)
        Number of steps to a value and its standard error, of which bars show two.
    """
    colour, marker, line = SCHEDULE_STYLES.get(name, ("#8b949e", ".", "-."))
    style = {"color": colour, "marker": marker, "linestyle": line, "elinewidth": 1}
    _line(ax, rows, label=name, capsize=2, **style)


def finish_distances(ax: Axes, steps: list[int], what: str) -> None:
    """Logarithmic axes of :func:`plot_distances`, which say plain numbers.

    Parameters
    ----------
    ax : matplotlib Axes
        Where lines were drawn.
    steps : list of int
        The ticks.
    what : str
        What was measured.
    """
    ax.set_yscale("log")
    _label_steps(ax, steps, what)
    for formatter in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        formatter(ScalarFormatter())


def _line(ax: Axes, rows: Mapping[int, tuple[float, float | None]], **style: Any) -> None:
    """Values by number of steps, with two standard errors either way if there are any."""
    values, errors = zip(*rows.values(), strict=True)
    bars = None if None in errors else [2 * error for error in errors]
    ax.errorbar(list(rows), values, yerr=bars, **style)


def _label_steps(ax: Axes, steps: list[int], what: str) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(steps, [str(k) for k in steps])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="steps K (network calls)", ylabel=what)
