"""The check of a stage, which runs the learner's file in a separate process with limits on time and memory."""

from __future__ import annotations

import ast
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit import paths
from labkit.course import record
from labkit.course.capstone.catalog import FILE, Stage, stage
from labkit.course.capstone.pictures import Pictured
from labkit.course.exercises.base import FAILED, NOT_ATTEMPTED, PASSED, Verdict

GIBIBYTES = 4
WAITING = 10  # allowed wall-clock time as a multiple of the CPU time limit, because learners' machines are also busy
SLOWEST = 12  # allowed CPU time, as a multiple of the reference solution's, because learners' machines differ


@dataclass(frozen=True)
class Run:
    """The report from the process of a check.

    Attributes:
        passed: Whether the stage passed.
        message: Message for the learner.
        figures: Measured numbers by name.
        picture: Arrays for the picture, in a file, or None.
        printed: Output that the learner's code printed.
    """

    passed: bool
    message: str
    figures: dict[str, float]
    picture: Path | None = None
    printed: str = ""


def check(file: str | Path, stage: int) -> Verdict:
    """Check one stage of the learner's file, and record the verdict if the stage was attempted.

    Args:
        file: The learner's file, such as "my_codec.py".
        stage: Number of the stage, 1 to 8.

    Returns:
        The verdict. After stages 4, 6 and 8, it shows a reconstruction and the rate–distortion curve, next to JPEG's.

    Raises:
        ValueError: If there is no such stage.
    """
    chosen = _stage(stage)
    path = Path(file).resolve()
    title = f"Stage {chosen.number}, {chosen.title}"
    try:
        missing = unwritten(path, chosen)
    except SyntaxError as error:
        return _record(
            chosen, Verdict(title, FAILED, f"{path.name} has a syntax error in line {error.lineno}: {error.msg}.")
        )
    if missing:
        return Verdict(title, NOT_ATTEMPTED, missing)
    if chosen.seconds > 20:
        print(f"This check trains and codes for about {chosen.seconds} s on one core of a recent machine …", flush=True)
    result = run(path, chosen, thresholds())
    if result.printed:
        print(result.printed)
    if result.picture is not None and result.passed:
        return _record(chosen, Pictured(title, result.message, result.picture))
    return _record(chosen, Verdict(title, PASSED if result.passed else FAILED, result.message))


_stage = stage  # `check` has an argument of this name


def unwritten(path: Path, chosen: Stage) -> str:
    """Describe what the learner has not written yet; return an empty string if every name of the stage has a body.

    Raises:
        SyntaxError: If the file is not valid Python.
    """
    if not path.is_file():
        folder = "the folder of this notebook" if path.parent == Path.cwd().resolve() else path.parent
        return f"There is no {path.name} in {folder} yet. Create it, and write the functions of the stage."
    defined = {
        node.name: node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    names = [line.split()[1].partition("(")[0] for line in chosen.names]
    missing = [name for name in names if name not in defined or _is_stub(defined[name])]
    if not missing:
        return ""
    if len(missing) == len(names):
        return f"Write {', '.join(names)}."
    return f"Still to write: {', '.join(missing)}."


def _is_stub(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Return whether a body consists of a docstring, `...` and `pass`."""
    return all(
        isinstance(line, ast.Pass) or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
        for line in node.body
    )


def thresholds() -> dict[str, float]:
    """Return the largest values that pass, as measured by `python -m tests.bench.capstone`."""
    measured = json.loads((FILE / "thresholds.json").read_text(encoding="utf-8"))
    return {name: entry["limit"] for name, entry in measured["numbers"].items()}


def run(
    path: Path, chosen: Stage, limits: dict[str, float], seed: int = 0, shortened: int = 1, seconds: float | None = None
) -> Run:
    """Run the check of a stage in a separate process.

    Args:
        path: The learner's file.
        chosen: The stage.
        limits: Thresholds by name.
        seed: Seed of training.
        shortened: Divisor for the numbers of training steps.
        seconds: CPU time after which the process is stopped. The default is `SLOWEST` times the time of the stage.
    """
    seconds = max(60, SLOWEST * chosen.seconds) if seconds is None else seconds
    weights = path.parent / f"{path.stem}.weights"
    job: dict[str, Any] = {
        "file": str(path), "photographs": str(paths.data() / "photographs"), "weights": str(weights),
        "thresholds": limits, "seed": seed, "shortened": shortened, "module": chosen.module, "gibibytes": GIBIBYTES,
        "seconds": math.ceil(seconds),
    }  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        process = subprocess.run(
            [sys.executable, str(FILE / "child.py")], input=json.dumps(job), env=environment, capture_output=True,
            text=True, timeout=WAITING * seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Run(
            False, f"The check was stopped after {WAITING * seconds:.0f} s. Does your code wait for something?", {}
        )
    if process.returncode == -getattr(signal, "SIGXCPU", 0) != 0:
        message = f"The check was stopped after {seconds:.0f} s of CPU time; the reference solution needs about "
        message += f"{chosen.seconds} s. Is there an endless loop, or a slow one over latents?"
        return Run(False, message, {})
    printed, _, last = process.stdout.rstrip("\n").rpartition("\n")
    try:
        answer = json.loads(last)
    except ValueError:
        reason = (process.stderr.strip().splitlines() or ["no message"])[-1]
        return Run(False, f"The process of your code ended early (status {process.returncode}): {reason}", {})
    picture = weights / f"{chosen.module}.npz" if answer.get("picture") else None
    return Run(answer["passed"], answer["message"], answer.get("figures", {}), picture, printed.strip())


def _record(chosen: Stage, verdict: Verdict) -> Verdict:
    entry = {**record.read()["exercises"].get(chosen.key, {})}
    entry.pop("message", None)
    if entry.get("state") != PASSED:  # a passed stage stays passed
        entry["state"] = verdict.state
        if verdict.state == FAILED:
            entry["message"] = verdict.message
    record.write("exercises", chosen.key, {**entry, "tries": entry.get("tries", 0) + 1})
    return verdict
