"""The bound's closed forms, on torch tensors, in nats.

Nothing here knows of networks, files or schedules. ``δ = x_0 - x̂_0`` is the denoiser's error,
``a = log(g(t)²/g(s)²)`` and ``ΔSNR = SNR(s) - SNR(t)`` belong to a jump ``t → s``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def jump_cost(log_ratio: Tensor, squared_error: Tensor, snr_gap: Tensor | float) -> Tensor:
    """KL divergence of one jump ``t → s``, ``0 < s < t``, for every dimension.

    With the posterior variance ``g̃_ts²`` and the model variance ``σ² = g̃_ts² e^u``::

        KL( q(x_s | x_t, x_0) || p(x_s | x_t) ) = ½ [ u + e^{-u} - 1 + ΔSNR δ² e^{-u} ]

    Parameters
    ----------
    log_ratio : Tensor
        ``u = log(σ² / g̃_ts²)``: 0 for the ``small`` variance, ``a`` for ``large``, ``a v`` for
        ``learned_range``, ``log(1 + ΔSNR m(t)/D)`` for ``optimal``.
    squared_error : Tensor
        ``δ²``; broadcasts against ``log_ratio``.
    snr_gap : Tensor or float
        ``ΔSNR``.

    Returns
    -------
    Tensor
        Nats, not yet summed over dimensions.

    Notes
    -----
    The mean of ``p`` is the posterior's with ``x̂_0`` in place of ``x_0``, so the means differ by
    ``(f(s) g_ts²/g(t)²) δ``, whose square over ``g̃_ts²`` is ``ΔSNR δ²`` (Kingma et al. 2021,
    eq. 13, for ``u = 0``).

    Examples
    --------
    >>> zero = torch.zeros(1, dtype=torch.float64)
    >>> jump_cost(zero, zero + 0.5, 3.0)
    tensor([0.7500], dtype=torch.float64)
    """
    return 0.5 * (
        log_ratio + torch.expm1(-log_ratio) + snr_gap * squared_error * (-log_ratio).exp()
    )


def decoder_cost(x0: Tensor, mean: Tensor, log_variance: Tensor, levels: int | None) -> Tensor:
    """Negative log-likelihood ``-log p(x_0 | x_t)`` of the last jump, for every dimension.

    Parameters
    ----------
    x0 : Tensor
        Data in [-1, 1], on the grid of ``levels`` equally spaced values.
    mean, log_variance : Tensor
        The model's ``x̂_0`` and ``log σ²``.
    levels : int or None
        The data's own number of levels. The Gaussian is integrated over each level's bin of
        width ``2/(levels - 1)``; the outermost bins are half-open (Ho et al. 2020, eq. 13).
        ``None`` means continuous data: the Gaussian's density is used.

    Returns
    -------
    Tensor
        Nats, not yet summed over dimensions.

    Notes
    -----
    Bins are differences of log-CDFs on the side of the mean where these are small, so that a
    level 30 standard deviations away costs 450 nats and not infinity.

    Examples
    --------
    >>> x = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    >>> decoder_cost(x, x, torch.zeros(3, dtype=torch.float64), levels=3).exp().reciprocal()
    tensor([0.6915, 0.3829, 0.6915], dtype=torch.float64)
    """
    if levels is None:
        return 0.5 * (
            math.log(2 * math.pi) + log_variance + (x0 - mean) ** 2 * (-log_variance).exp()
        )
    scale = (-0.5 * log_variance).exp()
    half_bin = 1 / (levels - 1)
    upper = (x0 - mean + half_bin) * scale
    lower = (x0 - mean - half_bin) * scale
    upper = torch.where(x0 > 1 - half_bin, torch.inf, upper)
    lower = torch.where(x0 < -1 + half_bin, -torch.inf, lower)
    # By symmetry Φ(u) - Φ(l) = Φ(-l) - Φ(-u): take the side where both are small.
    flip = lower + upper > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    return -(log_upper + torch.log(-torch.expm1(log_lower - log_upper)))


def prior_cost(x0: Tensor, log_f2: float, log_g2: float) -> Tensor:
    """``KL( q(x_T | x_0) || N(0, I) )`` for every dimension; it does not depend on the path.

    Parameters
    ----------
    x0 : Tensor
        Data in [-1, 1].
    log_f2, log_g2 : float
        ``log f(T)²`` and ``log g(T)²``; for a prior ``N(0, π² I)``, both less ``log π²``.

    Returns
    -------
    Tensor
        Nats, not yet summed over dimensions.

    Examples
    --------
    >>> prior_cost(torch.ones(1, dtype=torch.float64), -math.inf, 0.0)
    tensor([0.], dtype=torch.float64)
    """
    return 0.5 * (math.expm1(log_g2) - log_g2 + math.exp(log_f2) * x0**2)
