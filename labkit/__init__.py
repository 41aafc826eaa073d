"""labkit: how learned image codecs are trained through quantisation.

Modules load when they are first used, so `import labkit` is instant and loads neither Jupyter nor plotly.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Importing CompressAI decorates with torch.jit.script, which torch deprecates: nothing that a user could act on.
warnings.filterwarnings("ignore", message=r".torch\.jit\.script. is deprecated", category=FutureWarning)

_MODULES = (
    "analysis",
    "container",
    "course",
    "datasets",
    "entropy",
    "evaluation",
    "interop",
    "live",
    "networks",
    "paths",
    "schedules",
    "schemes",
    "surrogates",
    "sweeps",
    "training",
)
_FUNCTIONS = {
    "adopt": "interop",
    "evaluate": "evaluation",
    "refine": "evaluation",
    "release": "interop",
    "set_temperature": "interop",
    "train": "training",
    "train_stack": "training",
}

if TYPE_CHECKING:
    from labkit import (
        analysis as analysis,
    )
    from labkit import (
        container as container,
    )
    from labkit import (
        course as course,
    )
    from labkit import (
        datasets as datasets,
    )
    from labkit import (
        entropy as entropy,
    )
    from labkit import (
        evaluation as evaluation,
    )
    from labkit import (
        interop as interop,
    )
    from labkit import (
        live as live,
    )
    from labkit import (
        networks as networks,
    )
    from labkit import (
        paths as paths,
    )
    from labkit import (
        schedules as schedules,
    )
    from labkit import (
        schemes as schemes,
    )
    from labkit import (
        surrogates as surrogates,
    )
    from labkit import (
        sweeps as sweeps,
    )
    from labkit import (
        training as training,
    )
    from labkit.evaluation import evaluate as evaluate
    from labkit.evaluation import refine as refine
    from labkit.interop import adopt as adopt
    from labkit.interop import release as release
    from labkit.interop import set_temperature as set_temperature
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
