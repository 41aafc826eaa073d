"""`labkit sweep` and `labkit study` train many networks and test the study's claims."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from labkit import first_edition
from labkit.cli.options import report_failures, sweep_options


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@sweep_options
def sweep(file: Path, **options: Any) -> None:
    """Train and measure every combination of a grid once, on this machine or on a Dask cluster.

    FILE is TOML. `out` is the folder for results, and other settings are the options of `labkit train`. [grid] holds
    lists of values for further settings. [schemes.NAME] is a preset with changed fields. [trunk] holds overrides for
    the shared checkpoints that runs start from: one checkpoint for each combination of the grid without the settings in
    [trunk].

    The results are in OUT/table.parquet. A failed run is recorded with its error, and the exit status is then 1. Give
    the same command again to resume a sweep that was stopped or killed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in `labkit train`; workers inherit it

    from labkit.research import sweeps

    if report_failures(sweeps.run(sweeps.Sweep.from_file(file), **options)):
        sys.exit(1)


class _Study(click.Group):
    """A group with one command for each claim. The claims are loaded when a command is looked up or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from labkit.research.study import CLAIMS

        return [*CLAIMS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if command := super().get_command(ctx, name):
            return command
        from labkit.research.study import CLAIMS

        claim = CLAIMS.get(first_edition.CLAIMS.get(name, name))
        return _claim_command(claim.name, claim.summary) if claim else None


@click.group(cls=_Study)
def study() -> None:
    """Test the claims of the study, or report the verdicts that follow from the bundled tables."""


def _claim_command(name: str, summary: str) -> click.Command:
    """Return the command that tests a claim."""

    @click.command(name, help=_HELP.format(name=name), short_help=f"Claim: {summary}.")
    @click.option("--work", type=click.Path(path_type=Path), default=Path("study-runs"), help="Folder for the runs.")
    @click.option("--out", type=click.Path(path_type=Path), default=Path("data/results"), help="Folder for the table.")
    @click.option("--seeds", type=click.IntRange(1), help="Number of seeds.  [default: as declared]")
    @click.option("--data", help="Folder of training images.  [default: the bundled photographs]")
    @click.option("--test", multiple=True, help="Folder of further images to code, for claims that use them.")
    @click.option("--scale", type=click.Choice(["laptop", "gpu"]), default="laptop", help="Size of the study.")
    @click.option("--as-is", is_flag=True, help="Train nothing, and make the table from the existing runs.")
    @sweep_options
    def command(
        work: Path,
        out: Path,
        seeds: int | None,
        data: str | None,
        test: tuple[str, ...],
        scale: str,
        as_is: bool,
        dry_run: bool,
        **options: Any,
    ) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in `labkit train`; workers inherit it

        from labkit.research import study

        asked = study.Study(name, work, out, scale, seeds, data, test)
        if dry_run:
            if not study.preview(asked, **options):
                click.echo(f"nothing is missing in {study.table_path(name, out)}")
            return
        result = study.run(asked, train=not as_is, **options)
        click.echo(result)
        if report_failures(result.failed):
            sys.exit(1)

    return command


_HELP = """Test a claim: train the missing runs, write the table and the figure, and print the verdict.

    labkit/research/study/claims/{name}.toml declares the runs. Claims with the same --work folder share runs. Runs that
    are already in a claim's table in OUT are not repeated, even if --work is a new folder. The table is
    OUT/study-{name}.parquet. Give the same command again to resume a study that was stopped or killed.
    """


@study.command("example")
@click.option("--samples", type=click.IntRange(2), default=1_000_000, help="Number of samples for Monte Carlo.")
@click.option("--seed", type=int, default=0, help="Seed of the samples.")
def study_example(samples: int, seed: int) -> None:
    """Print mismatch and gradient risk of a scalar code, by quadrature and by Monte Carlo."""
    from labkit.analysis import worked_example

    worked_example.print_tables(samples=samples, seed=seed)


@study.command("report")
@click.option("--results", type=click.Path(path_type=Path), help="Folder of the tables.  [default: bundled results]")
@click.option(
    "--readme", "readmes", multiple=True, type=click.Path(path_type=Path),
    help="Markdown file in which to update the study's tables and figures; may be repeated.",
)  # fmt: skip
@click.option("--figures", is_flag=True, help="Draw the figure of every claim, next to its table.")
def study_report(results: Path | None, readmes: tuple[Path, ...], figures: bool) -> None:
    """Report the verdict on every claim from the tables, without any training."""
    from labkit.research import study

    reports = study.claim_reports(results)
    if figures:
        study.draw_figures(reports, results)
    for readme in readmes:
        study.rewrite(readme, reports)
    click.echo("\n\n".join(map(str, reports)))
