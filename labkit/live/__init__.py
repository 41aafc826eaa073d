"""Live panels: move a slider and watch a codec train. Jupyter widgets and plotly load with the first panel."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

PANELS = {  # module name of each panel: its class
    "toy": "ToyPanel",
    "mismatch": "MismatchPanel",
    "risk": "RiskPanel",
    "annealing": "AnnealingPanel",
    "bound": "BoundPanel",
    "means": "MeansPanel",
    "training": "TrainingPanel",
    "coder": "CoderPanel",
}
_MODULES = {
    "Engine": "engine",
    "Panel": "panel",
    "FileView": "fileview",
    **{panel: module for module, panel in PANELS.items()},
}

if TYPE_CHECKING:
    from labkit.live.annealing import AnnealingPanel
    from labkit.live.bound import BoundPanel
    from labkit.live.coder import CoderPanel
    from labkit.live.engine import Engine
    from labkit.live.fileview import FileView
    from labkit.live.means import MeansPanel
    from labkit.live.mismatch import MismatchPanel
    from labkit.live.panel import Panel
    from labkit.live.risk import RiskPanel
    from labkit.live.toy import ToyPanel
    from labkit.live.training import TrainingPanel


def __getattr__(name: str) -> Any:
    if module := _MODULES.get(name):
        return getattr(import_module(f"labkit.live.{module}"), name)
    raise AttributeError(f"module 'labkit.live' has no attribute {name!r}")


__all__ = [
    "PANELS",
    "AnnealingPanel",
    "BoundPanel",
    "CoderPanel",
    "Engine",
    "FileView",
    "MeansPanel",
    "MismatchPanel",
    "Panel",
    "RiskPanel",
    "ToyPanel",
    "TrainingPanel",
]
