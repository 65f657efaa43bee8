"""What long work needs beside its mathematics: files, workers, restarts, random streams."""

from __future__ import annotations

from dpdiff.facade import lazy

_HOMES = {
    "Workers": "dpdiff.runtime.workers",
    "join": "dpdiff.runtime.workers",
}

__all__ = [*_HOMES]
__getattr__, __dir__ = lazy(__name__, _HOMES)
