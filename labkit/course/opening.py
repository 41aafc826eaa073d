"""The set-up cell of a lesson."""

from __future__ import annotations

import os
import platform
import time
import warnings

from labkit import __version__, paths
from labkit.course import figures, record


def start(lesson: str) -> None:
    """Open a lesson: load and warm what is slow at first use, and say what this machine has.

    Sets plotly's default template and renderer, and the number of torch threads, to what suits a live lesson. Seeds
    nothing. Raises ValueError for a lesson that is not there.
    """
    from labkit.course.overview import LESSONS

    if lesson not in LESSONS:
        raise ValueError(f"there is no lesson {lesson!r} (there are {', '.join(LESSONS)})")
    began = time.perf_counter()
    _warm()
    figures.use_template()
    import compressai
    import torch

    from labkit import networks

    cores = os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // 2))  # the browser needs the rest: two busy threads on two cores train slower
    device = f"GPU {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "CPU"
    photographs = {split: len(list((paths.data() / "photographs" / split).glob("*.*"))) for split in ("train", "test")}
    shipped = ", ".join(f"{lmbda:g}" for lmbda in networks.pretrained_lmbdas()) or "none"
    opened = record.read()["lessons"].get(lesson) or {"opened": time.strftime("%Y-%m-%d")}
    record.write("lessons", lesson, opened)
    print(f"Lesson {lesson}: {LESSONS[lesson]}")
    versions = f"torch {torch.__version__}, compressai {compressai.__version__}"
    print(f"labkit {__version__}, Python {platform.python_version()}, {versions}")
    print(f"{device}, {torch.get_num_threads()} torch thread(s) of {cores} cores")
    print(f"{photographs['train']} training and {photographs['test']} test photographs; weights for λ = {shipped}")
    print(f"ready in {time.perf_counter() - began:.1f} s")


def _warm() -> None:
    """Pay now for what would else stall the first slider move: imports, the first optimizer, the first chart."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*")  # an import of compressai's, nothing to act on
        import compressai.models  # noqa: F401
    import plotly.graph_objects as go
    import torch

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], fused=True)
    parameter.sum().backward()
    optimizer.step()
    go.FigureWidget().close()
