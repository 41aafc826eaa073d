"""The `labkit` command. Each command imports what it needs, so that `labkit --help` is instant."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

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
        except KeyboardInterrupt as stopped:
            click.echo(f"labkit: {stopped or 'stopped'}", err=True)
            ctx.exit(130)


@click.group(cls=_OneLine, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(labkit.__version__)
def main() -> None:
    """Train learned image codecs through quantization, and take the course."""


@main.command()
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Lay the lessons out in this folder, and stop.")
@click.option("--no-browser", is_flag=True, help="Serve the lessons without opening a browser.")
@click.option("--port", type=int, help="Port of the server (JupyterLab's own choice by default).")
@click.option("--export", "site", type=click.Path(path_type=Path), help="Run the lessons, write them as pages there.")
def lessons(folder: Path | None, no_browser: bool, port: int | None, site: Path | None) -> None:
    """Open JupyterLab on the lessons.

    In a checkout the lessons open where they lie. An installed labkit lays them out in ./labkit-lessons first, and
    never overwrites a notebook that is there. With --export it runs copies of them instead, and writes pages that can
    be read without a kernel and without a network.
    """
    from labkit import paths

    if site is not None:
        from labkit.course.export import export

        first, *others = export(site)
        click.echo(f"{first}: a map of {len(others)} pages")
        return
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


def _from_toml(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Make a TOML file's values the defaults of the options that they name."""
    if path is None:
        return None
    from labkit.checks import check_name
    from labkit.disk import read_toml

    values = read_toml(path)
    names = [option.name for option in ctx.command.params if option is not param and option.name]
    values = {name.replace("-", "_"): value for name, value in values.items()}
    for name, value in values.items():
        check_name(f"{path}: no option", name, names)
        if isinstance(value, dict | list):
            raise ValueError(f"{path}: {name} takes one value, got {value!r}")
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return path


@main.command()
@click.argument("config", type=click.Path(path_type=Path), required=False, is_eager=True, callback=_from_toml)
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
    asked = {"temperature": _schedule(temperature) if temperature else None, "scale_lower_bound": scale_lower_bound}
    chosen = schemes.get(scheme, **{name: value for name, value in asked.items() if value is not None})
    if start:
        net, _ = training.load_checkpoint(start, network=network)
        net.set_scheme(chosen)
    else:
        net = networks.get(network, size, chosen, seed=settings["seed"])
    source = datasets.training_images(data) if data else datasets.photos("train")
    settings |= {"lr": _schedule(lr), "device": device, "precision": precision}
    run = training.train(net, source, out=out, log=log or out.with_suffix(".csv"), **settings)
    if training.processes.ranks()[0] == 0:
        click.echo(f"{out}: {run}")


_DRIVING = (
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


def _driving(command):
    """The options of every command that drives a sweep."""
    for option in reversed(_DRIVING):
        command = option(command)
    return command


def _tell_failed(table) -> int:
    """Name the runs that have failed, the first few, and say how many there are."""
    failed = table[table["status"] == "failed"] if len(table) else table
    for name, error in failed[["run", "error"]].head(5).itertuples(index=False) if len(failed) else []:
        click.echo(f"failed: {name}: {error}", err=True)
    return len(failed)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@_driving
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

    if _tell_failed(sweeps.run(sweeps.Sweep.from_file(file), **options)):
        sys.exit(1)


@main.command()
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


@main.command()
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
        settings["temperature"] = _schedule(temperature)
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


# Picture formats that give every pixel back, and what Pillow takes for them
_LOSSLESS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "lossless": True},
    ".ppm": {"format": "PPM"},
    ".bmp": {"format": "BMP"},
    ".tif": {"format": "TIFF"},
    ".tiff": {"format": "TIFF"},
}
_LOSSY = {".jpg": "JPEG", ".jpeg": "JPEG", ".jp2": "JPEG 2000", ".avif": "AVIF", ".heic": "HEIC", ".gif": "GIF"}


@main.command()
@click.argument("photo", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write.  [default: beside PHOTO, .lkc]")
@click.option("--weights", type=click.Path(path_type=Path), help="Checkpoint.  [default: the weights that come along]")
@click.option("--lmbda", type=float, help="Of the weights that come along, those nearest to this λ.")
@click.option(
    "--refine", "steps", type=click.IntRange(0), default=0, help="First search better latents in so many steps."
)
@click.option("--verify/--no-verify", default=True, help="Decode what was coded, and keep the picture's checksum.")
@click.option("--force", is_flag=True, help="Overwrite the output.")
def compress(
    photo: Path,
    output: Path | None,
    weights: Path | None,
    lmbda: float | None,
    steps: int,
    verify: bool,
    force: bool,
) -> None:
    """Code a picture into a .lkc file, with a trained network.

    It is coded in one thread on the CPU. Transparency is laid on white.
    """
    from labkit.files.container import SUFFIX

    output = output or photo.with_suffix(SUFFIX)
    if not photo.is_file():
        raise ValueError(f"{photo}: there is no such file")
    if weights and lmbda is not None:
        raise ValueError("--lmbda chooses among the weights that come along: leave it out, or --weights")
    if lmbda is not None and not 0 < lmbda < math.inf:
        raise ValueError(f"--lmbda: takes a positive number, got {lmbda}")
    _check_output(output, photo, force)

    from labkit import datasets, networks, training
    from labkit.evaluation import metrics, refine
    from labkit.files import codec as files

    image = datasets.load_image(photo)
    if weights:
        net, _ = training.load_checkpoint(weights)
    else:
        net = networks.pretrained() if lmbda is None else networks.pretrained(lmbda=lmbda)
    try:
        refined = refine(net, image / 255, steps=steps) if steps else None
        latents = (refined.y, refined.z) if refined else None
        container = files.compress(image, net, verify=False, latents=latents)
        quality = ""
        if verify:
            container, decoded = files.verified(container, net)
            quality = f", {metrics.psnr(decoded / 255, image / 255):.2f} dB PSNR"
    except ValueError as error:
        raise ValueError(f"{photo}: {error}") from None
    container.write(output)
    size = f"{container.width}×{container.height} pixels in {container.file_bytes:,} bytes, {container.bpp:.4f} bpp"
    note = "; transparency was laid on white" if datasets.transparent(photo) else ""
    if refined:
        gain = 1 - refined.after.loss / refined.before.loss
        note = f"; {refined.steps} steps lowered the loss by {gain:.1%}{note}"
    click.echo(f"{output}: {size}{quality}{note}")


@main.command()
@click.argument("coded", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write.  [default: beside CODED, .png]")
@click.option("--weights", type=click.Path(path_type=Path), help="Checkpoint.  [default: one that comes along]")
@click.option("--anyway", is_flag=True, help="Write the picture even where it is another than the one verified.")
@click.option("--force", is_flag=True, help="Overwrite the output.")
def decompress(coded: Path, output: Path | None, weights: Path | None, anyway: bool, force: bool) -> None:
    """Decode a .lkc file into a picture of a lossless format: .png, .webp, .ppm, .bmp, .tif or .tiff."""
    from labkit.disk import write_whole
    from labkit.files.container import Container

    container = Container.read(coded)
    output = output or coded.with_suffix(".png")
    suffix = output.suffix.lower()
    if suffix not in _LOSSLESS:
        reason = f"{_LOSSY[suffix]} would lose again" if suffix in _LOSSY else "the suffix names the format"
        raise ValueError(f"{output}: {reason}; takes {', '.join(_LOSSLESS)}")
    _check_output(output, coded, force)

    from PIL import Image

    from labkit import training
    from labkit.files import codec as files

    try:
        net = training.load_checkpoint(weights)[0] if weights else files.shipped(container)
        picture = files.decompress(container, net, anyway)
    except ValueError as error:
        raise ValueError(f"{coded}: {error}") from None
    buffer = io.BytesIO()
    try:
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, **_LOSSLESS[suffix])
    except (ValueError, OSError) as error:  # WebP has a largest side
        raise ValueError(f"{output}: {_LOSSLESS[suffix]['format']} cannot hold this picture ({error})") from None
    write_whole(output, buffer.getvalue())
    if container.picture is None:
        note = "not verified when it was coded"
    elif container.picture == files.picture_checksum(picture):
        note = "the same picture as when it was coded"
    else:
        note = "another picture than when it was coded"
    click.echo(f"{output}: {container.width}×{container.height} pixels, {note}")


@main.command()
@click.argument("coded", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(coded: Path, as_json: bool) -> None:
    """Say what a .lkc file holds, and check it, without decoding."""
    from labkit.files.container import VERSION, Container

    container = Container.read(coded)
    sections = [len(string) for string in container.strings]
    if as_json:
        about = {name: getattr(container, name) for name in ("network", "size", "N", "M", "weights", "width", "height")}
        about |= {"version": VERSION, "bytes": container.file_bytes, "strings": sections, "bpp": container.bpp}
        click.echo(json.dumps(about | {"picture": container.picture, "checksums": "good"}))
        return
    verified = "not verified" if container.picture is None else f"verified, checksum {container.picture:08x}"
    strings = f"{' + '.join(map(str, sections))} in {len(sections)} string{'s' * (len(sections) > 1)}"
    click.echo(
        f"{coded}: version {VERSION}, its checksums are good\n"
        f"network  {container.codec}, weights {container.weights}\n"
        f"picture  {container.width}×{container.height} pixels, {verified}\n"
        f"bytes    {container.file_bytes:,}: {strings}, {container.file_bytes - sum(sections)} around them\n"
        f"rate     {container.bpp:.4f} bpp"
    )


def _check_output(output: Path, source: Path, force: bool) -> None:
    """Before anything is loaded: may this be written?"""
    if not output.parent.is_dir():
        raise ValueError(f"{output}: there is no folder {output.parent}")
    if output.is_dir():
        raise ValueError(f"{output} is a folder")
    if output.exists() and output.samefile(source):
        raise ValueError(f"{output} is the input: name another output")
    if output.exists() and not force:
        raise ValueError(f"{output} is there already: --force overwrites it")


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
    @_driving
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
            failed += _tell_failed(table)
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
    from tests.bench import surrogates as benchmark

    benchmark.print_table(latents, rounds, threads, out)


@bench.command("train")
@click.option("--network", default="mean_scale_hyperprior")
@click.option("--size", default="small", help="tiny, small or paper.")
@click.option("--batch-size", type=click.IntRange(1), default=8)
@click.option("--crop", type=click.IntRange(64), default=128)
@click.option("--device", default="cpu")
@click.option("--rounds", type=click.IntRange(1), default=7)
@click.option("--steps", type=click.IntRange(1), default=16, help="Of each way in a round.")
@click.option("--busy", is_flag=True, help="Then again, beside another process that takes all of a core.")
@click.option("--seeds", type=click.IntRange(0), default=0, help="Compare what is learned too, with so many seeds.")
@click.option("--learn", type=click.IntRange(1), default=300, help="Steps after which that is compared.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures there too.")
def bench_train(network, size, batch_size, crop, device, rounds, steps, busy, seeds, learn, out) -> None:
    """A training step beside the loop that CompressAI's documentation teaches, and beside its bare convolutions."""
    from labkit.training import bench as benchmark

    task = benchmark.Task(network, size, batch_size, crop, device)
    task.net()  # an unknown name or size ends here, in one line
    benchmark.print_table(task, rounds, steps, busy, seeds, learn, out)


@bench.command("stack")
@click.option("--scheme", default="noise", show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=200, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures there too.")
def bench_stack(scheme, batch_size, steps, rounds, threads, out) -> None:
    """Sixteen toys trained as one beside the same sixteen in turn, and how far apart they end."""
    from tests.bench import stack as benchmark

    benchmark.print_table(scheme, batch_size, steps, rounds, threads, out)


@bench.command("kills")
@click.option("--kills", type=click.IntRange(1), default=50)
@click.option("--steps", type=click.IntRange(1), default=400, help="Of each run.")
@click.option("--seed", type=int, default=0)
def bench_kills(kills: int, steps: int, seed: int) -> None:
    """Kill training runs at random and while they write, and see that they end as if they had been left alone."""
    from tests.bench import kills as benchmark

    benchmark.print_table(kills, steps, seed)


@bench.command("sweep")
@click.option("--steps", type=click.IntRange(1), default=4000, help="Of each of the 8 runs.")
@click.option("--trivial", type=click.IntRange(1), help="So many runs of one step instead: memory and overhead.")
@click.option("--kills", type=click.IntRange(1), help="Kill so many workers, drivers and schedulers instead.")
@click.option("--seed", type=int, default=0, help="Of the kills.")
def bench_sweep(steps: int, trivial: int | None, kills: int | None, seed: int) -> None:
    """Two workers' time of 8 equal runs beside one's."""
    from tests.bench import sweep as benchmark

    if trivial:
        benchmark.print_many(trivial)
    elif kills:
        benchmark.print_kills(kills, seed)
    else:
        benchmark.print_speed(steps)


@bench.command("data")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of images.  [default: the bundled training ones]")
@click.option("--crop", type=click.IntRange(1), default=256)
@click.option("--batch-size", type=click.IntRange(1), default=8)
@click.option("--threads", type=click.IntRange(1), default=1)
@click.option("--workers", type=click.IntRange(0), default=2, help="The most to try.")
@click.option("--seconds", type=float, default=3.0, help="That each figure is measured for.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures there too.")
def bench_data(data, crop, batch_size, threads, workers, seconds, out) -> None:
    """Crops a second from memory and from files, beside bare copying and bare decoding."""
    from tests.bench import data as benchmark

    benchmark.print_table(data, crop, batch_size, threads, workers, seconds, out)


@bench.command("live")
@click.option("--rounds", type=click.IntRange(1), default=10)
@click.option("--threads", type=click.IntRange(1), default=1)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures there too.")
def bench_live(rounds, threads, out) -> None:
    """How soon the live panels react, and how much of a core they train with, beside one bare training step."""
    from labkit.live import bench as benchmark

    benchmark.print_table(rounds, threads, out)


@bench.command("soak")
@click.option("--panel", default="annealing", show_default=True, help="Its name, as in lk.live.<name>_panel.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=20, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures there too.")
def bench_soak(panel, minutes, seed, out) -> None:
    """Move a live panel's controls at random for a long while; watch memory, threads and errors."""
    from tests.bench import soak

    soak.print_table(panel, minutes, seed, out)


@bench.command("evaluate")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="[default: weights that come along]")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of images.  [default: the bundled test ones]")
@click.option("--rounds", type=click.IntRange(1), default=5)
@click.option("--threads", type=click.IntRange(1), default=1)
@click.option("--megapixels", type=float, multiple=True, default=(0.25, 1.0, 4.0, 16.0), help="Sizes to grow through.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures there too.")
def bench_evaluate(checkpoint, data, rounds, threads, megapixels, out) -> None:
    """Evaluating beside CompressAI's own evaluation, and its time and memory as images grow."""
    from tests.bench import evaluate as benchmark

    benchmark.print_tables(checkpoint, data, rounds, threads, megapixels, out)


if __name__ == "__main__":
    main(prog_name="labkit")
