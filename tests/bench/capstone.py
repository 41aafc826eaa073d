"""Measures the capstone's reference solution over seeds, and writes the thresholds that the checks use.

python -m tests.bench.capstone --seeds 5 --stages 4,6,7,8 --to labkit/course/capstone/thresholds.json

Stages 4, 6, 7 and 8 train and code as for a learner, but without thresholds. The limit of a number is its mean over the
seeds plus four standard deviations. If only one seed has measured it, a deviation is assumed. `--work FOLDER` keeps the
figures of each seed, from which a later run resumes.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import click
import numpy as np

from labkit.course.capstone import catalog, grading
from labkit.disk import write_whole
from tests.bench.common import COMMAND

DEVIATIONS = 4
# the numbers with a limit, and the standard deviation that is assumed if only one seed was measured
LIMITED = {"stage 4: loss": 0.004, "stage 6: loss": 0.004, "stage 8: BD-rate": 1.0}


def measured(folder: Path, seed: int, stages: list[int], kept_only: bool = False) -> dict[str, Any]:
    """Return the figures of a seed, and the picture's points of stage 8, by stage."""
    results: dict[str, Any] = {}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "my_codec.py"
    file.write_text(catalog.solutions(9), encoding="utf-8")
    for number in stages:
        kept = folder / f"stage{number}.json"
        if kept_only and not kept.exists():
            continue
        if not kept.exists():
            run = grading.run(file, catalog.stage(number), {}, seed=seed, seconds=36_000)
            if not run.passed:
                raise click.ClickException(f"stage {number}, seed {seed}: {run.message}")
            row: dict[str, Any] = {"figures": run.figures, "message": run.message}
            if run.picture is not None:
                with np.load(run.picture) as arrays:
                    row |= {name: arrays[name].round(4).tolist() for name in ("points", "curve")}
            write_whole(kept, json.dumps(row).encode())
        results[str(number)] = json.loads(kept.read_text())
        click.echo(f"seed {seed}, stage {number}: {results[str(number)]['message']}")
    return results


@click.command(context_settings=COMMAND)
@click.option("--seeds", type=click.IntRange(1), default=5, help="Number of seeds.")
@click.option("--stages", default="4,6,7,8", help="Stages that are measured, with commas.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("capstone-thresholds"), help="Folder of figures.")
@click.option("--kept-only", is_flag=True, help="Measure nothing; use the figures in the folder.")
@click.option("--to", "out", type=click.Path(path_type=Path), required=True, help="JSON file of the thresholds.")
def main(seeds: int, stages: str, work: Path, kept_only: bool, out: Path) -> None:
    """Measure the reference solution of the capstone and write the thresholds."""
    numbers = [int(number) for number in stages.split(",")]
    runs = [measured(work / f"seed{seed}", seed, numbers, kept_only) for seed in range(seeds)]
    thresholds = {}
    for name, assumed in LIMITED.items():
        values = [row["figures"][name] for run in runs for row in run.values() if name in row["figures"]]
        if not values:
            continue
        deviation = statistics.stdev(values) if len(values) > 1 else assumed
        limit = statistics.fmean(values) + DEVIATIONS * deviation
        thresholds[name] = {
            "limit": round(limit, 5), "deviation": round(deviation, 5), "values": [round(value, 5) for value in values],
        }  # fmt: skip
    last = list(runs[0].values())[-1]
    content = {
        "command": f"python -m tests.bench.capstone --seeds {seeds} --stages {stages} --to {out.name}",
        "measured": {number: sum(number in run for run in runs) for number in map(str, numbers)},  # seeds by stage
        "rule": f"mean + {DEVIATIONS} standard deviations over the seeds",
        "numbers": thresholds,
        "curve": last.get("points", []),
        "jpeg": last.get("curve", []),
    }
    write_whole(out, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
