"""The notebook of the capstone explains and checks every stage, and no stage is attempted when it runs."""

import json
import re

import nbformat
import pytest

from labkit import course, paths
from labkit.course import capstone
from labkit.course.capstone.catalog import FILE

NOTEBOOK = nbformat.read(course.LESSONS["capstone"].notebook, 4)
CODE = [cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code"]
PROSE = "\n\n".join(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown")


def section(number):
    return PROSE.split(f"## Stage {number} · ")[1].split("\n## ")[0]


def test_the_notebook_is_valid_and_has_no_outputs():
    nbformat.validate(NOTEBOOK)
    assert set(NOTEBOOK.metadata) == {"kernelspec", "language_info"}
    for cell in NOTEBOOK.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            assert "assert" not in cell.source and len(cell.source.splitlines()) <= 12


def test_the_cells_start_the_lesson_check_every_stage_and_show_the_progress():
    assert 'lk.course.start("capstone")' in CODE[0] and CODE[-1] == "lk.course.progress()"
    checks = [source for source in CODE if "capstone.check(" in source]
    assert checks == [f'lk.course.capstone.check("my_codec.py", stage={stage.number})' for stage in capstone.STAGES]


@pytest.mark.parametrize("stage", capstone.STAGES, ids=lambda stage: stage.key)
def test_the_text_of_a_stage_names_what_to_write_the_minutes_the_check_and_lessons(stage):
    text = section(stage.number)
    assert text.startswith(f"{stage.title}\n\n*{stage.minutes} minutes")
    for line in stage.names:
        name = line.split()[1].partition("(")[0]
        assert re.search(rf"`(class )?{name}\b", text), name
        if line.startswith("def ") and stage.number > 1:
            assert f"`{line.removeprefix('def ')}`" in text, line
    assert "**Checked" in text
    links = re.findall(r"\]\((\d\d_\w+\.ipynb|notation_and_glossary\.ipynb#[\w-]+)\)", text)
    assert links and all((paths.lessons() / link.partition("#")[0]).is_file() for link in links)


def test_the_text_gives_the_limits_of_the_stages_that_train():
    thresholds = json.loads((FILE / "thresholds.json").read_text(encoding="utf-8"))
    limits = {name: number["limit"] for name, number in thresholds["numbers"].items()}
    assert f"at most {limits['stage 4: loss']:.4f} on" in section(4)
    assert f"{thresholds['measured']['4']:d} seeds".replace("3", "three") in section(4)
    assert f"at most {limits['stage 6: loss']:.4f}, by" in section(6)
    assert f"at most −{-limits['stage 8: BD-rate']:.2f}%:" in section(8)


def test_the_notebook_has_the_parts_of_a_lesson():
    opening = NOTEBOOK.cells[0].source
    minutes = sum(stage.minutes for stage in capstone.STAGES)
    assert "misconception" in opening and f"About {minutes} minutes" in opening
    for part in (
        "## What you will be able to do",
        "## Summary",
        "**Limits of what was shown.**",
        "**Read next**",
        "$$",
    ):
        assert part in PROSE
    assert "**Figure 1.**" in PROSE and any("reference_curve" in source for source in CODE)


def test_nothing_of_the_solution_is_in_the_notebook():
    for stage in capstone.STAGES:
        for line in stage.solution.splitlines():
            if len(line.strip()) > 60 and not line.strip().startswith(("#", '"""', "def ", "return x_hat")):
                assert line.strip() not in PROSE
