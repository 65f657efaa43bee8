"""The forward process against its definition."""

import numpy as np
import pytest

from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule


@pytest.fixture(params=["linear", "cosine", "zero terminal SNR"])
def noise(request):
    if request.param == "linear":
        return NoiseSchedule.linear(1000)
    if request.param == "cosine":
        return NoiseSchedule.cosine(1000, first_beta=0.0025)
    betas = NoiseSchedule.cosine(1000).betas
    return NoiseSchedule.from_betas([*betas[:-1], 1.0])


def test_ends(noise):
    assert (noise.f[0], noise.g[0]) == (1, 0)
    assert noise.log_snr[0] == np.inf
    assert noise.f[-1] < 0.02


def test_variance_is_preserved(noise):
    np.testing.assert_allclose(noise.f**2 + noise.g**2, 1, rtol=1e-14)


def test_posterior_is_bayes_rule(noise):
    """Multiply the two Gaussians q(x_s|x_0) and q(x_t|x_s) by hand, in precision form."""
    f, g = noise.f, noise.g
    for t, s in [(2, 1), (1000, 1), (1000, 999), (700, 300)]:
        ratio = f[t] / f[s]
        fresh = g[t] ** 2 - ratio**2 * g[s] ** 2
        precision = 1 / g[s] ** 2 + ratio**2 / fresh
        signal, residue, log_variance = noise.posterior(t, s)
        np.testing.assert_allclose(np.exp(log_variance), 1 / precision, rtol=1e-9)
        np.testing.assert_allclose(signal, f[s] / g[s] ** 2 / precision, rtol=1e-9)
        np.testing.assert_allclose(residue, ratio / fresh / precision, rtol=1e-9)


def test_differences_do_not_cancel():
    """Neighbours deep in the noise, where SNR(s) - SNR(t) subtracted naively loses digits."""
    noise = NoiseSchedule.from_betas(np.full(10, 1e-12))
    # SNR = ᾱ/(1-ᾱ) with 1-ᾱ = 1e-12 t, so ΔSNR = 1e12 (1/9 - 1/10) to a part in 1e11
    np.testing.assert_allclose(noise.snr_gap(10, 9), 1e12 / 90, rtol=1e-10)
    np.testing.assert_allclose(noise.noise_gain(10, 9), np.log(10 / 9), rtol=1e-10)


def test_diffusers_configs_agree_with_diffusers():
    from diffusers import DDPMScheduler

    for settings in (
        {"beta_schedule": "linear"},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 4000},
        {"trained_betas": [0.1, 0.2, 0.3]},
    ):
        scheduler = DDPMScheduler(**settings)
        ours = NoiseSchedule.from_diffusers(scheduler.config)
        np.testing.assert_allclose(ours.betas, scheduler.betas, rtol=2e-5)
        np.testing.assert_allclose(ours.f[1:] ** 2, scheduler.alphas_cumprod, rtol=2e-3)


def test_unknown_beta_schedule_is_refused():
    with pytest.raises(InputError, match="laplace"):
        NoiseSchedule.from_diffusers({"beta_schedule": "laplace"})


@pytest.mark.parametrize(
    "betas", [[], [0.1, 0.0], [0.1, 1.5], [0.1, float("nan")], [-0.1], [[0.1]]]
)
def test_betas_outside_the_unit_interval_are_refused(betas):
    with pytest.raises(InputError, match="beta"):
        NoiseSchedule.from_betas(betas)
