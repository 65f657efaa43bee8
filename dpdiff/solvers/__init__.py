"""The shortest path with exactly K jumps, for every K. What costs mean is not known here."""

from __future__ import annotations
