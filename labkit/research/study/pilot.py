"""The pilot: two networks at three λ, fine-tuned with five schemes and three seeds each, and coded to real bytes.

    shipped weights, or none ── noise ──► start of a network and λ ─┬─ noise ─────────► 13 photographs: bits, distortion
                                                                   ├─ mixed ─────────►  in training and in real bytes
                                                                   └─ … and so on, each with seeds 0, 1, 2

All runs of a network and λ fork from one checkpoint that was trained with noise, and the runs of a seed see the same
batches, since a batch comes from seed and step alone: schemes are compared pair by pair. Noise is among them, because
it is trained on for as many steps as the others; the start itself is no anchor. Nothing was tuned: temperatures and
learning rates are what one would try first, the same for both networks and all λ, and the runs are short. What the
table is for is to show how such a comparison is made and read.
"""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from labkit import analysis, datasets, evaluation, networks, schedules, schemes, training
from labkit.checks import check_at_least
from labkit.schemes import QuantizationScheme
from labkit.training.data import Images

if TYPE_CHECKING:
    import pandas as pd

SIZE = "tiny"
SCHEMES: dict[str, QuantizationScheme] = {
    "noise": schemes.noise(),
    "mixed": schemes.mixed(),
    "soft_rounding": schemes.soft_rounding(schedules.exponential(0.3, 0.05)),
    "gumbel": schemes.gumbel(schedules.exponential(0.5, 0.1)),
    "annealed": schemes.annealed(schedules.exponential(0.5, 0.05)),
}
DRAWS = 4  # of the noise, for the rate and distortion that training sees
START_SEED = 1000  # of the starts: their batches are none that a fork meets again
MEASURED = ("name", "height", "width", "bpp", "estimated_bpp", "psnr", "ms_ssim")
ABOUT = ("weights", "labkit", "torch", "threads", "device")


@dataclass(frozen=True)
class Run:
    """One fine-tuning, by what sets it apart from the others."""

    network: str
    lmbda: float
    scheme: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.network}-{self.lmbda:g}-{self.scheme}-{self.seed}"


@dataclass(frozen=True)
class Grid:
    """What is trained. Raises ValueError for a number of steps or seeds below 1.

    steps: of every run. refreshed: steps with noise that a start takes from shipped weights. scratch, moved: where none
    are shipped, steps with noise from scratch at the middle λ, and from there for each λ.
    """

    networks: tuple[str, ...] = ("mean_scale_hyperprior", "factorized_prior")
    lmbdas: tuple[float, ...] = (0.0035, 0.0093, 0.025)
    schemes: tuple[str, ...] = tuple(SCHEMES)
    seeds: int = 3
    steps: int = 100
    refreshed: int = 400
    scratch: int = 5000
    moved: int = 1000
    batch_size: int = 4
    crop: int = 256

    def __post_init__(self) -> None:
        check_at_least(1, seeds=self.seeds, steps=self.steps)
        check_at_least(1, refreshed=self.refreshed, scratch=self.scratch, moved=self.moved)

    def runs(self) -> list[Run]:
        """Every run, seed by seed: what is there when it is stopped compares all schemes."""
        order = itertools.product(range(self.seeds), self.networks, self.lmbdas, self.schemes)
        return [Run(network, lmbda, scheme, seed) for seed, network, lmbda, scheme in order]


@dataclass(frozen=True)
class Pilot:
    """The grid's runs in a folder, of which those that are there already are read, not made again.

    work: folder for checkpoints and for a table of each run. photos: to train on; test: to code. command: for the
    table, what was typed. Raises ValueError where the folder holds runs of another grid or of other photographs.
    """

    grid: Grid
    work: Path
    photos: Images = field(default_factory=lambda: datasets.photos("train"))
    test: datasets.PhotoSet = field(default_factory=lambda: datasets.photos("test"))
    command: str = ""

    def table(self) -> pd.DataFrame:
        """Make what is missing, and give all of it: one row a run and photograph (see data/results/README.md)."""
        import pandas as pd

        runs = self.grid.runs()
        missing = [run for run in runs if not self._file(run.name, "parquet").exists()]
        tqdm.write(f"{len(missing)} of {len(runs)} runs are missing in {self.work}")
        tables = []
        for run in (bar := tqdm(runs, unit="run", disable=None)):
            bar.set_description(run.name)
            start = self.start(run.network, run.lmbda)
            begun = time.perf_counter()
            tables.append(self.run(run, start))
            if missing[:1] == [run] and missing[1:]:
                minutes = (time.perf_counter() - begun) * len(missing[1:]) / 60
                tqdm.write(f"about {minutes:.0f} minutes for the other {len(missing[1:])}, and some for their starts")
        return pd.concat(tables, ignore_index=True)

    def start(self, network: str, lmbda: float) -> Path:
        """The checkpoint, trained with noise, that every run of this network and λ forks from.

        From shipped weights where there are any: for another λ than theirs the latents are scaled first. A network
        without is trained from scratch at the grid's middle λ, and from there for as many steps at every λ, the middle
        one among them: were one λ trained for longer, its distortion could be below that of a larger one.
        """
        noise, name = "noise", f"{network}-{lmbda:g}-start"
        if networks.pretrained_lmbdas(network):
            net = networks.pretrained(network, lmbda)
            theirs = net.info["lmbda"]
            lr = schedules.cosine(2e-4, 2e-5)
            if theirs != lmbda:
                net.scale_latents(math.sqrt(lmbda / theirs))
                lr = schedules.cosine(4e-4, 2e-5)
            return self._trained(net, name, noise, lmbda, self.grid.refreshed, lr, START_SEED)
        middle = self.grid.lmbdas[len(self.grid.lmbdas) // 2]
        scratch = networks.get(network, SIZE, seed=START_SEED)
        lr = schedules.cosine(1e-3, 3e-4)
        trunk = self._trained(scratch, f"{network}-scratch", noise, middle, self.grid.scratch, lr, START_SEED)
        net, _ = training.load_checkpoint(trunk)
        lr = schedules.cosine(5e-4, 5e-5)
        return self._trained(net, name, noise, lmbda, self.grid.moved, lr, START_SEED + 1)

    def run(self, run: Run, start: Path) -> pd.DataFrame:
        """One run's rows: forked from `start`, trained, coded and measured, or read where that was done."""
        net, _ = training.load_checkpoint(start)
        begun_from, lr = training.weights_hash(net), schedules.cosine(2e-4, 1e-5)
        self._trained(net, run.name, run.scheme, run.lmbda, self.grid.steps, lr, run.seed)
        file = self._file(run.name, "parquet")
        if not file.exists() or (evaluation.read_table(file)["weights"] != training.weights_hash(net)).any():
            evaluation.save_table(self._measured(net, run, begun_from), file)
        return evaluation.read_table(file)

    def _trained(
        self, net: networks.Codec, name: str, scheme: str, lmbda: float, steps: int, lr: schedules.Schedule, seed: int
    ) -> Path:
        net.set_scheme(SCHEMES[scheme])
        training.train(
            net, self.photos, out=self._file(name, "safetensors"), lmbda=lmbda, steps=steps, lr=lr, seed=seed,
            batch_size=self.grid.batch_size, crop=self.grid.crop, permute_colors=True,
            device="cpu", precision=training.native_precision("cpu"), threads=torch.get_num_threads(), progress=False,
        )  # fmt: skip
        return self._file(name, "safetensors")

    def _measured(self, net: networks.Codec, run: Run, start: str) -> pd.DataFrame:
        import pandas as pd

        report = evaluation.evaluate(net, self.test, progress=False)
        seen: dict[str, Any] = {"lmbda": run.lmbda, "draws": DRAWS, "seed": run.seed, "progress": False}
        losses = analysis.network_mismatch(net, self.test, {run.scheme: SCHEMES[run.scheme]}, **seen)
        losses = losses.pivot(index="image", columns="quantity", values=["training", "rounded"]).loc[self.test.names]
        about = {"network": run.network, "size": net.size, "scheme": run.scheme, "lmbda": run.lmbda, "seed": run.seed}
        rows = pd.DataFrame(report.rows)[list(MEASURED)]
        # not the decoded picture's, as psnr is: training knows neither 8 bits nor the clamp
        rows["mse255"] = losses["rounded", "distortion"].to_numpy()
        rows["train_bpp"] = losses["training", "rate"].to_numpy()
        rows["train_mse255"] = losses["training", "distortion"].to_numpy()
        rows["loss"] = rows["estimated_bpp"] + run.lmbda * rows["mse255"]
        rows["train_loss"] = rows["train_bpp"] + run.lmbda * rows["train_mse255"]
        before = pd.DataFrame([{**about, "start": start, "steps": self.grid.steps}] * len(rows))
        after = pd.DataFrame([{name: report.info[name] for name in ABOUT} | {"command": self.command}] * len(rows))
        return pd.concat([before, rows, after], axis=1)

    def _file(self, name: str, suffix: str) -> Path:
        return self.work / f"{name}.{suffix}"
