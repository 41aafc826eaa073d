"""The process that runs the learner's file. It cannot import labkit or CompressAI.

The parent writes a job as JSON to the standard input and reads the last line of the standard output.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import traceback
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

BLOCKED = ("labkit", "compressai")
HERE = Path(__file__).resolve().parent
PACKAGE = "capstone_stages"


class Blocker(MetaPathFinder):
    """Refuses imports of packages that the learner must not use."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raise ImportError for a blocked package."""
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} cannot be imported here; PyTorch and NumPy are enough")


def limit(gibibytes: int, seconds: int) -> None:
    """Make allocations above a limit fail with MemoryError, and stop the process after this CPU time, if possible."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # SIGXCPU, then SIGKILL
        resource.setrlimit(resource.RLIMIT_DATA, (gibibytes * 2**30, gibibytes * 2**30))
    except (ImportError, ValueError, OSError):
        pass


def load(name: str, path: Path, folder: Path | None = None) -> ModuleType:
    """Import a module, or a package in a folder, under a given name."""
    spec = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=[str(folder)] if folder else None
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def describe(error: BaseException, file: str) -> str:
    """Describe an error in one line, with the line of the learner's file that led to it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f" (line {lines[-1]} of {Path(file).name})" if lines else ""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"Your code needs more memory than the grader allows{place}."
    text = str(error).strip().splitlines()
    return f"Your code raised {type(error).__name__}: {text[0] if text else 'no message'}{place}."


def grade(job: dict[str, Any]) -> dict[str, Any]:
    """Run the check of a stage and return its state, message, figures and picture."""
    try:
        codec = load("my_codec", Path(job["file"]))
        import torch

        torch.set_num_threads(1)
        load(PACKAGE, HERE / "stages" / "__init__.py", HERE / "stages")
        work = importlib.import_module(f"{PACKAGE}.work").Work(
            Path(job["photographs"]), Path(job["weights"]), job["thresholds"], job["seed"], job["shortened"]
        )
        check = importlib.import_module(f"{PACKAGE}.{job['module']}").check
        result = check(codec, work)
    except BaseException as error:
        wrong = type(error).__name__ == "Wrong" and type(error).__module__.startswith(PACKAGE)
        return {"passed": False, "message": str(error) if wrong else describe(error, job["file"])}
    if result.picture:
        import numpy as np

        work.weights.mkdir(parents=True, exist_ok=True)
        np.savez(work.weights / f"{job['module']}.npz", **result.picture)
    return {"passed": True, "message": result.message, "figures": result.figures, "picture": bool(result.picture)}


def decode(job: dict[str, Any]) -> None:
    """Decode a file of the learner's codec, for stage 7."""
    import numpy as np
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(job["threads"])
    folder, codec = Path(job["decode"]), load("my_codec", Path(job["file"]))
    net = codec.Hyperprior(job["lmbda"])
    net.load_state_dict(load_file(folder / "decoding.safetensors"))
    z, k = codec.latents(net.eval(), (folder / "decoding.bin").read_bytes())
    np.savez(folder / "decoding.npz", z=z, k=k)


def main() -> None:
    """Run the job from the standard input."""
    job = json.load(sys.stdin)
    sys.path[:] = [str(Path(job["file"]).parent), *(each for each in sys.path if Path(each or ".").resolve() != HERE)]
    sys.meta_path.insert(0, Blocker())
    os.environ.pop("PYTHONPATH", None)
    if "decode" in job:
        decode(job)
        return
    limit(job["gibibytes"], job["seconds"])
    answer = grade(job)
    print(f"\n{json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    main()
