"""Measures the codec in a page: sizes, seconds in Chromium, and files of both codecs decoded by the other.

python -m tests.bench.web_codec --all --json figures.json

While another program keeps a core busy, a photograph of 512×384 pixels is coded and decoded five times in one thread,
and one of 4000×3000 pixels once. The page itself then opens the large one, as a photo and as a file: the longest gap
between two animation frames says for how long the page does not react.

With --all, every test photograph is coded whole at every bundled λ, in Python and in the page. The latents must be
equal, and the images within one step, in Python also with the instruction set of an old processor. 200 damaged files
must be refused, each within two seconds.
"""

from __future__ import annotations

import gzip
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

import labkit as lk
from labkit.course import export
from labkit.files import codec
from labkit.files.container import Container
from labkit.web import weights
from labkit.web.page import write_page
from tests.bench.common import COMMAND, json_option, machine_line, write_json
from tests.browser.lab import launch
from tests.web.codecs import Page, decoded_elsewhere, repeated, steps
from tests.web.damage import damaged

LMBDA = 0.0067
MOST_SECONDS, MOST_GAP = 2, 200  # for a damaged file, and in milliseconds between two frames of the page
FRAMES = """() => {
    globalThis.gaps = [];
    let before = performance.now();
    const next = (now) => { gaps.push(now - before); before = now; requestAnimationFrame(next); };
    requestAnimationFrame(next);
}"""


def sizes() -> dict[str, Any]:
    """Return the bytes of the script and of the weights of each λ, and of both after gzip."""
    files = {"script": weights.SCRIPT.read_bytes()}
    for lmbda in lk.networks.pretrained_lmbdas("patch_hyperprior"):
        files[f"{lmbda:g}"] = weights.pack(lk.networks.pretrained("patch_hyperprior", lmbda), lmbda)
    return {name: (len(data), len(gzip.compress(data))) for name, data in files.items()}


def seconds(page: Page, name: str, image: Any, count: int) -> dict[str, Any]:
    """Return the median seconds of `count` encodings and decodings, and the number of calls of progress."""
    coded = [page.encode(name, image) for _ in range(count)]
    decoded = [page.decode(name, coded[0][0]) for _ in range(count)]
    medians = [statistics.median(values) / 1000 for values in ([ms for _, ms in coded], _milliseconds(decoded))]
    return {
        "bytes": len(coded[0][0]),
        "encode": medians[0],
        "decode": medians[1],
        "calls": len(decoded[0]["fractions"]),
    }


def _milliseconds(decoded: list[dict[str, Any]]) -> list[float]:
    return [result["milliseconds"] for result in decoded]


def both_ways(page: Page, name: str, net: Any, image: Any, path: Path) -> dict[str, Any]:
    """Return how the images differ that both codecs decode from files of both, and whether strings are equal.

    The page's file and its image are written to the path, with the suffixes .lkc and .npy.
    """
    container = codec.compress(image, net)
    file, _ = page.encode(name, image)
    files = [(container, container.pack()), (Container.unpack(file), file)]
    decoded = [page.decode(name, data)["pixels"] for _, data in files]
    path.with_suffix(".lkc").write_bytes(file)
    np.save(path.with_suffix(".npy"), decoded[1])
    pairs = zip(decoded, files, strict=True)
    differences = [steps(pixels, codec.decompress(one, net)) for pixels, (one, _) in pairs]
    return {"python": differences[0], "page": differences[1], "equal": container.strings == files[1][0].strings}


def refused(page: Page, name: str, net: Any, photos: Any) -> dict[str, Any]:
    """Return how many of 200 damaged files are refused, and the seconds of the slowest."""
    file, other = (codec.compress(photo[:, :96, :96].contiguous(), net).pack() for photo in photos[:2])
    draw = random.Random(23)
    results = page.decode_damaged(name, [damaged(file, other, draw) for _ in range(200)])
    slowest = max(result["milliseconds"] for result in results) / 1000
    return {"refused": sum("error" in result for result in results), "slowest": slowest}


def gaps(browser: Any, image: Any) -> dict[str, float]:
    """Return the longest milliseconds between two frames of the page while it codes an image and decodes its file."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "style.css").write_bytes((Path(export.__file__).parent / "pages" / "style.css").read_bytes())
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(write_page(folder, [("codec.html", "The course")]).as_uri())
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "large.jpg", quality=90)
        longest = {"photo": _longest_gap(page, folder / "large.jpg")}
        with page.expect_download() as download:
            page.click("#download")
        download.value.save_as(folder / "large.lkc")
        longest["file"] = _longest_gap(page, folder / "large.lkc")
        page.close()
    return longest


def _longest_gap(page: Any, file: Path) -> float:
    page.evaluate(FRAMES)
    page.set_input_files("#file", file)
    page.locator("#running").wait_for(state="visible")
    page.locator("#running").wait_for(state="hidden", timeout=300_000)
    page.wait_for_timeout(500)
    if page.locator("#problem").is_visible():
        raise click.ClickException(page.inner_text("#problem"))
    return float(page.evaluate("Math.max(...gaps)"))


@contextmanager
def busy_core() -> Iterator[None]:
    """Run another program that keeps a core busy."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


@click.command(context_settings=COMMAND)
@click.option("--all", "every", is_flag=True, help="Also code every test photograph at every λ, and damage files.")
@json_option
def main(every: bool, out: Path | None) -> None:
    """Measure the codec in a page."""
    click.echo(machine_line(1))
    figures: dict[str, Any] = {}
    problems = []

    def report(key: str, row: Any, right: bool = True) -> None:
        figures[key] = row
        click.echo(f"{key}: {json.dumps(row)}")
        write_json(out, figures)
        if not right:
            problems.append(key)

    report("sizes", sizes())
    photos = lk.datasets.photos("test").images
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as scratch:
        browser = launch(playwright)
        page = Page(browser.new_page())
        nets = {f"{x:g}": lk.networks.pretrained("patch_hyperprior", x) for x in lk.networks.pretrained_lmbdas()}
        for name, net in nets.items():
            page.load(name, net)
        photo = next(image for image in photos if image.shape[1:] == (384, 512))
        large = repeated(photo, 3000, 4000)
        with busy_core():
            for name, image, count in (("512×384", photo, 5), ("4000×3000", large, 1)):
                report(name, seconds(page, f"{LMBDA:g}", image, count))
            longest = gaps(browser, large)
        report("milliseconds between frames", longest, max(longest.values()) <= MOST_GAP)
        for number, image in enumerate(photos if every else ()):
            for name, net in nets.items():
                row = both_ways(page, name, net, image, Path(scratch) / f"{number:02}-{10_000 * float(name):05.0f}")
                good = all(most <= 1 and part <= 0.001 for most, part in (row["python"], row["page"]))
                report(f"photograph {number}, λ = {name}", row, good)
        if every:
            rows = decoded_elsewhere(Path(scratch))
            good = all(same and most <= 1 and part <= 0.001 for same, most, part in rows)
            report("old processor", {"files": len(rows), "most": max(row[1:] for row in rows)}, good)
            name, net = next(iter(nets.items()))
            row = refused(page, name, net, photos)
            report("damaged", row, row["slowest"] <= MOST_SECONDS)
        browser.close()
    if problems:
        raise click.ClickException(f"outside its bounds: {'; '.join(problems)}")


if __name__ == "__main__":
    main()
