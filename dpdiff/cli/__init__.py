"""The ``dpdiff`` command: the main job, and each of its parts."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

from dpdiff.cli.parser import build_parser
from dpdiff.errors import InputError
from dpdiff.runtime.workers import WorkerError, environment_rank


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code is 0, or 2 for bad input, or 130 for an interrupt.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Examples
    --------
    >>> main(["solve", "no-such-file.npz"])
    2
    """
    options = build_parser().parse_args(arguments)
    silent = environment_rank() > 0  # of several workers, the first one speaks
    try:
        with (
            open(os.devnull, "w") as nowhere,
            redirect_stdout(nowhere) if silent else nullcontext(),
        ):
            options.run(options)
    except InputError as error:
        if not silent or isinstance(error, WorkerError):
            print(f"dpdiff: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if not silent:
            print("dpdiff: interrupted", file=sys.stderr)
        return 130
    return 0
