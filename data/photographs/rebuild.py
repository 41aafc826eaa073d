"""Rebuild the photographs of this folder from the packages that sources.csv names.

Each row of the table describes one file: its package, the path of the photograph in the package, the integer factor of
the downscaling, and the crop of the downscaled photograph. The script compares the decoded pixels with the hash in the
table. The bytes of a file may differ between versions of the WebP encoder, but its pixels may not.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
Row = dict[str, str]
Box = tuple[int, int, int, int]


class RebuildError(Exception):
    """An error that stops the rebuild, with a message of one line."""


def read_table(path: Path = HERE / "sources.csv") -> list[Row]:
    """Return the rows of the table."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def box_of(row: Row) -> Box:
    """Return the crop as left, top, width and height, in pixels of the downscaled photograph."""
    return int(row["left"]), int(row["top"]), int(row["width"]), int(row["height"])


def downscale(photograph: Image.Image, factor: int) -> Image.Image:
    """Downscale to RGB by exactly `factor`, without columns and rows that do not fill a pixel."""
    width, height = photograph.width // factor, photograph.height // factor
    filled = (0, 0, width * factor, height * factor)
    return photograph.convert("RGB").resize((width, height), Image.Resampling.LANCZOS, box=filled)


def cut(downscaled: Image.Image, box: Box) -> Image.Image:
    """Cut a crop out of a downscaled photograph."""
    left, top, width, height = box
    if left < 0 or top < 0 or left + width > downscaled.width or top + height > downscaled.height:
        raise RebuildError(f"the crop {box} reaches outside the photograph of size {downscaled.size}")
    return downscaled.crop((left, top, left + width, top + height))


def pixels_sha256(image: Image.Image) -> str:
    """Return the SHA-256 of the RGB bytes, row by row from the top."""
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def save(image: Image.Image, path: Path) -> None:
    """Write a lossless WebP file under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        image.save(partial, format="WEBP", lossless=True, quality=75, method=6)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def run(command: list[str], folder: Path) -> None:
    """Run a command in a folder, and raise RebuildError if it fails."""
    if shutil.which(command[0]) is None:
        raise RebuildError(f"{command[0]} is missing, but is needed to run: {' '.join(command)}")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise RebuildError(f"{' '.join(command)} failed: {lines[-1]}")


def find_package(package: str, version: str, folder: Path) -> Path:
    """Return the file of a package in a folder, preferably of the given version; download it if there is none."""
    kind, _, name = package.partition(":")
    if kind == "debian":
        pattern, exact = f"{name}_*.deb", f"{name}_{version.replace(':', '%3a')}_"
        download = ["apt-get", "download", name]
    elif kind == "pypi":
        stem = name.replace("-", "_")
        pattern, exact = f"{stem}-*.whl", f"{stem}-{version}-"
        download = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            f"{name}=={version}",
        ]
    else:
        raise RebuildError(f"package must be debian:NAME or pypi:NAME, got {package}")
    if not any(folder.glob(pattern)):
        run(download, folder)
    files = sorted(folder.glob(pattern), key=lambda path: (path.name.startswith(exact), path.name))
    if not files:
        raise RebuildError(f"{package}: no {pattern} in {folder}, and none was downloaded")
    return files[-1]


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .deb file or a wheel into a folder."""
    if archive.suffix == ".deb":
        run(["dpkg-deb", "-x", str(archive), str(folder)], folder)
        return
    try:
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)
    except zipfile.BadZipFile as error:
        raise RebuildError(f"{archive}: {error}") from error


def rebuild(rows: list[Row], packages: Path, to: Path) -> int:
    """Rebuild all files below `to`, and return how many have other bytes than in the table."""
    differing = 0
    for package, version in sorted({(row["package"], row["package_version"]) for row in rows}):
        archive = find_package(package, version, packages)
        photographs: dict[tuple[str, int], Image.Image] = {}
        with tempfile.TemporaryDirectory() as scratch:
            unpack(archive, Path(scratch))
            for row in (row for row in rows if row["package"] == package):
                source, factor = row["source_path"], int(row["factor"])
                if (source, factor) not in photographs:
                    path = Path(scratch, source)
                    if not path.is_file():
                        raise RebuildError(f"{archive.name} does not hold {source}")
                    with Image.open(path) as photograph:
                        photographs[source, factor] = downscale(photograph, factor)
                image = cut(photographs[source, factor], box_of(row))
                if pixels_sha256(image) != row["pixels_sha256"]:
                    raise RebuildError(f"{row['file']}: the pixels from {archive.name} differ from those of the table")
                save(image, to / row["file"])
                differing += hashlib.sha256((to / row["file"]).read_bytes()).hexdigest() != row["sha256"]
    return differing


def main(arguments: list[str] | None = None) -> int:
    """Run the script, and return its exit status."""
    parser = argparse.ArgumentParser(description="Rebuild the photographs from their packages.")
    parser.add_argument(
        "--packages",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with the .deb files and wheels; missing ones are downloaded into it",
    )
    parser.add_argument(
        "--to",
        type=Path,
        default=HERE,
        metavar="DIR",
        help="folder for train/ and test/ (default: the folder of this script)",
    )
    options = parser.parse_args(arguments)
    try:
        options.packages.mkdir(parents=True, exist_ok=True)
        rows = read_table()
        differing = rebuild(rows, options.packages.resolve(), options.to.resolve())
    except (RebuildError, OSError) as error:
        print(f"rebuild: {error}", file=sys.stderr)
        return 2
    note = f"; the bytes of {differing} differ from those of the table" if differing else ""
    print(f"rebuilt {len(rows)} files in {options.to}, all with the pixels of the table{note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
