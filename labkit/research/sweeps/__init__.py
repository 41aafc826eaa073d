"""Sweeps: every combination of a grid of settings, trained and measured once, on one machine or on many.

grid (what is to run) → work (what a worker does with one run) → results (files and the table) → driver (Dask)
"""

from labkit.research.sweeps.driver import run
from labkit.research.sweeps.grid import Run, Several, Sweep

__all__ = ["Run", "Several", "Sweep", "run"]
