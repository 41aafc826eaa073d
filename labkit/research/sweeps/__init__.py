"""Sweeps: every combination of a grid of settings is trained and measured once, on one machine or on many.

    sweep = lk.research.sweeps.Sweep.from_file("sweep.toml")
    table = lk.research.sweeps.run(sweep)       # a DataFrame, and OUT/table.parquet

The files, from the settings to the table: settings → grid (the runs) → worker (one run) → results (files and table) →
driver, with cluster (Dask) and costs (time estimates).
"""

from labkit.research.sweeps.driver import run
from labkit.research.sweeps.grid import Sweep, SweepGroup, SweepRun

__all__ = ["Sweep", "SweepGroup", "SweepRun", "run"]
