"""Strings that decode on every machine, because the model predicts (σ, μ) in exact arithmetic when it codes."""

import labkit.entropy  # noqa: F401  # imports CompressAI without the warning of one of its dependencies
from labkit.fixed_point.arithmetic import ARITHMETIC, FLOATING_POINT, FixedPoint, NotCodable
from labkit.fixed_point.context import coding
from labkit.fixed_point.model import (
    PortableCoding,
    check_tables,
    compress,
    decompress,
    modules_not_finite,
    plain,
    plain_class,
    portable,
)

__all__ = [
    "ARITHMETIC",
    "FLOATING_POINT",
    "FixedPoint",
    "NotCodable",
    "PortableCoding",
    "check_tables",
    "coding",
    "compress",
    "decompress",
    "modules_not_finite",
    "plain",
    "plain_class",
    "portable",
]
