"""Networks trained with one scheme beside another, on the same batches, and what each costs in real bytes."""

from labkit.research.study.pilot import SCHEMES, Grid, Pilot, Run

__all__ = ["SCHEMES", "Grid", "Pilot", "Run"]
