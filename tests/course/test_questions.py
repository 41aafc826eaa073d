"""Questions: their feedback, their entry in the learner's record, and wrong calls."""

import json

import pytest

from labkit import course
from labkit.course import record

OPTIONS = {"one": "You forgot the other one.", "two": None, "<three>": "You counted <one> twice."}


def ask(options=OPTIONS):
    return course.question("scalar.sum", "What is 1 + 1?", options)


def entry():
    return record.read()["questions"].get("scalar.sum")


def test_a_choice_gives_its_feedback_at_once_and_another_may_follow():
    question = ask()
    assert question.control.value is None and question._feedback.value == "" and entry() is None
    assert "No answer yet." in question._status.value
    question.control.value = "<three>"
    assert "You counted &lt;one&gt; twice." in question._feedback.value and 'role="status"' in question._feedback.value
    assert "Not answered right yet" in question._status.value
    question.control.value = "two"
    assert "Right." in question._feedback.value and "after more than one try" in question._status.value


def test_the_record_keeps_whether_the_first_answer_was_right(home):
    question = ask()
    assert "You forgot the other one." in str(question.answer("one"))
    assert entry() == {"first": False, "solved": False, "tries": 1}
    assert str(question.answer("two")) == "Right."
    assert entry() == {"first": False, "solved": True, "tries": 2}
    ask().answer("one")  # in a later session: a question that was solved stays solved
    assert entry() == {"first": False, "solved": True, "tries": 3}
    assert json.loads((home / "progress.json").read_text())["questions"]["scalar.sum"]["tries"] == 3


def test_a_right_first_answer_stays_on_record_and_is_shown_again():
    ask().answer("two")
    ask().answer("one")
    assert entry() == {"first": True, "solved": True, "tries": 2}
    again = ask()
    assert again.control.value is None and "right on the first try" in again._status.value


def test_the_same_answer_counts_each_time():
    question = ask()
    question.answer("one")
    question.answer("one")
    assert entry()["tries"] == 2


def test_a_line_may_confirm_the_right_option():
    question = ask({"one": "No.", "two": "Right: one more."})
    assert str(question.answer("two")) == "Right. One more."


def test_a_question_has_a_widget_and_a_text_form():
    bundle = ask()._repr_mimebundle_()
    assert bundle["text/plain"] == "What is 1 + 1? (one / two / <three>)"
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_wrong_calls_are_errors_in_one_line():
    with pytest.raises(ValueError, match=r"^unknown option of question scalar\.sum 'four'; expected one of .*$"):
        ask().answer("four")
    assert entry() is None
    for options in ({"a": "No.", "b": "No."}, {"a": None, "b": None}, {"a": None}, {}):
        with pytest.raises(ValueError, match=r"^question scalar\.sum must have wrong options .*$"):
            ask(options)
    with pytest.raises(ValueError, match=r"^unknown lesson 'nothing'; .*$"):
        course.question("nothing.sum", "?", OPTIONS)


def test_progress_counts_the_questions_of_each_lesson():
    ask().answer("one")
    text = str(course.progress())
    assert text.count("· 1 question answered") == 1 and "· 0 questions answered" in text
