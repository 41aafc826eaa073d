"""The notebooks: their shape, and that they run without a network. What their cells claim is run by nbval."""

import ast
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from labkit import course, paths
from labkit.course import first_edition
from labkit.course.exercises import exercises, visible_number

LESSONS = list(course.LESSONS.values())
WORDS = {"codec": (1000, 1500)}  # others: 1,500 to 2,500
MAX_LINES, MAX_WIDTH, MAX_FIGURES, MAX_PANELS, MAX_SECONDS, MAX_MIB = 12, 125, 6, 2, 60, 2048
PEAK = "import resource\n\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"  # MiB, on Linux
FIGURE = re.compile(r"\bpx\.(?!express)|course\.figures\.|\.plot\(|analysis\.plots\.")


@pytest.fixture(params=LESSONS, ids=str)
def lesson(request):
    """The key of a lesson and its notebook."""
    return request.param.key, nbformat.read(request.param.notebook, 4)


def code(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_every_lesson_has_a_notebook_and_every_notebook_a_lesson():
    notebooks = sorted(paths.lessons().glob("[0-9]*.ipynb"))
    assert [lesson.notebook for lesson in LESSONS] == notebooks


def test_valid_and_stripped(lesson):
    _, notebook = lesson
    nbformat.validate(notebook)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}  # no widget state
    assert set(notebook.metadata.language_info) == {"name"}
    for cell in notebook.cells:
        assert cell.metadata == {}  # nothing collapsed, hidden or ignored
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def test_cells_are_short_and_hide_nothing(lesson):
    _, notebook = lesson
    for source in code(notebook):
        lines = source.splitlines()
        assert len(lines) <= MAX_LINES, source
        assert max(map(len, lines)) <= MAX_WIDTH, source
        assert not re.search(r"\bclass |nn\.Module|torch\.nn|%%|!pip", source), source


def test_prose_is_as_long_as_it_should_be(lesson):
    key, notebook = lesson
    text = re.split(r"\*\*References?", prose(notebook))[0]
    words = len(re.sub(r"\$\$.*?\$\$", "", text, flags=re.S).split())
    low, high = WORDS.get(key, (1500, 2500))
    assert low <= words <= high, words


FREE_NUMBERS = {  # that no cell has: arithmetic within the sentence, and definitions; 95% intervals everywhere
    "codec": {"0.0035"},  # λ of the shipped weights
    "scalar": {"0.385"},  # ½ / 1.3
    "mismatch": {"0.083"},  # 1/12
    "annealing": {"0.0067"},  # λ of the codec panel
    "center": {"1.5"},  # the panel's source: x = 2 sin(1.5 c₀) + …
}


def numbers(source):
    """Every number in the code of a cell, those in its texts included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
            yield from map(float, re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", str(node.value).replace("_", "")))


def test_numbers_in_prose_stand_in_a_cell_too(lesson):
    """Numbers with a decimal point, and percentages: a cell has each, to the digits that the sentence gives."""
    key, notebook = lesson
    known = {scale * value for source in code(notebook) for value in numbers(source) for scale in (0.01, 1, 100)}
    text = re.split(r"\*\*References?", prose(notebook))[0]
    text = re.sub(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", "", text, flags=re.S)
    said = re.findall(r"(?<![\w.])(?!0\d)(\d+\.\d+)(?![\d·])|(?<![\w.])(\d+)%", text)
    missing = []
    for value in {decimal or percentage for decimal, percentage in said} - FREE_NUMBERS.get(key, set()) - {"95"}:
        unit = 10.0 ** -len(value.partition(".")[2])
        if not any(abs(float(value) - each) < 0.51 * unit for each in known):
            missing.append(value)
    assert not missing, f"in no cell of this lesson: {', '.join(missing)}"


def test_parts_come_in_their_order(lesson):
    _, notebook = lesson
    text = prose(notebook)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    order = [
        next(i for i, heading in enumerate(headings) if heading.startswith(part))
        for part in ("What you will be able", "Predict", "What you should have seen", "Exercises", "Summary")
    ]
    assert order == sorted(order)
    opening = notebook.cells[0].source
    assert opening.startswith("# ") and "misconception" in opening and re.search(r"About \d+ minutes", opening)
    goals = re.search(r"## What you will be able to do\n\n((?:\d\. .*\n?)+)", text)
    assert goals and 3 <= len(goals[1].strip().splitlines()) <= 4
    assert "**Limits of what was shown.**" in text
    assert re.search(r"arXiv:\d{4}\.\d{5}|doi:10\.", text)
    assert "retrain" in text.lower()


def test_one_set_up_cell(lesson):
    key, notebook = lesson
    starts = [source for source in code(notebook) if "course.start(" in source]
    assert starts == [code(notebook)[0]] and f'lk.course.start("{key}")' in starts[0]
    assert code(notebook)[-1] == "lk.course.progress()"


def test_predictions_are_made_before_and_answered_after(lesson):
    key, notebook = lesson
    sources = "\n".join(code(notebook))
    asked = re.findall(r"course\.predict\(\s*\"([\w.]+)\"", sources)
    answered = re.findall(r"course\.reveal\(\s*\"([\w.]+)\"", sources)
    assert asked and sorted(asked) == sorted(answered)
    assert all(name.startswith(f"{key}.") for name in asked)
    assert set(asked) <= set(first_edition.KEYS["guesses"].values())
    assert sources.rindex("course.predict(") < sources.index("course.reveal(")


def test_every_figure_is_described(lesson):
    _, notebook = lesson
    described = 0
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and FIGURE.search(cell.source):
            described += 1
            words = next(after.source for after in notebook.cells[place:] if after.cell_type == "markdown")
            assert words.startswith(f"**Figure {described}.** "), cell.source
            assert len(words.split("\n\n")[0].split()) > 15
    assert 1 <= described <= MAX_FIGURES


def test_every_live_cell_is_waited_for_and_asserted(lesson):
    _, notebook = lesson
    sources = code(notebook)
    assert 1 <= sum("lk.live." in source for source in sources) <= MAX_PANELS
    for place, source in enumerate(sources):
        if "lk.live." in source:
            assert ".wait(" in sources[place + 1] and "assert" in sources[place + 1]
        if re.search(r"(?<!sweeps)\.run\(", source):
            assert re.search(r"\.run\(\d+", source) and "assert" in source  # with a timeout


def test_every_exercise_has_its_cells(lesson):
    key, notebook = lesson
    sources = code(notebook)
    assert 2 <= len(exercises(key)) <= 3
    for name, exercise in exercises(key).items():
        card, check = f'lk.course.exercise("{name}")', f'lk.course.exercise("{name}").check('
        stub = next(source for source in sources if check in source)
        assert sources.index(card) == sources.index(stub) - 1
        assert "..." in stub
        title = f"### Exercise {visible_number(exercise)} · {exercise.title}\n"
        assert title in prose(notebook)


# Without a network

GUARD = '''
"""Refuse and write down every connection beyond this machine. Loaded by Python at its start, as sitecustomize."""
import os, socket

def _here(address):
    host = address[0] if isinstance(address, tuple) else None
    return host in (None, "", "localhost", "::1", "0.0.0.0") or str(host).startswith("127.")

def _guard(owner, name, where):
    allowed = getattr(owner, name)
    def guarded(*args, **kwargs):
        address = where(args)
        if not _here(address):
            with open(os.environ["LABKIT_GUARD"], "a") as log:
                log.write(f"{name} {address}\\n")
            raise OSError(f"no network in this test: {name} {address}")
        return allowed(*args, **kwargs)
    setattr(owner, name, guarded)

_guard(socket.socket, "connect", lambda args: args[1])
_guard(socket.socket, "connect_ex", lambda args: args[1])
_guard(socket.socket, "sendto", lambda args: args[-1])
_guard(socket, "getaddrinfo", lambda args: (args[0],))
open(os.environ["LABKIT_GUARD"], "a").close()
'''


@pytest.fixture
def guarded(tmp_path):
    """Environment in which Python refuses the network, and the file that tells of attempts."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    log = tmp_path / "attempts"
    inherited = [str(tmp_path / "guard"), str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, inherited)),
        "LABKIT_GUARD": str(log),
        "LABKIT_HOME": str(tmp_path / "home"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    return environment, log


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)",
        "import socket; socket.socket().connect_ex(('192.0.2.1', 80))",
        "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
        "import urllib.request; urllib.request.urlopen('http://example.org', timeout=1)",
    ],
)
def test_the_guard_refuses_and_records(guarded, attempt):
    environment, log = guarded
    done = subprocess.run([sys.executable, "-c", attempt], env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "no network in this test" in done.stderr
    assert re.search(r"192\.0\.2\.1|example\.org", log.read_text())


def test_the_guard_lets_this_machine_through(guarded):
    environment, log = guarded
    attempt = (
        "import socket; server = socket.create_server(('127.0.0.1', 0)); "
        "socket.create_connection(('localhost', server.getsockname()[1])).close()"
    )
    subprocess.run([sys.executable, "-c", attempt], env=environment, check=True)
    assert log.read_text() == ""


def execute(notebook, environment, folder) -> float:
    """Run a notebook in a fresh kernel; the seconds that it took, start of the kernel included."""
    from nbclient import NotebookClient

    began = time.perf_counter()
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute(
        env=environment
    )
    return time.perf_counter() - began


@pytest.mark.slow
@pytest.mark.alone
def test_runs_without_network_in_time_and_in_memory(lesson, guarded, tmp_path, capsys):
    key, notebook = lesson
    environment, log = guarded
    notebook.cells.append(nbformat.v4.new_code_cell(PEAK))
    seconds = execute(notebook, environment, tmp_path)
    mebibytes = int(notebook.cells[-1].outputs[0].text)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    with capsys.disabled():
        print(f"\nlesson {key} ran in {seconds:.0f} s and {mebibytes} MiB on {os.cpu_count()} cores{load}")
    assert log.exists() and log.read_text() == ""  # the guard was there, and nothing tried
    record = json.loads((tmp_path / "home" / "progress.json").read_text())
    assert list(record["lessons"]) == [key] and record["exercises"] == {}  # stubs are not attempts
    if seconds >= MAX_SECONDS:  # the machine may have been busy
        seconds = execute(notebook, environment, tmp_path)
    assert seconds < MAX_SECONDS and mebibytes < MAX_MIB


@pytest.mark.slow
def test_retraining_on_request(lesson, guarded, tmp_path):
    _, notebook = lesson
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and "retrain = False" in cell.source]
    if not cells:
        pytest.skip("its panel retrains")
    for cell in cells:
        cell.source = cell.source.replace("retrain = False", "retrain = True")
    execute(notebook, guarded[0], tmp_path)
