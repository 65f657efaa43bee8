"""Schedules in the tools people already use."""
