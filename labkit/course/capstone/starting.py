"""Starting the capstone at a later stage, with the solutions of the earlier stages."""

from __future__ import annotations

from pathlib import Path

from labkit.course import record
from labkit.course.capstone.catalog import STAGES, solutions, stage
from labkit.course.cards import Card
from labkit.course.exercises.base import PASSED
from labkit.disk import write_whole

GIVEN = "given"


def start_from(number: int, file: str | Path = "my_codec.py") -> Card:
    """Write the solutions of all earlier stages and the stubs of this stage to the learner's file.

    An existing file is backed up first, as my_codec.1.py, my_codec.2.py and so on. The earlier stages are recorded as
    given unless the learner has passed them.

    Args:
        number: Stage to start from, 1 to 8.
        file: The learner's file.

    Raises:
        ValueError: If there is no such stage.
    """
    chosen, path = stage(number), Path(file)
    lines = []
    if path.exists():
        backup = _unused(path)
        backup.write_bytes(path.read_bytes())
        lines.append(f"Your file is backed up as {backup.name}.")
    head = "import torch\nfrom torch import nn\n\n" if number == 1 else ""
    write_whole(path, f"{solutions(number)}\n\n{head}{chosen.stub}".encode())
    for each in STAGES[: number - 1]:
        before = record.read()["exercises"].get(each.key, {})
        if before.get("state") != PASSED:
            record.write("exercises", each.key, {**before, "state": GIVEN})
    given = "the solutions of the stages before and " if number > 1 else ""
    lines.append(f"{path.name} now holds {given}the stubs of stage {number}, {chosen.title}.")
    text = " ".join(lines)
    return Card(text, text, "note")


def _unused(path: Path) -> Path:
    count = 1
    while (backup := path.with_name(f"{path.stem}.{count}{path.suffix}")).exists():
        count += 1
    return backup
