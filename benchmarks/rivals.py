"""Two published ways to choose steps from a teacher's trajectory, written anew to compare with.

They are no part of what is recommended, and serve benchmarks and tests.
"""

from __future__ import annotations

import numpy as np
import torch

from dpdiff import strides
from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.sampling import DDIM, Call, start
from dpdiff.schedule import Schedule
from dpdiff.trajectory.run import predictions, states

GITS_NODES = 60  # besides 0
GITS_FACTOR = 1.15


def gits(denoiser: Denoiser, budgets: list[int], n: int, seed: int) -> dict[int, Schedule]:
    """Chen et al., "On the Trajectory Regularity of ODE-based Diffusion Sampling", 2024.

    The cost of a jump is the mean distance ``E‖e‖``, in coordinates x/f, between an Euler step
    and the teacher on 61 nodes of Karras' stride; every later jump weighs 1.15 times as much as
    the one before it: ``B_k(t) = min_s L(t, s) + 1.15 B_{k-1}(s)``.

    Parameters
    ----------
    denoiser : Denoiser
    budgets : list of int
        Numbers of steps.
    n, seed : int
        Noises; 60 network calls each.
    """
    nodes = np.array(strides.karras(denoiser.noise, GITS_NODES).timesteps)
    costs = euler_distances(denoiser, nodes, n, seed)
    N = len(nodes) - 1
    best, origins = np.where(np.arange(N + 1) == 0, 0.0, np.inf), []
    schedules = {}
    for k in range(1, max(budgets) + 1):
        bids = costs + GITS_FACTOR * best
        origins.append(bids.argmin(1))
        best = bids.min(1)
        if k in budgets:
            path = [N]
            for origin in reversed(origins):
                path.append(int(origin[path[-1]]))
            schedules[k] = Schedule(nodes[path[::-1]])
    return schedules


def euler_distances(denoiser: Denoiser, nodes: np.ndarray, n: int, seed: int) -> np.ndarray:
    """``E‖x'_s - x_s‖/f_s`` of every jump from the teacher's points; (N + 1, N + 1)."""
    f, g = denoiser.noise.f, denoiser.noise.g
    x = start(denoiser, seed, np.arange(n))
    means = predictions(denoiser, nodes, x)
    run, means = states(denoiser, nodes, x, means), means.double()
    costs = np.full((len(nodes),) * 2, np.inf)
    for i in range(1, len(nodes)):
        t = nodes[i]
        eps = (run[i] - f[t] * means[i - 1]) / g[t]
        for j, s in enumerate(nodes[:i]):
            landing = f[s] * means[i - 1] + g[s] * eps
            costs[i, j] = float(torch.linalg.norm(landing - run[j], dim=1).mean()) / f[s]
    return costs


@torch.inference_mode()
def optimal_stepsize(
    denoiser: Denoiser, budgets: list[int], nodes: np.ndarray, n: int, seed: int
) -> dict[int, Schedule]:
    """Pei et al., "Optimal Stepsize for Diffusion Sampling", 2025.

    ``z_k(s)`` is the state after k steps at node s: of all jumps ``z_{k-1}(t) → s`` the one that
    lands nearest to the teacher's x_s. The path is read back from ``z_K(0)``. States that are
    farther, but would end nearer, are dropped: this is no dynamic program. Each noise has a path
    of its own, and the schedule takes the median of every node.

    Parameters
    ----------
    denoiser : Denoiser
    budgets : list of int
        Numbers of steps.
    nodes : ndarray of int, shape (N + 1,)
        The teacher's.
    n, seed : int
        Noises; each takes N network calls, and up to N more for every step of the largest budget.
    """
    N, x = len(nodes) - 1, start(denoiser, seed, np.arange(n))
    teacher = states(denoiser, nodes, x, predictions(denoiser, nodes, x))
    reached: dict[int, torch.Tensor] = {N: x}
    origins, schedules = [], {}
    for k in range(1, max(budgets) + 1):
        nearest = torch.full((N + 1, n), torch.inf, dtype=torch.float64)
        origin, coming = np.zeros((N + 1, n), int), {}
        for i, z in reached.items():
            step = Prediction(denoiser(z, int(nodes[i])).x0.double(), None)
            for j in range(i):
                landing = DDIM().step(denoiser, [Call(nodes[i], z, step)], nodes[j], z)
                gap = torch.linalg.norm(landing.flatten(1) - teacher[j], dim=1)
                nearer = gap < nearest[j]
                nearest[j][nearer] = gap[nearer]
                origin[j, nearer.numpy()] = i
                old = coming.get(j, landing)
                coming[j] = torch.where(nearer.reshape(-1, *[1] * (z.ndim - 1)), landing, old)
        origins.append(origin)
        reached = {j: z for j, z in coming.items() if j > 0}
        if k in budgets:
            schedules[k] = Schedule(nodes[_median_path(origins, n)])
    return schedules


def _median_path(origins: list[np.ndarray], n: int) -> np.ndarray:
    """Read every noise's path back from 0; the lower median of each of its nodes."""
    places = [np.zeros(n, int)]
    for origin in reversed(origins):
        places.append(origin[places[-1], np.arange(n)])
    return np.sort(np.array(places), axis=1)[:, (n - 1) // 2]
