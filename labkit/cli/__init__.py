"""The `labkit` command. Each subcommand imports torch only when it runs, so `labkit --help` is instant."""

from __future__ import annotations

from typing import Any

import click

import labkit
from labkit.cli import bench, doctor, evaluate, files, lessons, research, train


class _Group(click.Group):
    """A group of commands in which a user error prints one line and exits with status 2, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, FloatingPointError, OSError) as error:
            click.echo(f"labkit: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt as interrupt:
            click.echo(f"labkit: {interrupt or 'stopped'}", err=True)
            ctx.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(labkit.__version__)
def main() -> None:
    """Train learned image codecs through quantization, and take the course."""


for _command in (
    lessons.lessons,
    train.train,
    research.sweep,
    evaluate.evaluate,
    evaluate.refine,
    doctor.doctor,
    files.compress,
    files.decompress,
    files.info,
    files.convert,
    research.study,
    bench.bench,
):
    main.add_command(_command)
