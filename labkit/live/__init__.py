"""Live panels: move a slider, watch a network retrain. Jupyter's widgets and plotly load with the first panel."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "Engine": "engine",
    "Panel": "panel",
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

if TYPE_CHECKING:
    from labkit.live.codec import codec_panel
    from labkit.live.engine import Engine
    from labkit.live.panel import Panel
    from labkit.live.toy import toy_panel


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"labkit.live.{_HOME[name]}"), name)
    raise AttributeError(f"module 'labkit.live' has no attribute {name!r}")


__all__ = ["Engine", "Panel", "codec_panel", "toy_panel"]
