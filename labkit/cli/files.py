"""`labkit compress`, `decompress` and `info` work with .lkc files."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import click

# Picture formats that give every pixel back, and what Pillow takes for them
_LOSSLESS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "lossless": True},
    ".ppm": {"format": "PPM"},
    ".bmp": {"format": "BMP"},
    ".tif": {"format": "TIFF"},
    ".tiff": {"format": "TIFF"},
}
_LOSSY = {".jpg": "JPEG", ".jpeg": "JPEG", ".jp2": "JPEG 2000", ".avif": "AVIF", ".heic": "HEIC", ".gif": "GIF"}


@click.command()
@click.argument("photo", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write.  [default: beside PHOTO, .lkc]")
@click.option("--weights", type=click.Path(path_type=Path), help="Checkpoint.  [default: the weights that come along]")
@click.option("--lmbda", type=float, help="Of the weights that come along, those nearest to this λ.")
@click.option(
    "--refine", "steps", type=click.IntRange(0), default=0, help="First search better latents in so many steps."
)
@click.option("--verify/--no-verify", default=True, help="Decode what was coded, and keep the picture's checksum.")
@click.option("--force", is_flag=True, help="Overwrite the output.")
def compress(
    photo: Path,
    output: Path | None,
    weights: Path | None,
    lmbda: float | None,
    steps: int,
    verify: bool,
    force: bool,
) -> None:
    """Code a picture into a .lkc file, with a trained network.

    It is coded in one thread on the CPU. Transparency is laid on white.
    """
    from labkit.files.container import SUFFIX

    output = output or photo.with_suffix(SUFFIX)
    if not photo.is_file():
        raise ValueError(f"{photo}: there is no such file")
    if weights and lmbda is not None:
        raise ValueError("--lmbda chooses among the weights that come along: leave it out, or --weights")
    if lmbda is not None and not 0 < lmbda < math.inf:
        raise ValueError(f"--lmbda must be a positive finite number, got {lmbda}")
    _check_output(output, photo, force)

    from labkit import datasets, networks, training
    from labkit.evaluation import metrics, refine
    from labkit.files import codec as files

    image = datasets.load_image(photo)
    if weights:
        net, _ = training.load_checkpoint(weights)
    else:
        net = networks.pretrained() if lmbda is None else networks.pretrained(lmbda=lmbda)
    try:
        refined = refine(net, image / 255, steps=steps) if steps else None
        latents = (refined.y, refined.z) if refined else None
        container = files.compress(image, net, verify=False, latents=latents)
        quality = ""
        if verify:
            container, decoded = files.verified(container, net)
            quality = f", {metrics.psnr(decoded / 255, image / 255):.2f} dB PSNR"
    except ValueError as error:
        raise ValueError(f"{photo}: {error}") from None
    container.write(output)
    size = f"{container.width}×{container.height} pixels in {container.file_bytes:,} bytes, {container.bpp:.4f} bpp"
    note = "; transparency was laid on white" if datasets.transparent(photo) else ""
    if refined:
        gain = 1 - refined.after.loss / refined.before.loss
        note = f"; {refined.steps} steps lowered the loss by {gain:.1%}{note}"
    click.echo(f"{output}: {size}{quality}{note}")


@click.command()
@click.argument("coded", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write.  [default: beside CODED, .png]")
@click.option("--weights", type=click.Path(path_type=Path), help="Checkpoint.  [default: one that comes along]")
@click.option("--anyway", is_flag=True, help="Write the picture even where it is another than the one verified.")
@click.option("--force", is_flag=True, help="Overwrite the output.")
def decompress(coded: Path, output: Path | None, weights: Path | None, anyway: bool, force: bool) -> None:
    """Decode a .lkc file into a picture of a lossless format: .png, .webp, .ppm, .bmp, .tif or .tiff."""
    from labkit.disk import write_whole
    from labkit.files.container import Container

    container = Container.read(coded)
    output = output or coded.with_suffix(".png")
    suffix = output.suffix.lower()
    if suffix not in _LOSSLESS:
        reason = f"{_LOSSY[suffix]} would lose again" if suffix in _LOSSY else "the suffix names the format"
        raise ValueError(f"{output}: {reason}; takes {', '.join(_LOSSLESS)}")
    _check_output(output, coded, force)

    from PIL import Image

    from labkit import training
    from labkit.files import codec as files

    try:
        net = training.load_checkpoint(weights)[0] if weights else files.shipped(container)
        picture = files.decompress(container, net, anyway)
    except ValueError as error:
        raise ValueError(f"{coded}: {error}") from None
    buffer = io.BytesIO()
    try:
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, **_LOSSLESS[suffix])
    except (ValueError, OSError) as error:  # WebP has a largest side
        raise ValueError(f"{output}: {_LOSSLESS[suffix]['format']} cannot hold this picture ({error})") from None
    write_whole(output, buffer.getvalue())
    if container.picture is None:
        note = "not verified when it was coded"
    elif container.picture == files.picture_checksum(picture):
        note = "the same picture as when it was coded"
    else:
        note = "another picture than when it was coded"
    click.echo(f"{output}: {container.width}×{container.height} pixels, {note}")


@click.command()
@click.argument("coded", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(coded: Path, as_json: bool) -> None:
    """Say what a .lkc file holds, and check it, without decoding."""
    from labkit.files.container import VERSION, Container

    container = Container.read(coded)
    sections = [len(string) for string in container.strings]
    if as_json:
        about = {name: getattr(container, name) for name in ("network", "size", "N", "M", "weights", "width", "height")}
        about |= {"version": VERSION, "bytes": container.file_bytes, "strings": sections, "bpp": container.bpp}
        click.echo(json.dumps(about | {"picture": container.picture, "checksums": "good"}))
        return
    verified = "not verified" if container.picture is None else f"verified, checksum {container.picture:08x}"
    strings = f"{' + '.join(map(str, sections))} in {len(sections)} string{'s' * (len(sections) > 1)}"
    click.echo(
        f"{coded}: version {VERSION}, its checksums are good\n"
        f"network  {container.codec}, weights {container.weights}\n"
        f"picture  {container.width}×{container.height} pixels, {verified}\n"
        f"bytes    {container.file_bytes:,}: {strings}, {container.file_bytes - sum(sections)} around them\n"
        f"rate     {container.bpp:.4f} bpp"
    )


def _check_output(output: Path, source: Path, force: bool) -> None:
    """Before anything is loaded: may this be written?"""
    if not output.parent.is_dir():
        raise ValueError(f"{output}: there is no folder {output.parent}")
    if output.is_dir():
        raise ValueError(f"{output} is a folder")
    if output.exists() and output.samefile(source):
        raise ValueError(f"{output} is the input: name another output")
    if output.exists() and not force:
        raise ValueError(f"{output} is there already: --force overwrites it")
