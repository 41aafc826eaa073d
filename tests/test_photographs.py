"""The photographs agree with their table and have known licenses, and no source is in both sets."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import zipfile
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "data" / "photographs"
LICENSES = {
    "CC0-1.0",
    "CC-BY-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "GPL-2.0-or-later",
    "public domain",
}
REQUIRED_COLUMNS = ("title", "author", "license", "license_url", "package", "package_version", "source_path")


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rebuild_photographs", FOLDER / "rebuild.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


rebuild = load_script()
ROWS: list[dict[str, str]] = rebuild.read_table()


def rows_of(split: str) -> list[dict[str, str]]:
    return [row for row in ROWS if row["split"] == split]


def sources(split: str) -> set[str]:
    """Return the file names of the photographs of a set; a copy in a second package is the same photograph."""
    return {Path(row["source_path"]).name.lower() for row in rows_of(split)}


def test_the_folder_contains_the_files_of_the_table_and_no_others() -> None:
    listed = [row["file"] for row in ROWS]
    assert len(set(listed)) == len(listed)
    present = {str(path.relative_to(FOLDER).as_posix()) for path in FOLDER.rglob("*") if path.is_file()}
    others = {"sources.csv", "rebuild.py", "README.md", "GPL-2.0.txt"}
    assert {path for path in present if "__pycache__" not in path} == set(listed) | others


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
def test_each_file_is_lossless_and_has_the_listed_size_and_hashes(row: dict[str, str]) -> None:
    data = (FOLDER / row["file"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == row["sha256"]
    # A lossless still image is one VP8L chunk right after the RIFF header; a lossy one is VP8 or VP8X.
    assert data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8L"
    with Image.open(FOLDER / row["file"]) as image:
        assert image.mode == "RGB"
        assert image.size == (int(row["width"]), int(row["height"]))
        assert hashlib.sha256(np.asarray(image).tobytes()).hexdigest() == row["pixels_sha256"]


def test_there_are_enough_images_from_enough_photographs() -> None:
    assert {row["split"] for row in ROWS} == {"train", "test"}
    assert len(rows_of("train")) >= 48 and len(sources("train")) >= 24
    assert len(rows_of("test")) >= 12 and len(sources("test")) >= 8
    assert not sources("train") & sources("test")
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 16 * 2**20


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
def test_each_row_names_a_source_that_is_large_enough(row: dict[str, str]) -> None:
    assert all(row[name].strip() for name in REQUIRED_COLUMNS)
    assert row["license"] in LICENSES
    assert row["package"].partition(":")[0] in {"debian", "pypi"}
    assert row["file"].partition("/")[0] == row["split"]

    size, factor = (int(row["source_width"]), int(row["source_height"])), int(row["factor"])
    assert factor >= (2 if min(size) < 1000 else 3)
    left, top, width, height = rebuild.box_of(row)
    assert left >= 0 and top >= 0
    assert left + width <= size[0] // factor and top + height <= size[1] // factor
    if row["split"] == "train":
        assert (width, height) == (256, 256)
    else:
        assert max(width, height) >= 384 and min(width, height) >= 256


def test_crops_of_one_photograph_do_not_overlap_and_share_their_description() -> None:
    by_source: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in ROWS:
        by_source[row["source_path"]].append(row)
    for rows in by_source.values():
        assert len({tuple(row[name] for name in (*REQUIRED_COLUMNS, "factor", "source_width")) for row in rows}) == 1
        boxes = [rebuild.box_of(row) for row in rows]
        for i, (left, top, width, height) in enumerate(boxes):
            for x, y, across, down in boxes[:i]:
                assert x + across <= left or left + width <= x or y + down <= top or top + height <= y


def lanczos(length: int, factor: int) -> npt.NDArray[np.float64]:
    """Return the weights that downscale `length` samples by an integer factor with a Lanczos kernel of order 3."""
    count = length // factor
    centers = (np.arange(count)[:, None] + 0.5) * factor
    distance = (np.arange(count * factor)[None, :] + 0.5 - centers) / factor
    weights = np.where(abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0.0)
    normalized: npt.NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return normalized


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_the_script_downscales_and_crops_like_numpy(factor: int) -> None:
    rng = np.random.default_rng(factor)
    height, width = 16 * factor + 1, 20 * factor + factor - 1  # the last row and columns do not fill a whole pixel
    pixels = rng.integers(60, 196, (height, width, 3), dtype=np.uint8)
    expected = np.einsum(
        "yi,xj,ijc->yxc",
        lanczos(height, factor),
        lanczos(width, factor),
        pixels[: 16 * factor, : 20 * factor].astype(float),
    )
    image = rebuild.cut(rebuild.downscale(Image.fromarray(pixels), factor), (3, 2, 12, 9))
    assert image.size == (12, 9)
    # Pillow rounds to 8 bits after each of its two passes.
    np.testing.assert_allclose(np.asarray(image).astype(float), expected[2:11, 3:15], atol=1.5)


def synthetic_row(tmp_path: Path) -> dict[str, str]:
    """Write a wheel with a synthetic photograph, and return a row of the table for a crop of it."""
    pixels = np.random.default_rng(7).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    photograph = Image.fromarray(pixels)
    photograph.save(tmp_path / "made.png")
    with zipfile.ZipFile(tmp_path / "made_photos-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(tmp_path / "made.png", "made_photos/made.png")
    crop = rebuild.downscale(photograph, 3).crop((4, 3, 20, 15))
    return {
        "file": "train/made_0.webp",
        "sha256": "of other bytes",
        "pixels_sha256": hashlib.sha256(np.asarray(crop).tobytes()).hexdigest(),
        "package": "pypi:made-photos",
        "package_version": "1.0",
        "source_path": "made_photos/made.png",
        "factor": "3",
        "left": "4",
        "top": "3",
        "width": "16",
        "height": "12",
    }


def test_the_script_rebuilds_a_row_from_a_package(tmp_path: Path) -> None:
    row = synthetic_row(tmp_path)
    assert rebuild.rebuild([row], tmp_path, tmp_path / "out") == 1  # the bytes differ, the pixels do not
    assert [path.name for path in (tmp_path / "out" / "train").iterdir()] == ["made_0.webp"]
    with Image.open(tmp_path / "out" / row["file"]) as image:
        assert hashlib.sha256(np.asarray(image).tobytes()).hexdigest() == row["pixels_sha256"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"left": "5"}, "differ from those of the table"),
        ({"left": "15"}, "reaches outside"),
        ({"source_path": "made_photos/other.png"}, "does not hold"),
        ({"package": "other:made-photos"}, "debian:NAME or pypi:NAME"),
    ],
)
def test_errors_of_the_script_have_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    message: str,
) -> None:
    row = synthetic_row(tmp_path) | change
    monkeypatch.setattr(rebuild, "read_table", lambda: [row])
    assert rebuild.main(["--packages", str(tmp_path), "--to", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out" / "train").exists()


def test_the_error_names_a_missing_tool(tmp_path: Path) -> None:
    with pytest.raises(rebuild.RebuildError, match="no-such-tool is missing"):
        rebuild.run(["no-such-tool", "-x"], tmp_path)
