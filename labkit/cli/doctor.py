"""The command `labkit doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from labkit.cli.options import load_network, network_option


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
@network_option
@click.option("--data", help="Folder of images.  [default: the bundled test photographs]")
@click.option("--scheme", help="Training scheme to examine.  [default: the network's own]")
@click.option(
    "--lmbda", type=float, help="Weight λ of the distortion, to print losses.  [default: that of the weights]"
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="JSON file for the whole report.")
@click.option("--html", "page", type=click.Path(path_type=Path), help="File for a page with figures.")
@click.option("--threads", type=int, help="Number of CPU threads.  [default: torch's default]")
@click.pass_context
def doctor(
    ctx: click.Context,
    checkpoint: Path | None,
    network: str | None,
    data: str | None,
    scheme: str | None,
    lmbda: float | None,
    json_file: Path | None,
    page: Path | None,
    threads: int | None,
) -> None:
    """Explain why the real bits of a codec differ from its estimate, and where the bits are.

    The command runs the network of CHECKPOINT on images in training mode, in evaluation mode and in the coder. It also
    decodes the strings in a process with the instruction set of an old processor. Each finding has a figure, a cause
    and a remedy. Without CHECKPOINT, it examines the bundled weights of patch_hyperprior. The exit status is 0 if no
    finding is an error, 1 if one is, and 2 if the command could not run.
    """
    import torch

    from labkit import datasets
    from labkit.diagnosis import diagnose
    from labkit.disk import write_whole

    if threads:
        torch.set_num_threads(threads)
    net = load_network(checkpoint, network)
    images = datasets.folder(data) if data else datasets.photos("test")
    lmbda = net.info.get("lmbda") if lmbda is None else lmbda
    report = diagnose(net, images, scheme=scheme, lmbda=lmbda, old_processor=True)
    if json_file:
        write_whole(json_file, json.dumps(report.to_dict(), ensure_ascii=False, indent=1).encode())
    if page:
        write_whole(page, report.to_html().encode())
    click.echo(report)
    ctx.exit(1 if report.count("error") else 0)
