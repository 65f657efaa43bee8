"""How large the house is, and how many of its rooms a call passes through.

A line of code holds something else than a comment or a docstring. A call passes through a function
if it enters it between the call and its return, in any thread; comprehensions count as part of the
function they stand in, and what runs only on import or on a first call is left out: every call is
made twice, and the second one watched. Frames are the package's own that lie on one another when
the network is asked.

    python benchmarks/house.py                # the package that is found first
    python benchmarks/house.py --path DIR     # the one in another checkout
    python benchmarks/house.py --where        # names of the functions, too

At 9821c39: 131 files, 9,110 lines of code (1,133 of them imports), 900 functions; ``measure`` 109
functions in 25 files, ``sample`` 52 in 14, ``trajectories`` and ``solve`` 109 in 27.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import threading
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    tokenize.ENDMARKER,
}
INNER = ("<module>", "<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Functions = set[tuple[str, str]]  # their files and qualified names


def counts(text: str) -> dict[str, int]:
    """Lines of code, lines of imports and functions of one file."""
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            code |= {*range(token.start[0], token.end[0] + 1)}
    imports = functions = 0
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            code -= {*range(node.body[0].lineno, node.body[0].end_lineno + 1)}
        functions += isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports += node.end_lineno - node.lineno + 1
    return {"lines of code": len(code), "lines of imports": imports, "functions": functions}


def size(package: Path) -> dict[str, int]:
    """The sums over all files below a folder."""
    files = [counts(path.read_text("utf-8")) for path in sorted(package.rglob("*.py"))]
    return {"files": len(files)} | {name: sum(file[name] for file in files) for name in files[0]}


def own(frame: FrameType, package: Path) -> Iterator[tuple[str, str]]:
    """The function that a frame runs, if it is the package's."""
    code = frame.f_code
    if code.co_filename.startswith(str(package)) and code.co_name not in INNER:
        yield code.co_filename.removeprefix(str(package))[1:], code.co_qualname


def passed(package: Path, network: Any, call: Callable[[], Any]) -> tuple[Functions, Functions]:
    """The functions that a call enters, and those on one another at the first network's call."""
    entered: Functions = set()
    frames: list[Functions] = []

    def enter(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            entered.update(own(frame, package))

    def asked(*_: Any) -> None:
        frame, found = sys._getframe(1), set()
        while frame:
            found.update(own(frame, package))
            frame = frame.f_back
        frames.append(found)

    call()
    hook = network.register_forward_pre_hook(asked)
    threading.setprofile(enter)
    sys.setprofile(enter)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        hook.remove()
    return entered, frames[0] if frames else set()


def described(functions: Functions) -> str:
    return f"{len(functions):3} in {len({file for file, _ in functions}):2}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--path", type=Path, help="the folder in which another dpdiff lies")
    parser.add_argument("--where", action="store_true", help="name the functions of every call")
    options = parser.parse_args()
    if options.path:
        sys.path.insert(0, str(options.path.resolve()))
    import dpdiff

    package = Path(dpdiff.__file__).parent
    print(
        package, ", ".join(f"{count:,} {name}" for name, count in size(package).items()), sep=": "
    )
    denoiser = dpdiff.load("digits")
    images = dpdiff.images("digits", split="validation")
    costs, schedule = dpdiff.load_costs("digits"), dpdiff.Schedule.even(denoiser.noise.T, 8)

    def trajectories() -> None:
        paths = dpdiff.trajectories(denoiser, 4, progress=False)
        dpdiff.solve(paths.costs(), 16).schedule(8)

    calls = {
        "measure": lambda: dpdiff.measure(denoiser, images, progress=False),
        "solve": lambda: dpdiff.solve(costs).schedule(8),
        "sample": lambda: dpdiff.sample(denoiser, schedule, n=2, progress=False),
        "trajectories + solve": trajectories,
    }
    print(f"{'':22}functions   of them above the network, in files")
    for name, call in calls.items():
        entered, frames = passed(package, denoiser.network, call)
        print(f"{name:22}{described(entered)}   {described(frames)}")
        if options.where:
            print(*(f"    {file}: {function}" for file, function in sorted(entered)), sep="\n")


if __name__ == "__main__":
    main()
