"""`labkit evaluate` and `labkit refine` measure networks on real bitstreams."""

from __future__ import annotations

from pathlib import Path

import click

from labkit.cli.options import parse_schedule


@click.command()
@click.argument("checkpoints", type=click.Path(path_type=Path), nargs=-1)
@click.option("--data", help="Folder of images.  [default: the bundled test photographs]")
@click.option("--beside", multiple=True, help="A classical codec to measure too: jpeg, webp, jpeg2000, avif.")
@click.option("--table", type=click.Path(path_type=Path), help="Write a row an image there, as .csv or .parquet.")
@click.option("--plot", "page", type=click.Path(path_type=Path), help="Draw the rate–distortion plane there, as .html.")
@click.option("--metric", type=click.Choice(["psnr", "ms_ssim"]), default="psnr", help="Of the plane, and of BD-rate.")
@click.option("--device", default="cpu")
@click.option("--threads", type=int, help="Threads on the CPU.  [default: torch's own]")
def evaluate(checkpoints, data, beside, table, page, metric, device, threads) -> None:
    """Code images to real bitstreams with checkpoints, and print bits per pixel, PSNR and MS-SSIM.

    Without a checkpoint the weights that come along are measured. Checkpoints of one network and size are points of
    one curve. One report is printed image by image; of several, the means, and each curve's BD-rate against the first
    codec of --beside, or without one the first curve, both with 95% intervals over the images. The processes of
    torchrun share the images of checkpoints.
    """
    import torch

    from labkit import datasets, evaluation, networks, training
    from labkit.disk import write_whole

    if threads:
        torch.set_num_threads(threads)
    if unknown := set(beside) - set(evaluation.classical_names()):
        there = ", ".join(evaluation.classical_names())
        raise ValueError(f"--beside: takes {there}, got {', '.join(sorted(unknown))}")
    for path, suffixes in ((table, (".csv", ".parquet")), (page, (".html",))):
        if path and path.suffix not in suffixes:
            raise ValueError(f"{path}: takes a name that ends in {' or '.join(suffixes)}")
    images = datasets.folder(data) if data else datasets.photos("test")
    curves: dict[str, list[evaluation.Report]] = {}
    nets = [training.load_checkpoint(file)[0] for file in checkpoints]
    for net in nets or [networks.pretrained(lmbda=lmbda) for lmbda in networks.pretrained_lmbdas()]:
        net = net.to(training.processes.device(device))
        curves.setdefault(f"{net.kind} {net.size}", []).append(evaluation.evaluate(net, images))
    if training.processes.ranks()[0]:
        return  # the first process has all reports, and says what came of them
    for codec in beside:
        curves[codec] = evaluation.classical(images, codec)
    if table:
        evaluation.save_table(evaluation.to_frame(curves), table)
    if page:
        write_whole(page, evaluation.plot(curves, metric).to_html().encode())
    reports = [report for of_curve in curves.values() for report in of_curve]
    anchor = beside[0] if beside else None
    click.echo(reports[0] if len(reports) == 1 else evaluation.describe(curves, metric, anchor))


@click.command()
@click.argument("photos", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--weights", type=click.Path(path_type=Path), help="Checkpoint.  [default: the weights that come along]")
@click.option("--lmbda", type=float, help="Of the loss.  [default: the one that the weights were trained for]")
@click.option("--surrogate", default="sga", help="sga, ssl (SGA+), sua, or any other.")
@click.option("--steps", type=int, default=200, help="Of Adam, at most.")
@click.option("--lr", type=float, default=0.03, help="First learning rate.")
@click.option("--temperature", help="A number, or KIND:START:END.  [default: ½ for 35% of the steps, then to 0.1]")
@click.option("--patience", type=int, default=10, help="Stop after so many checks, one every ten steps, without gain.")
@click.option("--seed", type=int, default=0)
@click.option("--threads", type=int, help="Threads on the CPU.  [default: torch's own]")
@click.option("--table", type=click.Path(path_type=Path), help="Write a row an image there, as .csv or .parquet.")
def refine(photos, weights, lmbda, temperature, threads, table, **settings) -> None:
    """Search better latents for each picture with a trained network, and print what that gains in real bytes.

    PHOTOS are image files or folders of them. Ctrl-C ends the picture at hand, and keeps what is done.
    """
    import torch

    from labkit import datasets, evaluation, networks, training

    if threads:
        torch.set_num_threads(threads)
    if table and table.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{table}: takes a name that ends in .csv or .parquet")
    if temperature:
        settings["temperature"] = parse_schedule(temperature)
    if weights:
        net, _ = training.load_checkpoint(weights)
    else:
        net = networks.pretrained() if lmbda is None else networks.pretrained(lmbda=lmbda)
    images = datasets.PhotoSet([], [])
    for path in photos:
        more = datasets.folder(path) if path.is_dir() else datasets.PhotoSet([datasets.load_image(path)], [path.name])
        images = datasets.PhotoSet([*images.images, *more.images], [*images.names, *more.names])
    frame = evaluation.refine_all(net, images, table, lmbda=lmbda, **settings)
    shown = [f"{key}_{label}" for key in ("bytes", "psnr", "loss") for label in ("before", "after")]
    click.echo(frame[["name", *shown, "saving", "steps", "stopped", "seconds"]].round(4).to_string(index=False))
    click.echo(f"mean saving of the loss: {frame['saving'].mean():.2%}")
