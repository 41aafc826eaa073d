"""The course as a folder of pages, to read without a kernel and without a network.

    labkit lessons --export site/

Every notebook is copied in memory and the copy executed, with a record of its own; the notebooks and the learner's
record stay as they are. Panels and predictions are shown as on paper (`printed`), plots are drawn by plotly's script,
which lies beside the pages. Nothing is written before all notebooks have run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from labkit import paths
from labkit.disk import write_whole

if TYPE_CHECKING:
    from nbformat import NotebookNode

MARK = "/* labkit lessons --export */"  # the first line of style.css, by which an earlier export is known
_PATIENCE = 600  # seconds a cell may take
_PLOT = "application/vnd.plotly.v1+json"
_WIDGET = "application/vnd.jupyter.widget-view+json"
_FILES = Path(__file__).parent / "pages"


@dataclass(frozen=True)
class Page:
    """One page: its file's name without a suffix, its title, and the notebook that it shows."""

    name: str
    title: str
    notebook: NotebookNode


def export(folder: str | Path, notebooks: str | Path | None = None, progress: bool = True) -> list[Path]:
    """Execute copies of all notebooks and write them as pages to `folder`, beside a map of the course, index.html.

    notebooks: the folder they lie in, by default the course's. Returns the pages, the map first. Raises ValueError
    where `folder` holds anything but an earlier export, where there are no notebooks, and where a cell fails, naming
    it; then nothing was written.
    """
    import nbformat

    folder = Path(folder)
    _check_folder(folder)
    source = paths.lessons() if notebooks is None else Path(notebooks)
    files = sorted(source.glob("*.ipynb"))
    if not files:
        raise ValueError(f"notebooks: there are none in {source}")
    pages = []
    with tempfile.TemporaryDirectory() as scratch:
        for file in tqdm(files, unit="notebook", disable=not progress):
            notebook = nbformat.read(file, as_version=4)
            title = _title(notebook, file.stem)
            if any(cell.cell_type == "code" for cell in notebook.cells):
                _execute(notebook, file.name, Path(scratch) / file.stem)
                _settle(notebook)
            pages.append(Page(file.stem, title, notebook))
    return _write([Page("index", "The course", _map(pages)), *pages], folder)


def _check_folder(folder: Path) -> None:
    """May pages be written there?"""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        style = folder / "style.css"
        if not style.is_file() or not style.read_bytes().startswith(MARK.encode()):
            raise ValueError(f"{folder} holds other files: name a new folder, or one with an earlier export")


def _title(notebook: NotebookNode, otherwise: str) -> str:
    found = re.search(r"^# (.+)$", notebook.cells[0].source if notebook.cells else "", flags=re.M)
    return found[1].strip() if found else otherwise


# Running


def _execute(notebook: NotebookNode, name: str, scratch: Path) -> None:
    """Run a copy of a notebook in place, in a folder of its own. Raises ValueError naming the cell that fails."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal, DeadKernelError

    folder, home = scratch / "work", scratch / "home"
    folder.mkdir(parents=True)
    environment = {**os.environ, "LABKIT_HOME": str(home), "IPYTHONDIR": str(scratch / "ipython")}
    setup = "from labkit.course import printed\nprinted.show_printed()\ndel printed"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(setup))
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=_PATIENCE, kernel_name="python3", resources=resources)
    try:
        client.execute(env=environment, stderr=subprocess.DEVNULL)  # what the kernel itself has to say
    except (CellControlSignal, DeadKernelError) as error:
        raise ValueError(f"{name}, {_failed(notebook, error)}") from None
    del notebook.cells[0]


def _failed(notebook: NotebookNode, error: Exception) -> str:
    """Which cell failed, and how, in one line; cells are counted as a reader counts them, from 1."""
    for place, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"cell {place}: {output.ename}: {output.evalue}".split("\n")[0]
    ran = [
        place for place, cell in enumerate(notebook.cells) if cell.cell_type == "code" and "execution" in cell.metadata
    ]
    return f"cell {max(ran, default=0)}: {str(error).strip() or type(error).__name__}".split("\n")[0]


# From outputs to what a page can show


def _settle(notebook: NotebookNode) -> None:
    """Bring every output into one form, HTML or text, and leave the map of what was done out: nothing was."""
    cells = [cell for cell in notebook.cells if "lk.course.progress()" not in cell.source]
    for place, cell in enumerate(cells):
        if cell.cell_type == "code":
            words = next((after.source for after in cells[place + 1 :] if after.cell_type == "markdown"), "")
            said = _plain(words.split("\n\n")[0]) if words.startswith("**Figure") else "A figure"
            cell.outputs = _joined(filter(_shows, cell.outputs))
            for output in cell.outputs:
                if "data" in output:
                    output.data = _form(output.data, said)
    notebook.cells = cells


def _shows(output: Any) -> bool:
    """False for what a reader has no use for: progress bars, and warnings of the machine that made the pages."""
    if output.output_type == "stream":
        return output.name == "stdout"
    return not (_WIDGET in output.data and re.match(r"\s*\d+%\|", output.data.get("text/plain", "")))


def _joined(outputs: Iterable[Any]) -> list[Any]:
    """Outputs with what was printed in pieces as one."""
    joined: list[Any] = []
    for output in outputs:
        if joined and output.output_type == joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _form(data: dict[str, Any], said: str) -> dict[str, str]:
    """One output's data as HTML, or as text where it has no other form; said: what stands for a picture."""
    if "text/html" in data:
        return {"text/html": data["text/html"]}
    if _PLOT in data:
        figure = {name: data[_PLOT][name] for name in ("data", "layout")}
        script = json.dumps(figure).replace("</", "<\\/")
        script = f'<script type="application/json">{script}</script>'
        return {"text/html": f'<div class="plot" role="img" aria-label="{escape(said)}">{script}</div>'}
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return {"text/html": f'<img src="data:{kind};base64,{data[kind].strip()}" alt="{escape(said)}">'}
    return {"text/plain": data.get("text/plain", "")}


def _plain(markdown: str) -> str:
    """Markdown's words, without its marks."""
    return re.sub(r"[*`]|\[([^\]]*)\]\([^)]*\)", lambda found: found[1] or "", markdown).strip()


# Pages


def _map(pages: list[Page]) -> NotebookNode:
    """The first page: every lesson with the misconception it takes apart and what one can do after it."""
    import nbformat

    parts = [
        "# The course\n\nHow learned image codecs are trained through rounding: nine lessons, each with live panels on "
        "which a network retrains while one looks on. These pages were made by running the lessons; where a panel "
        "stands in one, they show the end of its first run. To move its controls, and to do the exercises, open the "
        "lessons in JupyterLab: `labkit lessons`."
    ]
    for page in pages:
        text = "\n\n".join(cell.source for cell in page.notebook.cells if cell.cell_type == "markdown")
        wrong = re.search(r"^> .+$", text, flags=re.M)
        goals = re.search(r"^## What you will be able to do\n\n((?:\d\. .*\n?)+)", text, flags=re.M)
        minutes = re.search(r"About \d+ minutes", text)
        part = [f"## [{page.title}]({page.name}.ipynb)"]
        part += [wrong[0]] if wrong else []
        part += [f"{minutes[0]}. Afterwards you can:\n\n{goals[1].strip()}"] if goals and minutes else []
        parts.append("\n\n".join(part))
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(part) for part in parts])


def _write(pages: list[Page], folder: Path) -> list[Path]:
    """Write the pages and what they share; each file appears whole."""
    from jinja2 import FileSystemLoader
    from nbconvert import HTMLExporter
    from plotly.offline import get_plotlyjs
    from pygments.formatters import HtmlFormatter

    loader = FileSystemLoader(_FILES)
    exporter = HTMLExporter(template_file="page.html.j2", extra_loaders=[loader], anchor_link_text="")
    texts = []
    for place, page in enumerate(pages):
        around = {
            "page": page,
            "pages": pages,
            "before": pages[place - 1] if place else None,
            "after": pages[place + 1] if place + 1 < len(pages) else None,
            "plots": _plots(page.notebook),
        }
        text, _ = exporter.from_notebook_node(page.notebook, around)
        texts.append(_relinked(text, pages))
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    style = (_FILES / "style.css").read_text(encoding="utf-8")
    style = f"{style}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
    style += ".highlight, .highlight pre { background: var(--soft); }\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "style.css", style.encode())  # first, for it says what the folder is
    write_whole(folder / "plots.js", (_FILES / "plots.js").read_bytes())
    write_whole(folder / "plotly.min.js", get_plotlyjs().encode())
    written = [folder / f"{page.name}.html" for page in pages]
    for file, text in zip(written, texts, strict=True):
        write_whole(file, text.encode())
    return written


def _plots(notebook: NotebookNode) -> bool:
    """Is there something for plotly to draw?"""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return any('<div class="plot"' in output.get("data", {}).get("text/html", "") for output in outputs)


def _relinked(text: str, pages: list[Page]) -> str:
    """Links from notebook to notebook as links from page to page; and none of what serves other readers' anchors."""
    text = re.sub(r'<a class="anchor-link"[^>]*></a>|<span id="[^"]*"></span>', "", text)
    names = "|".join(re.escape(page.name) for page in pages)
    return re.sub(rf'href="({names})\.ipynb(?=["#])', r'href="\1.html', text)
