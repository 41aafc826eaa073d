"""The notebooks have the structure of lessons. nbval runs the checks in their cells."""

import ast
import re

import nbformat
import pytest

from labkit import course, paths
from labkit.course.exercises import exercises, visible_number
from labkit.course.export import CHECK, with_mathml
from tests.course.quotes import expectations, fault, times

LESSONS = [lesson for lesson in course.LESSONS.values() if lesson.key != "capstone"]  # test_capstone_lesson.py
SECOND_EDITION = ("codec", "bits", "scalar", "mismatch", "risk", "bound", "center", "method", "model", "annealing")
CHECK_CELL = {"tags": [CHECK], "jupyter": {"source_hidden": True}}  # metadata of a cell that only checks values
QUESTION_CELL = {"jupyter": {"source_hidden": True}}  # of a cell that only asks a question: its code has the answer
# Words in a lesson; in all other lessons: 1,500 to 2,500. Some lessons have a fourth exercise, or derive more. 00 also
# says what a learner needs, 01 has the models of z, 02 the limit of all codes, and 08 the definition of its intervals.
WORDS = {
    "codec": (1000, 2050), "bits": (1500, 2650), "scalar": (1500, 2990), "risk": (1500, 2820),
    "annealing": (1500, 2850), "method": (1500, 2700), "model": (1500, 2600),
}  # fmt: skip
MAX_LINES, MAX_WIDTH, MAX_FIGURES, MAX_PANELS = 12, 125, 6, 2
FIGURE = re.compile(r"\bpx\.(?!express)|course\.figures\.|\.plot\(|analysis\.plots\.|live\.FileView\(")
PANEL = re.compile(r"lk\.live\.\w+Panel\(")


@pytest.fixture(params=LESSONS, ids=str)
def lesson(request):
    """Return the key and the notebook of a lesson."""
    return request.param.key, nbformat.read(request.param.notebook, 4)


@pytest.fixture(params=SECOND_EDITION)
def second(request):
    """Return the key and the notebook of a lesson in the second edition."""
    return request.param, nbformat.read(course.LESSONS[request.param].notebook, 4)


def is_check(cell):
    return CHECK in cell.metadata.get("tags", ())


def is_question(cell):
    """Return whether a cell consists of nothing but a call of lk.course.question."""
    if cell.cell_type != "code" or len(statements := ast.parse(cell.source).body) != 1:
        return False
    (statement,) = statements
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func) == "lk.course.question"


def code(notebook):
    """Return the code that a learner sees."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "code" and not is_check(cell)]


def prose(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_every_lesson_has_a_notebook_and_every_notebook_a_lesson():
    notebooks = sorted(paths.lessons().glob("[0-9]*.ipynb"))
    assert [lesson.notebook for lesson in course.LESSONS.values()] == notebooks


def test_a_notebook_is_valid_and_has_no_outputs(lesson):
    key, notebook = lesson
    nbformat.validate(notebook)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}  # no widget state
    assert set(notebook.metadata.language_info) == {"name"}
    for cell in notebook.cells:
        question = key in SECOND_EDITION and is_question(cell)
        # nothing else collapsed, hidden or ignored
        assert cell.metadata == (CHECK_CELL if is_check(cell) else QUESTION_CELL if question else {}), cell.source
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def test_code_cells_are_short_and_contain_no_classes_or_magics(lesson):
    _, notebook = lesson
    for source in (cell.source for cell in notebook.cells if cell.cell_type == "code"):
        lines = source.splitlines()
        assert len(lines) <= MAX_LINES, source
        assert max(map(len, lines)) <= MAX_WIDTH, source
        assert not re.search(r"\bclass |nn\.Module|torch\.nn|%%|!pip", source), source


def test_the_prose_has_the_required_length(lesson):
    key, notebook = lesson
    text = re.split(r"\*\*(?:References?|Read next)", prose(notebook))[0]
    if key in SECOND_EDITION:  # captions do not count
        text = re.sub(r"^\*\*(Figure|Table) \d.*$", "", text, flags=re.M)
    words = len(re.sub(r"\$\$.*?\$\$", "", text, flags=re.S).split())
    low, high = WORDS.get(key, (1500, 2500))
    assert low <= words <= high, words


FREE_NUMBERS = {  # numbers that need no cell: arithmetic within a sentence, definitions, and 95% in all lessons
    "scalar": {"0.385", "6.02"},  # ½ / 1.3, and 10 log₁₀ 4
    "mismatch": {"0.083"},  # 1/12
    "annealing": {"0.0067"},  # λ of the codec panel
    "center": {"1.5"},  # the source of the panel: x = 2 sin(1.5 c₀) + …
}


def numbers(source):
    """Yield every number in the code of a cell, including those in its strings."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
            yield from map(float, re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", str(node.value).replace("_", "")))


def test_every_number_in_the_prose_is_also_in_a_cell(lesson):
    """A cell must contain every decimal number and every percentage, to the digits that the sentence gives."""
    key, notebook = lesson
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    in_cells = {scale * value for source in sources for value in numbers(source) for scale in (0.01, 1, 100)}
    text = re.split(r"\*\*References?", prose(notebook))[0]
    text = re.sub(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", "", text, flags=re.S)
    matches = re.findall(r"(?<![\w.])(?!0\d)(\d+\.\d+)(?![\d·])|(?<![\w.])(\d+)%", text)
    missing = []
    for value in {decimal or percentage for decimal, percentage in matches} - FREE_NUMBERS.get(key, set()) - {"95"}:
        unit = 10.0 ** -len(value.partition(".")[2])
        if not any(abs(float(value) - number) < 0.51 * unit for number in in_cells):
            missing.append(value)
    assert not missing, f"in no cell of this lesson: {', '.join(missing)}"


def test_the_parts_of_a_lesson_are_in_order(lesson):
    key, notebook = lesson
    text = prose(notebook)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    order = [
        next(i for i, heading in enumerate(headings) if heading.startswith(part))
        for part in ("What you will be able", "Predict", "What you should have seen", "Exercises", "Summary")
        if (key, part) != ("model", "What you should have seen")  # which has no panel
    ]
    assert order == sorted(order)
    opening = notebook.cells[0].source
    assert opening.startswith("# ") and "misconception" in opening and re.search(r"About \d+ minutes", opening)
    goals = re.search(r"## What you will be able to do\n\n((?:\d\. .*\n?)+)", text)
    assert goals and 3 <= len(goals[1].strip().splitlines()) <= 4
    assert "**Limits of what was shown.**" in text
    assert re.search(r"arXiv:\d{4}\.\d{5}|doi:10\.", text)
    assert "retrain" in text.lower()


def test_a_lesson_begins_with_its_setup_cell_and_ends_with_the_progress(lesson):
    key, notebook = lesson
    starts = [source for source in code(notebook) if "course.start(" in source]
    assert starts == [code(notebook)[0]] and f'lk.course.start("{key}")' in starts[0]
    assert code(notebook)[-1] == "lk.course.progress()"


def test_all_predictions_come_before_all_answers(lesson):
    key, notebook = lesson
    sources = "\n".join(code(notebook))
    asked = re.findall(r"course\.predict\(\s*\"([\w.]+)\"", sources)
    answered = re.findall(r"course\.reveal\(\s*\"([\w.]+)\"", sources)
    assert asked and sorted(asked) == sorted(answered)
    assert all(name.startswith(f"{key}.") for name in asked)
    assert sources.rindex("course.predict(") < sources.index("course.reveal(")


def test_every_figure_has_a_description(lesson):
    _, notebook = lesson
    figures = 0
    for position, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and FIGURE.search(cell.source):
            figures += 1
            description = next(after.source for after in notebook.cells[position:] if after.cell_type == "markdown")
            assert description.startswith(f"**Figure {figures}.** "), cell.source
            assert len(description.split("\n\n")[0].split()) > 15
    assert 1 <= figures <= MAX_FIGURES


def following_check(notebook, source):
    """Return the code of the check cell directly after a cell, or an empty string."""
    sources = [cell.source for cell in notebook.cells]
    after = notebook.cells[sources.index(source) + 1]
    return after.source if is_check(after) else ""


def test_the_cell_after_each_panel_waits_for_it_and_its_result_is_checked(lesson):
    key, notebook = lesson
    sources = code(notebook)
    assert (key != "model") <= sum(bool(PANEL.search(source)) for source in sources) <= MAX_PANELS

    def checked(source):
        return "course.expect(" in following_check(notebook, source) if key in SECOND_EDITION else "assert" in source

    for position, source in enumerate(sources):
        if PANEL.search(source):
            assert ".wait(" in sources[position + 1] and checked(sources[position + 1])
        if re.search(r"(?<!sweeps)\.run\(", source):
            assert re.search(r"\.run\(\d+", source) and checked(source)  # with a timeout


def test_every_exercise_has_a_title_a_card_and_a_stub(lesson):
    key, notebook = lesson
    sources = code(notebook)
    most = 5 if key in SECOND_EDITION else 4 if key == "model" else 3
    assert 2 <= len(exercises(key)) <= most
    for name, exercise in exercises(key).items():
        card, check = f'lk.course.exercise("{name}")', f'lk.course.exercise("{name}").check('
        checks = [position for position, source in enumerate(sources) if check in source]
        stub = checks[0] - (key in SECOND_EDITION)  # the second edition has the check in a cell of its own
        assert sources.index(card) == stub - 1
        assert "..." in sources[stub] or "= None" in sources[stub]
        if key in SECOND_EDITION:
            assert re.fullmatch(re.escape(check) + r"\w+\)", sources[checks[0]])
        title = f"### Exercise {visible_number(exercise)} · {exercise.title}\n"
        assert title in prose(notebook)


# The second edition


def test_check_cells_directly_follow_a_visible_code_cell_and_quote_the_text(second):
    _, notebook = second
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if is_check(cell):
            assert before.cell_type == "code" and not is_check(before), cell.source
            assert expectations(cell.source), cell.source


def names(source, context):
    """Return the names that a cell reads (ast.Load) or sets (ast.Store); it sets those of its imports, too."""
    nodes = list(ast.walk(ast.parse(source)))
    found = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, context)}
    if context is ast.Store:
        found |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        found |= {(node.asname or node.name).split(".")[0] for node in nodes if isinstance(node, ast.alias)}
    return found


def test_a_cell_needs_no_name_of_a_check_cell(second):
    """The export leaves check cells out, and the test of the whole course runs those that check a retraining."""
    visible, hidden, before = set(), set(), ""
    for cell in second[1].cells:
        if cell.cell_type == "code":
            own = names(cell.source, ast.Store)
            if not is_check(cell) or "retrain = False" in before:
                assert not (names(cell.source, ast.Load) - own) & hidden - visible, cell.source
            (hidden if is_check(cell) else visible).update(own)
            before = cell.source


def test_no_cell_asserts(second):
    _, notebook = second
    for cell in notebook.cells:
        if cell.cell_type == "code":
            nodes = ast.walk(ast.parse(cell.source))
            assert not any(isinstance(node, ast.Assert) for node in nodes), f"use lk.course.expect in: {cell.source}"
            assert is_check(cell) or not expectations(cell.source), f"move to a check cell: {cell.source}"


def all_expectations(notebook):
    return [each for cell in notebook.cells if is_check(cell) for each in expectations(cell.source)]


def test_the_words_of_every_check_occur_exactly_once_in_the_text(second):
    _, notebook = second
    text = prose(notebook)
    counts = {each.words: times(each.words, text) for each in all_expectations(notebook)}
    assert counts and not {words: count for words, count in counts.items() if count != 1}


def test_every_check_fails_if_its_value_changes_by_twice_the_last_printed_digit(second):
    _, notebook = second
    faults = {each.words: fault(each) for each in all_expectations(notebook)}
    assert not {words: problem for words, problem in faults.items() if problem}


def test_a_lesson_has_about_four_questions_and_a_displayed_equation(second):
    key, notebook = second
    questions = re.findall(r"course\.question\(\s*\"([\w.]+)\"", "\n".join(code(notebook)))
    assert 3 <= len(questions) <= 5 and len(set(questions)) == len(questions)
    assert sum(map(is_question, notebook.cells)) == len(questions)  # each in a cell of its own, which is hidden
    assert all(name.startswith(f"{key}.") for name in questions)
    assert "$$" in prose(notebook) and "Read next" in prose(notebook)


def test_the_export_can_convert_every_equation(second):
    _, notebook = second
    equations = re.findall(r"\$\$.+?\$\$", prose(notebook), flags=re.S)
    assert not any("\\" in with_mathml(equation) for equation in equations)


def test_cells_do_not_print_whole_tables(second):
    _, notebook = second
    assert not re.search(r"\.to_string\(", "\n".join(code(notebook)))
