"""Strings that decode on every machine: (σ, μ) in exact arithmetic when a model codes."""

import labkit.entropy  # noqa: F401  # imports CompressAI without the warning of one of its dependencies
from labkit.fixed_point.arithmetic import ARITHMETIC, FixedPoint, NotCodable
from labkit.fixed_point.context import coding
from labkit.fixed_point.model import plain, plain_class, portable

__all__ = ["ARITHMETIC", "FixedPoint", "NotCodable", "coding", "plain", "plain_class", "portable"]
