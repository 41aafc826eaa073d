"""The learner's record: progress, damaged files, and records and notebooks of the first edition."""

import json
import threading
from pathlib import Path

import pytest

from labkit import course
from labkit.course import first_edition, lessons, opening, record
from labkit.course.exercises import exercises

FIRST_EDITION = Path(__file__).parents[1] / "first_edition" / "progress.json"
EMPTY = {section: {} for section in record.SECTIONS}


@pytest.fixture
def old_record(home):
    """Write a record of the first edition, in which lesson 02 was about mismatch, and return its file."""
    home.mkdir()
    (home / "progress.json").write_bytes(FIRST_EDITION.read_bytes())
    return home / "progress.json"


def test_progress_counts_solved_exercises(home):
    exercise = course.exercise("scalar.gain")
    exercise.check(lambda lmbda: 1.0)
    exercise.check(exercise.answer)
    exercise.check(lambda lmbda: 1.0)  # a solved exercise stays solved
    assert record.read()["exercises"]["scalar.gain"] == {"state": "passed", "tries": 3}
    total = len(exercises("scalar"))
    assert f"02 Uniform scalar quantization · not opened yet · 0 guessed · 1 of {total}" in str(course.progress())
    assert [file.name for file in home.iterdir()] == ["progress.json"]


def test_progress_names_the_next_step():
    assert "Next: lesson 00 Start here." in str(course.progress())
    record.write("lessons", "codec", {})
    record.write("guesses", "codec.size", 7)
    course.exercise("codec.bpp").check(course.exercise("codec.bpp").answer)
    text = str(course.progress())
    following = list(exercises("codec").values())[1]
    assert f"◐ 00 Start here · begun · 1 guessed · 1 of {len(exercises('codec'))} exercises solved" in text
    assert f"Next: exercise 00.2, {following.title}, in lesson 00 Start here." in text
    assert 'href="00_start_here.ipynb"' in course.progress()._repr_html_()


@pytest.mark.parametrize(
    "damage",
    ["{ not JSON", '["a list"]', '{"guesses": 7}', '{"exercises": {"scalar.gain": 7}}', "[" * 100_000, "\udcff"],
)
def test_a_damaged_file_is_renamed_and_kept(home, damage):
    home.mkdir()
    (home / "progress.json").write_text(damage, errors="surrogateescape")
    assert record.read() == EMPTY
    record.write("guesses", "scalar.derivative", "a guess")
    assert record.read()["guesses"] == {"scalar.derivative": "a guess"}
    assert (home / "progress.damaged.json").read_text(errors="surrogateescape") == damage


def test_a_failed_write_leaves_the_file_unchanged(home, monkeypatch):
    record.write("guesses", "scalar.derivative", "before")

    def fail(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(json, "dump", fail)
        record.write("guesses", "scalar.derivative", "after")  # the new entry stays in memory
        assert record.read()["guesses"]["scalar.derivative"] == "after" and not record.is_saved()
    assert json.loads((home / "progress.json").read_text())["guesses"]["scalar.derivative"] == "before"
    assert [file.name for file in home.iterdir()] == ["progress.json"]


def test_progress_is_shown_although_the_folder_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "file" / "home"))
    exercise = course.exercise("codec.bpp")
    assert exercise.check(exercise.answer)
    assert f"1 of {len(exercises('codec'))} exercises" in str(course.progress()) and "cannot be written" in str(
        course.progress()
    )


def test_two_notebooks_keep_each_others_entries(python):
    record.write("guesses", "codec.size", 4)
    python("from labkit.course import record; record.write('guesses', 'scalar.derivative', 'b')")
    record.write("lessons", "codec", {})
    assert record.read()["guesses"] == {"codec.size": 4, "scalar.derivative": "b"}


# Records of the first edition


def test_the_keys_of_the_first_edition_name_present_lessons():
    keys = first_edition.KEYS
    assert set(keys["lessons"].values()) <= set(lessons.LESSONS)
    for section in ("guesses", "exercises"):
        assert len(set(keys[section].values())) == len(keys[section])
        assert all(new.split(".")[0] == keys["lessons"][old.split(".")[0]] for old, new in keys[section].items())


def test_the_first_read_translates_a_record_of_the_first_edition(old_record, home):
    expected = {
        "lessons": {"mismatch": {"opened": "2026-10-01"}},
        "guesses": {"mismatch.losses": "a", "center.ratio": 0.5},
        "exercises": {
            "codec.bpp": {"state": "passed", "tries": 1},
            "mismatch.sampled": {"state": "passed", "tries": 2},
            "center.partial_stop": {"state": "failed", "tries": 1},
        },
    }
    expected = EMPTY | expected
    assert record.read() == expected
    assert json.loads(old_record.read_text()) == expected
    assert (home / "progress.first-edition.json").read_bytes() == FIRST_EDITION.read_bytes()
    text, totals = str(course.progress()), [len(exercises(key)) for key in ("mismatch", "scalar")]
    assert f"◐ 03 Train–test mismatch · begun · 1 guessed · 1 of {totals[0]} exercises solved" in text
    assert f"○ 02 Uniform scalar quantization · not opened yet · 0 guessed · 0 of {totals[1]} exercises solved" in text
    assert record.read() == expected
    assert sorted(file.name for file in home.iterdir()) == ["progress.first-edition.json", "progress.json"]


def test_an_entry_with_a_present_or_unknown_key_is_kept(old_record):
    content = json.loads(old_record.read_text())
    content["exercises"]["mismatch.sampled"] = {"state": "failed", "tries": 9}
    content["exercises"]["02.9"] = {"state": "passed", "tries": 1}  # no edition has this key
    old_record.write_text(json.dumps(content))
    assert record.read()["exercises"]["mismatch.sampled"] == {"state": "failed", "tries": 9}
    assert record.read()["exercises"]["02.9"] == {"state": "passed", "tries": 1}


def test_a_backup_is_never_overwritten(old_record, home):
    record.read()
    old_record.write_text('{"exercises": {"01.3": {"state": "passed", "tries": 1}}}')
    assert record.read()["exercises"] == {"scalar.gain": {"state": "passed", "tries": 1}}
    assert (home / "progress.first-edition.json").read_bytes() == FIRST_EDITION.read_bytes()
    assert "01.3" in (home / "progress.first-edition-2.json").read_text()


def test_a_failed_translation_changes_no_file_and_loses_no_entry(old_record, home, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    for function in ("_back_up", "_save"):
        with monkeypatch.context() as broken:
            broken.setattr(record, function, fail)
            assert record.read()["exercises"]["mismatch.sampled"] == {"state": "passed", "tries": 2}
        assert old_record.read_bytes() == FIRST_EDITION.read_bytes()
    assert record.read()["guesses"]["center.ratio"] == 0.5
    assert (home / "progress.first-edition.json").read_bytes() == FIRST_EDITION.read_bytes()


def test_a_damaged_record_of_the_first_edition_is_renamed(old_record, home):
    damaged = FIRST_EDITION.read_bytes()[:100]
    old_record.write_bytes(damaged)
    assert record.read() == EMPTY
    record.write("lessons", "codec", {})
    assert (home / "progress.damaged.json").read_bytes() == damaged


def test_threads_translate_a_record_once_and_keep_all_entries(old_record, home):
    threads = [
        threading.Thread(target=record.write, args=("guesses", f"codec.{name}", name)) for name in ("a", "b", "c", "d")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {f"codec.{name}" for name in "abcd"} < set(record.read()["guesses"])
    assert sorted(file.name for file in home.iterdir()) == ["progress.first-edition.json", "progress.json"]


# Notebooks of the first edition


def test_start_in_a_notebook_of_the_first_edition_names_the_present_lesson(home, monkeypatch, capsys):
    for module, name in ((opening, "_load_slow_modules"), (opening.figures, "use_template")):
        monkeypatch.setattr(module, name, lambda: None)
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)
    course.start("06")
    lines = capsys.readouterr().out.splitlines()
    assert (
        "first edition" in lines[0] and "07 Zero-center quantization" in lines[0] and "labkit lessons --to" in lines[0]
    )
    assert lines[1] == "Lesson 07 Zero-center quantization"
    assert list(json.loads((home / "progress.json").read_text())["lessons"]) == ["center"]


def test_keys_of_the_first_edition_give_the_present_exercises_and_predictions(capsys):
    exercise = course.exercise("02.1")
    assert exercise.key == "mismatch.sampled"
    assert (
        capsys.readouterr().out == 'Exercise 02.1 of the first edition is now lk.course.exercise("mismatch.sampled").\n'
    )
    assert course.exercise("mismatch.sampled") is exercise and capsys.readouterr().out == ""
    course.predict("02.1", "Which?", ["left", "right"]).control.value = "left"
    assert record.read()["guesses"] == {"mismatch.losses": "left"}
    assert "Your guess was right." in str(course.reveal("02.1", "left"))


def test_notebooks_of_the_first_edition_are_recognized():
    for notebook in present_notebooks():
        assert not first_edition.is_old_notebook(notebook.name, notebook.read_text(encoding="utf-8"))
    assert first_edition.is_old_notebook("02_train_test_mismatch.ipynb", "{}")
    assert first_edition.is_old_notebook("00_start_here.ipynb", f"After it: [01]({first_edition.NOTEBOOKS[0]})")


def present_notebooks():
    from labkit import paths

    return sorted(paths.lessons().glob("*.ipynb"))
