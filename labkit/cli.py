"""The `labkit` command. Each command imports what it needs, so that `labkit --help` is instant."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click

import labkit


class _OneLine(click.Group):
    """Errors that a user can mend end in one line and exit status 2, not in a traceback."""

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except (ValueError, FloatingPointError, OSError) as error:
            click.echo(f"labkit: {error}", err=True)
            ctx.exit(2)


@click.group(cls=_OneLine, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(labkit.__version__)
def main() -> None:
    """Train learned image codecs through quantisation, and take the course."""


@main.command()
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Lay the lessons out in this folder, and stop.")
@click.option("--no-browser", is_flag=True, help="Serve the lessons without opening a browser.")
@click.option("--port", type=int, help="Port of the server (JupyterLab's own choice by default).")
def lessons(folder: Path | None, no_browser: bool, port: int | None) -> None:
    """Open JupyterLab on the lessons.

    In a checkout the lessons open where they lie. An installed labkit lays them out in ./labkit-lessons first, and
    never overwrites a notebook that is there.
    """
    from labkit import paths

    source = paths.lessons()
    installed = source.is_relative_to(Path(labkit.__file__).parent)
    target = folder or (Path("labkit-lessons") if installed else source)
    if target.resolve() != source:
        click.echo(_lay_out(source, target))
    if folder is not None:
        return
    command = [sys.executable, "-m", "jupyterlab", "--ServerApp.root_dir", str(target.resolve())]
    command += ["--LabApp.default_url", "/lab/tree/00_start_here.ipynb"]
    command += ["--no-browser"] * no_browser + ([f"--port={port}"] if port else [])
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container; JupyterLab refuses root otherwise
        command += ["--allow-root"]
    try:
        sys.exit(subprocess.call(command))
    except KeyboardInterrupt:
        sys.exit(130)


def _lay_out(source: Path, target: Path) -> str:
    target.mkdir(parents=True, exist_ok=True)
    written, kept = 0, 0
    for notebook in sorted(source.glob("*.ipynb")):
        if (target / notebook.name).exists():
            kept += 1
        else:
            shutil.copyfile(notebook, target / notebook.name)
            written += 1
    return f"{written} lessons written to {target}" + (f", {kept} that were there left as they are" if kept else "")


def _schedule(text: str):
    from labkit import schedules

    try:
        return schedules.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@main.command()
@click.option("--network", default="mean_scale_hyperprior", help="Network's name.")
@click.option("--size", default="tiny", help="tiny, small or paper.")
@click.option("--scheme", default="mixed", help="Preset of labkit.schemes.")
@click.option("--temperature", help="A number, or KIND:START:END.")
@click.option("--data", help="Folder of training images.  [default: the bundled photographs]")
@click.option("--lmbda", type=float, required=True, help="Weight of the distortion, in CompressAI's scale.")
@click.option("--steps", type=int, required=True)
@click.option("--batch-size", type=int, default=4)
@click.option("--crop", type=int, default=256)
@click.option("--permute-colours", is_flag=True, help="Half of the crops with colours in a random order.")
@click.option("--lr", default="cosine:8e-4:1e-5", help="A number, or KIND:START:END.")
@click.option("--seed", type=int, default=0)
@click.option("--device", help="cpu, cuda, …  [default: cuda where there is one]")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Of the transforms.")
@click.option("--threads", type=int, help="Threads of a CPU run.  [default: torch's own]")
@click.option("--start", type=click.Path(path_type=Path), help="Checkpoint to start from.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint to write.")
@click.option("--log", type=click.Path(path_type=Path), help="CSV file to write a row to for each step.")
def train(network, size, scheme, temperature, data, lmbda, steps, lr, device, threads, start, out, **settings) -> None:
    """Train an image codec and write a checkpoint, with its settings inside."""
    import torch

    from labkit import datasets, networks, schemes, training

    try:
        torch.device(device or "cpu")
    except RuntimeError:
        raise ValueError(f"device: takes cpu, cuda or cuda:N, got {device!r}") from None
    if threads:
        torch.set_num_threads(threads)
    fields = {"temperature": _schedule(temperature)} if temperature else {}
    chosen = schemes.get(scheme, **fields)
    if start:
        net, _ = training.load_checkpoint(start, network=network)
        net.set_scheme(chosen)
    else:
        net = networks.get(network, size, chosen, seed=settings["seed"])
    source = datasets.folder(data) if data else datasets.photos("train")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    run = training.train(net, source, lmbda=lmbda, steps=steps, lr=_schedule(lr), device=device, out=out, **settings)
    last = run.history[-max(1, steps // 20) :]
    mean = {name: sum(getattr(step, name) for step in last) / len(last) for name in ("loss", "bpp", "distortion")}
    click.echo(f"{out}: {steps} steps in {run.seconds:.0f} s; over the last {len(last)}: " + json.dumps(mean))


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", help="Folder of images.  [default: the bundled test photographs]")
@click.option("--csv", type=click.Path(path_type=Path), help="Write the table there.")
@click.option("--device", default="cpu")
def evaluate(checkpoint: Path, data: str | None, csv: Path | None, device: str) -> None:
    """Code images to real bitstreams with a checkpoint, and print bits per pixel, PSNR and MS-SSIM."""
    from labkit import datasets, evaluation, training

    net, _ = training.load_checkpoint(checkpoint)
    images = datasets.folder(data) if data else datasets.photos("test")
    report = evaluation.evaluate(net.to(device), images)
    if csv:
        report.to_csv(csv)
    click.echo(report)


@main.group()
def study() -> None:
    """Figures that the course and its claims rest on, computed anew."""


@study.command("example")
@click.option("--samples", type=click.IntRange(2), default=1_000_000, help="Of the Monte-Carlo check.")
@click.option("--seed", type=int, default=0)
def study_example(samples: int, seed: int) -> None:
    """The worked example: mismatch and gradient risk of a scalar code, by quadrature and by Monte Carlo."""
    from labkit.analysis import worked_example

    worked_example.print_tables(samples=samples, seed=seed)


@main.group()
def bench() -> None:
    """Measure this machine; every command prints its threads and load."""


@bench.command("surrogates")
@click.option("--latents", type=click.IntRange(1), default=4 * 2**20)
@click.option("--rounds", type=click.IntRange(1), default=15)
@click.option("--threads", type=click.IntRange(1), default=1)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures there too.")
def bench_surrogates(latents: int, rounds: int, threads: int, out: Path | None) -> None:
    """Time and memory of every surrogate, forward and backward, as ratios to additive uniform noise."""
    from labkit.surrogates import bench as benchmark

    benchmark.print_table(latents, rounds, threads, out)


@bench.command("train")
@click.option("--threads", type=int, default=1)
@click.option("--steps", type=int, default=15)
def bench_train(threads: int, steps: int) -> None:
    """One training step of each tiny codec (4 crops of 256²), and 300 steps of the 2-D toy (batch 1024)."""
    from labkit.training import bench as benchmark

    benchmark.print_table(threads, steps)


if __name__ == "__main__":
    main(prog_name="labkit")
