"""Schedules in the tools people already use."""

from __future__ import annotations
