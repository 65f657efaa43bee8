"""Samplers, and the loop that calls the network: DDIM, 2M and others over any schedule."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dpdiff.denoiser import Denoiser, Prediction
from dpdiff.errors import InputError, check_counts
from dpdiff.noise import NoiseSchedule
from dpdiff.runtime import random_streams
from dpdiff.runtime.batches import Batches, cut, prefetch, ran_out
from dpdiff.runtime.workers import ALONE, Workers
from dpdiff.schedule import Schedule


class Call(NamedTuple):
    """A network call: the timestep and the examples it was asked of, and what it said."""

    t: int
    x: Tensor
    prediction: Prediction


class State(NamedTuple):
    """Examples on their way: where they are, and what they were last predicted to become.

    ``x`` is ``x_t`` and ``x0`` is x̂_0, both of shape (B, ...).
    """

    t: int
    x: Tensor
    x0: Tensor


class Sampler:
    """A way from noise to data: after every network call, a step to the next one.

    A new sampler is a class with a :meth:`step`. It keeps nothing itself: what it remembers of the
    way is in the calls that it is shown, so one object serves any number of runs, here and inside
    a pipeline of diffusers.

    Attributes
    ----------
    name : str
        By which files and :func:`dpdiff.sample` know it.
    random : bool
        Whether its steps draw noise.
    memory : int or None
        How many of the latest calls it looks at; None for all of them.
    """

    name = ""
    random = False
    memory: int | None = 1

    def timesteps(self, schedule: Schedule) -> tuple[int, ...]:
        """Where the network is called, from T down: at the schedule's nodes, once each.

        A sampler that calls it twice before it settles at a node, as Heun's does, lists that
        node twice.
        """
        return schedule.timesteps[:0:-1]

    def step(self, denoiser: Denoiser, calls: Sequence[Call], s: int, noise: Tensor) -> Tensor:
        """Go on to the next call's timestep, or to 0 after the last one.

        Parameters
        ----------
        denoiser : Denoiser
            The model, for its noise schedule and variance rule.
        calls : sequence of Call
            The latest network calls, the newest last.
        s : int
            Where to go, at most the newest call's timestep.
        noise : Tensor
            Standard normal, shaped as x, if the sampler is random.

        Returns
        -------
        Tensor
            ``x_s``.
        """
        raise NotImplementedError


class Ancestral(Sampler):
    """Draw from ``p(x_s | x_t)`` under the denoiser's variance rule; the last step returns x̂_0.

    Ho et al. (2020), algorithm 2, for jumps of any length.
    """

    name, random = "ancestral", True

    def step(self, denoiser, calls, s, noise):
        t, x, prediction = calls[-1]
        if s == 0:
            return prediction.x0
        signal, residue, log_variance = denoiser.noise.posterior(t, s)
        scale = (0.5 * (log_variance + denoiser.log_ratio(t, s, prediction))).exp()
        return signal * prediction.x0 + residue * x + scale * noise


class DDIM(Sampler):
    """Song et al. (2021), eq. 12, its noise estimate derived from the clipped x̂_0.

    Parameters
    ----------
    eta : float
        Share of the ``small`` standard deviation, in [0, 1]: 0 is deterministic.
    """

    name = "ddim"

    def __init__(self, eta: float = 0.0) -> None:
        if not isinstance(eta, int | float) or not 0 <= eta <= 1:
            raise InputError(f"eta lies in [0, 1], got {eta!r}")
        self.eta, self.random = eta, eta > 0

    def step(self, denoiser, calls, s, noise):
        t, x, (x0, _) = calls[-1]
        if s == 0:
            return x0
        f, g = denoiser.noise.f, denoiser.noise.g
        sigma = self.eta * np.exp(0.5 * denoiser.noise.posterior(t, s)[2])
        x = f[s] * x0 + np.sqrt(g[s] ** 2 - sigma**2) * ((x - f[t] * x0) / g[t])
        return x + sigma * noise if self.random else x


class DPMSolver2M(Sampler):
    """DPM-Solver++(2M): the exact flow were x̂_0 a straight line in log SNR (Lu et al. 2022b).

    With ``λ = log(f/g)`` and r the node before t, ``x_s = (g_s/g_t) x_t + (f_s - f_t g_s/g_t) D``,
    ``D = x̂_0(t) + (λ_s - λ_t) / (2 (λ_t - λ_r)) (x̂_0(t) - x̂_0(r))``. The first step and the last
    one are DDIM's, as in diffusers.
    """

    name, memory = "2m", 2

    def step(self, denoiser, calls, s, noise):
        t, x, (x0, _) = calls[-1]
        if s == 0:
            return x0
        f, g, depth = denoiser.noise.f, denoiser.noise.g, denoiser.noise.log_snr
        if len(calls) > 1:
            before = calls[-2]
            turn = (depth[s] - depth[t]) / (2 * (depth[t] - depth[before.t]))
            x0 = x0 + turn * (x0 - before.prediction.x0)
        return g[s] / g[t] * x + (f[s] - f[t] * g[s] / g[t]) * x0


class UniPC(DPMSolver2M):
    """UniPC-2 with B₂(h), predicting data (Zhao et al. 2023): 2M, its points corrected afterwards.

    The call at t tells how x̂_0 has gone on since r, the node before. With ``h = λ_t - λ_r``, D the
    data that 2M took for the step to t, q the node before r and ``ρ = (λ_q - λ_r)/h``, that step
    is taken again with ``x̂_0(r) + c_q (x̂_0(q) - x̂_0(r))/ρ + c_t (x̂_0(t) - x̂_0(r))`` in place of D:
    the parabola through the three, integrated over the step. The first correction is the mean of
    ``x̂_0(t)`` and ``x̂_0(r)``. No call is added, since the corrected x is not looked at again.
    """

    name, memory = "unipc", 3

    def step(self, denoiser, calls, s, noise):
        if len(calls) > 1 and s > 0:
            t, x, (x0, _) = calls[-1]
            r, _, (x0_r, _) = calls[-2]
            f, depth = denoiser.noise.f, denoiser.noise.log_snr / 2
            h = depth[t] - depth[r]
            part = -np.expm1(-h)
            if len(calls) > 2:
                q, _, (x0_q, _) = calls[-3]
                ratio = (depth[q] - depth[r]) / h
                first = 1 / part - 1 / h
                second = 1 / part - 2 / h * first
                c_q = (first - second) / (1 - ratio)
                c_t = first - c_q
                turn = c_t * (x0 - x0_r) + (c_q - 0.5) / ratio * (x0_q - x0_r)
            else:
                turn = 0.5 * (x0 - x0_r)
            calls = [calls[-2], calls[-1]._replace(x=x + f[t] * part * turn)]
        return super().step(denoiser, calls, s, noise)


class AdamsBashforth(Sampler):
    """Second-order Adams-Bashforth: the slope is a straight line in time, here through two calls.

    DDIM's steps are straight lines in ``y = x/a`` over ``τ = g/a``, for which k-diffusion takes
    ``a = f``, so that τ is σ, and flow models ``a = f + g``, so that τ is their own time. With
    ``u = dy/dτ = (y - x̂_0)/τ`` and r the node before t, ``y_s = y_t + (τ_s - τ_t) (u_t + (τ_s -
    τ_t) / (2 (τ_t - τ_r)) (u_t - u_r))``. The first step and the last one are DDIM's.
    """

    name, memory = "ab2", 2

    def step(self, denoiser, calls, s, noise):
        x = DDIM().step(denoiser, [calls[-1]], s, noise)
        if len(calls) > 1 and s > 0:
            a = straight_scale(denoiser.noise)
            time = denoiser.noise.g / a
            r, t = (call.t for call in calls)
            before, now = ((c.x / a[c.t] - c.prediction.x0) / time[c.t] for c in calls)
            x = x + a[s] * (time[s] - time[t]) ** 2 / (2 * (time[t] - time[r])) * (now - before)
        return x


def straight_scale(noise: NoiseSchedule) -> np.ndarray:
    """``a(t)``, for which x/a moves in a straight line over g/a in every step of DDIM.

    It is f, unless the model is a flow or no signal is left at T: there it is ``f + g``.

    Examples
    --------
    >>> straight_scale(NoiseSchedule.flow(4))
    array([1., 1., 1., 1., 1.])
    """
    return noise.f + noise.g if noise.is_flow or noise.f[-1] == 0 else noise.f


class Fitted(Sampler):
    """The schedule's own coefficients: ``x_s = a x_t + Σ_j c_j x̂_0(the j-th node above s)``.

    Parameters
    ----------
    schedule : Schedule
        With coefficients, as :func:`dpdiff.fit` finds them.
    """

    name = "fitted"

    def __init__(self, schedule: Schedule) -> None:
        if schedule.coefficients is None:
            raise InputError("this schedule has no coefficients: dpdiff.fit(denoiser, steps) does")
        self._rows = dict(zip(schedule.timesteps[:0:-1], schedule.coefficients, strict=True))
        self.memory = max(map(len, schedule.coefficients)) - 1

    def step(self, denoiser, calls, s, noise):
        t, x, _ = calls[-1]
        a, *numbers = self._rows[t]
        if len(calls) < min(len(numbers), self.memory):
            raise InputError("a fitted solver begins at T: its steps look back on those before")
        x = a * x
        for number, call in zip(numbers, reversed(calls), strict=False):
            x = x + number * call.prediction.x0
        return x.clamp(-1, 1) if s == 0 and denoiser.clip else x


SAMPLERS: dict[str, Sampler] = {
    one.name: one for one in (Ancestral(), DDIM(), DPMSolver2M(), AdamsBashforth(), UniPC())
}


def sampler_for(schedule: Schedule, sampler: str | Sampler | None = None) -> Sampler:
    """The sampler of that name, or one of your own; by default what the schedule was made for.

    Examples
    --------
    >>> schedule = Schedule([0, 4, 8], {"sampler": "2m"})
    >>> sampler_for(schedule).memory, sampler_for(schedule, "ddim").memory
    (2, 1)
    """
    if sampler is None:
        fitted = schedule.coefficients is not None
        sampler = "fitted" if fitted else schedule.provenance.get("sampler", "ancestral")
    if sampler == "fitted":
        return Fitted(schedule)
    if isinstance(sampler, Sampler):
        return sampler
    if not isinstance(sampler, str) or sampler not in SAMPLERS:
        raise InputError(
            f"sampler is one of {', '.join(SAMPLERS)} or a dpdiff.sampling.Sampler; got {sampler!r}"
        )
    return SAMPLERS[sampler]


def start(denoiser: Denoiser, seed: int, rows: np.ndarray) -> Tensor:
    """The noise x_T from which :func:`sample` with this seed draws samples ``rows``; float64."""
    noise = random_streams.gaussian(seed, denoiser.noise.T, rows, denoiser.shape)
    x_T = denoiser.noise.prior_scale * torch.from_numpy(noise)
    return x_T.double().to(denoiser.device)


@torch.inference_mode()
def walk(
    denoiser: Denoiser,
    schedule: Schedule,
    x_T: Tensor,
    sampler: str | Sampler | None = None,
    noise: Callable[[int], Tensor] | None = None,
) -> Iterator[State]:
    """Sampling itself: a network call, a step, and so on from T down to 0.

    Previews and videos keep the states that this yields, and stopping early is a ``break``.

    Parameters
    ----------
    denoiser, schedule, sampler
        As for :func:`sample`.
    x_T : Tensor, shape (B, ...)
        Where to begin; noise, as a rule.
    noise : callable
        ``noise(s)`` gives the noise of the step to s; by default there is none.

    Yields
    ------
    State
        After every step; the last one is at t = 0.

    Examples
    --------
    >>> silent = Denoiser(lambda x, index: 0 * x, NoiseSchedule.cosine(8), shape=(2,))
    >>> [state.t for state in walk(silent, Schedule([0, 4, 8]), torch.ones(1, 2), "ddim")]
    [4, 0]
    """
    sampler, x = sampler_for(schedule, sampler), x_T.to(denoiser.device)
    calls: deque[Call] = deque(maxlen=sampler.memory)
    for t, s in pairwise([*sampler.timesteps(schedule), 0]):
        calls.append(Call(t, x, denoiser(x, t)))
        fresh = noise(s).to(x.device) if noise and s > 0 else torch.zeros_like(x)
        x = sampler.step(denoiser, calls, s, fresh)
        yield State(s, x, calls[-1].prediction.x0)


def sample(
    denoiser: Denoiser,
    schedule: Schedule,
    n: int = 64,
    *,
    seed: int = 0,
    sampler: str | Sampler | None = None,
    x_T: Tensor | None = None,
    x_0: Tensor | None = None,
    begin: int | None = None,
    batch_size: int = 256,
    workers: Workers = ALONE,
    progress: bool = True,
) -> Tensor:
    """Draw examples from a denoiser with as many network calls as the schedule has steps.

    ``dpdiff.sampling.walk`` gives every state on the way.

    Parameters
    ----------
    denoiser : Denoiser
        The model; ``ancestral`` uses its variance rule.
    schedule : Schedule
        One that begins below the model's T begins with the same noise there.
    n : int
        How many examples.
    seed : int
        Of the noise. Sample ``i`` at timestep ``t`` always gets the same noise, whatever the
        batch size, the schedule's other steps and ``n``.
    sampler : {"ancestral", "ddim", "2m", "ab2", "unipc"} or Sampler, optional
        ``ancestral`` draws from ``p(x_s | x_t)``; ``ddim`` follows Song et al. (2021), eq. 12, and
        ``DDIM(eta=1)`` has the ``small`` variance; ``2m`` is DPM-Solver++(2M), ``unipc`` UniPC-2
        and ``ab2`` Adams-Bashforth, all three of second order; or one of your own.
        By default the one that the schedule was made for, else ``ancestral``.
    x_T : Tensor, shape (n, ...), optional
        Where to begin instead of the seed's noise.
    x_0 : Tensor, shape (n, ...), optional
        Examples that are noised only as far as ``begin``, and changed from there: x_0 is data, in
        [-1, 1] if it has levels.
    begin : int, optional
        With ``x_0``: sampling begins at the schedule's largest node up to this timestep.
    batch_size : int
        Examples a network call.
    workers : Workers
        Processes to share the batches with, each calling this function: see
        :func:`dpdiff.runtime.join`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Tensor, float32, shape (n, ...)
        On the CPU; in [-1, 1] if the denoiser clips. Workers other than the first get none:
        shape (0, ...).

    Raises
    ------
    InputError
        If the schedule is of another grid or an argument is out of range.

    Examples
    --------
    >>> silent = Denoiser(lambda x, index: 0 * x, NoiseSchedule.cosine(8), shape=(2,))
    >>> sample(silent, Schedule([0, 4, 8]), n=3, progress=False).shape
    torch.Size([3, 2])
    """
    schedule.check_denoiser(denoiser, below=True)
    random_streams.check_seed(seed)
    check_counts(n=n, batch_size=batch_size)
    sampler = sampler_for(schedule, sampler)
    for name, given in (("x_T", x_T), ("x_0", x_0)):
        _check_start(name, given, (n, *denoiser.shape))
    schedule = _partial(schedule, begin, x_T, x_0)
    samples = _room_for((n if workers.first else 0, *denoiser.shape))
    timesteps, pieces = sampler.timesteps(schedule), cut(np.arange(n), batch_size)
    batches = Batches("sample", batch_size, workers, progress)

    def draw(rows: np.ndarray) -> Tensor:
        x, noise = _noises(denoiser, seed, rows, schedule, sampler, x_T, x_0)
        for t, state in zip(timesteps, walk(denoiser, schedule, x, sampler, noise), strict=True):
            batches.called(t, state.x0)
        return state.x

    calls = [len(rows) * len(timesteps) for rows in pieces]
    drawn = batches.run(draw, pieces, calls=calls, everywhere=False)
    for rows, x in zip(pieces, drawn, strict=workers.first):
        samples[rows] = torch.from_numpy(x)
    return samples


def _check_start(name: str, x: Any, shape: tuple[int, ...]) -> None:
    if x is not None and (not isinstance(x, Tensor) or tuple(x.shape) != shape):
        kind = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"{name} is a tensor of shape {shape}, got {kind}")


def _partial(schedule: Schedule, begin: Any, x_T: Any, x_0: Any) -> Schedule:
    """The schedule's steps from ``begin`` on; all of them, if there is none."""
    if (begin is None) != (x_0 is None) or (x_0 is not None and x_T is not None):
        raise InputError("x_0 and begin are given together, and no x_T with them")
    nodes = [t for t in schedule.timesteps if begin is None or t <= begin]
    if len(nodes) < 2:
        raise InputError(f"the schedule's first step is at {schedule.timesteps[1]} > {begin}")
    if begin is None:
        return schedule
    return Schedule(tuple(nodes), schedule.provenance)


def _room_for(shape: tuple[int, ...]) -> Tensor:
    """Memory for the samples, before any work is done for them."""
    try:
        return torch.empty(shape)
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:
        if isinstance(error, RuntimeError) and not (ran_out(error) or "overflow" in str(error)):
            raise
        raise InputError(f"memory does not hold {shape[0]} samples: draw fewer") from error


def _noises(
    denoiser: Denoiser,
    seed: int,
    rows: np.ndarray,
    schedule: Schedule,
    sampler: Sampler,
    x_T: Tensor | None,
    x_0: Tensor | None,
) -> tuple[Tensor, Callable[[int], Tensor] | None]:
    """Where some samples begin, and the noise of their steps, drawn in the background."""
    own = [] if x_T is not None else [denoiser.noise.T if x_0 is None else schedule.T]
    steps = [*sampler.timesteps(schedule)[1:]] if sampler.random else []
    coming = prefetch(
        lambda t: torch.from_numpy(random_streams.gaussian(seed, t, rows, denoiser.shape)),
        own + steps,
    )
    if x_T is not None:
        begin = x_T[torch.from_numpy(rows)].float()
    elif x_0 is not None:
        f, g = denoiser.noise.f[schedule.T], denoiser.noise.g[schedule.T]
        begin = f * x_0[torch.from_numpy(rows)].float() + g * next(coming)
    else:
        begin = denoiser.noise.prior_scale * next(coming)
    return begin, (lambda s: next(coming)) if sampler.random else None
