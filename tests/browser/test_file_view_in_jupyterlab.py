"""The view of a coded file in JupyterLab: what it shows, the pointer, the keyboard, and both themes."""

from __future__ import annotations

import math
import re

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: no browser tests")

from lab import Lab, run_all
from playwright.sync_api import Browser

import labkit as lk
from labkit.files import codec

pytestmark = pytest.mark.slow

CODE = """
import labkit as lk
from labkit.files import codec
photo = lk.datasets.photos("test")[0][:, 40:121, 100:231]
net = lk.networks.pretrained("patch_hyperprior", lmbda=0.0067)
container = codec.compress((255 * photo).round().byte(), net)
display(lk.live.FileView(container, photo, channel=4), lk.live.FileView(container))
"""
ROOT = "document.querySelector('.labkit-file').shadowRoot"


@pytest.fixture(scope="module")
def page(lab_server: Lab, browser: Browser):
    page = lab_server.open(browser, lab_server.write("file.ipynb", CODE))
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    run_all(page)
    page.locator(".labkit-file").nth(1).wait_for(timeout=240_000)
    yield page
    assert problems == []
    page.close()


@pytest.fixture(scope="module")
def expected():
    """Return the view that the kernel makes, made here."""
    photo = lk.datasets.photos("test")[0][:, 40:121, 100:231]
    net = lk.networks.pretrained("patch_hyperprior", lmbda=0.0067)
    return lk.live.FileView(codec.compress((255 * photo).round().byte(), net), photo)


def part(page, selector, view=0):
    return page.locator(".labkit-file").nth(view).locator(selector)


def active_cell(page):
    return page.evaluate("window.jupyterapp.shell.currentWidget.content.activeCellIndex")


def test_the_tables_show_the_ledger_and_the_psnr(page, expected):
    rows = [row.split("\t") for row in part(page, "#ledger tbody").inner_text().split("\n") if "\t" in row]
    cells = part(page, "#ledger tbody tr").all()
    shown = {cell.locator("th").inner_text().split("\n")[0]: cell.locator("td").first.inner_text() for cell in cells}
    assert {name: int(count.replace(",", "")) for name, count in shown.items()} == expected.ledger, rows
    assert part(page, "#ledger tfoot td").first.inner_text() == f"{expected.container.file_bytes:,}"
    assert f"{10 * math.log10(255**2 / expected.frame['mse']):.2f} dB" in part(page, "#figures").inner_text()
    assert "unknown without the original" in part(page, "#figures", 1).inner_text()
    assert part(page, "#divider").is_visible() and part(page, "#divider", 1).is_hidden()
    assert part(page, "#pairs").is_hidden() and part(page, "#save").is_hidden()


def test_the_image_is_the_decoded_one(page, expected):
    pixels = page.evaluate(f"""() => {{
        const canvas = {ROOT}.querySelector("[data-image=labkit]");
        const copy = document.createElement("canvas").getContext("2d");
        Object.assign(copy.canvas, {{ width: canvas.width, height: canvas.height }});
        copy.drawImage(canvas, 0, 0);
        return [...copy.getImageData(0, 0, canvas.width, canvas.height).data];
    }}""")
    assert bytes(pixels) == expected.frame["image"]


def test_the_pointer_shows_the_numbers_of_a_patch(page, expected):
    part(page, "#kind").select_option("sigma")
    part(page, "#map").scroll_into_view_if_needed()
    box = part(page, "#map").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 2)
    columns = expected.frame["columns"]
    text = part(page, "#value").inner_text()
    assert text.startswith(f"Patch in row 1, column {columns}: ") and "Channel 4:" in text
    names = ("mu", "sigma", "bits")
    mu, sigma, bits = (float(expected.maps[name][4, 0, columns - 1]) for name in names)
    stored = mu + expected.maps["symbols"][4, 0, columns - 1]
    shown = [
        float(number.replace("−", "-")) for number in re.findall(r"−?\d+(?:\.\d+)?", text.partition("Channel 4:")[2])
    ]
    assert shown == pytest.approx([mu, sigma, stored, bits], abs=0.051)


def test_the_keyboard_moves_the_mark_and_no_cell(page):
    before = active_cell(page)
    part(page, "#map").focus()
    assert part(page, "#map").get_attribute("data-lm-suppress-shortcuts") == "true"  # or Notebook 7 takes the keys
    texts = [part(page, "#value").inner_text()]
    for key in ("ArrowDown", "ArrowLeft", "ArrowDown"):
        page.keyboard.press(key)
        texts.append(part(page, "#value").inner_text())
    assert len(set(texts)) == 4 and active_cell(page) == before
    part(page, "#channel").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("12")
    assert "Channel 12:" in part(page, "#value").inner_text()
    assert page.evaluate("window.jupyterapp.shell.currentWidget.content.widgets[0].model.type") == "code"
    part(page, "#divider").focus()
    page.keyboard.press("ArrowRight")
    assert part(page, "#divider").input_value() == "51"
    assert part(page, "#value", 1).inner_text() not in texts  # a second view has its own mark


def test_axe_finds_nothing_in_either_theme(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    for theme in ("Light", "Dark"):
        change = f"execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})"
        page.evaluate(f"window.jupyterapp.commands.{change}")
        page.wait_for_function("(name) => document.body.dataset.jpThemeName === name", arg=f"JupyterLab {theme}")
        page.wait_for_timeout(1000)
        found = axe.Axe().run(page, context=".labkit-file", options={"preload": False}).response["violations"]
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == [], theme
