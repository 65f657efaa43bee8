"""The ``dpdiff`` command: the main job, and each of its parts."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dpdiff.cli.parser import build_parser
from dpdiff.errors import InputError


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
    try:
        options.run(options)
    except InputError as error:
        print(f"dpdiff: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dpdiff: interrupted", file=sys.stderr)
        return 130
    return 0
