"""What a network's output estimates, and how the data is read from it.

``y_0`` is the data as the network was trained on it and ``x_t = f y_0 + g ε``. A new way to read
an output is a new class here and an entry of :data:`PARAMETERIZATIONS`.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule


class Parameterization:
    """One kind of output: methods take ``f(t)`` and ``g(t)``, shaped to multiply a batch."""

    def data(self, f: Tensor, g: Tensor, x_t: Tensor, output: Tensor) -> Tensor:
        """The estimate ``ŷ_0`` that an output means."""
        raise NotImplementedError

    def target(self, f: Tensor, g: Tensor, y_0: Tensor, eps: Tensor) -> Tensor:
        """What the output estimates, for known data and noise."""
        raise NotImplementedError

    def input_scale(self, f: Tensor, g: Tensor) -> Any:
        """What ``x_t`` is multiplied with before the network sees it."""
        return 1.0


class Eps(Parameterization):
    """The noise ε; tells nothing of the data where ``f = 0``."""

    def data(self, f, g, x_t, output):
        return (x_t - g * output) / f

    def target(self, f, g, y_0, eps):
        return eps


class X0(Parameterization):
    """The data itself."""

    def data(self, f, g, x_t, output):
        return output

    def target(self, f, g, y_0, eps):
        return y_0


class V(Parameterization):
    """``v = f ε - g y_0`` (Salimans & Ho 2022), where ``f² + g² = 1``."""

    def data(self, f, g, x_t, output):
        return f * x_t - g * output

    def target(self, f, g, y_0, eps):
        return f * eps - g * y_0


class Flow(Parameterization):
    """The velocity ``u = ε - y_0`` of rectified flows (Liu et al. 2023; Lipman et al. 2023)."""

    def data(self, f, g, x_t, output):
        return (x_t - g * output) / (f + g)

    def target(self, f, g, y_0, eps):
        return eps - y_0


class Score(Parameterization):
    """The score ``∇ log q(x_t) = -ε/g`` in the mean over ε (Song et al. 2021)."""

    def data(self, f, g, x_t, output):
        return (x_t + g**2 * output) / f

    def target(self, f, g, y_0, eps):
        return -eps / g


class Edm(Parameterization):
    """The network inside the preconditioning of Karras et al. (2022), table 1.

    With ``σ = g/f`` and ``x = x_t/f``: ``ŷ_0 = c_skip x + c_out F(c_in x)``, ``c_skip =
    σ_data²/(σ² + σ_data²)``, ``c_out = σ σ_data/√(σ² + σ_data²)``, ``c_in = 1/√(σ² + σ_data²)``;
    written such that ``f = 0`` is no exception.

    Parameters
    ----------
    sigma_data : float
        σ_data.
    sign : {1, -1}
        -1 where the output is ``-F``, which diffusers calls its v-prediction.
    """

    def __init__(self, sigma_data: float, sign: int = 1) -> None:
        self.sigma_data, self.sign = sigma_data, sign

    def data(self, f, g, x_t, output):
        scale, sigma = self.input_scale(f, g), self.sigma_data
        return sigma * scale * (sigma * scale * f * x_t + self.sign * g * output)

    def target(self, f, g, y_0, eps):
        scale, sigma = self.input_scale(f, g), self.sigma_data
        return self.sign * scale * (g * y_0 - sigma**2 * f * eps) / sigma

    def input_scale(self, f, g):
        return (g**2 + f**2 * self.sigma_data**2) ** -0.5


PARAMETERIZATIONS = ("eps", "x0", "v", "flow", "score", "edm", "edm_v")


def check_parameterization(name: Any, sigma_data: Any, noise: NoiseSchedule) -> None:
    """Refuse an output that is not known, or that tells nothing on this noise schedule."""
    if not isinstance(name, str) or name not in PARAMETERIZATIONS:
        raise InputError(f"predicts is one of {', '.join(PARAMETERIZATIONS)}; got {name!r}")
    if not isinstance(sigma_data, int | float) or not 0 < sigma_data < math.inf:
        raise InputError(f"sigma_data is a number above 0, got {sigma_data!r}")
    if name == "v" and not noise.preserves_variance:
        raise InputError(
            "v = f ε - g x_0 belongs to variance-preserving grids, f² + g² = 1; the velocity "
            'ε - x_0 of a flow is "flow", an output under Karras et al.\'s preconditioning "edm"'
        )
    if name in ("eps", "score") and noise.f[-1] == 0:
        raise InputError(
            "the last timestep holds no signal (β_T = 1), and from the noise alone no data "
            f'can be told: such a model predicts "x0", "v" or "flow", not "{name}"'
        )


def parameterization_named(name: str, sigma_data: float) -> Parameterization:
    """The parameterization of that name; σ_data matters to those of Karras et al.

    Examples
    --------
    >>> type(parameterization_named("flow", 0.5)).__name__
    'Flow'
    """
    if name.startswith("edm"):
        return Edm(sigma_data, -1 if name == "edm_v" else 1)
    return {"eps": Eps, "x0": X0, "v": V, "flow": Flow, "score": Score}[name]()
