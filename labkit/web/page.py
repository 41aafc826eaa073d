"""The page "Try the codec" of the exported course. It runs from `file://`, without a server or a network connection."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from labkit import defaults, networks, paths
from labkit.disk import write_whole
from labkit.files.container import HASH_DIGITS
from labkit.web import weights

_FILES = Path(__file__).parent
_NETWORK = "patch_hyperprior"
# name of a test photograph, and label of its button
_PHOTOS = {
    "friends_0": "Dogs",
    "kleiber": "Bird",
    "picosdeeuropa_0": "Mountains",
    "brushes": "Brushes",
    "wine_0": "Table",
}
_QUALITIES = ("Smallest file", "Small file", "Good image", "Best image")  # for the bundled λ, in ascending order
_THUMBNAIL = 96  # longest side in pixels
MOST_PIXELS = 16_000_000  # largest image; after 12 million pixels, the page's process in Chromium holds 770 MiB
MOST_BYTES = 128 * 2**20  # largest photo or .lkc file
LONGEST_SIDE = 65_535  # longest side that a .lkc file supports


class Photo(NamedTuple):
    """A photograph that the page offers.

    Attributes:
        name: Name of the file without suffix.
        label: Text of its button.
        credit: Title, author and license.
        thumbnail: Small image as a data URL.
        width: Width of the thumbnail in pixels.
        height: Height of the thumbnail in pixels.
    """

    name: str
    label: str
    credit: str
    thumbnail: str
    width: int
    height: int


def write_page(folder: Path, links: Sequence[tuple[str, str]]) -> Path:
    """Write codec.html, and its scripts, weights and photographs into the folder `codec` next to it.

    Args:
        folder: Existing folder with the style.css of the course.
        links: File and title of each of the other pages, for the list of pages.

    Returns:
        The path of codec.html.

    Raises:
        ValueError: If a file cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader

    beside = folder / "codec"
    beside.mkdir(exist_ok=True)
    photos = [_photo(name, label, beside) for name, label in _PHOTOS.items()]
    weights.write(beside, _NETWORK)
    for name in ("view.css", "page.css", "page.js"):
        write_whole(beside / name, (_FILES / name).read_bytes())
    write_whole(beside / "view.js", b"const root = document;\n" + (_FILES / "view.js").read_bytes())
    lmbdas = networks.pretrained_lmbdas(_NETWORK)
    facts = {
        "hashes": {f"{each:g}": _hash(each) for each in lmbdas},
        "credits": {photo.name: photo.credit for photo in photos},
        "most_pixels": MOST_PIXELS,
        "most_bytes": MOST_BYTES,
        "longest_side": LONGEST_SIDE,
        "worker": worker_script(),
    }
    choices = [
        {"lmbda": f"{lmbda:g}", "label": label, "default": lmbda == defaults.PRETRAINED_LMBDA}
        for lmbda, label in zip(lmbdas, _QUALITIES, strict=True)
    ]
    template = Environment(loader=FileSystemLoader(_FILES)).get_template("page.html.j2")
    text = template.render(links=links, photos=photos, lmbdas=choices)
    write_whole(beside / "facts.js", f"globalThis.labkitFacts = {json.dumps(facts)};\n".encode())
    write_whole(folder / "codec.html", text.encode())
    return folder / "codec.html"


def worker_script() -> str:
    """Return codec.js and worker.js as one classic script.

    Chromium does not start module workers for a page from `file://`, so the `export` keywords are removed.
    """
    codec = (_FILES / "codec.js").read_text(encoding="utf-8")
    return re.sub(r"^export ", "", codec, flags=re.M) + (_FILES / "worker.js").read_text(encoding="utf-8")


def _hash(lmbda: float) -> str:
    return networks.weights_hash(networks.pretrained(_NETWORK, lmbda))[:HASH_DIGITS]


def _photo(name: str, label: str, folder: Path) -> Photo:
    """Write a photograph as a script, because a page from `file://` cannot read the pixels of an image file."""
    file = paths.data() / "photographs" / "test" / f"{name}.webp"
    text = base64.b64encode(file.read_bytes()).decode()
    write_whole(folder / f"photo-{name}.js", f'globalThis.labkitPhoto("{name}", "{text}");\n'.encode())
    with open(file.parents[1] / "sources.csv", encoding="utf-8", newline="") as table:
        source = next(row for row in csv.DictReader(table) if row["file"] == f"test/{name}.webp")
    credit = f"Photograph: {source['title']} by {source['author']}, {source['license']}, cropped and made smaller."
    with Image.open(file) as image:
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
    thumbnail = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Photo(name, label, credit, thumbnail, *image.size)
