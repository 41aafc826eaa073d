"""`labkit sweep` and `labkit study` train many networks and test the study's claims."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from labkit.cli.options import report_failures, sweep_options


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@sweep_options
def sweep(file: Path, **options: Any) -> None:
    """Train and measure every combination of a grid, each once, on this machine or on any Dask cluster.

    FILE is TOML: `out`, the folder for results; settings as options of `train`; under [grid], lists of others; under
    [schemes.NAME], a preset with fields changed; under [trunk], settings that the checkpoints have otherwise which
    runs fork from, one for each combination of the grid without those of its axes that stand there. Results go to
    OUT/table.parquet. A run that fails is kept with its error, and makes the exit status 1. A sweep that was stopped or
    killed goes on when the same command is given again.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # see train; the workers have it from here

    from labkit.research import sweeps

    if report_failures(sweeps.run(sweeps.Sweep.from_file(file), **options)):
        sys.exit(1)


@click.group()
def study() -> None:
    """Figures that the course and its claims rest on, computed anew."""


@study.command("example")
@click.option("--samples", type=click.IntRange(2), default=1_000_000, help="Of the Monte-Carlo check.")
@click.option("--seed", type=int, default=0)
def study_example(samples: int, seed: int) -> None:
    """The worked example: mismatch and gradient risk of a scalar code, by quadrature and by Monte Carlo."""
    from labkit.analysis import worked_example

    worked_example.print_tables(samples=samples, seed=seed)


@study.command("pilot")
@click.option("--out", type=click.Path(path_type=Path), default=Path("data/results/pilot.parquet"))
@click.option("--work", type=click.Path(path_type=Path), default=Path("pilot-runs"), help="Folder for the runs.")
@click.option("--steps", type=click.IntRange(1), default=100, help="Of every run.")
@click.option("--seeds", type=click.IntRange(1), default=3)
@click.option("--data", help="Folder of training images.  [default: the bundled photographs]")
@click.option("--threads", type=click.IntRange(1), default=1)
def study_pilot(out: Path, work: Path, steps: int, seeds: int, data: str | None, threads: int) -> None:
    """Two networks at three λ, fine-tuned with five schemes, and coded: a row for each run and photograph.

    One that was stopped or killed goes on when the same command is given again. With fewer --seeds, the table of what
    is there already.
    """
    import torch

    from labkit import datasets, evaluation
    from labkit.research.study import Grid, Pilot

    if out.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{out}: takes a name that ends in .csv or .parquet")
    torch.set_num_threads(threads)
    photos = datasets.training_images(data) if data else datasets.photos("train")
    command = f"labkit study pilot --steps {steps} --seeds {seeds} --threads {threads}" + " --data FOLDER" * bool(data)
    table = Pilot(Grid(seeds=seeds, steps=steps), work, photos, command=command).table()
    out.parent.mkdir(parents=True, exist_ok=True)
    evaluation.save_table(table, out)
    click.echo(f"{out}: {len(table)} rows")


def _study_claim(name: str) -> None:
    """The command of one claim: they differ in name and declaration only."""

    @study.command(name, help=_STUDY.format(name=name), short_help=f"Claim: {_CLAIMS[name]}.")
    @click.option("--work", type=click.Path(path_type=Path), default=Path("study-runs"), help="Folder for the runs.")
    @click.option("--out", type=click.Path(path_type=Path), default=Path("data/results"), help="Folder for the table.")
    @click.option("--seeds", type=click.IntRange(1), help="How many.  [default: as declared]")
    @click.option("--data", help="Folder of training images.  [default: the bundled photographs]")
    @click.option("--test", multiple=True, help="A folder of images to code too, where the claim takes them.")
    @click.option("--scale", type=click.Choice(["laptop", "gpu"]), default="laptop")
    @click.option("--as-is", is_flag=True, help="Train nothing: the table of what is there.")
    @sweep_options
    def command(work, out, seeds, data, test, scale, as_is, **options) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # see train; the workers have it from here

        from labkit.research import sweeps
        from labkit.research.study import engine, report
        from labkit.research.sweeps.results import Results

        failed = 0

        def drive(asked):
            nonlocal failed
            if as_is:
                return Results(asked.out).frame([run.name for run in asked.runs()])
            table = sweeps.run(asked, **options)
            failed += report_failures(table)
            return table

        one = engine.Study(name, work, out, scale, seeds, data, test)
        if options["dry_run"]:
            asked = engine.left(one, engine.parts(one, drive))
            if asked.runs():
                drive(asked)
            else:
                click.echo(f"nothing is missing in {engine.file(name, out)}")
            return
        table = engine.table(one, drive)
        file = engine.file(name, out)
        engine.save(table, file)
        found = report.of(name, engine.read(name, out))
        report.draw(found, engine.read(name, out), file.with_suffix(".svg"))
        click.echo(f"{found}\n{file}: {len(table)} rows, {file.stat().st_size / 1000:.0f} kB")
        if failed:
            sys.exit(1)


_CLAIMS = {
    "mismatch": "train–test mismatch, in the laboratory's order",
    "gradients": "bias and variance of gradients, in the laboratory's order",
    "tradeoff": "the best temperature lies in between",
    "structure": "the best temperature differs between networks",
    "bound": "the best lower bound of the scale lies in between",
    "zero_center": "the partial stop-gradient steadies training",
    "method": "the whole method against seven others",
    "variations": "variations of the method where it lost",
    "elsewhere": "the best variation on other networks",
}
_STUDY = """Test a claim: make the runs that are missing, write the table and the figure, and say what was decided.

    The runs are declared in research/study/claims/{name}.toml. Claims share runs where they share a --work folder. One
    that was stopped or killed goes on when the same command is given again. The table is OUT/study-{name}.parquet. Runs
    that a claim's table in OUT has already are not made again, also where --work is another folder.
    """
for _name in _CLAIMS:
    _study_claim(_name)


@study.command("report")
@click.option("--results", type=click.Path(path_type=Path), help="Folder of tables.  [default: those of labkit]")
@click.option("--readme", type=click.Path(path_type=Path), help="Make the block between the study's marks there anew.")
@click.option("--figures", is_flag=True, help="Draw every claim's figure beside its table again.")
def study_report(results: Path | None, readme: Path | None, figures: bool) -> None:
    """What the shipped tables say of every claim, without any training."""
    from labkit.research.study import engine, report

    found = report.reports(results)
    for one in found:
        if figures and one.seeds:
            report.draw(one, engine.read(one.name, results), engine.file(one.name, results).with_suffix(".svg"))
    if readme:
        report.rewrite(readme, found)
    click.echo("\n\n".join(map(str, found)))
