"""Imports run one way, no function is long, and each formula has one room."""

import ast
import importlib
import inspect
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dpdiff import elbo, noising, variance
from dpdiff.costs import Costs, measure, statistics
from dpdiff.denoiser import Denoiser
from dpdiff.evaluation import evaluate
from dpdiff.noise import NoiseSchedule
from dpdiff.sampling import sample
from dpdiff.schedule import Schedule
from dpdiff.solvers import (
    Constrained,
    Envelope,
    JumpCosts,
    Lines,
    Reference,
    Solver,
    Subset,
    Sweep,
    Table,
    envelope,
    recursion,
    solve,
)

PACKAGE = Path(__file__).resolve().parent.parent / "dpdiff"

#: From the ground up. A room imports rooms that stand before it, and nothing else.
ROOMS = [
    "version",
    "errors",
    "facade",
    "runtime",
    "grids",
    "scheduler_table",
    "noise",
    "parameterization",
    "network",
    "elbo",
    "schedule",
    "strides",
    "solvers",
    "variance",
    "denoiser",
    "conditioned",
    "data",
    "noising",
    "costs",
    "sampling",
    "evaluation",
    "trajectory",
    "diffusers",
    "models",
    "quality",
    "training",
    "plotting",
    "export",
    "teaching",
    "cli",
    "__main__",
]


def modules(package):
    """Dotted names of all modules below a folder that is called dpdiff, and their files."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = ("dpdiff", *path.relative_to(package).with_suffix("").parts)
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports(name, path, known):
    """The modules of the package that a file names, wherever in it and for whatever purpose."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
            imported |= inner or {node.module}
    return (imported & known.keys()) - {name}


def room_of(module):
    return module.split(".")[1] if "." in module else "dpdiff"


def wrong_arrows(package):
    """Imports that do not go down."""
    known = modules(package)
    arrows = {name: imports(name, path, known) for name, path in known.items()}
    wrong = []
    for name, targets in arrows.items():
        for target in targets - {"dpdiff"}:
            here, there = room_of(name), room_of(target)
            if here not in ("dpdiff", there) and ROOMS.index(here) <= ROOMS.index(there):
                wrong.append(f"{name} -> {target}")
    while leaves := [name for name in arrows if not arrows[name]]:  # what is left is in circles
        for leaf in leaves:
            del arrows[leaf]
        arrows = {name: targets - set(leaves) for name, targets in arrows.items()}
    return wrong + [f"circle through {name}" for name in arrows]


def long_functions(package, most=60):
    """Functions of more lines of code than that; docstrings, comments and blank lines are none."""
    found = []
    for path in modules(package).values():
        text = path.read_text()
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[bool(ast.get_docstring(node)) :] or node.body
                code = lines[node.lineno - 1 : body[0].lineno - 1]
                code = code[: 1 + sum(1 for line in code if line.endswith(","))]
                code += lines[body[0].lineno - 1 : node.end_lineno]
                count = sum(bool(line.strip()) and line.strip()[0] != "#" for line in code)
                if count > most:
                    found.append(f"{path.name}: {node.name} has {count} lines")
    return found


def test_every_room_is_in_the_order():
    assert {room_of(name) for name in modules(PACKAGE)} == {"dpdiff", *ROOMS}


def test_imports_run_down_and_never_in_circles():
    assert wrong_arrows(PACKAGE) == []


def test_no_public_name_is_a_modules_too():
    """Python would give whichever was asked for last."""
    for name, path in modules(PACKAGE).items():
        if path.name == "__init__.py":
            public = getattr(importlib.import_module(name), "__all__", ())
            clash = {n for n in public if f"{name}.{n}" in modules(PACKAGE)}
            assert not clash, (name, clash)


def test_no_function_is_long():
    assert long_functions(PACKAGE) == []


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"noise.py": "from dpdiff.costs import costs\n", "costs/costs.py": ""}, "noise -> "),
        ({"elbo.py": "import dpdiff.cli\n", "cli/__init__.py": ""}, "elbo -> "),
        (
            {"data/a.py": "import dpdiff.data.b\n", "data/b.py": "from dpdiff.data import a\n"},
            "circle through dpdiff.data.a",
        ),
    ],
)
def test_the_checks_can_fail(tmp_path, files, complaint):
    for name, text in files.items():
        path = tmp_path / "dpdiff" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert any(complaint in wrong for wrong in wrong_arrows(tmp_path / "dpdiff"))
    long = 'def f():\n    """Says little."""\n' + "    pass\n" * 60
    (tmp_path / "dpdiff" / "long.py").write_text(long)
    assert long_functions(tmp_path / "dpdiff") == ["long.py: f has 61 lines"]


def test_costs_and_solvers_keep_their_contracts():
    table = np.array([[0.0, 0, 0], [1, 0, 0], [4, 1, 0]])
    lines = Lines(*np.ones((5, 3)))
    measured = measure(toy_model(), DATA, per_step=3, progress=False)
    for costs in (Table(table), lines, Constrained(table), Subset(table, [0, 2]), measured):
        assert isinstance(costs, JumpCosts), type(costs)
    for solver in (Reference(Table(table), 2), Sweep(Table(table), 2), Envelope(lines, 2)):
        assert isinstance(solver, Solver), type(solver)


def test_paths_are_read_from_rows_that_are_never_the_same_twice():
    """A matrix product may round in another way for another block size."""
    rng = np.random.default_rng(0)
    T = 90
    s, t = np.arange(T + 1), np.arange(T + 1)[:, None]
    table = np.where(s < t, abs(t - s) ** 1.5 + rng.random((T + 1, T + 1)), np.inf)

    class Unsteady(Table):
        def rows(self, start, stop):
            return super().rows(start, stop) * (1 + 1e-15 * rng.integers(-3, 4))

    exact, unsteady = solve(table), solve(Unsteady(table), method="sweep")
    for steps in (1, 2, 7, 30, 90):
        jumps = unsteady.schedule(steps).jumps
        assert sum(table[jump] for jump in jumps) == pytest.approx(exact.totals[steps], rel=1e-12)


# --- a fifth variance rule ---


class Halfway(variance.Rule):
    """σ² halfway between ``small`` and ``large`` in the logarithm; ``(g(t)/2)²`` at the end."""

    name, decoder = "halfway", "halfway"

    def log_ratio(self, noise, t, s, v, error):
        return 0.5 * noise.noise_gain(t, s)

    def decoder_log_variance(self, noise, t, v, error):
        return noise.log_g2[t] - np.log(4)


DATA = np.random.default_rng(1).integers(0, 256, (3, 5))
NOISE = NoiseSchedule.cosine(12)


def toy_model():
    return Denoiser(lambda x, index: 0.3 * x, NOISE, predicts="x0", shape=(5,))


def test_a_new_rule_is_one_class_and_one_entry(monkeypatch):
    """Measuring, solving, evaluating, saving and sampling know it at once."""
    monkeypatch.setitem(variance.RULES, "halfway", Halfway())
    model = toy_model().with_variance("halfway")
    costs = measure(model, DATA, per_step=3, seed=4, progress=False)
    schedule = solve(costs).schedule(4)
    direct = evaluate(model, DATA, schedule, seed=4, progress=False)
    stated = costs.bound(schedule)
    assert stated.mean == pytest.approx(direct.mean, rel=1e-12)
    assert stated.stderr > 0

    # The same by hand: a jump and the decoder, from the closed forms alone.
    total = noising.prior_costs(model, DATA)
    for t, s in schedule.jumps:
        batch = noising.prepare(model, DATA, np.full(3, t), np.arange(3), 4)
        x0, prediction = noising.predict(model, batch)
        if s > 0:
            u = torch.tensor(0.5 * (NOISE.log_g2[t] - NOISE.log_g2[s]))
            cost = elbo.jump_cost(u, (x0 - prediction.x0) ** 2, NOISE.snr_gap(t, s))
        else:
            cost = elbo.decoder_cost(
                x0, prediction.x0, torch.tensor(NOISE.log_g2[t] - np.log(4)), 256
            )
        total = total + cost.sum(1).numpy()
    assert direct.mean == pytest.approx((total / (5 * np.log(2))).mean(), rel=1e-12)

    drawn = [
        sample(one, schedule, n=2, progress=False)
        for one in (model, replace(model, variance="small"))
    ]
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("rule", ["small", "large", "optimal"])
def test_costs_and_slopes_follow_from_the_ratio(rule):
    costs = measure(toy_model(), DATA, per_step=3, progress=False).with_variance(rule)
    t, s = np.array([12, 12, 7, 3]), np.array([1, 11, 2, 2])
    gap, m, D, a = NOISE.snr_gap(t, s), costs.mse[t], 5, NOISE.noise_gain(t, s)
    stated, slopes = {
        "small": (0.5 * gap * m, 0.5 * gap),
        "large": (0.5 * (D * (a + np.expm1(-a)) + gap * np.exp(-a) * m), 0.5 * gap * np.exp(-a)),
        "optimal": (0.5 * D * np.log1p(gap * m / D), 0.5 * gap / (1 + gap * m / D)),
    }[rule]
    for found in (costs.jump_costs(t, s), variance.Rule.jump_costs(costs.rule, costs, t, s)):
        np.testing.assert_allclose(found, stated, rtol=2e-15)
    np.testing.assert_allclose(costs.rule.slopes(costs, t, s), slopes, rtol=2e-15)


def test_a_new_rule_is_kept_in_files(monkeypatch, tmp_path):
    monkeypatch.setitem(variance.RULES, "halfway", Halfway())
    costs = measure(toy_model(), DATA, per_step=3, progress=False).with_variance("halfway")
    costs.save(tmp_path / "costs.npz")
    again = Costs.load(tmp_path / "costs.npz")
    schedule = Schedule([0, 3, 12])
    assert again.bound(schedule) == costs.bound(schedule)


# --- the lessons quote the formulas from where they stand ---

QUOTED = {
    "02_elbo_is_a_path": [elbo.jump_cost, elbo.decoder_cost, elbo.prior_cost],
    "03_one_call_every_jump": [variance.Rule]
    + [type(rule) for rule in variance.RULES.values()]
    + [statistics.node_functions],
    "05_faster": [recursion.reference, variance.Small.lines, variance.Large.lines]
    + [kernel.py_func for kernel in (envelope._push, envelope._find, envelope._row)],
}


@pytest.mark.parametrize("lesson", QUOTED)
def test_lessons_quote_the_formulas_whole(lesson):
    path = PACKAGE.parent / "lessons" / f"{lesson}.ipynb"
    cells = json.loads(path.read_text())["cells"]
    shown = [
        "".join(output.get("data", {}).get("text/markdown", ""))
        for cell in cells
        if cell["cell_type"] == "code"
        for output in cell["outputs"]
    ]
    for thing in QUOTED[lesson]:
        source = inspect.getsource(thing)
        assert any(source.strip() in text for text in shown), f"{lesson}: {thing.__qualname__}"
