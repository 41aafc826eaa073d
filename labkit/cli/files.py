"""The commands `labkit compress`, `decompress` and `info` for .lkc files, and `labkit convert` for checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import click

from labkit.cli.options import load_network, network_option, weights_option


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File to write.  [default: IMAGE with the suffix .lkc]"
)
@weights_option
@network_option
@click.option("--lmbda", type=float, help="Use the bundled weights trained for the λ closest to this one.")
@click.option(
    "--refine", "steps", type=click.IntRange(0), default=0, help="Number of steps that search for better latents."
)
@click.option("--verify/--no-verify", default=True, help="Decode the result and store its checksums.")
@click.option("--force", is_flag=True, help="Overwrite the output file.")
def compress(
    image: Path,
    output: Path | None,
    weights: Path | None,
    network: str | None,
    lmbda: float | None,
    steps: int,
    verify: bool,
    force: bool,
) -> None:
    """Compress an image to a .lkc file with a trained network.

    The network runs on the CPU. Every CPU can decode the file. Transparent pixels are blended with white.
    """
    from labkit.files.container import SUFFIX

    output = output or image.with_suffix(SUFFIX)
    if not image.is_file():
        raise ValueError(f"{image}: there is no such file")
    if weights and lmbda is not None:
        raise ValueError("--lmbda selects bundled weights: use either --lmbda or --weights")
    if lmbda is not None and not 0 < lmbda < float("inf"):
        raise ValueError(f"--lmbda must be a positive number, got {lmbda}")
    _check_output(output, image, force)

    from labkit.files.conversion import compress_file
    from labkit.fixed_point import check_tables

    net = load_network(weights, network, lmbda)
    check_tables(net)  # a decoder needs the same tables
    click.echo(compress_file(image, output, net, refinement_steps=steps, verify=verify))


@click.command()
@click.argument("coded", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File to write.  [default: CODED with the suffix .png]"
)
@click.option(
    "--weights", type=click.Path(path_type=Path), help="Checkpoint.  [default: the bundled weights that CODED names]"
)
@network_option
@click.option(
    "--ignore-checksum", is_flag=True, help="Write the image even if its checksums differ from those in CODED."
)
@click.option("--force", is_flag=True, help="Overwrite the output file.")
def decompress(
    coded: Path, output: Path | None, weights: Path | None, network: str | None, ignore_checksum: bool, force: bool
) -> None:
    """Decompress a .lkc file to an image in a lossless format: .png, .webp, .ppm, .bmp, .tif or .tiff."""
    from labkit.files.container import Container
    from labkit.files.formats import check_lossless

    Container.read(coded)  # refuses a damaged file before torch loads
    output = output or coded.with_suffix(".png")
    check_lossless(output)
    _check_output(output, coded, force)

    from labkit.files.conversion import decompress_file

    net = load_network(weights, network) if weights or network else None
    click.echo(decompress_file(coded, output, net, ignore_checksum=ignore_checksum))


@click.command()
@click.argument("coded", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(coded: Path, as_json: bool) -> None:
    """Check a .lkc file and print its contents without decoding the image."""
    from labkit.files.container import Container

    container = Container.read(coded)
    if as_json:
        click.echo(json.dumps(container.summary()))
    else:
        click.echo(f"{coded}: {container}")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@network_option
@click.option("--force", is_flag=True, help="Overwrite the output file.")
def convert(checkpoint: Path, output: Path, network: str | None, force: bool) -> None:
    """Convert a checkpoint from another program to labkit's format, OUTPUT.safetensors.

    CHECKPOINT is a state dict saved by torch.save, either as the whole file or inside a dict, or a state dict in a
    safetensors file. Code in the file is never executed. The command builds coder tables if CHECKPOINT has none.
    """
    if output.suffix != ".safetensors":
        raise ValueError(f"{output}: the file name must end in .safetensors")
    if not checkpoint.is_file():
        raise ValueError(f"{checkpoint}: there is no such checkpoint")
    _check_output(output, checkpoint, force)

    from labkit.networks import save_checkpoint

    net = load_network(checkpoint, network)
    tables = "built" if net.update() else "kept"
    save_checkpoint(net, output)
    click.echo(f"{output}: {net.kind} with N = {net.N} and M = {net.M}, coder tables {tables}")


def _check_output(output: Path, source: Path, force: bool) -> None:
    if not output.parent.is_dir():
        raise ValueError(f"{output}: there is no folder {output.parent}")
    if output.is_dir():
        raise ValueError(f"{output} is a folder")
    if output.exists() and output.samefile(source):
        raise ValueError(f"{output} is the input file: use --output to name another file")
    if output.exists() and not force:
        raise ValueError(f"{output} already exists: use --force to overwrite it")
