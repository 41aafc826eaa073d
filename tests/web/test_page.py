"""The page "Try the codec" in Chromium, opened from a file: what it shows agrees with Python, and nothing leaves it."""

import dataclasses
import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from labkit import datasets, evaluation, networks, paths
from labkit.course import export
from labkit.files import codec
from labkit.files.container import Container
from labkit.web.page import MOST_PIXELS, write_page
from tests.browser import accessibility
from tests.browser.chromium import chromium
from tests.course.test_export import check_links, check_sources

pytestmark = pytest.mark.slow
PHOTO = paths.data() / "photographs" / "test" / "brushes.webp"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "style.css").write_bytes((Path(export.__file__).parent / "pages" / "style.css").read_bytes())
    (folder / "index.html").write_text('<a href="codec.html">Try the codec</a>')
    for name in ("plots.js", "scroll.js"):
        (folder / name).touch()
    assert write_page(folder, [("index.html", "The course")]) == folder / "codec.html"
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(site, browser):
    """Return a function that opens the page, and check at the end that it made no request and no error."""
    problems, contexts = [], []

    def open_it(**options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("worker", lambda worker: problems.append(worker.url) if not worker.url.startswith("blob:") else None)
        page.route(lambda url: not url.startswith(("file:", "data:", "blob:")), lambda route: refuse(route, problems))
        page.goto((site / "codec.html").as_uri())
        return page

    open_it.problems = problems
    yield open_it
    for context in contexts:
        context.close()
    assert problems == []


def refuse(route, problems):
    problems.append(route.request.url)
    route.abort()


def finish(page):
    """Wait for the end of the work, and return the problem that the page reports, or an empty text."""
    page.locator("#running").wait_for(state="hidden", timeout=60_000)
    return page.locator("#problem").text_content() if page.locator("#problem").is_visible() else ""


def give(page, name, data):
    """Choose a file, and return the problem that the page reports."""
    page.set_input_files("#file", {"name": name, "mimeType": "", "buffer": data})
    return finish(page)


def table(page, name):
    """Return the rows of a table as lists of texts, of which the first line counts."""
    rows = page.locator(f"#{name} tbody tr").all()
    return [[text.split("\n")[0] for text in row.locator("th, td").all_inner_texts()] for row in rows]


def number(text):
    return float(re.sub(r"[^\d.]", "", text))


def check_ledger(page, data):
    ledger = {name: number(count) for name, count, _ in table(page, "ledger")}
    assert set(ledger) == {"header", "section headers", "z", "y", "flush"}
    assert sum(ledger.values()) == len(data) == number(page.inner_text("#ledger tfoot td"))
    y, z = Container.unpack(data).strings
    assert ledger["header"] == 42 and ledger["section headers"] == 16
    assert ledger["z"] + ledger["y"] + ledger["flush"] == len(y) + len(z)
    return ledger


@pytest.fixture(scope="module")
def coded():
    """Return a file of an odd size that Python has coded, and the image that Python decodes from it."""
    net = networks.pretrained(lmbda=0.0025)
    container = codec.compress(datasets.load_image(PHOTO)[:, :131, 150:347], net)
    return container.pack(), codec.decompress(container, net)


def test_the_page_loads_only_files_of_the_site(site):
    check_sources(site)
    check_links(site)
    names = ("page.js", "view.js", "facts.js", "view.css", "page.css")
    text = "".join((site / "codec" / name).read_text() for name in names)
    assert not re.search(r"https?://|url\(|@import|import\(|fetch\(|XMLHttpRequest|WebSocket|sendBeacon", text)


def test_a_photograph_is_coded_with_the_figures_that_the_page_shows(open_page, tmp_path):
    page = open_page()
    page.click("[data-photo=brushes]")
    assert finish(page) == ""
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "brushes.lkc"
    download.value.save_as(tmp_path / "brushes.lkc")
    data = (tmp_path / "brushes.lkc").read_bytes()
    (name, *figures), (jpeg_name, *jpeg), uncompressed = table(page, "figures")
    assert name == "labkit" and number(figures[0]) == len(data)
    container = Container.unpack(data)
    assert number(figures[1]) == pytest.approx(container.bpp, abs=5e-4)
    net = codec.bundled_network(container)
    original = datasets.load_image(PHOTO)
    assert net.info["lmbda"] == 0.0067
    psnr = evaluation.metrics.psnr(codec.decompress(container, net), original)
    assert number(figures[2]) == pytest.approx(psnr, abs=0.02)
    assert re.fullmatch(r"JPEG, quality \d+", jpeg_name) and 0.9 * len(data) < number(jpeg[0]) <= len(data)
    assert psnr - 4 < number(jpeg[2]) < psnr + 1 and number(uncompressed[1]) == original.numel()
    assert page.inner_text("#command") == "labkit decompress brushes.lkc"
    assert f"{len(data):,} bytes" in page.inner_text("#status") and "Freespace" in page.inner_text("#credit")
    bits = page.evaluate("[maps.bits, maps.total].map((each) => each.reduce((sum, value) => sum + value, 0))")
    assert bits[0] == pytest.approx(bits[1], rel=1e-4)
    assert bits[0] / 8 == pytest.approx(check_ledger(page, data)["y"], rel=0.01)
    page.check("[name=lmbda][value='0.0009']")
    assert finish(page) == "" and number(table(page, "figures")[0][1]) < len(data) / 2


def test_a_file_coded_in_python_shows_its_image_and_its_bytes(open_page, coded):
    page, (data, image) = open_page(), coded
    assert give(page, "bird.lkc", data) == ""
    height, width = image.shape[1:]
    shown = page.evaluate("""() => {
        const copy = document.createElement("canvas").getContext("2d");
        const { width, height } = canvases.labkit;
        Object.assign(copy.canvas, { width, height });
        copy.drawImage(canvases.labkit, 0, 0);
        return [...copy.getImageData(0, 0, width, height).data];
    }""")
    pixels = torch.tensor(shown, dtype=torch.int16).view(height, width, 4)
    assert (pixels[:, :, :3].permute(2, 0, 1) - image).abs().max() <= 1 and (pixels[:, :, 3] == 255).all()
    assert page.is_checked("[name=lmbda][value='0.0025']") and page.is_disabled("[name=lmbda][value='0.018']")
    assert "λ = 0.0025" in page.inner_text("#status")
    assert len(table(page, "figures")) == 1 and "match the checksum" in page.inner_text("#status")
    assert page.is_hidden("#divider") and page.is_hidden("#pairs")
    check_ledger(page, data)


def changed(data, place, value):
    """Return a file with another byte in its header, and with the right checksum of the header."""
    header = bytearray(data[:38])
    header[place : place + len(value)] = value
    return bytes(header) + struct.pack("<I", zlib.crc32(header)) + data[42:]


def png(width, height):
    """Return a PNG file that claims a size and holds almost nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(10_000))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_bad_files_give_one_line_each(open_page, coded):
    page, (data, _) = open_page(), coded
    other = networks.pretrained("mean_scale_hyperprior", 0.0035)
    foreign = codec.compress(torch.zeros(3, 64, 64, dtype=torch.uint8), other).pack()
    resealed = dataclasses.replace(Container.unpack(data), width=4_000, height=3_900).pack()
    cases = {
        "empty.jpg": (b"", "no image"),
        "letter.txt": (b"Dear reader", "no image"),
        "photo.heic": (b"\0\0\0\x18ftypheic" + bytes(100), "HEIC"),
        "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "no image"),
        "huge.png": (png(30_000, 30_000), r"16 million|no image"),
        "large.png": (png(6_000, 5_000), r"6,000×5,000 pixels.*16 million"),
        "long.png": (png(70_000, 1), "65,535 per side"),
        "text.lkc": (b"not coded", "first bytes"),
        "empty.lkc": (b"", "empty"),
        "cut.lkc": (data[:100], "damaged|cut off"),
        "cut_header.lkc": (data[:20], "cut off"),
        "flipped.lkc": (data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "checksum"),
        "header.lkc": (data[:24] + b"\x07" + data[25:], "checksum"),
        "version1.lkc": (changed(data, 8, b"\x01"), "version 1"),
        "version9.lkc": (changed(data, 8, b"\x09"), "version 9"),
        "weights.lkc": (changed(data, 15, bytes(8)), "damaged|weights that this page does not have"),
        "large.lkc": (resealed, "larger image than|damaged"),
        "foreign.lkc": (foreign, "mean_scale_hyperprior"),
        "claims.lkc": (dataclasses.replace(Container.unpack(data), width=9_000, height=9_000).pack(), "16 million"),
    }
    for name, (content, problem) in cases.items():
        line = give(page, name, content)
        assert re.search(problem, line), f"{name}: {line!r}"
        assert line.startswith(f"{name}: ") and line.count(name) == 1 and "\n" not in line and len(line) < 220
        assert page.is_hidden("#results") and page.inner_text("#status") == "", name
        assert page.evaluate("document.getElementById('problem').getBoundingClientRect().bottom <= innerHeight")
    assert give(page, "bird.lkc", data) == "" and page.is_visible("#results")


def drop(page, event, name, data):
    """Drop or paste a file, or a text if `name` is None."""
    page.evaluate(
        """([kind, name, data]) => {
            const transfer = new DataTransfer();
            if (name) transfer.items.add(new File([Uint8Array.from(data)], name));
            else transfer.setData("text/plain", data);
            const key = kind === "paste" ? "clipboardData" : "dataTransfer";
            const event = new (kind === "paste" ? ClipboardEvent : DragEvent)(kind, {[key]: transfer, bubbles: true});
            document.body.dispatchEvent(event);
        }""",
        [event, name, data if name is None else list(data)],
    )
    return finish(page)


def test_files_can_be_dropped_and_pasted(open_page, coded):
    page, (data, _) = open_page(), coded
    for event in ("drop", "paste"):
        assert "not a file" in drop(page, event, None, "https://example.org/photo.jpg")
        assert drop(page, event, "bird.lkc", data) == "" and page.is_visible("#results")


def test_transparent_pixels_are_blended_with_white(open_page):
    page, file = open_page(), io.BytesIO()
    Image.fromarray(np.zeros((40, 50, 4), np.uint8)).save(file, "PNG")
    assert give(page, "a b; $(c).png", file.getvalue()) == ""
    assert page.evaluate("[canvases.original.width, canvases.original.height]") == [50, 40]
    assert number(table(page, "figures")[0][3]) > 40
    assert page.inner_text("#command") == "labkit decompress a_b_c_.lkc"


def test_a_large_photo_can_be_canceled(open_page, coded):
    page, file = open_page(), io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    Image.fromarray(noise).resize((4_000, 3_000)).save(file, "JPEG", quality=80)
    assert MOST_PIXELS >= 4_000 * 3_000
    page.set_input_files("#file", {"name": "large.jpg", "mimeType": "image/jpeg", "buffer": file.getvalue()})
    page.wait_for_timeout(1_000)
    assert page.is_visible("#progress")
    page.click("#cancel")
    assert finish(page) == "" and page.inner_text("#status") == "Canceled." and page.is_hidden("#results")
    assert give(page, "bird.lkc", coded[0]) == "" and page.is_visible("#results")


def test_the_keyboard_suffices(open_page):
    page = open_page()

    def reach(selector):
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.locator(f"{selector}:focus").count():
                return
        raise AssertionError(f"Tab does not reach {selector}")

    reach("#file")
    reach("[data-photo=brushes]")
    page.keyboard.press("Enter")
    assert finish(page) == "" and page.inner_text("#status").startswith("brushes: ")
    reach("[name=pair]")
    page.keyboard.press("ArrowDown")
    assert (page.inner_text("#left-name"), page.inner_text("#right-name")) == ("← Original", "JPEG →")
    assert page.is_visible("[data-image=jpeg]") and page.is_hidden("[data-image=labkit]")
    reach("#divider")
    page.keyboard.press("ArrowRight")
    assert page.input_value("#divider") == "51"
    reach("#download")
    reach("#kind")
    page.keyboard.press("End")  # the last entry
    assert page.input_value("#kind") == "sigma"
    reach("#channel")
    page.keyboard.press("ArrowUp")
    reach("#map")
    before = page.inner_text("#value")
    page.keyboard.press("ArrowLeft")
    after = page.inner_text("#value")
    assert re.match(r"Patch in row \d+, column \d+: [\d.]+ bits in all", after) and "Channel 1:" in after
    assert before != after


def test_the_pointer_shows_the_values_of_a_patch(open_page, coded):
    page, (data, image) = open_page(), coded
    give(page, "bird.lkc", data)
    rows, columns = page.evaluate("[maps.rows, maps.columns]")
    height, width = image.shape[1:]
    assert (16 * rows, 16 * columns) == (-(-height // 32) * 32, -(-width // 32) * 32)
    for view in ("#map", ".view:not(#map)"):
        page.locator(view).scroll_into_view_if_needed()
        box = page.locator(view).bounding_box()
        page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 2)
        assert page.inner_text("#value").startswith(f"Patch in row 1, column {columns}: ")
        page.mouse.move(box["x"] + 2, box["y"] + box["height"] - 2)
        assert page.inner_text("#value").startswith(f"Patch in row {rows}, column 1: ")


def test_scripts_of_the_page_can_send_nothing(open_page):
    page = open_page()
    blocked = page.evaluate("""() => new Promise((resolve) => {
        document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
        navigator.sendBeacon("https://example.org/", "x");
    })""")
    assert blocked == "connect-src"
    page.wait_for_timeout(100)
    assert len(open_page.problems) == 1 and "violates" in open_page.problems.pop()  # and no request


def test_axe_finds_nothing_in_either_theme(open_page):
    page = open_page(viewport={"width": 390, "height": 844})
    for step in ("start", "result", "problem"):
        if step == "result":
            page.click("[data-photo=brushes]")
            assert finish(page) == ""
        if step == "problem":
            assert give(page, "letter.txt", b"Dear reader")
        assert accessibility.problems(page) == [], step
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), step
