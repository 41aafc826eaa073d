"""The pilot: what is compared is alike but for the scheme, what was done is not done again, and columns mean this."""

import math
from itertools import product

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from labkit import cli, datasets, entropy, networks, schemes, training
from labkit.research import study
from labkit.research.study import SCHEMES, Grid, Pilot, Run
from labkit.training import trainer
from labkit.training.data import DATA, generator_for

COLUMNS = [
    "network", "size", "scheme", "lmbda", "seed", "start", "steps", "name", "height", "width", "bpp",
    "estimated_bpp", "psnr", "ms_ssim", "mse255", "train_bpp", "train_mse255", "loss", "train_loss", "weights",
    "labkit", "torch", "threads", "device", "command",
]  # fmt: skip
MEAN_SCALE, FACTORIZED = "mean_scale_hyperprior", "factorized_prior"
TINY = {"steps": 2, "refreshed": 1, "scratch": 3, "moved": 2, "batch_size": 1, "crop": 64}


def _cut(split: str, side: int) -> datasets.PhotoSet:
    photos = datasets.photos(split)[3:5]
    return datasets.PhotoSet([image[:, 64 : 64 + side, :side].clone() for image in photos.images], photos.names)


@pytest.fixture(scope="module")
def photos() -> dict[str, datasets.PhotoSet]:
    return {"train": _cut("train", 96), "test": _cut("test", 64)}


def _pilot(photos, work, **grid) -> Pilot:
    return Pilot(Grid(**{**TINY, **grid}), work, photos["train"], photos["test"], "as typed")


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory):
    """A small pilot, its table, and every batch that it trained on by scheme, λ and seed."""
    batches: dict[tuple, list[torch.Tensor]] = {}
    plain = trainer.Training._gradient

    def watched(self, model, optimizer, batch):
        key = (type(self.net).kind, self.net.scheme, self.settings.lmbda, self.settings.seed)
        batches.setdefault(key, []).append(batch.clone())
        return plain(self, model, optimizer, batch)

    pilot = _pilot(
        photos, tmp_path_factory.mktemp("pilot"), lmbdas=(0.0035, 0.0093), schemes=("noise", "annealed"), seeds=2
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Training, "_gradient", watched)
        return pilot, pilot.table(), batches


def test_the_grid_is_whole_and_goes_seed_by_seed():
    runs = Grid().runs()
    schemes_there = ("noise", "mixed", "soft_rounding", "gumbel", "annealed")
    wanted = set(product((MEAN_SCALE, FACTORIZED), (0.0035, 0.0093, 0.025), schemes_there, range(3)))
    assert len(runs) == 90 == len({run.name for run in runs})
    assert {(run.network, run.lmbda, run.scheme, run.seed) for run in runs} == wanted
    assert [run.seed for run in runs] == [0] * 30 + [1] * 30 + [2] * 30
    for name in schemes_there:  # a preset's own paths, and only the temperature is the pilot's
        assert SCHEMES[name].replace(temperature=1.0) == schemes.get(name, temperature=1.0)
        assert SCHEMES[name].temperature.end <= SCHEMES[name].temperature.start
    with pytest.raises(ValueError, match=r"^seeds must be an integer ≥ 1"):
        Grid(seeds=0)


def test_one_row_a_run_and_photograph_with_the_columns_of_the_readme(made):
    pilot, table, _ = made
    assert list(table.columns) == COLUMNS
    assert len(table) == len(pilot.grid.runs()) * 2 == 2 * 2 * 2 * 2 * 2
    keys = table[["network", "lmbda", "scheme", "seed", "name"]]
    assert not keys.duplicated().any()
    assert set(table["name"]) == set(pilot.test.names)
    assert (table["height"] == 64).all() and (table["steps"] == 2).all() and (table["threads"] == 1).all()
    assert (table["command"] == "as typed").all() and (table["size"] == "tiny").all()


def test_runs_of_a_group_fork_from_one_checkpoint_of_noise(made):
    pilot, table, _ = made
    steps = {}
    for network, lmbda in product(pilot.grid.networks, pilot.grid.lmbdas):
        start, info = training.load_checkpoint(pilot.work / f"{network}-{lmbda:g}-start.safetensors")
        assert start.scheme == schemes.noise() and info["lmbda"] == lmbda
        rows = table[(table["network"] == network) & (table["lmbda"] == lmbda)]
        assert set(rows["start"]) == {training.weights_hash(start)}
        steps[network, lmbda] = info["steps"]
        for run in pilot.grid.runs():
            if (run.network, run.lmbda) == (network, lmbda):
                net, info = training.load_checkpoint(pilot.work / f"{run.name}.safetensors")
                assert info["started_from"] == training.weights_hash(start)
                assert net.scheme == SCHEMES[run.scheme] and info["seed"] == run.seed
                mine = rows[(rows["scheme"] == run.scheme) & (rows["seed"] == run.seed)]
                assert set(mine["weights"]) == {training.weights_hash(net)}
    assert table["weights"].nunique() == len(pilot.grid.runs())
    assert list(steps.values()) == [1, 1, 2, 2]
    trunk, info = training.load_checkpoint(pilot.work / f"{FACTORIZED}-scratch.safetensors")
    assert (info["steps"], info["lmbda"]) == (3, 0.0093)  # the middle of two is the second
    for lmbda in pilot.grid.lmbdas:
        _, info = training.load_checkpoint(pilot.work / f"{FACTORIZED}-{lmbda:g}-start.safetensors")
        assert info["started_from"] == training.weights_hash(trunk)


def test_a_start_comes_from_the_nearest_shipped_weights_with_the_step_of_its_lmbda(made):
    pilot, _, _ = made
    moved = networks.pretrained(MEAN_SCALE, 0.0035)
    moved.scale_latents(math.sqrt(0.0093 / 0.0035))
    for lmbda, first in ((0.0035, networks.pretrained(MEAN_SCALE, 0.0035)), (0.0093, moved)):
        _, info = training.load_checkpoint(pilot.work / f"{MEAN_SCALE}-{lmbda:g}-start.safetensors")
        assert info["started_from"] == training.weights_hash(first)


def test_all_schemes_of_a_seed_see_the_same_batches_and_other_seeds_others(made, photos):
    pilot, _, batches = made
    of_seed = {}
    for run in pilot.grid.runs():
        seen = torch.cat(batches[run.network, SCHEMES[run.scheme], run.lmbda, run.seed])
        assert len(seen) == 2  # one crop a step
        assert torch.equal(seen, of_seed.setdefault(run.seed, seen)), run
    assert not torch.equal(of_seed[0], of_seed[1])
    first = photos["train"].crops(1, 64, generator_for(1, 0, DATA), permute_colors=True)
    assert torch.equal(of_seed[1][:1], first)
    starts = [seen[0] for (_, _, _, seed), seen in batches.items() if seed not in of_seed]
    assert len(starts) == 5 and not any(torch.equal(batch, of_seed[seed][:1]) for batch in starts for seed in of_seed)


def _by_hand(net, x: torch.Tensor) -> tuple[float, float]:
    """Bits per pixel and 255² · MSE, from CompressAI's own output."""
    with torch.no_grad():
        output = net(x[None])
    bits = sum(-torch.log2(p.double()).sum().item() for p in output["likelihoods"].values())
    error = (output["x_hat"][0].double() - x.double()).square().mean().item()
    return bits / (x.shape[1] * x.shape[2]), 255**2 * error


def test_training_columns_are_what_the_surrogate_sees_at_its_last_temperature(photos, tmp_path):
    pilot = _pilot(photos, tmp_path, networks=(MEAN_SCALE,), lmbdas=(0.025,), schemes=("gumbel",), seeds=1)
    rows = pilot.table()
    net, _ = training.load_checkpoint(tmp_path / f"{Run(MEAN_SCALE, 0.025, 'gumbel', 0).name}.safetensors")
    for (_, row), x in zip(rows.iterrows(), pilot.test, strict=True):
        rate, distortion = _by_hand(net.eval(), x)
        assert row["estimated_bpp"] == pytest.approx(rate, rel=1e-4)
        assert row["mse255"] == pytest.approx(distortion, rel=1e-5)
        assert row["psnr"] == pytest.approx(10 * math.log10(255**2 / distortion), abs=0.1)  # 8 bits, and clamped
        assert rate < row["bpp"] < rate + 2 * 64 / 64**2  # two strings, each with its end
        entropy.set_temperature(net, SCHEMES["gumbel"].temperature.end)
        torch.manual_seed(0)
        drawn = torch.tensor([_by_hand(net.train(), x) for _ in range(24)], dtype=torch.float64)
        seen = torch.tensor([row["train_bpp"], row["train_mse255"]], dtype=torch.float64)
        spread = drawn.std(0) * math.sqrt(1 / 4 + 1 / 24)
        assert ((drawn.mean(0) - seen).abs() < 4 * spread).all(), (drawn.mean(0), seen, spread)
        entropy.set_temperature(net, SCHEMES["gumbel"].temperature.start)  # where this would not hold
        drawn = torch.tensor([_by_hand(net.train(), x) for _ in range(8)], dtype=torch.float64)
        assert ((drawn.mean(0) - seen).abs() > 4 * spread).any()
    assert rows["loss"].to_numpy() == pytest.approx((rows["estimated_bpp"] + 0.025 * rows["mse255"]).to_numpy())
    assert rows["train_loss"].to_numpy() == pytest.approx((rows["train_bpp"] + 0.025 * rows["train_mse255"]).to_numpy())


def test_a_pilot_that_was_stopped_makes_only_what_is_missing(photos, tmp_path, monkeypatch, capsys):
    asked = {"networks": (FACTORIZED,), "lmbdas": (0.0093,), "schemes": ("noise", "mixed"), "seeds": 2}
    whole = _pilot(photos, tmp_path / "whole", **asked).table()
    assert "4 of 4 runs are missing" in capsys.readouterr().out

    plain, left = trainer.Training._gradient, [3 + 2 + 2 + 1]  # of the start, the first run, and half of the second

    def stopped(self, model, optimizer, batch):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return plain(self, model, optimizer, batch)

    parts = _pilot(photos, tmp_path / "parts", **asked)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer.Training, "_gradient", stopped)
        parts.table()
    there = {file.name: file.stat().st_mtime_ns for file in parts.work.iterdir()}
    first, second = (run.name for run in parts.grid.runs()[:2])
    assert {f"{first}.safetensors", f"{first}.parquet", f"{second}.safetensors.part"} < set(there)
    assert len(there) == 5  # with the start, and what it came from

    capsys.readouterr()
    table = parts.table()
    assert "3 of 4 runs are missing" in capsys.readouterr().out
    pd.testing.assert_frame_equal(table, whole, check_exact=True)
    after = {file.name: file.stat().st_mtime_ns for file in parts.work.iterdir()}
    assert {name for name in there if after.get(name) == there[name]} == set(there) - {f"{second}.safetensors.part"}

    (parts.work / f"{second}.parquet").write_bytes((parts.work / f"{first}.parquet").read_bytes())
    pd.testing.assert_frame_equal(parts.table(), whole, check_exact=True)  # measured again: other weights
    fewer = _pilot(photos, parts.work, **{**asked, "seeds": 1}).table()
    pd.testing.assert_frame_equal(fewer, whole[whole["seed"] == 0], check_exact=True)
    with pytest.raises(ValueError, match=r"is another run's \(steps 2, not 3"):
        _pilot(photos, parts.work, **asked, steps=3).table()


def test_the_command_writes_the_table_and_says_what_is_missing(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "photos", photos.__getitem__)
    monkeypatch.setattr(
        study, "Grid", lambda **asked: Grid(**{**TINY, **asked}, networks=(MEAN_SCALE,), lmbdas=(0.025,))
    )
    out, work = tmp_path / "new" / "pilot.csv", tmp_path / "runs"
    call = ["study", "pilot", "--out", str(out), "--work", str(work), "--steps", "1", "--seeds", "1"]
    said = CliRunner().invoke(cli.main, call)
    assert said.exit_code == 0, said.output
    assert "5 of 5 runs are missing" in said.output and "for the other 4" in said.output
    table = pd.read_csv(out)
    assert len(table) == 5 * 2 and list(table.columns) == COLUMNS
    assert set(table["command"]) == {"labkit study pilot --steps 1 --seeds 1 --threads 1"}
    assert table["loss"].notna().all()
    said = CliRunner().invoke(cli.main, [*call[:3], str(tmp_path / "pilot.txt"), *call[4:]])
    assert said.exit_code == 2 and "takes a name that ends in .csv or .parquet" in said.output
