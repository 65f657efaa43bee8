"""How many images a measurement wants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dpdiff.costs.costs import Costs
from dpdiff.costs.errors import edge_variances
from dpdiff.errors import InputError
from dpdiff.solvers.plan import solve

PILOT = 16  # images a timestep that tell the variances well enough


def images_needed(costs: Costs, budgets: Sequence[int], stderr: float) -> int:
    """How many images a timestep bring the standard error of the best schedules below a target.

    Parameters
    ----------
    costs : Costs
        A cheap measurement, of 16 images a timestep, say. Its variances are smoothed over
        neighbouring timesteps as its costs are.
    budgets : sequence of int
        Numbers of steps.
    stderr : float
        The target in bits/dim. Standard errors fall with the square root of the number.

    Returns
    -------
    int
        At least 2; perhaps more than there are images.

    Raises
    ------
    InputError
        If the target is not a positive number.

    Examples
    --------
    >>> import dpdiff
    >>> costs = dpdiff.load_costs("digits").with_variance("small")
    >>> images_needed(costs, [8, 32], stderr=0.01) < images_needed(costs, [8, 32], stderr=0.005)
    True
    """
    if not 0 < stderr < math.inf:
        raise InputError(f"the target of the standard error is a positive number, got {stderr}")
    smooth, n = costs.smoothed(spread=True), costs.provenance["per_step"]
    variances = [
        edge_variances(smooth, *np.array(schedule.jumps).T).sum() * n / (n - 1)
        for schedule in solve(smooth, max(budgets)).schedules(budgets)
    ]
    return 1 + math.ceil(max(variances) / (stderr * costs.dims * math.log(2)) ** 2)
