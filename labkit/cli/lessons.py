"""The command `labkit lessons`, which opens, copies, exports, releases or grades the course."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

import labkit


@click.command()
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Copy the lessons to this folder, then stop.")
@click.option("--no-browser", is_flag=True, help="Start the server without opening a browser.")
@click.option("--port", type=int, help="Port of the server.  [default: chosen by JupyterLab, usually 8888]")
@click.option(
    "--export",
    "site",
    type=click.Path(path_type=Path),
    help="Run the lessons and write them as web pages to this folder, then stop.",
)
@click.option(
    "--release",
    "new_class",
    type=click.Path(path_type=Path),
    help="Write notebooks for students and a folder for the instructor to this new folder, then stop.",
)
@click.option(
    "--grade",
    "submissions",
    type=click.Path(path_type=Path),
    help="Run the notebooks that students handed in, with your rights, and write grades.csv to this folder, then stop.",
)
def lessons(
    folder: Path | None,
    no_browser: bool,
    port: int | None,
    site: Path | None,
    new_class: Path | None,
    submissions: Path | None,
) -> None:
    """Open the lessons in JupyterLab.

    In a checkout of the repository, the lessons open in place. An installed labkit first copies them to
    ./labkit-lessons, but never overwrites an existing notebook. With --export, labkit runs copies of the lessons and
    writes pages that need neither a kernel nor a network connection.

    For teachers: --release writes what a class needs, and --grade runs submissions, which are a folder per student or
    files such as ada_03_train_test_mismatch.ipynb. The students' code can do anything that you can do on this machine,
    so grade in a container or as another user. Solutions are readable in labkit: this is practice, not an examination.
    """
    from labkit import paths

    if site is not None:
        from labkit.course.export import export

        first, *others = export(site)
        click.echo(f"{first}: a map of {len(others)} pages")
        return
    if new_class is not None:
        from labkit.course import teaching

        click.echo(f"{teaching.release(new_class)}: students and instructor. {teaching.PRACTICE}")
        return
    if submissions is not None:
        from labkit.course import grading, teaching

        marks = grading.grade(submissions)
        students = len({mark.student for mark in marks})
        click.echo(f"{submissions / grading.GRADES}: marks of {students} students. {teaching.PRACTICE}")
        return
    source = paths.lessons()
    installed = source.is_relative_to(Path(labkit.__file__).parent)
    target = folder or (Path("labkit-lessons") if installed else source)
    if target.resolve() != source:
        from labkit.course.copies import copy_notebooks

        click.echo(copy_notebooks(target))
    if folder is not None:
        return
    command = [sys.executable, "-m", "jupyterlab", "--ServerApp.root_dir", str(target.resolve())]
    command += ["--LabApp.default_url", "/lab/tree/00_start_here.ipynb"]
    command += ["--no-browser"] * no_browser + ([f"--port={port}"] if port else [])
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # JupyterLab refuses to run as root, which containers do
        command += ["--allow-root"]
    sys.stdout.flush()
    os.execv(sys.executable, command)  # this process becomes the server, so a signal that ends it ends the server
