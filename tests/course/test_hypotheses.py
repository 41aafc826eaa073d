"""Registered hypotheses: recorded with the date, shown beside the study's verdicts, and then closed."""

import json

import nbformat
import pytest

import labkit
from labkit import course
from labkit.course import hypotheses, record, results
from labkit.research import study
from labkit.research.study import ClaimReport
from labkit.research.study.declarations import declaration

STATEMENT = "The tradeoff varies across network structures."


@pytest.fixture(autouse=True)
def verdicts(monkeypatch):
    """Replace the slow analysis of the study's tables."""
    monkeypatch.setattr(results, "report", lambda name: ClaimReport(name, f"Text of {name}.", (), "inconclusive"))
    monkeypatch.setattr(hypotheses.time, "strftime", lambda _: "2026-11-29")


def test_a_hypothesis_is_recorded_with_its_date_and_can_be_changed(home):
    hypothesis = course.hypothesis("structure", STATEMENT)
    assert hypothesis.guess is None and "Not registered yet" in hypothesis._status.value
    hypothesis.control.value = "supported"
    hypothesis.control.value = "not supported"
    assert "Registered on 2026-11-29: not supported." in hypothesis._status.value
    entry = json.loads((home / "progress.json").read_text())["hypotheses"]["structure"]
    assert entry == {"statement": STATEMENT, "choice": "not supported", "date": "2026-11-29"}
    again = course.hypothesis("structure", STATEMENT)
    assert again.control.value == "not supported" and not again.control.disabled
    assert repr(again) == f"{STATEMENT} (supported / not supported / inconclusive)"


def test_opened_hypotheses_stand_beside_the_verdicts_and_can_no_longer_be_changed():
    hypothesis = course.hypothesis("method", "It is <better>.", ["yes", "no"])
    hypothesis.control.value = "yes"
    card = course.open_hypotheses()
    assert "You registered 1 of 7 hypotheses." in str(card)
    assert "It is <better>. Your hypothesis: yes (2026-11-29). The study: early training: inconclusive" in str(card)
    assert "It is &lt;better&gt;." in card._repr_html_() and card._repr_html_().count("<tr>") == 1 + 7
    hypothesis.control.value = "no"  # in a notebook that was open before
    assert record.read()["hypotheses"]["method"]["choice"] == "yes"
    again = course.hypothesis("method", "It is <better>.", ["yes", "no"])
    assert again.control.disabled and "Opened on 2026-11-29." in again._status.value


def test_a_learner_without_hypotheses_sees_a_kind_line_and_all_verdicts():
    text = str(course.open_hypotheses())
    assert text.startswith("You registered no hypothesis, so this table has the verdicts alone.")
    assert text.count("The study: early training: inconclusive") == 7 and record.read()["hypotheses"] == {}


def test_the_evidence_on_trained_codecs_is_added_once_labkit_has_its_table(tmp_path, monkeypatch):
    (tmp_path / "there").touch()
    monkeypatch.setattr(study, "table_path", lambda name: tmp_path / ("there" if name != "tricks" else "missing"))
    lines = str(course.open_hypotheses()).splitlines()[1:]
    both = ["trained patch codecs: inconclusive" in line for line in lines]
    assert both == [True, True, False, True, False, False, True]


def test_every_claim_is_one_of_the_study():
    assert {name for tests in hypotheses.CLAIMS.values() for name in tests} <= set(study.CLAIMS)
    with pytest.raises(ValueError, match=r"unknown claim 'zerocenter'.*zero_center"):
        course.hypothesis("zerocenter", "…")


def test_lesson_00_registers_the_claims_in_the_words_that_lesson_08_opens():
    notebook = nbformat.read(course.LESSONS["codec"].notebook, 4)
    (source,) = [cell.source for cell in notebook.cells if "course.hypothesis(" in cell.source]
    shown = []
    exec(source, {"lk": labkit, "display": shown.append})
    declared = {key: declaration(tests[0])["claim"] for key, tests in hypotheses.CLAIMS.items()}
    assert {each.key: each.question for each in shown} == declared
    for each in shown:
        each.control.value = "inconclusive"
    opened = str(course.open_hypotheses())
    assert all(f"{text} Your hypothesis: inconclusive" in opened for text in declared.values())
