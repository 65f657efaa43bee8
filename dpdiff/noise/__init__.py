"""Noise schedules: the forward process, the grids it is known by, and diffusers' words for them."""

from dpdiff.noise.process import per_example
from dpdiff.noise.schedule import NoiseSchedule

__all__ = ["NoiseSchedule", "per_example"]
