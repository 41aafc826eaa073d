"""Checks of lessons compare values with quoted words, and no check is too tolerant for the digits that they print."""

import random
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from labkit import course
from labkit.course import exercise
from tests.course.quotes import elements, expectations, fault, plain, printed, times
from tests.course.test_lessons import SECOND_EDITION, all_expectations, prose


def test_an_agreeing_value_says_nothing(capsys):
    course.expect("0.249 too low", 0.2494, 0.249, within=0.0005)
    course.expect("costs 0.55 bits, 2.67 and 9.53", torch.tensor([0.549, 2.67, 9.53]), [0.55, 2.67, 9.53], within=0.005)
    course.expect("all above", (np.arange(3) >= 0).all())
    course.expect("seven codewords", 7, 7)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("0.249 too low", 0.3, 0.249, 0.0005),
        ("0.249 too low", float("nan"), 0.249, 0.0005),
        ("0.55 and 2.67 bits", [0.55, 2.7], [0.55, 2.67], 0.005),
        ("always", False),
        ("always", 0.3),  # a number without the number that it should be
    ],
)
def test_a_difference_is_an_error_under_pytest_and_one_line_for_a_learner(arguments, monkeypatch, capsys):
    with pytest.raises(AssertionError, match=f"^“{arguments[0]}”: ") as error:
        course.expect(*arguments)
    assert "\n" not in str(error.value) and capsys.readouterr().out == ""
    monkeypatch.delenv("PYTEST_VERSION")
    course.expect(*arguments)
    printed_text = capsys.readouterr().out
    assert printed_text.startswith(f"This differs from the text: “{arguments[0]}”") and printed_text.count("\n") == 1


# The rules for the calls in lessons, on planted calls


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("0.249 too low", [(0.249, 0.001)]),
        ("about 150 codewords", [(150, 10)]),
        ("150 codewords", [(150, 1)]),
        ("about 11% more", [(11, 1), (0.11, 0.01)]),
        ("64 thousandths", [(64, 1), (0.064, 0.001)]),
        ("1,000,000 samples and 2·10⁻⁴", [(1e6, 1), (2e-4, 1e-4)]),
        ("six boundaries, none", [(6, 1)]),
        ("fp16 at 1.9 bits", [(1.9, 0.1)]),
    ],
)
def test_printed_numbers_have_the_unit_of_their_last_digit(words, numbers):
    assert np.array(printed(words)) == pytest.approx(np.array(numbers))


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ('"0.249 too low", x, 0.249, within=0.0005', ""),
        ('"0.249 too low", -x, -0.249, 0.0015', ""),
        ('"0.249 too low", x, 0.249, within=0.002', "must be less than twice"),
        ('"0.249 too low", x, 0.2494, within=0.0017', "must be less than twice"),
        ('"0.249 too low", x, 0.259, within=0.0005', "do not print"),
        ('"0.249 too low", x, y, within=1e-6', ""),
        ('"0.249 too low", x, 0.249, within=1 * slack', "must be a number"),
        ('"0.55 and 2.67", x, (0.55, 2.67), within=[0.01, 0.03]', "must be less than twice"),
        ('"0.55 and 2.67", x, (0.55, 2.67), within=0.01', ""),
        ('"about 11%", x, 0.11, within=0.015', ""),
        ('"about 11%", x, 0.11, within=0.03', "must be less than twice"),
        ('"1/12 of it", x, 1/12, within=0', "do not print"),
        ('"below one", x < 1', ""),
        ('"less than one", abs(x - y).max() < 1', ""),
        ('"close to one", abs(x - 1) < 0.1', "use wanted and within"),
        ('"close to one", np.allclose(x, 1)', "use wanted and within"),
    ],
)
def test_a_call_that_is_too_tolerant_is_found(call, problem):
    (expectation,) = expectations(f"for x in y:\n    lk.course.expect({call})")
    assert problem in fault(expectation) if problem else fault(expectation) == ""


def test_words_are_counted_without_marks_and_only_as_whole_numbers():
    text = "It is **0.249** [too low](x.ipynb), and\n0.2491 `y` is not; 10.249 too low."
    assert times("0.249 too low", text) == 1 and times("0.249", text) == 1 and times("0.24", text) == 0
    assert plain(text).startswith("It is 0.249 too low, and 0.2491 y")
    with pytest.raises(AssertionError, match="write the quoted words as a string"):
        expectations("lk.course.expect(words, x)")


def perturbed(expectation, place):
    """Return the wanted numbers, one of them changed by twice the last digit that the words print of it."""
    changed = np.array(expectation.wanted, float)
    wanted, _, (value, unit) = list(elements(expectation))[place]
    changed.flat[place] = np.copysign(value + 2 * unit, wanted)
    return changed


def test_drawn_values_changed_by_twice_their_last_digit_fail_and_quote_their_sentence():
    planted = expectations('lk.course.expect("0.55 and 2.67", x, (0.55, 2.67), within=0.01)')
    lessons = [nbformat.read(course.LESSONS[key].notebook, 4) for key in SECOND_EDITION]
    calls = [(each, prose(lesson)) for lesson in lessons for each in all_expectations(lesson)]
    calls += [(each, "0.55 and 2.67") for each in planted]
    values = [(each, text, place) for each, text in calls for place in range(len(list(elements(each))))]
    for expectation, text, place in random.Random(0).sample(values, min(40, len(values))):
        course.expect(expectation.words, expectation.wanted, expectation.wanted, expectation.within)
        with pytest.raises(AssertionError, match="expected") as error:
            course.expect(expectation.words, perturbed(expectation, place), expectation.wanted, expectation.within)
        assert times(str(error.value).split("”")[0].removeprefix("“"), text) == 1


# Tables


def cells_of(frame):
    """The texts of all cells of a table, without those of its head."""
    body = course.table(frame, "Rate in bits").to_html().partition("<tbody>")[2]
    return re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", body)


def test_a_table_has_a_caption_and_escapes_text():
    frame = pd.DataFrame({"name": ["a<b", "b"], "rate": [0.123456, float("nan")]})
    html = course.table(frame, "Rate (bits) & <gap>").to_html()
    assert "<caption>Rate (bits) &amp; &lt;gap&gt;</caption>" in html
    assert ">1<" not in html and "nan" not in html
    assert cells_of(frame) == ["a&lt;b", "0.123", "b", "–"]


def test_measured_numbers_have_three_digits_and_three_decimals_from_one_to_ten():
    rates = [0.123456, 0.0449321, -2.10469, 9.9996, 477.6498, 1234.56]
    assert cells_of(pd.DataFrame({"rate": rates})) == ["0.123", "0.0449", "−2.105", "10.0", "477.6", "1,235"]
    assert cells_of(pd.DataFrame({"count": [12345, -7]})) == ["12,345", "−7"]
    assert cells_of(pd.DataFrame({"gap": [-0.0, 41.992]})) == ["0", "42.0"]
    assert cells_of(pd.DataFrame({"rate": [0.9996, 0.12345]})) == ["1.000", "0.123"]


def test_settings_have_no_more_digits_than_they_need():
    assert cells_of(pd.DataFrame({"τ": [1.0, 0.5, 0.04]})) == ["1", "0.5", "0.04"]
    assert cells_of(pd.DataFrame({"λ": [0.0018, 0.0067]})) == ["0.0018", "0.0067"]
    assert cells_of(pd.DataFrame({"lr": [1e-5, 3e-4]})) == ["0.00001", "0.0003"]
    assert cells_of(pd.DataFrame({"rate": [0.5, 0.1234]})) == ["0.500", "0.123"]  # a measured value beside it


def test_rounding_errors_are_zeros():
    frame = pd.DataFrame({"bias": [2.9512e-11, -6.3714e-7, 1.9812e-5], "std": [1.781, 2.2204, 8.3699]})
    assert cells_of(frame)[::2] == ["0", "0", "0"]
    tiny = pd.DataFrame({"gap": [1.234e-6, -3.1415e-7]})  # nothing larger to compare with
    assert cells_of(tiny) == ["1.23 · 10⁻⁶", "−3.14 · 10⁻⁷"]


def test_a_row_index_with_names_is_shown():
    frame = pd.DataFrame({"rate": [0.50001]}, index=pd.Index(["aun"], name="surrogate"))
    html = course.table(frame, "Rate in bits").to_html()
    assert "aun" in html and "surrogate" in html and "0.500" in html


def test_labels_have_no_more_digits_than_they_need():
    frame = pd.DataFrame({0.0018: [0.51, 2.0], "a<b": [1, 2], 0.123456: [1, 2]}, index=[0.001, 12.0])
    html = course.table(frame, "Rate in bits").to_html()
    for label in (">0.0018<", ">a&lt;b<", ">0.001<", ">12<", ">0.123<"):
        assert label in html, label


# Hints in three steps, and exercises with a submitted value


def three_steps(**settings):
    task = exercise("scalar.gain")
    return type(task)(**({**vars(task), "key": "scalar.three", "hints": ("first", "second", "third")} | settings))


def test_hints_are_shown_one_after_the_other():
    task = three_steps()
    assert [str(task.hint()) for _ in range(4)] == [
        "Hint 1 of 3. first",
        "Hint 2 of 3. second",
        "Hint 3 of 3. third",
        "Hint 3 of 3. third",
    ]
    html = task._repr_html_()
    assert [html.count(f">{title}</summary>") for title in ("Hint 1", "Hint 2", "Hint 3", "Solution")] == [1] * 4


def test_a_submitted_value_is_compared_with_the_computed_one_which_stays_secret():
    defaults = type(exercise("scalar.gain")).__dataclass_fields__
    task = three_steps(
        cases=defaults["cases"].default,
        answer=lambda: 0.46,
        oracle=lambda: 0.4612,
        misconceptions={lambda: 1 / 0.4612: "This is the step."},
        tolerance=0.01,
    )
    assert task.check(0.46) and task.check(None).state == "not attempted"
    assert task.check(2.168).message == "This is the step."
    wrong = task.check(0.7)
    assert wrong.state == "failed" and "0.7" in wrong.message and "0.46" not in wrong.message
