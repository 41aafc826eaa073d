"""`labkit train` trains one network."""

from __future__ import annotations

import os
from pathlib import Path

import click

from labkit.cli.options import parse_schedule, read_toml_defaults


@click.command()
@click.argument("config", type=click.Path(path_type=Path), required=False, is_eager=True, callback=read_toml_defaults)
@click.option("--network", default="mean_scale_hyperprior", help="Network's name.")
@click.option("--size", default="tiny", help="tiny, small or paper.")
@click.option("--scheme", default="mixed", help="Preset of labkit.schemes.")
@click.option("--temperature", help="A number, or KIND:START:END.")
@click.option("--scale-lower-bound", type=float, help="Of the entropy model's σ.  [default: the scheme's, 0.11]")
@click.option("--data", help="Folder of training images.  [default: the bundled photographs]")
@click.option("--lmbda", type=float, required=True, help="Weight of the distortion, in CompressAI's scale.")
@click.option("--steps", type=int, required=True)
@click.option("--batch-size", type=int, default=4)
@click.option("--crop", type=int, default=256)
@click.option("--permute-colors", is_flag=True, help="Half of the crops with colors in a random order.")
@click.option("--lr", default="cosine:8e-4:1e-5", help="A number, or KIND:START:END.")
@click.option("--clip", type=float, default=1.0, help="Largest gradient norm.")
@click.option("--ema", type=float, help="Decay of a moving average of the weights, which is what is written.")
@click.option("--seed", type=int, default=0)
@click.option("--device", help="cpu, cuda, …  [default: cuda where there is one]")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Of the transforms.  [default: bfloat16 where the device multiplies it, a GPU or a CPU with AMX]",
)
@click.option("--compile", is_flag=True, help="The transforms by torch.compile.")
@click.option("--threads", type=int, help="Of a CPU run.  [default: found out by measuring]")
@click.option("--workers", type=int, help="Processes that read images where they are too many for memory.")
@click.option("--start", type=click.Path(path_type=Path), help="Checkpoint to start from.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint to write.")
@click.option(
    "--log", type=click.Path(path_type=Path), help="Table to write a row to for each step.  [default: OUT.csv]"
)
@click.option("--tensorboard", type=click.Path(path_type=Path), help="Folder to write TensorBoard's files to.")
@click.option("--save-every", type=float, default=60.0, help="Seconds between two states to go on from.")
@click.option("--fresh", is_flag=True, help="Start over, and overwrite what another run has written.")
def train(
    config,
    network,
    size,
    scheme,
    temperature,
    scale_lower_bound,
    data,
    lr,
    device,
    precision,
    start,
    out,
    log,
    **settings,
) -> None:
    """Train an image codec and write a checkpoint, with its settings inside.

    CONFIG is a TOML file with options by their names, which those given here go before. A run that was stopped or
    killed goes on when the same command is given again. Several processes train one network under
    `torchrun --nproc-per-node N --no-python labkit train …`, with equal parts of each batch.
    """
    # Threads that wait without spinning leave their core to whatever else wants it; read when torch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    from labkit import datasets, networks, schemes, training

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    precision = precision or training.native_precision(device)
    fields = {
        "temperature": parse_schedule(temperature) if temperature else None,
        "scale_lower_bound": scale_lower_bound,
    }
    chosen = schemes.get(scheme, **{name: value for name, value in fields.items() if value is not None})
    if start:
        net, _ = training.load_checkpoint(start, network=network)
        net.set_scheme(chosen)
    else:
        net = networks.get(network, size, chosen, seed=settings["seed"])
    source = datasets.training_images(data) if data else datasets.photos("train")
    settings |= {"lr": parse_schedule(lr), "device": device, "precision": precision}
    run = training.train(net, source, out=out, log=log or out.with_suffix(".csv"), **settings)
    if training.processes.ranks()[0] == 0:
        click.echo(f"{out}: {run}")
