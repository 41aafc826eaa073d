"""The teacher's kit: notebooks for students, pages for the instructor, and marks for submissions."""

import csv
import json
import os
import shutil

import nbformat
import pytest
from click.testing import CliRunner

from labkit import cli, course, paths
from labkit.course import grading, teaching
from labkit.course.exercises import exercises
from labkit.course.questions import questions_in

KEYS = list(exercises("codec"))
QUESTION = """lk.course.question(
    "codec.bytes",
    "How many bits has a byte?",
    {"4": "That is half a byte.", "8": "Right, and a file has whole bytes.", "10": "Bits count in twos."},
)"""
WRONG = "next(iter(lk.course.exercise({key!r}).misconceptions))"


def notebook(*sources):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


def lesson(answers="{stub}", question=QUESTION):
    """Return a notebook with the exercises of the first lesson. `answers` follows each stub, before its check."""
    cells = [
        'import math\n\nimport numpy as np\nimport torch\n\nimport labkit as lk\n\nlk.course.start("codec")',
        question,
    ]
    for key in KEYS:
        name = exercises("codec")[key].answer.__name__
        stub = f"def {name}(*arguments):\n    ..." if exercises("codec")[key].cases(0) else f"{name} = None"
        cells += [answers.format(stub=stub, name=name, key=key), f'lk.course.exercise("{key}").check({name})']
    return notebook(*cells)


@pytest.fixture
def small_course(tmp_path, monkeypatch):
    """Replace the course by one small lesson."""
    (tmp_path / "lessons").mkdir()
    text = "# 00 · Start here\n\n> It is so.\n\nAbout 5 minutes.\n\n## What you will be able to do\n\n1. Count bytes."
    content = lesson()
    content.cells.insert(0, nbformat.v4.new_markdown_cell(text))
    nbformat.write(content, tmp_path / "lessons" / "00_start_here.ipynb")
    nbformat.write(notebook(), tmp_path / "lessons" / "notation_and_glossary.ipynb")
    monkeypatch.setattr(paths, "lessons", lambda: tmp_path / "lessons")


@pytest.fixture
def submissions(small_course, tmp_path):
    """Write the submissions of three students: the solutions, a named wrong answer to each exercise, and nothing."""
    folder = tmp_path / "submissions"
    solved = teaching.solved(lesson(), course.LESSONS["codec"])
    solved.cells[1].source += '.answer("8")'
    wrong = lesson("{stub}\n\n\n{name} = " + WRONG, f'q = {QUESTION}\nq.answer("4")\nq.answer("8")')
    for student, content in (("ada", solved), ("ben", wrong), ("cem", lesson())):
        (folder / student).mkdir(parents=True)
        nbformat.write(content, folder / student / "my copy of 00.ipynb")
    return folder


@pytest.fixture
def in_process(monkeypatch):
    """Run the cells of submissions in this process, without the time that a kernel takes to start."""

    def run(content, work, home, seconds):
        monkeypatch.setenv("LABKIT_HOME", str(home))
        monkeypatch.chdir(work)
        namespace = {}
        for place, cell in enumerate(content.cells, start=1):
            try:
                exec(cell.source, namespace)
            except Exception as error:
                return f"cell {place} raised {type(error).__name__}: {error}", True
        return "", True

    monkeypatch.setattr(course, "start", lambda key: None)
    monkeypatch.setattr(grading, "_run", run)
    before = os.getcwd()
    yield
    os.chdir(before)


def table(folder):
    with open(folder / "grades.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


MARKS = {"ada": "1", "ben": "0.5", "cem": "0"}


def check_marks(folder, students=tuple(MARKS)):
    """Check the marks of students, which are full, partial or zero, and the messages."""
    rows = table(folder)
    items = [*KEYS, "codec.bytes"]
    assert [(row["student"], row["item"]) for row in rows] == [(name, key) for name in students for key in items]
    assert {row["lesson"] for row in rows} == {"codec"}
    for name in students:
        assert {row["marks"] for row in rows if row["student"] == name} == {MARKS[name]}
    messages = {(row["student"], row["item"]): row["message"] for row in rows}
    for key in KEYS:
        assert messages["ada", key] == ""
        assert messages["ben", key] == next(iter(exercises("codec")[key].misconceptions.values()))
        assert messages.get(("cem", key), "not attempted") == "not attempted"
    assert messages["ben", "codec.bytes"] == "right, but not at first: 2 tries"
    assert "no answer" in messages.get(("cem", "codec.bytes"), "no answer")


def test_submissions_get_full_partial_and_zero_marks(submissions, in_process):
    grading.grade(submissions, progress=False)
    check_marks(submissions)
    grading.grade(submissions, progress=False)  # an earlier grades.csv is replaced
    check_marks(submissions)


@pytest.mark.slow
def test_the_command_runs_submissions_in_kernels_of_their_own(submissions, home, tmp_path):
    shutil.rmtree(submissions / "cem")
    result = CliRunner().invoke(cli.main, ["lessons", "--grade", str(submissions)])
    assert result.exit_code == 0 and "marks of 2 students" in result.output and "not an examination" in result.output
    check_marks(submissions, ("ada", "ben"))
    assert not home.exists()  # the record of the teacher
    more = tmp_path / "more"
    more.mkdir()
    for student, source in (("dan", "import time; time.sleep(100)"), ("eve", "import os; os._exit(1)")):
        nbformat.write(notebook("1 / 0  # lk.course.start('codec')", source, "1"), more / f"{student}_00_start.ipynb")
    interrupt = (
        "import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(100)  # lk.course.start('codec')"
    )
    nbformat.write(notebook(interrupt), more / "fay_00_start.ipynb")
    with pytest.raises(KeyboardInterrupt):  # as if the teacher pressed Ctrl-C at the third notebook
        grading.grade(more, seconds=4, progress=False)
    assert {row["student"]: row["message"] for row in table(more) if not row["item"]} == {
        "dan": "stopped in cell 2: the notebook took more than 4 seconds",
        "eve": "stopped in cell 2: Kernel died",
    }


def test_what_cannot_be_graded_has_one_clear_line(submissions, in_process):
    for entry in ("ada", "ben"):
        (submissions / entry / "my copy of 00.ipynb").unlink()
    (submissions / "ben" / "mine.ipynb").write_text("[1, 2]")
    (submissions / "=dan_00_start.ipynb").write_text("{ not JSON")
    nbformat.write(notebook("1 + 1"), submissions / "eve.ipynb")
    (submissions / "fay.pdf").write_bytes(b"%PDF\xff")
    broken = lesson()
    broken.cells = [nbformat.v4.new_code_cell("1 / 0"), *broken.cells[:-1]]
    nbformat.write(broken, submissions / "gil_00_start.ipynb")
    grading.grade(submissions, progress=False)
    rows = table(submissions)
    lines = {row["student"]: row["message"] for row in rows if not row["item"]}
    assert lines.pop("ada") == "ada contains no notebook"
    assert lines.pop("ben").startswith("mine.ipynb is not a notebook")
    assert lines.pop("'=dan").startswith("'=dan_00_start.ipynb is not a notebook")  # no formula in a spreadsheet
    assert lines.pop("eve").startswith("eve.ipynb is not a lesson")
    assert lines.pop("fay").startswith("fay.pdf is not a notebook") and not lines
    gil = {row["item"]: row["message"] for row in rows if row["student"] == "gil"}
    error = "cell 1 raised ZeroDivisionError: division by zero"
    assert gil[KEYS[0]] == f"not attempted; {error}"
    assert gil[KEYS[-1]] == f"the notebook does not check this exercise; {error}"
    assert {row["marks"] for row in rows if row["student"] == "cem"} == {"0"}  # the others are graded


def test_answers_to_questions_are_read_from_the_record_in_the_folder_but_solved_exercises_are_not(
    submissions, in_process
):
    handed_in = {
        "questions": {"codec.bytes": {"first": True, "solved": True, "tries": 1}},
        "exercises": {key: {"state": "passed", "tries": 1} for key in KEYS},
    }
    (submissions / "cem" / "progress.json").write_text(json.dumps(handed_in))
    grading.grade(submissions, progress=False)
    marks = {row["item"]: row["marks"] for row in table(submissions) if row["student"] == "cem"}
    assert marks == {**dict.fromkeys(KEYS, "0"), "codec.bytes": "1"}


def test_a_folder_without_submissions_and_a_foreign_table_are_refused(submissions, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "missing"):
        with pytest.raises(ValueError, match="must be a folder with a folder or a notebook per student"):
            grading.grade(folder)
    (submissions / "grades.csv").write_text("name,grade\nada,A\n")
    with pytest.raises(ValueError, match="has other columns"):
        grading.grade(submissions)
    assert (submissions / "grades.csv").read_text() == "name,grade\nada,A\n"


def test_a_release_has_notebooks_for_students_and_pages_for_the_instructor(small_course, tmp_path):
    result = CliRunner().invoke(cli.main, ["lessons", "--release", str(tmp_path / "class")])
    assert result.exit_code == 0 and "this is practice, not an examination" in result.output
    names = sorted(str(file.relative_to(tmp_path / "class")) for file in (tmp_path / "class").rglob("*.*"))
    assert names == [
        "instructor/common_mistakes.md",
        "instructor/rubric.md",
        "instructor/solutions/00_start_here.ipynb",
        "instructor/syllabus.md",
        "students/00_start_here.ipynb",
        "students/notation_and_glossary.ipynb",
    ]
    handed_out = nbformat.read(tmp_path / "class" / names[4], 4)
    assert [cell.source for cell in handed_out.cells[2:-1]] == [cell.source for cell in lesson().cells[1:]]
    assert handed_out.cells[-1].source == teaching.HAND_IN
    pages = {name: (tmp_path / "class" / "instructor" / f"{name}.md").read_text() for name in ("rubric", "syllabus")}
    minutes = sum(task.minutes for task in exercises("codec").values())
    assert f"About 5 minutes, of which {minutes} minutes for {len(KEYS)} exercises" in pages["syllabus"]
    assert "| 1 | 00 Start here | 5 |\n\n" in pages["syllabus"]  # the first week is the last, without other lessons
    assert f"For discussion: {teaching.DISCUSSION['codec']}" in pages["syllabus"]
    assert all(f"| {key} | 1 |" in pages["rubric"] for key in [*KEYS, "codec.bytes"])
    mistakes = (tmp_path / "class" / names[0]).read_text()
    for task in exercises("codec").values():
        assert all(message in mistakes for message in task.misconceptions.values())
    assert "- 4: That is half a byte.\n- **8** Right, and a file has whole bytes.\n" in mistakes


def test_the_plan_contains_every_lesson_and_every_stage_once_and_every_lesson_has_a_question_for_discussion():
    lessons = [key for key in course.LESSONS if key != "capstone"]
    stages = [stage.number for stage in course.capstone.STAGES]
    assert [item for week in teaching.WEEKS for item in week] == [*lessons, *stages] and len(teaching.WEEKS) == 12
    assert teaching.DISCUSSION.keys() == course.LESSONS.keys()


def test_the_pages_contain_the_rubric_of_lesson_08_and_the_mistakes_of_the_capstone():
    page = "\n".join(teaching._rubric()).split("## The page of lesson 08")[1]
    assert sum(int(row.split("|")[1]) for row in page.splitlines() if row.startswith("| ") and row[2].isdigit()) == 10
    mistakes = "\n".join(teaching._mistakes())
    assert all(f"### Stage {stage.number}: {stage.title}\n\n- " in mistakes for stage in course.capstone.STAGES)
    assert "- gaussian_likelihood ignores mu.\n" in mistakes and "differs from SciPy's inverse" not in mistakes


def test_a_release_overwrites_no_file(small_course, tmp_path):
    (tmp_path / "class").mkdir()
    teaching.release(tmp_path / "class")  # an empty folder is accepted
    edited = tmp_path / "class" / "students" / "00_start_here.ipynb"
    edited.write_text("edited by the teacher")
    with pytest.raises(ValueError, match="class must be a new or empty folder"):
        teaching.release(tmp_path / "class")
    assert edited.read_text() == "edited by the teacher"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["class", "lessons"]


@pytest.mark.parametrize("lesson", course.LESSONS.values(), ids=str)
def test_every_stub_of_a_lesson_has_a_solution_and_every_question_a_right_option(lesson):
    if lesson.notebook is None:
        pytest.skip("the notebook is missing")
    given = nbformat.read(lesson.notebook, 4)
    sources = "\n".join(cell.source for cell in teaching.solved(given, lesson).cells if cell.cell_type == "code")
    for task in exercises(lesson.key).values():
        assert str(task.solution()).rstrip() in sources
    compile(sources, lesson.key, "exec")
    code = "\n".join(cell.source for cell in given.cells if cell.cell_type == "code")
    assert len(questions_in(lesson)) == code.count("course.question(")
