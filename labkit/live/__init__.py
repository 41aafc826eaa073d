"""Live panels: move a slider, watch a network retrain. Jupyter's widgets and plotly load with the first panel."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

MAKERS = {  # of the panels, and the module of each
    "toy_panel": "toy",
    "codec_panel": "codec",
    "mismatch_panel": "mismatch",
    "risk_panel": "risk",
    "annealing_panel": "annealing",
    "bound_panel": "bound",
    "means_panel": "means",
    "tradeoff_panel": "tradeoff",
    "adoption_panel": "adoption",
}
_HOME = {"Engine": "engine", "Panel": "panel", **MAKERS}

if TYPE_CHECKING:
    from labkit.live.adoption import adoption_panel
    from labkit.live.annealing import annealing_panel
    from labkit.live.bound import bound_panel
    from labkit.live.codec import codec_panel
    from labkit.live.engine import Engine
    from labkit.live.means import means_panel
    from labkit.live.mismatch import mismatch_panel
    from labkit.live.panel import Panel
    from labkit.live.risk import risk_panel
    from labkit.live.toy import toy_panel
    from labkit.live.tradeoff import tradeoff_panel


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"labkit.live.{_HOME[name]}"), name)
    raise AttributeError(f"module 'labkit.live' has no attribute {name!r}")


__all__ = [
    "MAKERS",
    "Engine",
    "Panel",
    "adoption_panel",
    "annealing_panel",
    "bound_panel",
    "codec_panel",
    "means_panel",
    "mismatch_panel",
    "risk_panel",
    "toy_panel",
    "tradeoff_panel",
]
