"""Options, and ways of reading them, that several commands share."""

from __future__ import annotations

from pathlib import Path

import click


def parse_schedule(text: str):
    """Read a number or KIND:START:END as a schedule."""
    from labkit import schedules

    try:
        return schedules.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def read_toml_defaults(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Make a TOML file's values the defaults of the options that they name."""
    if path is None:
        return None
    from labkit.checks import check_name
    from labkit.disk import read_toml

    values = read_toml(path)
    names = [option.name for option in ctx.command.params if option is not param and option.name]
    values = {name.replace("-", "_"): value for name, value in values.items()}
    for name, value in values.items():
        check_name("option", name, names, where=path)
        if isinstance(value, dict | list):
            raise ValueError(f"{path}: {name} takes one value, got {value!r}")
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return path


_SWEEP_OPTIONS = (
    click.option(
        "--workers",
        type=click.IntRange(1),
        help="Processes here, or the most to use at --address.  [default: all cores, all workers]",
    ),
    click.option("--address", help="Of a Dask scheduler, as tcp://HOST:8786.  [default: a cluster on this machine]"),
    click.option("--gpus", type=click.IntRange(1), help="GPUs to use.  [default: none here, any at --address]"),
    click.option("--per-gpu", type=click.IntRange(1), default=1, help="Runs at a time on a GPU."),
    click.option("--dry-run", is_flag=True, help="Say what is missing and how long it would take, and stop."),
    click.option("--retry-failed", is_flag=True, help="Do those again that have failed."),
)


def sweep_options(command):
    """The options of every command that drives a sweep."""
    for option in reversed(_SWEEP_OPTIONS):
        command = option(command)
    return command


def report_failures(table) -> int:
    """Name the runs that have failed, the first few, and say how many there are."""
    failed = table[table["status"] == "failed"] if len(table) else table
    for name, error in failed[["run", "error"]].head(5).itertuples(index=False) if len(failed) else []:
        click.echo(f"failed: {name}: {error}", err=True)
    return len(failed)
