"""The course as a folder of pages that need neither a kernel nor a network connection.

    labkit lessons --export site/

The export runs a copy of every notebook with an empty record. The notebooks and the learner's record do not change.
Panels and predictions appear in their static form (`printed`). A copy of Plotly's script next to the pages draws the
plots. Nothing is written until all notebooks have run.
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
from labkit.course.reference import write_reference
from labkit.disk import write_whole
from labkit.web.page import write_page

if TYPE_CHECKING:
    from nbformat import NotebookNode

MARK = "/* labkit lessons --export */"  # first line of style.css, which identifies an earlier export
CHECK = "check"  # tag of cells that only compare values with the text, which pages do not show
_TIMEOUT = 600  # seconds per cell
_PLOT = "application/vnd.plotly.v1+json"
_WIDGET = "application/vnd.jupyter.widget-view+json"
_FILES = Path(__file__).parent / "pages"
_LOG_2, _THIN = "<msub><mi>log</mi><mn>2</mn></msub>", '<mspace width="0.17em"/>'


@dataclass(frozen=True)
class Page:
    """A page of the course.

    Attributes:
        name: Name of the file without suffix.
        title: Title of the page.
        notebook: Notebook that the page shows.
    """

    name: str
    title: str
    notebook: NotebookNode


def export(folder: str | Path, notebooks: str | Path | None = None, progress: bool = True) -> list[Path]:
    """Run copies of all notebooks, and write them as pages with a map, the page of the codec and the API reference.

    Args:
        folder: New folder, or the folder of an earlier export.
        notebooks: Folder of the notebooks. The default is the folder of the course.
        progress: Whether to show a progress bar.

    Returns:
        The pages of the course. The map, index.html, comes first.

    Raises:
        ValueError: If `folder` contains other files, if there are no notebooks, or if a cell fails. The message names
            the cell, and nothing is written.
    """
    import nbformat

    folder = Path(folder)
    _check_folder(folder)
    source = paths.lessons() if notebooks is None else Path(notebooks)
    files = sorted(source.glob("*.ipynb"))
    if not files:
        raise ValueError(f"{source} contains no notebooks")
    pages = []
    with tempfile.TemporaryDirectory() as scratch:
        for file in tqdm(files, unit="notebook", disable=not progress):
            notebook = nbformat.read(file, as_version=4)
            title = _title(notebook, file.stem)
            if any(cell.cell_type == "code" for cell in notebook.cells):
                _execute(notebook, file.name, Path(scratch) / file.stem)
                _settle(notebook)
            pages.append(Page(file.stem, title, notebook))
    pages = [Page("index", "The course", _map(pages)), *pages]
    written = _write(pages, folder)
    write_page(folder, [(f"{page.name}.html", page.title) for page in pages])
    write_reference(folder / "reference")
    return written


def _check_folder(folder: Path) -> None:
    """Raise ValueError if the folder contains anything other than an earlier export."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected a folder")
    if folder.is_dir() and any(folder.iterdir()):
        style = folder / "style.css"
        if not style.is_file() or not style.read_bytes().startswith(MARK.encode()):
            raise ValueError(f"{folder} contains other files; use a new folder or the folder of an earlier export")


def _title(notebook: NotebookNode, otherwise: str) -> str:
    found = re.search(r"^# (.+)$", notebook.cells[0].source if notebook.cells else "", flags=re.M)
    return found[1].strip() if found else otherwise


# Running


def _execute(notebook: NotebookNode, name: str, scratch: Path) -> None:
    """Run a notebook in a new folder and keep its outputs. Raise ValueError that names the cell if one fails."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal, DeadKernelError

    folder, home = scratch / "work", scratch / "home"
    folder.mkdir(parents=True)
    environment = {**os.environ, "LABKIT_HOME": str(home), "IPYTHONDIR": str(scratch / "ipython")}
    setup = "from labkit.course import printed\nprinted.show_printed()\ndel printed"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(setup))
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=_TIMEOUT, kernel_name="python3", resources=resources, skip_cells_with_tag=CHECK
    )
    try:
        client.execute(env=environment, stderr=subprocess.DEVNULL)  # hides messages from the kernel itself
    except (CellControlSignal, DeadKernelError) as error:
        raise ValueError(f"{name}, {_failed(notebook, error)}") from None
    del notebook.cells[0]


def _failed(notebook: NotebookNode, error: Exception) -> str:
    """Return the number of the failed cell, counted from 1, and its error in one line."""
    for place, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"cell {place}: {output.ename}: {output.evalue}".split("\n")[0]
    ran = [
        place for place, cell in enumerate(notebook.cells) if cell.cell_type == "code" and "execution" in cell.metadata
    ]
    return f"cell {max(ran, default=0)}: {str(error).strip() or type(error).__name__}".split("\n")[0]


# Outputs


def _settle(notebook: NotebookNode) -> None:
    """Convert every output to HTML or text, and remove the check cells and the map of the learner's progress."""
    cells = [cell for cell in notebook.cells if CHECK not in cell.metadata.get("tags", ())]
    cells = [cell for cell in cells if "lk.course.progress()" not in cell.source]
    for place, cell in enumerate(cells):
        if cell.cell_type == "code":
            text = next((after.source for after in cells[place + 1 :] if after.cell_type == "markdown"), "")
            description = _plain(text.split("\n\n")[0]) if text.startswith("**Figure") else "A figure"
            cell.outputs = _joined(filter(_shows, cell.outputs))
            for output in cell.outputs:
                if "data" in output:
                    output.data = _form(output.data, description)
    notebook.cells = cells


def _shows(output: Any) -> bool:
    """Return False for progress bars and for warnings about this machine."""
    if output.output_type == "stream":
        return bool(output.name == "stdout")
    return not (_WIDGET in output.data and re.match(r"\s*\d+%\|", output.data.get("text/plain", "")))


def _joined(outputs: Iterable[Any]) -> list[Any]:
    """Join consecutive pieces of printed text."""
    joined: list[Any] = []
    for output in outputs:
        if joined and output.output_type == joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _form(data: dict[str, Any], description: str) -> dict[str, str]:
    """Return an output as HTML if possible, or as text. The description is the text alternative of an image."""
    if "text/html" in data:
        return {"text/html": data["text/html"]}
    if _PLOT in data:
        figure = {name: data[_PLOT][name] for name in ("data", "layout")}
        script = json.dumps(figure).replace("</", "<\\/")
        script = f'<script type="application/json">{script}</script>'
        return {"text/html": f'<div class="plot" role="img" aria-label="{escape(description)}">{script}</div>'}
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return {"text/html": f'<img src="data:{kind};base64,{data[kind].strip()}" alt="{escape(description)}">'}
    return {"text/plain": data.get("text/plain", "")}


def _plain(markdown: str) -> str:
    """Return Markdown text without its markup."""
    return re.sub(r"[*`]|\[([^\]]*)\]\([^)]*\)", lambda found: found[1] or "", markdown).strip()


# Pages


def _map(pages: list[Page]) -> NotebookNode:
    """Return the first page: a list of all lessons, each with its misconception and its objectives."""
    import nbformat

    parts = [
        "# The course\n\n[Try the codec](codec.html) on a photo of your own, here in the browser, before you install "
        "anything.\n\nHow learned image codecs are trained through rounding. Each lesson has live panels, in which "
        "a network trains while you watch. These pages show every panel at the end of its first run. To move its "
        "controls and to do the exercises, open the lessons in JupyterLab: `labkit lessons`.\n\n"
        "The [API reference](reference/labkit.html) describes every public function and class of labkit."
    ]
    for page in pages:
        wrong, length, goals = summary(page.notebook)
        part = [f"## [{page.title}]({page.name}.ipynb)"]
        part += [wrong] if wrong else []
        part += [f"{length}. Afterwards you can:\n\n{goals}"] if goals and length else []
        parts.append("\n\n".join(part))
    first: NotebookNode = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(part) for part in parts])
    return first


def summary(notebook: NotebookNode) -> tuple[str, str, str]:
    """Return the misconception, the length ("About 50 minutes") and the objectives of a lesson, as Markdown.

    Args:
        notebook: Notebook of a lesson. A part that it does not contain is returned as an empty string.
    """
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    wrong = re.search(r"^> .+$", text, flags=re.M)
    length = re.search(r"About [\d–]+ (?:minutes|hours)", text)
    goals = re.search(r"^## What you will be able to do\n\n((?:\d\. .*\n?)+)", text, flags=re.M)
    return wrong[0] if wrong else "", length[0] if length else "", goals[1].strip() if goals else ""


def _write(pages: list[Page], folder: Path) -> list[Path]:
    """Write the pages and their shared files, each atomically."""
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
        for cell in page.notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = with_mathml(cell.source)
        text, _ = exporter.from_notebook_node(page.notebook, around)
        texts.append(_relinked(text, pages))
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("xcode", "github-dark"))
    style = (_FILES / "style.css").read_text(encoding="utf-8")
    style = f"{style}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
    style += ".highlight, .highlight pre { background: var(--soft); }\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "style.css", style.encode())  # first, because it identifies the folder as an export
    for name in ("plots.js", "scroll.js"):
        write_whole(folder / name, (_FILES / name).read_bytes())
    write_whole(folder / "plotly.min.js", get_plotlyjs().encode())
    written = [folder / f"{page.name}.html" for page in pages]
    for file, text in zip(written, texts, strict=True):
        write_whole(file, text.encode())
    return written


def with_mathml(markdown: str) -> str:
    """Return Markdown text in which MathML replaces LaTeX between dollar signs, because pages have no LaTeX script.

    Args:
        markdown: Text with equations such as $x$, or $$x$$ for an equation on its own line.
    """
    from latex2mathml.converter import convert

    def mathml(found: re.Match[str]) -> str:
        if found["code"]:
            return found["code"]
        block = found["block"]
        latex = (block or found["inline"]).strip().replace("{aligned}", "{align*}")  # which the converter supports
        html: str = convert(latex, display="block" if block else "inline")
        html = re.sub(r"&#x0*(?!3[CcEe];|26;)([0-9A-Fa-f]+);", lambda code: chr(int(code[1], 16)), html)
        html = html.replace("\\_", "_").replace("<mi>′</mi>", '<mo class="prime">′</mo>')
        function = rf"({_LOG_2}|(?<!<msub>)<mi>(?:exp|ln|log|max|min)</mi>)(?=<m(?:[in]|text|sub|sup)\b)"
        html = re.sub(function, rf"\1{_THIN}", html)
        return f'\n\n<div class="math">{html}</div>\n\n' if block else html

    pattern = r"(?P<code>```.*?```|`[^`\n]*`)|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+)\$"
    return re.sub(pattern, mathml, markdown, flags=re.S)


def _plots(notebook: NotebookNode) -> bool:
    """Return True if plotly has something to draw on the page."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return any('<div class="plot"' in output.get("data", {}).get("text/html", "") for output in outputs)


def _relinked(text: str, pages: list[Page]) -> str:
    """Turn links between notebooks into links between pages. Remove anchors and table headers without content."""
    text = re.sub(r'<a class="anchor-link"[^>]*></a>|<span id="[^"]*"></span>', "", text)
    text = re.sub(r"<th\b[^>]*>(?:\s|&nbsp;)*</th>", "<td></td>", text)
    names = "|".join(re.escape(page.name) for page in pages)
    return re.sub(rf'href="({names})\.ipynb(?=["#])', r'href="\1.html', text)
