"""Coding that decodes on every machine: (σ, μ) in exact arithmetic."""

from labkit.fixed_point.arithmetic import ARITHMETIC, FixedPoint
from labkit.fixed_point.context import coding
from labkit.fixed_point.model import PortableCoding, plain_class, portable_class, set_portable

__all__ = ["ARITHMETIC", "FixedPoint", "PortableCoding", "coding", "plain_class", "portable_class", "set_portable"]
