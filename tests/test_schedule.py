"""Schedules: what they hold, what they refuse, what they save."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpdiff.errors import InputError
from dpdiff.schedule import Schedule


@given(st.integers(1, 5000).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T))))
def test_baselines_hold_every_budget(case):
    T, steps = case
    for schedule in (Schedule.even(T, steps), Schedule.quadratic(T, steps)):
        assert schedule.T == T
        assert schedule.steps == steps  # the constructor has checked ends and order


def test_baselines_are_the_papers():
    even, quadratic = Schedule.even(4000, 32), Schedule.quadratic(4000, 32)
    assert even.timesteps[:3] == (0, 125, 250)  # no forced t = 1
    assert quadratic.timesteps[:4] == (0, 4, 16, 35)
    assert all(abs(t - 4000 * (i / 32) ** 2) <= 0.5 for i, t in enumerate(quadratic.timesteps))


def test_all_steps_are_all_steps():
    assert Schedule.even(50, 50) == Schedule.quadratic(50, 50) == Schedule(range(51))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([0], "at least"),
        ([1, 5], "begins at timestep 0"),
        ([0, 5, 5, 9], "increase strictly, got 5 followed by 5"),
        ([0, 7, 5, 9], "increase strictly"),
        ([0, 2.5, 9], "integers"),
    ],
)
def test_bad_nodes_are_refused(nodes, message):
    with pytest.raises(InputError, match=message):
        Schedule(nodes)


@pytest.mark.parametrize("steps", [0, 11, -1])
def test_budgets_outside_the_grid_are_refused(steps):
    with pytest.raises(InputError, match=r"1…10"):
        Schedule.even(10, steps)


def test_saving_keeps_everything(tmp_path):
    schedule = Schedule([0, 3, 10], {"seed": 4, "rule": "σ²"})
    schedule.save(tmp_path / "s.json")
    again = Schedule.load(tmp_path / "s.json")
    assert (again, again.provenance) == (schedule, schedule.provenance)


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "s.json"
    with pytest.raises(InputError, match="cannot read"):
        Schedule.load(path)
    Schedule([0, 3, 10]).save(path)
    whole = path.read_text()
    path.write_text(whole[:-20])
    with pytest.raises(InputError, match="cannot read"):
        Schedule.load(path)
    path.write_text(json.dumps(json.loads(whole) | {"version": 99}))
    with pytest.raises(InputError, match="version 99"):
        Schedule.load(path)
    path.write_text("{}")
    with pytest.raises(InputError, match="not a schedule"):
        Schedule.load(path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "s.json"
    Schedule([0, 3, 10]).save(path)
    with pytest.raises(TypeError):
        Schedule([0, 4, 10], {"not": {"json"}}).save(path)
    assert Schedule.load(path).timesteps == (0, 3, 10)
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]
    with pytest.raises(InputError, match="cannot write"):
        Schedule([0, 4, 10]).save(tmp_path / "missing" / "s.json")
