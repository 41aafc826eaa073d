"""Measures the codec in a page: sizes, seconds in Chromium, and files of both codecs decoded by the other.

python -m tests.bench.web_codec --all

A photograph of 512×384 pixels is coded and decoded five times in one thread, and one of 4000×3000 pixels once. With
--all, every test photograph is coded whole at every bundled λ, in Python and in the page. The latents must be equal,
and the images within one step.
"""

from __future__ import annotations

import gzip
import json
import statistics
from pathlib import Path
from typing import Any

import click
from playwright.sync_api import sync_playwright

import labkit as lk
from labkit.files import codec
from labkit.files.container import Container
from labkit.web import weights
from tests.bench.common import COMMAND, json_option, machine_line, write_json
from tests.browser.lab import launch
from tests.web.codecs import Page, repeated, steps

LMBDA = 0.0067


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


def both_ways(page: Page, name: str, net: Any, image: Any) -> dict[str, Any]:
    """Return how the images differ that both codecs decode from files of both, and whether strings are equal."""
    container = codec.compress(image, net)
    file, _ = page.encode(name, image)
    files = [(container, container.pack()), (Container.unpack(file), file)]
    differences = [steps(page.decode(name, data)["pixels"], codec.decompress(one, net)) for one, data in files]
    return {"python": differences[0], "page": differences[1], "equal": container.strings == files[1][0].strings}


@click.command(context_settings=COMMAND)
@click.option("--all", "every", is_flag=True, help="Also code every test photograph at every λ.")
@json_option
def main(every: bool, out: Path | None) -> None:
    """Measure the codec in a page."""
    click.echo(machine_line(1))
    figures: dict[str, Any] = {"sizes": sizes()}
    click.echo(json.dumps(figures["sizes"]))
    photos = lk.datasets.photos("test").images
    with sync_playwright() as playwright:
        browser = launch(playwright)
        page = Page(browser.new_page())
        nets = {f"{x:g}": lk.networks.pretrained("patch_hyperprior", x) for x in lk.networks.pretrained_lmbdas()}
        for name, net in nets.items():
            page.load(name, net)
        photo = next(image for image in photos if image.shape[1:] == (384, 512))
        for name, image, count in (("512×384", photo, 5), ("4000×3000", repeated(photo, 3000, 4000), 1)):
            figures[name] = seconds(page, f"{LMBDA:g}", image, count)
            click.echo(f"{name}: {json.dumps(figures[name])}")
        for number, image in enumerate(photos if every else ()):
            for name, net in nets.items():
                row = figures[f"photograph {number}, λ = {name}"] = both_ways(page, name, net, image)
                click.echo(f"photograph {number}, λ = {name}: {json.dumps(row)}")
        browser.close()
    write_json(out, figures)
    worst = [row[side] for key, row in figures.items() if key.startswith("photograph") for side in ("python", "page")]
    if any(most > 1 or part > 0.001 for most, part in worst):
        raise click.ClickException("an image differs by more than one step, or in more than 0.1% of its values")


if __name__ == "__main__":
    main()
