"""One process in the coordinates of four families, each against what is known in closed form."""

import numpy as np
import pytest
import torch
from diffusers import (
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)

import dpdiff
from dpdiff.costs import Costs
from dpdiff.denoiser import Denoiser
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule
from dpdiff.parameterization import PARAMETERIZATIONS, parameterization_named
from dpdiff.sampling import sample
from dpdiff.schedule import Schedule
from dpdiff.solvers import solve

T, D = 40, 3
SIGMAS = np.geomspace(0.02, 20, T)  # g/f, the same in every family
SPREAD = np.array([0.8, 0.5, 0.2])
PEAKS = np.array([-0.6, 0.6])
INDEX = np.arange(T)


def family(name, sigmas=SIGMAS):
    """The grid in one family's coordinates: ``x_t`` is scaled by f, and so is the prior."""
    f = {"vp": (1 + sigmas**2) ** -0.5, "flow": 1 / (1 + sigmas)}.get(name, np.ones(T))
    prior = f[-1] * sigmas[-1]  # the same prior in other units
    return NoiseSchedule(f, f * sigmas, time_inputs=INDEX, prior_scale=prior)


FAMILIES = {
    "vp": (family("vp"), "eps"),
    "vp v": (family("vp"), "v"),
    "ve": (family("ve"), "eps"),
    "ve score": (family("ve"), "score"),
    "edm": (family("ve"), "edm"),
    "flow": (family("flow"), "flow"),
    "halved": (family("vp", SIGMAS / 2).scaled(0.5), "x0"),
}


VP = FAMILIES["vp"][0]
FAMILIES["tripled"] = (
    NoiseSchedule(
        3 * VP.f[1:], 3 * VP.g[1:], data_scale=3.0, prior_scale=3 * VP.prior_scale,
        time_inputs=INDEX,
    ),
    "x0",
)  # fmt: skip


def posterior_mean(kind, x, sigma):
    """E[x_0 | x_0 + σ ε = x] of independent Gaussians, or of two narrow peaks in each dimension."""
    if kind == "gaussian":
        spread = torch.tensor(SPREAD**2, dtype=x.dtype)
        return spread / (spread + sigma**2) * x
    total = 0.01 + sigma**2
    share = torch.softmax(torch.stack([-((x - p) ** 2) / (2 * total) for p in PEAKS]), 0)
    return sum(q * (p + 0.01 / total * (x - p)) for q, p in zip(share, PEAKS, strict=True))


def exact(name, kind="gaussian", variance="small"):
    """A denoiser that knows the data, its output written as the family's networks write it."""
    noise, predicts = FAMILIES[name]
    reading, c = parameterization_named(predicts, 0.5), noise.data_scale

    def network(x, index):
        f, g = (torch.tensor(v[index.numpy() + 1])[:, None] for v in (noise.f / c, noise.g))
        x_t = x.double() / reading.input_scale(f, g)
        y_0 = c * posterior_mean(kind, x_t / (c * f), g / (c * f))
        return reading.target(f, g, y_0, (x_t - f * y_0) / g)

    return Denoiser(
        network,
        noise,
        predicts,
        variance,
        shape=(D,),
        levels=None,
        clip=False,
        identity=name + kind,
    )


def data(kind, count=64):
    rng = np.random.default_rng(0)
    if kind == "gaussian":
        return rng.normal(size=(count, D)) * SPREAD
    return rng.choice(PEAKS, (count, D)) + 0.1 * rng.normal(size=(count, D))


@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
@pytest.mark.parametrize("name", FAMILIES)
def test_bounds_and_schedules_do_not_depend_on_the_coordinates(name, kind):
    ours, theirs = (
        dpdiff.measure(exact(n, kind), data(kind), per_step=64, progress=False)
        for n in ("vp", name)
    )
    for rule in ("small", "optimal"):
        a, b = (solve(c.with_variance(rule), 12) for c in (ours, theirs))
        np.testing.assert_allclose(a.values[1:], b.values[1:], rtol=0, atol=1e-6)
        assert [a.schedule(k) for k in (3, 6, 12)] == [b.schedule(k) for k in (3, 6, 12)]
        schedule = a.schedule(6)
        bounds = [c.with_variance(rule).bound(schedule).mean for c in (ours, theirs)]
        assert bounds[0] == pytest.approx(bounds[1], rel=0, abs=1e-6)


@pytest.mark.parametrize("predicts", PARAMETERIZATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_target_of_known_data_is_read_as_these_data(family, predicts):
    if predicts == "v" and not FAMILIES[family][0].preserves_variance:
        pytest.skip("v is defined where f² + g² = 1")
    denoiser = Denoiser(
        lambda x, index: x, FAMILIES[family][0], predicts, shape=(D,), levels=None
    )  # fmt: skip
    x0, eps = torch.randn(2, T, D, generator=torch.Generator().manual_seed(0)).double()
    t = np.arange(1, T + 1)
    f, g = denoiser.noise.at(t, x0)
    read = denoiser.read(f * x0 + g * eps, t, denoiser.target(x0, t, eps))
    torch.testing.assert_close(read, x0, rtol=1e-9, atol=1e-9)


def test_the_large_variance_belongs_to_the_units_of_x():
    ve, vp, tripled = (
        dpdiff.measure(exact(n), data("gaussian"), per_step=8, progress=False).with_variance(
            "large"
        )
        for n in ("ve", "vp", "tripled")
    )
    t, s = np.array([T]), np.array([T // 2])
    costs = [c.rule.jump_costs(c, t, s)[0] for c in (ve, vp, tripled)]
    assert costs[0] > 1.1 * costs[1]
    assert costs[2] == pytest.approx(costs[1], rel=1e-5)  # one scale for every t changes nothing


def brute_force_kl(f, g, t, s, rule, x0, x0_hat, x_t, error):
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) by Bayes' rule, precisions added up; per dimension."""
    ratio = f[t] / f[s]
    fresh = g[t] ** 2 - ratio**2 * g[s] ** 2
    precision = 1 / g[s] ** 2 + ratio**2 / fresh

    def mean(x):
        return (f[s] * x / g[s] ** 2 + ratio * x_t / fresh) / precision

    small, moved = 1 / precision, mean(x0) - mean(x0_hat)
    scale = f[s] / g[s] ** 2 / precision
    sigma2 = {"small": small, "large": fresh, "optimal": small + scale**2 * error}[rule]
    return 0.5 * (np.log(sigma2 / small) + (small + moved**2) / sigma2 - 1)


@pytest.mark.parametrize("rule", ["small", "large", "optimal"])
@pytest.mark.parametrize(
    "noise", [NoiseSchedule.linear(50), NoiseSchedule.edm(50), NoiseSchedule.flow(50)]
)
def test_jumps_equal_explicit_gaussians(noise, rule):
    rng = np.random.default_rng(1)
    f, g = noise.f, noise.g
    x0, x0_hat, error = rng.normal(size=5), rng.normal(size=5), 0.3
    moments = np.full(51, error)
    denoiser = Denoiser(
        lambda x, time: x, noise, "x0", rule, shape=(1,), levels=None,
        error=moments if rule == "optimal" else None,
    )  # fmt: skip
    for t, s in ((50, 49), (50, 1), (30, 7), (2, 1)):
        x_t = f[t] * x0 + g[t] * rng.normal(size=5)
        prediction = dpdiff.denoiser.Prediction(torch.tensor(x0_hat)[:, None], None)
        u = denoiser.log_ratio(t, s, prediction)
        ours = dpdiff.elbo.jump_cost(
            u, (torch.tensor(x0)[:, None] - prediction.x0) ** 2, noise.snr_gap(t, s)
        )
        expected = brute_force_kl(f, g, t, s, rule, x0, x0_hat, x_t, error)
        np.testing.assert_allclose(ours[:, 0], expected, rtol=1e-9, atol=1e-12)


def test_the_lines_of_large_are_its_costs_where_it_has_lines():
    for name, has in (("vp", True), ("ve", True), ("halved", True), ("flow", False)):
        images = data("gaussian")
        costs = dpdiff.measure(exact(name), images, per_step=8, progress=False)
        costs = costs.with_variance("large")
        assert (costs.lines() is not None) == has
        assert solve(costs, 9).schedule(9) == solve(costs, 9, method="sweep").schedule(9)


@pytest.mark.parametrize("name", ["vp", "ve", "flow", "edm", "halved"])
@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_samples_have_the_moments_that_are_known(name, sampler):
    noise, schedule, n = FAMILIES[name][0], Schedule([0, 6, 15, 22, 30, T]), 4000
    drawn = sample(exact(name), schedule, n, sampler=sampler, progress=False).double().numpy()
    f, g = noise.f, noise.g
    for d, spread in enumerate(SPREAD**2):
        variance = noise.prior_scale**2
        for t, s in reversed(schedule.jumps):
            shrink = f[t] * spread / (f[t] ** 2 * spread + g[t] ** 2)  # x̂_0 = shrink · x_t
            if s == 0:
                variance *= shrink**2
            elif sampler == "ddim":
                variance *= (f[s] * shrink + g[s] / g[t] * (1 - f[t] * shrink)) ** 2
            else:
                signal, residue, log_variance = noise.posterior(t, s)
                variance = (signal * shrink + residue) ** 2 * variance + np.exp(log_variance)
        assert drawn[:, d].var() == pytest.approx(variance, rel=4 * (2 / n) ** 0.5)
        assert abs(drawn[:, d].mean()) < 4 * (variance / n) ** 0.5


def test_one_network_measured_in_three_coordinates():
    digits = dpdiff.load("digits")
    nodes = np.unique(np.geomspace(1, 4000, 24).astype(int))
    vp_f, vp_g = digits.noise.f[nodes], digits.noise.g[nodes]
    prior = {"vp": 1.0, "ve": 1 / vp_f[-1], "flow": 1 / (vp_f[-1] + vp_g[-1])}
    images, costs = dpdiff.images("digits", split="validation")[:8], {}
    for name, scale in (("vp", np.ones_like(vp_f)), ("ve", 1 / vp_f), ("flow", 1 / (vp_f + vp_g))):
        noise = NoiseSchedule(
            scale * vp_f, scale * vp_g, time_inputs=np.arange(len(nodes)), prior_scale=prior[name]
        )

        def network(x, index, scale=scale):
            """The data, from x in VP's units, as the network was trained to see it."""
            k = index.numpy()
            x_vp = x / torch.tensor(scale[k], dtype=x.dtype)[:, None, None, None]
            f, g = (torch.tensor(v[k], dtype=x.dtype)[:, None, None, None] for v in (vp_f, vp_g))
            with torch.no_grad():
                out = digits.network(x_vp, torch.tensor(nodes[k] - 1)).sample[:, :1]
            return f * x_vp - g * out

        denoiser = Denoiser(
            network, noise, "x0", "small", shape=(1, 8, 8), levels=17, identity=name
        )
        costs[name] = dpdiff.measure(denoiser, images, per_step=8, progress=False)
    for name in ("ve", "flow"):
        np.testing.assert_allclose(costs[name].mse, costs["vp"].mse, rtol=2e-6)
        for rule in ("small", "optimal"):
            ours, theirs = (solve(costs[n].with_variance(rule), 8).values[1:] for n in ("vp", name))
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_a_perfect_output_gives_the_data_back(name):
    f, g = (0.6, 0.8) if name == "v" else (0.7, 1.9)
    reading = parameterization_named(name, 0.4)
    y, eps = torch.linspace(-1, 1, 5).double(), torch.linspace(2, -1, 5).double()
    f, g = (torch.tensor(c, dtype=torch.float64) for c in (f, g))
    back = reading.data(f, g, f * y + g * eps, reading.target(f, g, y, eps))
    torch.testing.assert_close(back, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_edm_is_the_preconditioning_of_karras_et_al(sign):
    sigma_data, rng = 0.37, np.random.default_rng(0)
    noise, seen = NoiseSchedule.edm(30), []

    def network(x, c_noise):
        seen.append((x, c_noise))
        return sign * torch.sin(x)

    denoiser = Denoiser(
        network, noise, "edm" if sign == 1 else "edm_v", "small", shape=(4,), levels=None,
        sigma_data=sigma_data,
    )  # fmt: skip
    for t in (1, 17, 30):
        sigma, x = noise.g[t], rng.normal(size=(2, 4)) * 5
        root = np.hypot(sigma, sigma_data)
        c_skip, c_out, c_in = sigma_data**2 / root**2, sigma * sigma_data / root, 1 / root
        expected = c_skip * x + c_out * np.sin(c_in * x)
        ours = denoiser(torch.tensor(x), t).x0
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(seen[-1][0], c_in * x, rtol=1e-6)
        np.testing.assert_allclose(seen[-1][1], np.log(sigma) / 4, rtol=1e-6)


def nonlinear(x, time):
    return 0.3 * torch.tanh(x) + 0.01 * time.reshape(-1, 1)


def test_ddim_is_the_euler_step_of_diffusers_edm():
    scheduler = EDMEulerScheduler(num_train_timesteps=100, sigma_data=0.5)
    noise = NoiseSchedule.from_diffusers(scheduler)
    denoiser = Denoiser(nonlinear, noise, "edm", "small", shape=(4,), levels=None)
    schedule = Schedule.even(100, 5)
    x = noise.prior_scale * torch.randn(3, 4)
    ours = sample(denoiser, schedule, 3, sampler="ddim", x_T=x, progress=False)
    roots = np.array([80.0, *schedule.to_sigmas(noise, zero="none"), 0.002]) ** (1 / 7)
    ramp = (roots[0] - roots[1:-1]) / (roots[0] - roots[-1])  # which their set_timesteps takes
    scheduler.set_timesteps(sigmas=torch.tensor(ramp))
    assert scheduler.sigmas[0] == pytest.approx(noise.prior_scale)
    for t in scheduler.timesteps:
        output = nonlinear(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_ddim_is_the_euler_step_of_diffusers_flow_matching(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=100, shift=shift)
    noise = NoiseSchedule.from_diffusers(scheduler)
    np.testing.assert_allclose(noise.sigmas[:0:-1], scheduler.sigmas, rtol=1e-6)
    np.testing.assert_allclose(noise.time_inputs[::-1], scheduler.timesteps, rtol=1e-6)
    denoiser = Denoiser(nonlinear, noise, "flow", "small", shape=(4,), levels=None)
    schedule, x = Schedule([0, 7, 30, 64, 100]), torch.randn(3, 4)
    ours = sample(denoiser, schedule, 3, sampler="ddim", x_T=x, progress=False)
    plain = FlowMatchEulerDiscreteScheduler.from_config(scheduler.config, shift=1.0)
    plain.set_timesteps(sigmas=schedule.to_sigmas(noise, zero="none"))
    for t in plain.timesteps:
        time_input = t * 100 / 100  # their timesteps are σ times the length of the grid, as ours
        x = plain.step(nonlinear(x, time_input), t, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_a_flow_begins_without_signal_and_is_still_measured(tmp_path):
    noise = NoiseSchedule.flow(T)
    denoiser = Denoiser(
        lambda x, time: 0.1 * x, noise, "flow", "small", shape=(D,), levels=None, identity="toy"
    )
    costs = dpdiff.measure(denoiser, data("gaussian", 16), per_step=16, progress=False)
    assert noise.f[T] == 0
    assert np.isfinite(costs.mse).all()
    assert costs.bound(Schedule.even(T, 4)).mean < 1e3
    costs.save(tmp_path / "costs.npz")
    again = Costs.load(tmp_path / "costs.npz")
    assert again.noise.fingerprint == noise.fingerprint
    for name, array in noise.arrays().items():
        assert (again.noise.arrays()[name] == array).all()
    assert solve(again, 5).schedule(5) == solve(costs, 5).schedule(5)
    for predicts in ("eps", "score"):
        with pytest.raises(InputError, match="holds no signal"):
            Denoiser(lambda x, time: x, noise, predicts, shape=(D,))
    with pytest.raises(InputError, match="variance-preserving"):
        Denoiser(lambda x, time: x, noise, "v", shape=(D,))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: NoiseSchedule([0.9, 0.5], [0.1]), "one number a timestep"),
        (lambda: NoiseSchedule([0.5, 0.9], [0.5, 0.5]), "at 2 it does not"),
        (lambda: NoiseSchedule([0.9, 0.1], [0.5, 0.4]), "g falls"),
        (lambda: NoiseSchedule([0.0, 0.0], [0.5, 0.6]), "above 0"),
        (lambda: NoiseSchedule([0.9, np.nan], [0.5, 0.6]), "finite"),
        (lambda: NoiseSchedule.from_sigmas([2.0, 1.0]), "at 2 it does not"),
        (lambda: NoiseSchedule.from_sigmas([1.0, 2.0], time_inputs=[1.0]), "each of 2"),
        (lambda: NoiseSchedule([0.9], [0.1], prior_scale=-1), "prior_scale"),
        (lambda: NoiseSchedule.from_diffusers(3), "a scheduler of diffusers"),
        (lambda: NoiseSchedule.from_diffusers({"_class_name": "VQDiffusionScheduler"}), "VQDiff"),
        (
            lambda: NoiseSchedule.from_diffusers(
                FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
            ),
            "invert_sigmas",
        ),
    ],
)
def test_what_is_no_noise_schedule_is_refused(made, message):
    with pytest.raises(InputError, match=message):
        made()


def test_heun_and_euler_flows_are_one_grid():
    euler, heun = (
        NoiseSchedule.from_diffusers(kind(shift=2.0))
        for kind in (FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler)
    )
    assert euler.fingerprint == heun.fingerprint
