"""Copying notebooks overwrites no file in a learner's folder and reports notebooks of the first edition."""

from labkit import paths
from labkit.course.copies import copy_notebooks
from labkit.course.first_edition import NOTEBOOKS


def test_notebooks_are_copied_only_once(tmp_path):
    names = tuple(sorted(file.name for file in paths.lessons().glob("*.ipynb")))
    copies = copy_notebooks(tmp_path / "new" / "folder")
    assert (copies.written, copies.kept, copies.first_edition) == (names, (), ())
    for name in names:
        assert (copies.folder / name).read_bytes() == (paths.lessons() / name).read_bytes()
    again = copy_notebooks(copies.folder)
    assert (again.written, again.kept, again.first_edition) == ((), names, ())


def test_notebooks_of_the_first_edition_are_listed_and_left_unchanged(tmp_path):
    existing = {
        "00_start_here.ipynb": f"After it: [01]({NOTEBOOKS[0]})",
        "02_train_test_mismatch.ipynb": "my own work",
        NOTEBOOKS[5]: "{}",
    }
    for name, text in existing.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "notes.ipynb").write_bytes(b"\xff\xfe")  # this file is not a notebook of the course
    copies = copy_notebooks(tmp_path)
    assert copies.first_edition == tuple(existing) and copies.kept == ("00_start_here.ipynb",)
    assert {name: (tmp_path / name).read_text() for name in existing} == existing
    lines, count = str(copies).splitlines(), len(list(paths.lessons().glob("*.ipynb")))
    assert lines[0] == f"{count - 1} notebooks written to {tmp_path}, 1 existing ones left unchanged"
    assert lines[1] == f"From the first edition, left unchanged: {', '.join(existing)}"
    assert lines[2] == "For the current 00_start_here.ipynb, copy the notebooks to a new folder."
