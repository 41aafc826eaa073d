"""The commands `labkit evaluate` and `labkit refine`, which measure networks on real bitstreams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from labkit import defaults
from labkit.cli.options import load_network, network_option, parse_schedule, weights_option

TABLES = (".csv", ".parquet")
PAGES = (".html",)


def _check_suffix(path: Path | None, suffixes: tuple[str, ...]) -> None:
    if path and path.suffix not in suffixes:
        raise ValueError(f"{path}: the file name must end in {' or '.join(suffixes)}")


@click.command()
@click.argument("checkpoints", type=click.Path(path_type=Path), nargs=-1)
@network_option
@click.option("--data", help="Folder of test images.  [default: the bundled test photographs]")
@click.option(
    "--beside", multiple=True, help="Classical codec to compare with: jpeg, webp, jpeg2000 or avif. Repeatable."
)
@click.option("--table", type=click.Path(path_type=Path), help="Table with one row per image, .csv or .parquet.")
@click.option("--plot", "page", type=click.Path(path_type=Path), help="Page with the rate–distortion curves, .html.")
@click.option(
    "--metric",
    type=click.Choice(["psnr", "ms_ssim"]),
    default="psnr",
    help="Metric of the plot and of BD-rate.",
)
@click.option("--device", default="cpu", help="Device of the networks, such as cpu or cuda.")
@click.option("--threads", type=int, help="Number of CPU threads.  [default: torch's default]")
def evaluate(
    checkpoints: tuple[Path, ...],
    network: str | None,
    data: str | None,
    beside: tuple[str, ...],
    table: Path | None,
    page: Path | None,
    metric: str,
    device: str,
    threads: int | None,
) -> None:
    """Compress images to real bitstreams and print bits per pixel, PSNR and MS-SSIM.

    Without CHECKPOINTS, the command evaluates the bundled weights of patch_hyperprior. Checkpoints of the same network
    and size form one rate–distortion curve. For a single checkpoint, the command prints one row per image. For several,
    it prints means and the BD-rate of each curve against the first codec of --beside or, without --beside, against the
    first curve; both have 95% confidence intervals over the images. Under torchrun, the processes share the images.
    """
    import torch

    from labkit import datasets, evaluation, networks, training
    from labkit.disk import write_whole

    if threads:
        torch.set_num_threads(threads)
    if unknown := sorted(set(beside) - set(evaluation.classical_names())):
        names = ", ".join(evaluation.classical_names())
        raise ValueError(f"--beside must be one of {names}, got {', '.join(unknown)}")
    _check_suffix(table, TABLES)
    _check_suffix(page, PAGES)
    images = datasets.folder(data) if data else datasets.photos("test")
    curves: dict[str, list[evaluation.Report]] = {}
    if network and not checkpoints:
        raise ValueError("--network applies only to checkpoints: also name a checkpoint")
    nets = [load_network(file, network) for file in checkpoints]
    for net in nets or [networks.pretrained(lmbda=lmbda) for lmbda in networks.pretrained_lmbdas()]:
        net = net.to(training.processes.device(device))
        curves.setdefault(f"{net.kind} {net.size}", []).append(evaluation.evaluate(net, images))
    if training.processes.ranks()[0]:
        return  # the first process has the reports of all processes
    for codec in beside:
        curves[codec] = evaluation.classical(images, codec)
    if table:
        evaluation.save_table(evaluation.to_frame(curves), table)
    if page:
        write_whole(page, evaluation.plot(curves, metric).to_html().encode())
    reports = [report for curve in curves.values() for report in curve]
    anchor = beside[0] if beside else None
    click.echo(reports[0] if len(reports) == 1 else evaluation.describe(curves, metric, anchor))


@click.command()
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True)
@weights_option
@network_option
@click.option("--lmbda", type=float, help="Weight λ of the distortion.  [default: the λ of the weights]")
@click.option(
    "--surrogate",
    default=defaults.REFINE_SURROGATE,
    help="Surrogate for rounding: sga, ssl (SGA+), sua or another one.",
)
@click.option("--steps", type=int, default=defaults.REFINE_STEPS, help="Largest number of Adam steps per image.")
@click.option("--lr", type=float, default=defaults.REFINE_LR, help="Initial learning rate.")
@click.option(
    "--temperature",
    help="Temperature of the surrogate: a number or KIND:START:END.  [default: 0.5 for 35% of the steps, then to 0.1]",
)
@click.option("--seed", type=int, default=0, help="Seed of the noise.")
@click.option("--threads", type=int, help="Number of CPU threads.  [default: torch's default]")
@click.option("--table", type=click.Path(path_type=Path), help="Table with one row per image, .csv or .parquet.")
def refine(
    images: tuple[Path, ...],
    weights: Path | None,
    network: str | None,
    lmbda: float | None,
    temperature: str | None,
    threads: int | None,
    table: Path | None,
    **settings: Any,
) -> None:
    """Search for better latents of each image and print how many bytes they save.

    IMAGES are image files or folders of them. The weights of the network do not change, so every decoder can read the
    result. Ctrl-C stops the search after the current image and keeps the finished ones.
    """
    import torch

    from labkit import datasets, evaluation

    if threads:
        torch.set_num_threads(threads)
    _check_suffix(table, TABLES)
    if temperature:
        settings["temperature"] = parse_schedule(temperature)
    net = load_network(weights, network, lmbda)
    frame = evaluation.refine_all(net, datasets.load_images(images), table, lmbda=lmbda, **settings)
    columns = [f"{key}_{label}" for key in ("bytes", "psnr", "loss") for label in ("before", "after")]
    click.echo(frame[["name", *columns, "saving", "steps", "stopped", "seconds"]].round(4).to_string(index=False))
    click.echo(f"mean saving of the loss: {frame['saving'].mean():.2%}")
