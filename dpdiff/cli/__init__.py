"""The ``dpdiff`` command: the main job, and each of its parts."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout, suppress

from dpdiff.cli.parser import build_parser
from dpdiff.errors import InputError
from dpdiff.runtime.workers import WorkerError, environment_rank

BAD_INPUT, BUG, INTERRUPTED, PIPE_CLOSED = 2, 1, 130, 141
LONGEST = 2000  # characters of a message: some name what they were given
REPORT = "https://github.com/dpdiff/dpdiff/issues"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        0; 2 where the input, the machine or its disk is to blame, with one line on stderr; 1 for
        a bug of this program; 130 for an interrupt; 141 where nobody reads the output any more.

    Examples
    --------
    >>> main(["solve", "no-such-file.npz"])
    2
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    notes: list[str] = []  # what was assumed and has not been said yet
    try:
        _run(arguments, notes)
    except KeyboardInterrupt:
        _print_error("dpdiff: interrupted", all_workers=False)
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return PIPE_CLOSED
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        return _report(error, notes)
    return 0


def _run(arguments: list[str], notes: list[str]) -> None:
    silent = environment_rank() > 0  # of several workers, the first one speaks
    options = build_parser().parse_args(arguments)
    options.notes = notes
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere) if silent else nullcontext():
        options.run(options)
        sys.stdout.flush()


def _report(error: Exception, notes: list[str]) -> int:
    """Say in one line what went wrong, and return the exit code that goes with it."""
    if isinstance(error, InputError):
        assumed = f" ({'; '.join(notes)})" if notes else ""
        _print_error(f"dpdiff: error: {error}{assumed}", all_workers=isinstance(error, WorkerError))
        return BAD_INPUT
    if isinstance(error, OSError) and error.strerror:
        _silence_stdout()
        place = f"{error.filename}: " if error.filename else ""
        _print_error(f"dpdiff: error: {place}{error.strerror}", all_workers=True)
        return BAD_INPUT
    if _memory_ran_out(error):
        _print_error(f"dpdiff: error: memory does not suffice: {error}", all_workers=True)
        return BAD_INPUT
    _print_error(
        f"dpdiff: this is a bug: {type(error).__name__}: {error}. Please report it at {REPORT} "
        "with the command line; --debug shows where it comes from",
        all_workers=True,
    )
    return BUG


def _memory_ran_out(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules:
        return False
    from dpdiff.runtime.batches import ran_out

    return ran_out(error)


def _print_error(line: str, *, all_workers: bool) -> None:
    """Write one line to stderr, if anybody is there to read it."""
    line = " ".join(line.split())
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"
    if all_workers or os.environ.get("RANK", "0") == "0":
        with suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def _silence_stdout() -> None:
    """Send what is still unwritten nowhere, or Python complains of it when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
