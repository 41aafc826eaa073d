"""Options that several commands share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labkit import defaults

if TYPE_CHECKING:
    import pandas as pd

    from labkit.networks import Codec
    from labkit.schedules import Schedule

Command = Callable[..., None]

weights_option = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help=f"Checkpoint.  [default: the bundled weights of {defaults.PRETRAINED}]",
)


def parse_schedule(text: str) -> Schedule:
    """Parse the value of an option that is a number or a schedule.

    Args:
        text: A number or KIND:START:END.

    Returns:
        The schedule.

    Raises:
        click.BadParameter: If the text is neither.
    """
    from labkit import schedules

    try:
        return schedules.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


network_option = click.option(
    "--network", help="Network of a checkpoint that does not name it, by its name in labkit or in CompressAI."
)


def load_network(weights: Path | None, network: str | None = None, lmbda: float | None = None) -> Codec:
    """Load the network that a command uses, and print the keys of its checkpoint that were renamed or left out.

    Args:
        weights: Checkpoint, or None for the bundled weights of `defaults.PRETRAINED`.
        network: Name of the checkpoint's network, or None if the checkpoint names it.
        lmbda: λ that selects the bundled weights: those trained for the closest value are loaded.

    Returns:
        The network with its weights.

    Raises:
        ValueError: If the checkpoint cannot be loaded.
    """
    from labkit import networks, training

    if weights:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            net, _ = training.load_checkpoint(weights, network)
        for warning in caught:
            click.echo(f"labkit: {warning.message}", err=True)
        return net
    if network:
        raise ValueError("--network applies only to a checkpoint: also name the checkpoint")
    return networks.pretrained() if lmbda is None else networks.pretrained(lmbda=lmbda)


def read_toml_defaults(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Make the values in a TOML file the defaults of the command's options, so that flags override the file.

    Args:
        ctx: Context of the command.
        param: The argument that names the file.
        path: The file, or None.

    Returns:
        The file.

    Raises:
        ValueError: If the file cannot be read or sets something that is not an option of the command.
    """
    if path is None:
        return None
    from labkit.checks import check_name
    from labkit.disk import read_toml
    from labkit.first_edition import modern

    names = [option.name for option in ctx.command.params if option is not param and option.name]
    values = modern({name.replace("-", "_"): value for name, value in read_toml(path).items()})
    for name, value in values.items():
        check_name("option", name, names, where=path)
        if isinstance(value, dict | list):
            raise ValueError(f"{path}: {name} must be a single value, got {value!r}")
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return path


_SWEEP_OPTIONS = (
    click.option(
        "--workers",
        type=click.IntRange(1),
        help="Number of worker processes.  [default: one per core; with --address, all workers of the cluster]",
    ),
    click.option(
        "--address",
        help="Address of a Dask scheduler, such as tcp://HOST:8786.  [default: start workers on this machine]",
    ),
    click.option(
        "--gpus", type=click.IntRange(1), help="Number of GPUs.  [default: none; with --address, all of the cluster]"
    ),
    click.option("--per-gpu", type=click.IntRange(1), default=1, help="Number of simultaneous runs per GPU."),
    click.option("--dry-run", is_flag=True, help="Print the missing runs and the estimated time, then stop."),
    click.option("--retry-failed", is_flag=True, help="Repeat the runs that failed."),
)


def sweep_options(command: Command) -> Command:
    """Add the options that every command with a sweep has.

    Args:
        command: The command's function.

    Returns:
        The function with the options.
    """
    for option in reversed(_SWEEP_OPTIONS):
        command = option(command)
    return command


def report_failures(table: pd.DataFrame) -> int:
    """Print the errors of the first five failed runs.

    Args:
        table: The table of a sweep.

    Returns:
        The number of failed runs.
    """
    failed = table[table["status"] == "failed"] if len(table) else table
    for name, error in failed[["run", "error"]].head(5).itertuples(index=False) if len(failed) else []:
        click.echo(f"failed: {name}: {error}", err=True)
    return len(failed)
