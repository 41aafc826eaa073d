"""labkit: how learned image codecs are trained through quantization.

Modules load when they are first used, so `import labkit` is instant and loads neither Jupyter nor plotly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = (
    "adoption",
    "analysis",
    "course",
    "datasets",
    "diagnosis",
    "entropy",
    "evaluation",
    "files",
    "fixed_point",
    "live",
    "networks",
    "paths",
    "research",
    "schedules",
    "schemes",
    "statistics",
    "surrogates",
    "training",
)
_FUNCTIONS = {
    "adopt": "adoption",
    "diagnose": "diagnosis",
    "evaluate": "evaluation",
    "load_weights": "networks",
    "portable": "fixed_point",
    "refine": "evaluation",
    "release": "adoption",
    "set_temperature": "adoption",
    "train": "training",
    "train_stack": "training",
}

if TYPE_CHECKING:
    from labkit import adoption as adoption
    from labkit import analysis as analysis
    from labkit import course as course
    from labkit import datasets as datasets
    from labkit import diagnosis as diagnosis
    from labkit import entropy as entropy
    from labkit import evaluation as evaluation
    from labkit import files as files
    from labkit import fixed_point as fixed_point
    from labkit import live as live
    from labkit import networks as networks
    from labkit import paths as paths
    from labkit import research as research
    from labkit import schedules as schedules
    from labkit import schemes as schemes
    from labkit import statistics as statistics
    from labkit import surrogates as surrogates
    from labkit import training as training
    from labkit.adoption import adopt as adopt
    from labkit.adoption import release as release
    from labkit.adoption import set_temperature as set_temperature
    from labkit.diagnosis import diagnose as diagnose
    from labkit.evaluation import evaluate as evaluate
    from labkit.evaluation import refine as refine
    from labkit.fixed_point import portable as portable
    from labkit.networks import load_weights as load_weights
    from labkit.training import train as train
    from labkit.training import train_stack as train_stack


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"labkit.{name}")
    if name in _FUNCTIONS:
        return getattr(import_module(f"labkit.{_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module 'labkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_MODULES, *_FUNCTIONS, "__version__"])


__all__ = ["__version__", *_MODULES, *_FUNCTIONS]
