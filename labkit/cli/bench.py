"""`labkit bench` measures this machine."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
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
