"""What every jump costs a model: measured in one pass over the grid, kept, smoothed, compared."""

from __future__ import annotations
