"""What long work needs beside its mathematics: files, workers, restarts, random streams."""

from __future__ import annotations
