"""`labkit lessons` opens, copies or exports the course."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click

import labkit


@click.command()
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Lay the lessons out in this folder, and stop.")
@click.option("--no-browser", is_flag=True, help="Serve the lessons without opening a browser.")
@click.option("--port", type=int, help="Port of the server (JupyterLab's own choice by default).")
@click.option("--export", "site", type=click.Path(path_type=Path), help="Run the lessons, write them as pages there.")
def lessons(folder: Path | None, no_browser: bool, port: int | None, site: Path | None) -> None:
    """Open JupyterLab on the lessons.

    In a checkout the lessons open where they lie. An installed labkit lays them out in ./labkit-lessons first, and
    never overwrites a notebook that is there. With --export it runs copies of them instead, and writes pages that can
    be read without a kernel and without a network.
    """
    from labkit import paths

    if site is not None:
        from labkit.course.export import export

        first, *others = export(site)
        click.echo(f"{first}: a map of {len(others)} pages")
        return
    source = paths.lessons()
    installed = source.is_relative_to(Path(labkit.__file__).parent)
    target = folder or (Path("labkit-lessons") if installed else source)
    if target.resolve() != source:
        click.echo(_lay_out(source, target))
    if folder is not None:
        return
    command = [sys.executable, "-m", "jupyterlab", "--ServerApp.root_dir", str(target.resolve())]
    command += ["--LabApp.default_url", "/lab/tree/00_start_here.ipynb"]
    command += ["--no-browser"] * no_browser + ([f"--port={port}"] if port else [])
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container; JupyterLab refuses root otherwise
        command += ["--allow-root"]
    try:
        sys.exit(subprocess.call(command))
    except KeyboardInterrupt:
        sys.exit(130)


def _lay_out(source: Path, target: Path) -> str:
    target.mkdir(parents=True, exist_ok=True)
    written, kept = 0, 0
    for notebook in sorted(source.glob("*.ipynb")):
        if (target / notebook.name).exists():
            kept += 1
        else:
            shutil.copyfile(notebook, target / notebook.name)
            written += 1
    return f"{written} lessons written to {target}" + (f", {kept} that were there left as they are" if kept else "")
