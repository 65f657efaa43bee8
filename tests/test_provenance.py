"""What a schedule was found for goes with it, however it was made."""

import diffusers
import numpy as np
import pytest

import dpdiff
from dpdiff import Denoiser, InputError, NoiseSchedule
from dpdiff.diffusers import UnevenDDIMScheduler
from dpdiff.solvers import Constrained, Subset
from dpdiff.trajectory import variance_loss

DATA = np.random.default_rng(0).normal(size=(40, 2))


def model(noise):
    return Denoiser(lambda x, index: 0.3 * x, noise, shape=(2,), levels=None, identity="shrink")


LINEAR, COSINE = model(NoiseSchedule.linear(200)), model(NoiseSchedule.cosine(200))


def schedules():
    costs = dpdiff.measure(LINEAR, DATA, progress=False)
    paths = dpdiff.trajectories(LINEAR, n=4, nodes=32, progress=False)
    loss = variance_loss(paths, n=4, progress=False)
    found = {
        "measured": costs,
        "weighted": costs.weighted(),
        "constrained": Constrained(costs, forbid=[7]),
        "subset": Subset(costs, range(0, 201, 2)),
        "flow": paths.costs(),
        "2m": paths.costs("2m"),
        "variance": loss.costs(np.ones(len(loss.sizes))),
    }
    made = {name: dpdiff.solve(one, 8).schedule(8) for name, one in found.items()}
    recommended = paths.recommend(8, n=4, moves=0, progress=False).schedule
    return made | {"recommended": recommended, "least loss": loss.schedule(8)}


USES = {
    "sample": lambda schedule: dpdiff.sample(COSINE, schedule, n=2, progress=False),
    "evaluate": lambda schedule: dpdiff.evaluate(COSINE, DATA, schedule, progress=False),
    "scheduler": lambda schedule: UnevenDDIMScheduler.from_config(
        diffusers.FlowMatchEulerDiscreteScheduler(200), schedule=schedule
    ),
}


@pytest.mark.parametrize("use", USES)
def test_a_schedule_of_another_noise_is_refused(use):
    for schedule in schedules().values():
        with pytest.raises(InputError, match="whose noise schedule is"):
            USES[use](schedule)


def test_a_schedule_is_drawn_from_with_the_sampler_that_it_is_for():
    named = {"flow": "ddim", "2m": "2m", "recommended": "ddim", "variance": "ancestral"}
    made = schedules()
    for name, sampler in named.items():
        assert made[name].provenance["sampler"] == sampler, name
        default, given = (
            dpdiff.sample(LINEAR, made[name], 3, sampler=kind, progress=False)
            for kind in (None, sampler)
        )
        assert default.equal(given), name
    assert "sampler" not in made["measured"].provenance
