"""The command `labkit train`, which trains one network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from labkit import defaults, first_edition
from labkit.cli.options import load_network, parse_schedule, read_toml_defaults


def _present_name(option: str) -> str:
    """Translate an option's name from the first edition, so that old commands still run."""
    setting = first_edition.SETTINGS.get(option.replace("-", "_"))
    return setting.replace("_", "-") if setting else option


@click.command(context_settings={"token_normalize_func": _present_name})
@click.argument("config", type=click.Path(path_type=Path), required=False, is_eager=True, callback=read_toml_defaults)
@click.option("--network", default=defaults.NETWORK, help="Network, by its name in labkit or in CompressAI.")
@click.option("--size", default=defaults.SIZE, help="Size of the network: tiny, small or paper.")
@click.option("--scheme", default=defaults.SCHEME, help="Quantization scheme, a preset of labkit.schemes.")
@click.option(
    "--temperature", help="Temperature of the surrogates: a number or KIND:START:END.  [default: from the scheme]"
)
@click.option("--scale-lower-bound", type=float, help="Lower bound on the scale σ.  [default: from the scheme, 0.11]")
@click.option("--data", help="Folder of training images.  [default: the bundled photographs]")
@click.option("--lmbda", type=float, required=True, help="Weight λ of the distortion, on CompressAI's scale.")
@click.option("--steps", type=int, required=True, help="Number of optimizer steps.")
@click.option("--batch-size", type=int, default=defaults.BATCH_SIZE, help="Number of crops per step.")
@click.option("--crop", type=int, default=defaults.CROP, help="Side of the square training crops, in pixels.")
@click.option(
    "--permute-colors",
    is_flag=True,
    default=defaults.PERMUTE_COLORS,
    help="Put the color channels of half of the crops into random order.",
)
@click.option("--lr", default=defaults.LR, help="Learning rate of Adam: a number or KIND:START:END.")
@click.option("--clip", type=float, default=defaults.CLIP, help="Largest norm of the gradient.")
@click.option(
    "--ema",
    type=float,
    default=defaults.EMA,
    help="Decay of a moving average of the weights, which the checkpoint then contains.  [default: none]",
)
@click.option("--seed", type=int, default=defaults.SEED, help="Seed of the initial weights, the crops and the noise.")
@click.option("--device", default=defaults.DEVICE, help="Device, such as cpu or cuda.  [default: cuda if available]")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default=defaults.PRECISION,
    help="Precision of the transforms.  [default: the faster one on this device]",
)
@click.option("--compile", is_flag=True, default=defaults.COMPILE, help="Compile the transforms with torch.compile.")
@click.option(
    "--threads", type=int, default=defaults.THREADS, help="Number of CPU threads.  [default: chosen by timing]"
)
@click.option(
    "--workers",
    type=int,
    default=defaults.WORKERS,
    help="Number of processes that read images.  [default: chosen by the size of the data]",
)
@click.option("--start", type=click.Path(path_type=Path), help="Checkpoint to start from.  [default: random weights]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint to write.")
@click.option("--log", type=click.Path(path_type=Path), help="Table with one row per step.  [default: OUT.csv]")
@click.option(
    "--tensorboard", type=click.Path(path_type=Path), help="Folder for TensorBoard event files.  [default: none]"
)
@click.option(
    "--save-every",
    type=float,
    default=defaults.SAVE_EVERY,
    help="Seconds between saves of the state from which a run can resume.",
)
@click.option("--fresh", is_flag=True, help="Start from step 0 and overwrite the files of an earlier run.")
def train(
    config: Path | None,
    network: str,
    size: str,
    scheme: str,
    temperature: str | None,
    scale_lower_bound: float | None,
    data: str | None,
    lr: str,
    start: Path | None,
    out: Path,
    log: Path | None,
    **settings: Any,
) -> None:
    """Train an image codec and write a checkpoint that contains its settings.

    CONFIG is a TOML file that sets options by name; command-line flags override the file. If a run is stopped or
    killed, the same command resumes it. `torchrun --nproc-per-node N --no-python labkit train …` trains one network
    with N processes, which divide each batch equally.
    """
    # OpenMP reads this when torch loads. Threads that wait without spinning leave their cores to other programs.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from labkit import datasets, networks, schemes, training

    fields = {
        "temperature": parse_schedule(temperature) if temperature else None,
        "scale_lower_bound": scale_lower_bound,
    }
    quantization = schemes.get(scheme, **{name: value for name, value in fields.items() if value is not None})
    if start:
        net = load_network(start, network)
        net.set_scheme(quantization)
    else:
        net = networks.get(network, size, quantization, seed=settings["seed"])
    source = datasets.training_images(data) if data else datasets.photos("train")
    log = log or out.with_suffix(".csv")
    run = training.train(net, source, lr=parse_schedule(lr), out=out, log=log, **settings)
    if training.processes.ranks()[0] == 0:
        click.echo(f"{out}: {run}")
