"""The set-up cell of a lesson."""

from __future__ import annotations

import os
import platform
import sys
import time
import warnings

from labkit import __version__, paths
from labkit.course import figures, first_edition, record
from labkit.course.lessons import lesson


def start(key: str) -> None:
    """Open a lesson: load slow modules, record the visit, and print versions, device and data.

    It sets plotly's default template and renderer, and the number of torch threads. It sets no seed.

    Args:
        key: Key of the lesson, such as "mismatch". Notebooks of the first edition pass a number instead; a printed line
            then names the current notebook.

    Raises:
        ValueError: If no lesson has this key.
    """
    present = lesson(first_edition.present_key("lessons", key))
    started = time.perf_counter()
    if present.key != key:
        print(
            f"This notebook is from the first edition. Its lesson is now {present}: run `labkit lessons --to FOLDER` "
            "with a new folder to get the current notebooks. Your progress is kept."
        )
    _load_slow_modules()
    figures.use_template()
    import compressai
    import torch

    from labkit import networks

    cores = os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // 2))  # leaves the rest to the browser: with two cores, two threads are slower
    device = f"GPU {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "CPU"
    photographs = {split: len(list((paths.data() / "photographs" / split).glob("*.*"))) for split in ("train", "test")}
    trained = ", ".join(name for name in networks.names() if networks.pretrained_lmbdas(name)) or "none"
    visit = record.read()["lessons"].get(present.key) or {"opened": time.strftime("%Y-%m-%d")}
    record.write("lessons", present.key, visit)
    print(f"Lesson {present}")
    versions = f"torch {torch.__version__}, compressai {compressai.__version__}"
    print(f"labkit {__version__}, Python {platform.python_version()}, {versions}")
    print(f"{device}, {torch.get_num_threads()} torch thread(s) of {cores} cores")
    print(f"{photographs['train']} training and {photographs['test']} test photographs; pretrained weights: {trained}")
    print(f"ready in {time.perf_counter() - started:.1f} s")


def _load_slow_modules() -> None:
    """Import modules and build the first optimizer and chart now, so that the first slider responds quickly."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*")  # caused by an import in compressai
        import compressai.models  # noqa: F401
    _import_nbformat()
    import plotly.graph_objects as go
    import torch

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], fused=True)
    parameter.sum().backward()
    optimizer.step()
    go.FigureWidget().close()


def _import_nbformat() -> None:
    """Import nbformat, which plotly loads, without a grammar that jsonschema would compile for over two seconds.

    The grammar is installed by JupyterLab, and no other package uses it here: it checks internationalized web
    addresses.
    """
    grammar = "rfc3987_syntax"
    if "nbformat" not in sys.modules and grammar not in sys.modules:
        sys.modules[grammar] = None  # type: ignore[assignment]  # an import then raises ImportError
        try:
            import nbformat  # noqa: F401
        finally:
            del sys.modules[grammar]
