"""The static export: its pages need neither a kernel nor a network, and exporting changes no other file."""

import base64
import io
import json
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from bs4 import BeautifulSoup
from click.testing import CliRunner
from PIL import Image

from labkit import cli, paths
from labkit.course import export

FIRST = [
    '# 00 · One\n\n> **The misconception.** *"It is so."*\n\nAbout 5 minutes. See [a–b c](notation.ipynb#a–b-c), '
    "[two](01_two.ipynb), [outside](https://example.org/01_two.ipynb) and [this](#What-you-will-be-able-to-do).",
    "## What you will be able to do\n\n1. Read this.\n2. Follow a link.\n",
    "```\nimport os, sys\nimport pandas as pd, plotly.graph_objects as go\nimport labkit as lk\n"
    "lk.course.figures.use_template()",
    "```\nlk.course.predict('codec.choice', 'Which <b> is it?', ['the left', 'the right'])",
    "```\nlk.course.predict('codec.size', 'How many?', low=2, high=30)",
    "```\nlk.course.question('codec.byte', 'How many bits?', {'<7>': 'It is 8.', '8': 'Right: a byte.'})",
    "```\nopen('made.txt', 'w').close()\nprint('one', flush=True)\nprint('w' * 9, file=sys.stderr)\nprint('two')",
    "```\ngo.Figure(go.Scatter(x=[1, 2], y=[3, 5], name='</script><b>'))",
    "**Figure 1.** A line that `rises` from [three](01_two.ipynb) to five, and says so in more than a few words.",
    "```\npanel = lk.live.ToyPanel(steps=20, temperature=0.04)\npanel",
    "```\nprint('Result:', panel.wait(60))",
    "```\nlk.course.reveal('codec.choice', 'the left')",
    "```\nlk.course.table(pd.DataFrame({'rate': [0.52061]}, index=['z']), 'Rate in bits')",
    "```check\nraise ValueError('a page needs no check')",
    "```\nlk.course.exercise('codec.bpp')",
    "```\nlk.course.progress()",
]
SECOND = ["# 01 · Two\n\nBack to [one](00_one.ipynb)."]
EQUATION = r"\mathbb E\big[\ell\big] \;\le\; \sum_k P(k)\,\log_2\frac{1}{P(k)}"
SECOND[0] += f"\n\nThe loss is\n\n$${EQUATION}$$\n\nand $\\lambda > 0$; `$HOME` and `$PATH` are variables."
THIRD = ['# Notation\n\n### a–b c\n\n<span id="a%E2%80%93b-c"></span>What it means.']


def write(folder: Path, name: str, parts: list[str]) -> Path:
    """Write a notebook in which parts that begin with three backticks are code cells and other parts are text.

    A word after the backticks is a tag of the cell. The source of a question is hidden, as in the lessons.
    """
    cells = []
    for part in parts:
        if part.startswith("```"):
            tag, _, source = part[3:].partition("\n")
            metadata: dict = {"tags": [tag]} if tag else {}
            if source.startswith("lk.course.question("):
                metadata["jupyter"] = {"source_hidden": True}
            cells.append(nbformat.v4.new_code_cell(source, metadata=metadata))
        else:
            cells.append(nbformat.v4.new_markdown_cell(part))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / name)
    return folder / name


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    write(folder, "00_one.ipynb", FIRST)
    write(folder, "01_two.ipynb", SECOND)
    write(folder, "notation.ipynb", THIRD)
    return folder


def write_one_page(folder: Path) -> None:
    """Write one page of the API reference. The slow tests of the whole course export the others, too."""
    folder.mkdir()
    (folder / "labkit.html").touch()


def write_page_of_the_codec(folder: Path, links: list[tuple[str, str]]) -> None:
    """Write the page without its content. The tests of the page write the whole page."""
    (folder / "codec").mkdir(exist_ok=True)
    (folder / "codec.html").write_text(f'<main id="codec"></main><a href="{links[0][0]}">{links[0][1]}</a>')


@pytest.fixture(scope="module")
def site(course, tmp_path_factory):
    """Export the course while a guess is on record, and check that nothing but the site has changed."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("sites") / "site"
    (home / "progress.json").write_text('{"guesses": {"codec.choice": "the right"}}')
    before = {file: file.read_bytes() for directory in (course, home) for file in directory.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_HOME", str(home))
        patch.setattr(export, "write_reference", write_one_page)
        patch.setattr(export, "write_page", write_page_of_the_codec)
        written = export.export(folder, course, progress=False)
    assert {file: file.read_bytes() for directory in (course, home) for file in directory.iterdir()} == before
    assert not Path("made.txt").exists()
    assert [file.name for file in written] == ["index.html", "00_one.html", "01_two.html", "notation.html"]
    assert {file.name for file in folder.iterdir()} == {file.name for file in written} | {
        "style.css",
        "plots.js",
        "scroll.js",
        "plotly.min.js",
        "codec.html",
        "codec",
        "reference",
    }
    return folder


def soup(site: Path, name: str) -> BeautifulSoup:
    return BeautifulSoup((site / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


def check_sources(site: Path) -> None:
    """Check that pages load files only from the folder of the site, and that these files exist."""
    for file in site.glob("*.html"):
        page = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
        sources = [element["src"] for element in page.select("[src]")]
        sources += [element["href"] for element in page.select("link[href]")]
        for style in page.select("style"):
            sources += re.findall(r"(?:url\(|@import\s+)([^);]*)", style.text)
        for source in sources:
            assert source.startswith("data:") or (site / source).is_file(), f"{file.name}: {source[:80]}"
        assert not page.select("iframe, object, embed, base, [srcset], meta[http-equiv=refresh i]")
    shared = "".join((site / name).read_text() for name in ("style.css", "plots.js", "scroll.js"))
    assert not re.search(r"https?://|url\(|@import|import\(|fetch\(", shared)


def check_links(site: Path) -> None:
    """Check that every link within the site leads to an existing page and to an existing anchor on it."""
    ids = {file.name: {tag["id"] for tag in soup(site, file.stem).select("[id]")} for file in site.glob("*.html")}
    for name in ids:
        all_ids = [tag["id"] for tag in soup(site, name.removesuffix(".html")).select("[id]")]
        assert len(all_ids) == len(ids[name]), f"{name} has one id twice"
        for link in soup(site, name.removesuffix(".html")).select("a[href]"):
            if not re.match(r"https?:", link["href"]):
                target, _, fragment = link["href"].partition("#")
                if target.startswith("reference/"):
                    assert (site / target).is_file()
                    continue
                assert (target or name) in ids, f"{name}: {link['href']}"
                anchors = {unquote(anchor) for anchor in ids[target or name]}
                assert not fragment or unquote(fragment) in anchors, f"{name}: {link['href']}"


def test_pages_load_nothing_from_outside_the_site(site):
    check_sources(site)


def test_the_check_finds_sources_outside_the_site(site, tmp_path):
    for bad in ('<script src="https://cdn.example/x.js"></script>', '<link href="x.css">', "<style>@import x</style>"):
        (tmp_path / "page.html").write_text(bad)
        for name in ("style.css", "plots.js", "scroll.js"):
            (tmp_path / name).write_bytes((site / name).read_bytes())
        with pytest.raises(AssertionError):
            check_sources(tmp_path)


def test_links_lead_to_pages_of_the_site(site):
    check_links(site)
    links = [link["href"] for link in soup(site, "00_one").select(".prose a")]
    assert [unquote(link) for link in links] == [
        "notation.html#a–b-c",
        "01_two.html",
        "https://example.org/01_two.ipynb",
        "#What-you-will-be-able-to-do",
        "01_two.html",
    ]


def test_a_panel_becomes_images_with_a_caption(site):
    page = soup(site, "00_one")
    (panel,) = page.select("figure.panel")
    images = panel.select("img")
    assert len(images) == 2
    for element in images:
        data = base64.b64decode(element["src"].removeprefix("data:image/png;base64,"))
        image = Image.open(io.BytesIO(data))
        assert image.size == (int(element["width"]), int(element["height"]))
        assert len(image.convert("L").getcolors()) > 4  # the image is not blank
        assert len(element["alt"].split()) > 5
    caption = panel.select_one("figcaption").text
    assert "temperature τ: 0.04, tradeoff λ: 5, scheme: stochastic_rounding" in caption and "Run 1: done in" in caption
    (result,) = re.findall(r"Result: (.+)", page.text)  # the next cell prints it
    assert result in caption and "JupyterLab" in caption


def test_predictions_become_questions_with_choices(site):
    first, second, _ = soup(site, "00_one").select(".prediction")
    assert first.b.text == "Which <b> is it?" and [item.text for item in first.select("li")] == [
        "the left",
        "the right",
    ]
    assert "How many?" in second.text and "from 2 to 30" in second.text
    text = (site / "00_one.html").read_text()
    assert "widget-view" not in text and "You made no guess." in text  # although a guess is on record


def test_each_option_of_a_question_opens_its_feedback(site):
    page = soup(site, "00_one")
    *_, question = page.select(".prediction")
    assert question.b.text == "How many bits?" and "course.question" not in page.text  # the code has the answer
    folds = [(fold.summary.text, fold.p.text) for fold in question.select("details")]
    assert folds == [("<7>", "Not this one. It is 8."), ("8", "Right. A byte.")]


def test_a_plot_has_its_data_and_a_description(site):
    (plot,) = soup(site, "00_one").select(".plot")
    figure = json.loads(plot.script.string)
    assert figure["data"][0]["x"] == [1, 2] and figure["data"][0]["name"] == "</script><b>"
    assert figure["layout"]["template"]["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)"
    description = plot["aria-label"]
    assert description == "Figure 1. A line that rises from three to five, and says so in more than a few words."
    assert len((site / "plotly.min.js").read_bytes()) > 1e6
    # Besides scroll.js, the page with a figure has the data of the figure, Plotly, and the script that calls Plotly
    for name, scripts in (("00_one", 4), ("01_two", 1), ("index", 1)):
        assert len(soup(site, name).select("script")) == scripts


def test_pages_show_printed_text_and_exercises_but_no_errors_or_progress(site):
    page = soup(site, "00_one")
    streams = [pre.text for pre in page.select(".output > pre")]
    assert streams[0] == "one\ntwo\n" and "wwww" not in page.text
    (card,) = [card for card in page.select(".labkit-card") if "Exercise: Bits per pixel" in card.text]
    assert [fold.summary.text for fold in card.select("details")] == ["Hint 1", "Hint 2", "Hint 3", "Solution"]
    assert "course.progress" not in page.text and "printed" not in page.text


def test_equations_become_mathml(site):
    page = soup(site, "01_two")
    block, inline = page.select("math")
    assert block["display"] == "block" and block.parent["class"] == ["math"] and inline["display"] == "inline"
    assert all(letter in block.text for letter in "ℓ≤∑log") and inline.text == "λ>0"
    assert "$$" not in page.text and "\\" not in page.main.text and "$HOME and $PATH are" in page.text


def test_aligned_equations_become_a_table_of_rows():
    page = export.with_mathml(r"$$\begin{aligned} a &= b \\ &\le c \end{aligned}$$")
    assert page.count("<mtr") == 2 and "<mi>&" not in page


def test_every_equation_of_the_lessons_becomes_mathml():
    for file in paths.lessons().glob("*.ipynb"):
        for cell in nbformat.read(file, as_version=4).cells:
            if cell.cell_type == "markdown" and "$" in cell.source:
                for equation in BeautifulSoup(export.with_mathml(cell.source), "html.parser").select("math"):
                    assert not re.search(r"[\\&]", equation.text), equation.text


def test_pages_show_tables_but_no_check_cells(site):
    page = soup(site, "00_one")
    (rates,) = [element for element in page.select(".output table") if element.caption]
    assert rates.caption.text == "Rate in bits" and rates.select("td")[-1].text == "0.521"
    assert all(header.text.strip() for header in rates.select("th")) and not rates.td.text
    assert "needs no check" not in page.text


def test_pages_have_a_language_a_title_and_a_link_to_the_next_page(site):
    for name in ("index", "00_one", "01_two", "notation"):
        page = soup(site, name)
        assert page.html["lang"] == "en-US" and page.title.text and len(page.select("main, nav")) == 2
        (current,) = page.select("nav [aria-current]")
        assert current["href"] == f"{name}.html"
        assert page.select_one("body > a")["href"] == f"#{page.main['id']}"
    links = [link["href"] for name in ("index", "00_one", "01_two") for link in soup(site, name).select("[rel=next]")]
    assert links == ["00_one.html", "01_two.html", "notation.html"]


def test_the_index_says_what_each_lesson_teaches(site):
    page = soup(site, "index")
    assert page.select("main a")[0]["href"] == page.select("nav a")[0]["href"] == "codec.html"
    text = page.text
    for phrase in ('"It is so."', "About 5 minutes", "Follow a link.", "labkit lessons"):
        assert phrase in text


def test_an_earlier_export_is_replaced_but_other_folders_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "write_reference", lambda folder: [])  # it is the same in every export
    monkeypatch.setattr(export, "write_page", write_page_of_the_codec)
    write(tmp_path, "02_text.ipynb", ["# Text"])
    site = tmp_path / "site"
    site.mkdir()
    export.export(site, tmp_path, progress=False)  # an empty folder is accepted
    write(tmp_path, "02_text.ipynb", ["# Other text"])
    export.export(site, tmp_path, progress=False)
    assert soup(site, "02_text").h1.text == "Other text"
    (site / "style.css").write_text("body { color: red }")
    with pytest.raises(ValueError, match="site contains other files"):
        export.export(site, tmp_path, progress=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="mine contains other files"):
        export.export(tmp_path / "mine", tmp_path, progress=False)
    with pytest.raises(ValueError, match="is a file"):
        export.export(tmp_path / "02_text.ipynb", tmp_path)
    with pytest.raises(ValueError, match="contains no notebooks"):
        export.export(tmp_path / "new", site)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 / 0", r"^bad\.ipynb, cell 3: ZeroDivisionError: division by zero$"),
        ("raise ValueError('one\\ntwo')", r"^bad\.ipynb, cell 3: ValueError: one$"),
        ("import os; os._exit(1)", r"^bad\.ipynb, cell 3: Kernel died$"),
    ],
)
def test_the_error_names_the_failing_cell_and_nothing_is_written(tmp_path, source, message):
    write(tmp_path, "bad.ipynb", ["# Bad", "```\nx = 1", f"```\n{source}", "```\nx = 2"])
    with pytest.raises(ValueError, match=message):
        export.export(tmp_path / "site", tmp_path, progress=False)
    assert not (tmp_path / "site").exists()


def test_the_command_reports_an_error_in_one_line(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    result = CliRunner().invoke(cli.main, ["lessons", "--export", str(tmp_path)])
    assert result.exit_code == 2 and "contains other files" in result.output and result.output.count("\n") == 1
