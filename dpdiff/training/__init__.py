"""How the bundled models are made: recipes, their loss, and a loop that can be restarted."""

from __future__ import annotations
