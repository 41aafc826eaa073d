"""Coding that decodes on every machine: (σ, μ) in exact arithmetic."""

from labkit.fixed_point.arithmetic import ARITHMETIC, FixedPoint
from labkit.fixed_point.context import coding

__all__ = ["ARITHMETIC", "FixedPoint", "coding"]
