"""Sweeps: the grid, the names of runs, the files of the results folder, and runs on Dask workers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit import datasets, evaluation, networks, paths, schedules, schemes, training
from labkit.cli import main
from labkit.research import sweeps
from labkit.research.sweeps import cluster, driver, worker
from labkit.research.sweeps.results import ResultsFolder, locked
from labkit.research.sweeps.settings import CODEC_SETTINGS

TOY = {"network": "toy_2d", "lmbda": 2.0, "steps": 20}
CODEC = {"network": "factorized_prior", "lmbda": 0.01, "steps": 2, "batch_size": 1, "crop": 64}
MEASURED = ["bytes", "bpp", "estimated_bpp", "psnr", "ms_ssim"]


def sweep(out, shared, grid=None, schemes=None):
    return sweeps.Sweep(out, shared, grid or {}, schemes or {})


def name(schemes=None, **changes):
    """Return the name of one run: a toy, unless the changes name another network."""
    base = CODEC if changes.get("network", "toy_2d") in networks.names() else TOY
    (run,) = sweep("out", {**base, **changes}, {}, schemes or {}).runs()
    return run.name


def toml(tmp_path, text):
    path = tmp_path / "sweep.toml"
    path.write_text(f'out = "{tmp_path / "out"}"\n{text}')
    return path


@pytest.fixture(scope="module")
def two_images(tmp_path_factory):
    """Return a folder of two test photographs."""
    folder = tmp_path_factory.mktemp("two_images")
    for path in sorted((paths.data() / "photographs" / "test").glob("*.webp"))[:2]:
        shutil.copyfile(path, folder / path.name)
    return folder


# The grid -------------------------------------------------------------------------------------------------------------


def test_every_combination_appears_once_in_order_of_seeds():
    grid = {"lmbda": [1.0, 2.0, 4.0], "scheme": ["noise", "mixed"], "seed": [0, 1]}
    runs = sweep("out", {"network": "toy_2d", "steps": 5}, grid).runs()
    order = [(run.settings["seed"], run.settings["lmbda"], run.settings["scheme"]) for run in runs]
    assert order == [(seed, lmbda, s) for seed in (0, 1) for lmbda in (1.0, 2.0, 4.0) for s in ("noise", "mixed")]
    assert len({run.name for run in runs}) == 12
    assert len(sweep("out", TOY, {"seed": [0, 1, 1, 0]}).runs()) == 2


def test_a_file_gives_the_same_sweep_as_the_constructor(tmp_path):
    text = 'network = "toy_2d"\nbatch-size = 8\nsteps = 5\n[grid]\nlmbda = [1, 2]\nscheme = ["noise", "slow"]\n'
    text += '[schemes.slow]\npreset = "annealed"\ntemperature = "exponential:0.5:0.05"\nscale_lower_bound = 0.2\n'
    read = sweeps.Sweep.from_file(toml(tmp_path, text))
    fields = {"preset": "annealed", "temperature": "exponential:0.5:0.05", "scale_lower_bound": 0.2}
    shared = {"network": "toy_2d", "batch_size": 8, "steps": 5}
    assert read == sweep(tmp_path / "out", shared, {"lmbda": [1, 2], "scheme": ["noise", "slow"]}, {"slow": fields})
    slow = read.runs()[1]
    expected = schemes.annealed(schedules.exponential(0.5, 0.05), scale_lower_bound=0.2)
    assert schemes.from_dict(slow.scheme) == expected
    assert (slow.settings["temperature"], slow.settings["scale_lower_bound"]) == (str(expected.temperature), 0.2)


def test_settings_and_defaults_agree_with_the_train_command():
    """Three defaults differ, since those of the command would make results depend on the machine."""
    train = main.commands["train"]
    options = train.make_context("train", ["--lmbda", "1", "--steps", "1", "--out", "net.safetensors"]).params
    assert set(CODEC_SETTINGS) - set(options) == {"test", "coded"}
    assert set(options) - set(CODEC_SETTINGS) == {"config", "out", "log", "tensorboard", "fresh"}
    other = {"lmbda", "steps", "test", "coded", "threads", "precision", "workers"}
    assert {key: value for key, value in CODEC_SETTINGS.items() if key not in other} == {
        key: options[key] for key in CODEC_SETTINGS if key not in other
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lmbda = ", "is not valid TOML"),
        ("lmbd = 1", "unknown setting 'lmbd'; did you mean lmbda?"),
        ("lmbda = [1, 2]\nsteps = 1", "lmbda must be a single value, got [1, 2]. Put lists of values into the grid"),
        ("lmbda = 1\n[grid]\nlmbda = [1]", "lmbda is both a shared setting and an axis of the grid"),
        ("steps = 1\n[grid]\nlmbda = 1", "grid.lmbda must be a list of values, got 1"),
        ("steps = 1\n[grid]\nlmbda = []", "grid.lmbda must be a list of values, got []"),
        ("grid = 1", "grid must be a table, got 1"),
        ("lmbda = 1", "steps is missing. Add it to the settings or to the grid"),
        ("steps = 1\n[grid]\nlmbda = [1, -1]", "lmbda must be a positive finite number, got -1"),
        ("lmbda = 1\nsteps = 2.5", "steps must be an integer"),
        ("lmbda = 1\nsteps = 1\nscheme = 'nois'", "unknown scheme 'nois'; did you mean noise?"),
        (
            "lmbda = 1\nsteps = 1\nscheme = 'a'\n[schemes.a]\npreset = 'noise'\nshare = 1",
            "scheme noise: unknown field 'share'",
        ),
        ("lmbda = 1\nsteps = 1\nlr = 'cosine:1'", "a schedule must be a number or KIND:START:END"),
        ("lmbda = 1\nsteps = 1\nsize = 'huge'", "size must be one of tiny, small, paper, got 'huge'"),
        ("lmbda = 1\nsteps = 1\nnetwork = 'toy_2d'\ncrop = 64", "unknown setting of toy_2d 'crop'"),
        ("lmbda = 1\nsteps = 1\nnetwork = 'toy_2d'\nsource = 'gaussian'", "unknown source of toy_2d 'gaussian'"),
        ("lmbda = 1\nsteps = 1\ncompile = 'yes'", "compile must be true or false, got 'yes'"),
        ("lmbda = 1\nsteps = 1\ncoded = 'no'", "coded must be true or false, got 'no'"),
        ("lmbda = 1\nsteps = 1\nthreads = 0", "threads must be an integer ≥ 1"),
        ("lmbda = 1\nsteps = 1\ndata = 'nowhere'", "nowhere does not exist"),
        ("lmbda = 1\nsteps = 1\nstart = 'nothing.safetensors'", "nothing.safetensors: there is no such checkpoint"),
    ],
)
def test_errors_have_one_line(tmp_path, text, message):
    with pytest.raises(ValueError) as error:
        sweeps.Sweep.from_file(toml(tmp_path, text)).runs()
    assert message in str(error.value) and "\n" not in str(error.value).strip().replace(str(tmp_path), "")


# Names of runs --------------------------------------------------------------------------------------------------------

CHANGED_SETTINGS = {
    "lmbda": 3.0, "steps": 21, "clip": 2.0, "ema": 0.9, "seed": 1, "threads": 2, "scheme": "noise", "temperature": 0.3,
    "scale_lower_bound": 0.2, "source": "ring", "hidden": 8, "batch_size": 7, "lr": 0.1, "network": "toy_1d",
}  # fmt: skip


def test_settings_that_change_a_result_change_the_name():
    names = [name(), *(name(**{key: value}) for key, value in CHANGED_SETTINGS.items())]
    assert len(set(names)) == len(names)
    codec = {"network": "factorized_prior", "precision": "bfloat16", "permute_colors": True, "crop": 128}
    names = [name(network="factorized_prior"), *(name(**{"network": "factorized_prior", k: codec[k]}) for k in codec)]
    assert len(set(names)) == len(names) - 1  # the first two are the same run


def test_settings_that_change_no_result_keep_the_name(tmp_path, two_images):
    assert name(lmbda=2) == name(lmbda=2.0) and name(device="cuda") == name() == name(scheme="mixed")
    assert name(lr="cosine:1e-2:5e-4") == name(lr="cosine:0.01:0.0005") == name()
    renamed = [sweep("out", {**TOY, "scheme": s}, {}, {s: {"preset": "gumbel", "temperature": 0.3}}) for s in "ab"]
    assert renamed[0].runs()[0].name == renamed[1].runs()[0].name
    machine_settings = {"compile": True, "workers": 2, "save_every": 1.0, "device": "cuda"}
    assert name(network="factorized_prior", **machine_settings) == name(network="factorized_prior")
    moved = shutil.copytree(two_images, tmp_path / "moved")
    assert name(network="factorized_prior", data=str(moved)) == name(network="factorized_prior", data=str(two_images))
    before = name(network="factorized_prior", test=str(moved))
    next(moved.iterdir()).write_bytes(b"another image")
    assert name(network="factorized_prior", test=str(moved)) != before
    assert name(network="factorized_prior") != before


def test_paths_are_absolute_because_workers_run_in_another_folder(tmp_path, two_images, monkeypatch):
    monkeypatch.chdir(two_images.parent)
    (run,) = sweep("out", {**CODEC, "test": two_images.name}).runs()
    assert run.settings["test"] == str(two_images) and run.settings["data"] is None


def test_the_name_depends_on_the_weights_of_the_start(tmp_path):
    one, same, other = (str(tmp_path / f"{file}.safetensors") for file in ("one", "same", "other"))
    training.save_checkpoint(networks.factorized_prior("tiny"), one)
    training.save_checkpoint(networks.factorized_prior("tiny"), same, lmbda=0.5)
    training.save_checkpoint(networks.factorized_prior("tiny", seed=1), other)
    names = [name(network="factorized_prior", start=start) for start in (one, same, other)]
    assert names[0] == names[1] != names[2] and name(network="factorized_prior") not in names
    with pytest.raises(ValueError, match=r"size must be tiny, the size of .*one\.safetensors, got small"):
        name(network="factorized_prior", start=one, size="small")
    with pytest.raises(ValueError, match="holds a factorized_prior, not a scale_hyperprior"):
        name(network="scale_hyperprior", start=one)


def test_names_of_compressai_give_the_same_runs():
    run, alias = (
        sweep("out", {**CODEC, "network": each}).runs()[0] for each in ("factorized_prior", "bmshj2018-factorized")
    )
    assert (run.name, run.settings) == (alias.name, alias.settings)


def test_a_larger_grid_contains_the_runs_of_the_smaller_one():
    small, large = (sweep("out", {"network": "toy_2d", "steps": 5}, {"lmbda": values}) for values in ([1], [2, 1]))
    assert {run.name for run in small.runs()} < {run.name for run in large.runs()}


# Forks ----------------------------------------------------------------------------------------------------------------

FORK = {**{name: value for name, value in CODEC.items() if name != "lmbda"}, "permute_colors": True}
TRUNK = {"scheme": "noise", "temperature": 1.0, "steps": 3, "lr": 1e-3}
AXES = {"lmbda": [0.01, 0.02], "scheme": ["mixed", "annealed"], "temperature": [0.2, 0.5], "seed": [0, 1]}


def forked(out, shared=FORK, grid=AXES, trunk=TRUNK):
    return sweeps.Sweep(out, shared, grid, trunk=trunk)


def test_runs_fork_from_one_trunk_per_combination_of_axes_that_the_trunk_does_not_override():
    runs = forked("out").runs()
    trunks = {run.name: run for run in runs if run.trunk is None}
    forks = [run for run in runs if run.trunk]
    assert len(trunks) == 2 * 2 and len(forks) == 2**4
    for run in forks:
        first = trunks[run.trunk]
        assert all(first.settings[key] == run.settings[key] for key in ("lmbda", "seed", "network", "batch_size"))
        assert first.settings["steps"] == 3 and schemes.from_dict(first.scheme) == schemes.noise()
        assert runs.index(first) < runs.index(run)
    assert [run.settings["seed"] for run in runs] == sorted(run.settings["seed"] for run in runs)
    alone = sweep("out", {**FORK, **TRUNK}, {"lmbda": [0.01, 0.02], "seed": [0, 1]}).runs()
    assert {run.name for run in alone} == set(trunks)  # a trunk has the name of the same run without forks


def test_the_name_of_a_fork_depends_on_its_trunk_and_other_names_do_not_change():
    def names(**trunk):
        return [run.name for run in forked("out", trunk={**TRUNK, **trunk}).runs() if run.trunk]

    plain = [run.name for run in sweep("out", FORK, AXES).runs()]
    assert len({*names(), *names(steps=4), *names(scheme="mixed"), *plain}) == 4 * len(names())
    # These names are older than trunks
    slope_of_1 = {"annealed": {"relaxed": False}}
    old = name(slope_of_1, scheme="annealed", temperature="exponential:0.5:0.05")
    assert old == "toy_2d-annealed-2-0-a1d90a51b30c"
    shared = {"network": "toy_1d", "lmbda": 3.0, "steps": 7, "lr": 0.01, "seed": 4}
    assert [run.name for run in sweep("out", shared).runs()] == ["toy_1d-mixed-3-4-07f12c05ee5e"]


def test_errors_in_a_trunk_have_one_line(tmp_path):
    for shared, trunk, message in (
        (TOY, {"steps": 3}, "trunk is not available for toys"),
        (CODEC, {"size": "small"}, "trunk must have the size of its forks, tiny, got small"),
        (CODEC, {"stepz": 3}, "unknown setting 'stepz'"),
        (CODEC, {"steps": [3]}, "steps must be a single value, got"),
    ):
        with pytest.raises(ValueError, match=message):
            forked("out", shared, {}, trunk).runs()
    with pytest.raises(ValueError, match="trunk must be a table, got 3"):
        sweeps.Sweep.from_file(toml(tmp_path, "trunk = 3"))
    read = sweeps.Sweep.from_file(toml(tmp_path, "lmbda = 1\nsteps = 2\n[trunk]\nbatch-size = 8\n"))
    assert read.trunk == {"batch_size": 8}


def test_a_group_of_sweeps_contains_each_run_once():
    first, second = forked("out", grid={**AXES, "lmbda": [0.01]}), forked("out", grid={**AXES, "seed": [1]})
    runs = sweeps.SweepGroup((second, first)).runs()
    assert [run.settings["seed"] for run in runs] == sorted(run.settings["seed"] for run in runs)
    names = [run.name for run in runs]
    assert len(names) == len(set(names)) and set(names) == {run.name for each in (first, second) for run in each.runs()}
    assert set(names) < {run.name for run in forked("out").runs()}
    with pytest.raises(ValueError, match="sweeps must share one folder for results, got elsewhere, out"):
        sweeps.SweepGroup((first, forked("elsewhere")))


# The results folder ---------------------------------------------------------------------------------------------------


EVENTS = st.tuples(st.integers(0, 5), st.sampled_from(["write", "merge", "killed while merging"]))


@given(st.lists(EVENTS, min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_the_table_contains_each_run_once_whenever_the_driver_is_killed(tmp_path_factory, events):
    """A dictionary is the oracle. A driver that is killed while merging has renamed its table but deleted no file."""
    results, latest = ResultsFolder(tmp_path_factory.mktemp("results")), {}
    for count, (run, event) in enumerate(events):
        results.write([{"run": f"r{run}", "status": "done", "seconds": 1.0, "value": count, "image": i} for i in "ab"])
        latest[f"r{run}"] = count
        if event != "write":
            rows = results.pending()
            results.merge(rows)
            if event == "killed while merging":
                for kept in {row["run"] for row in rows}:
                    results.write([row for row in rows if row["run"] == kept])
    results.merge(results.pending())
    assert not list(results.runs.glob("*.json"))
    table = results.frame(sorted(latest))
    assert table[["run", "image", "value"]].values.tolist() == [[r, i, latest[r]] for r in sorted(latest) for i in "ab"]


def test_rows_with_different_columns_fit_into_one_table(tmp_path):
    results = ResultsFolder(tmp_path)
    results.merge([{"run": "a", "status": "failed", "seconds": 1.0, "error": "why", "value": None, "count": None}])
    results.merge([{"run": "b", "status": "done", "seconds": 2.0, "error": None, "value": float("nan"), "count": 3}])
    results.merge([{"run": "c", "status": "done", "seconds": 2.0, "error": None, "value": 0.1, "more": True}])
    table = results.frame(["c", "b", "a"])
    assert table["run"].tolist() == ["c", "b", "a"] and table["value"].tolist()[0] == 0.1 and table["count"][1] == 3
    assert results.finished() == {"a": ("failed", 1.0), "b": ("done", 2.0), "c": ("done", 2.0)}


def test_a_lock_has_one_holder_at_a_time(tmp_path):
    path, inside, counts = tmp_path / "lock", [], []

    def hold():
        for _ in range(50):
            with locked(path):
                inside.append(1)
                counts.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counts) == 200 and set(counts) == {1} and not path.exists()


def test_a_killed_process_releases_its_lock(tmp_path):
    code = f"""
from pathlib import Path; from labkit.research.sweeps.results import locked; import time
with locked(Path({str(tmp_path / "lock")!r})): print("held", flush=True); time.sleep(60)"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"in use by another driver, process {process.pid} on "):
            sweeps.run(sweep(tmp_path, TOY), progress=False)
        process.kill()
    with locked(tmp_path / "lock", wait=False):
        pass


# Runs on workers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address():
    """Return the address of a cluster with two workers, which all tests share."""
    runs = sweep("out", TOY, {"seed": [0, 1]}).runs()
    with cluster.local_client(runs, 2, None) as client:
        yield client.scheduler.address


def toy_loss(scheme, seed):
    """Train and measure a toy without a sweep."""
    net = networks.toy_2d(schemes.get(scheme), seed=seed)
    lr = schedules.cosine(1e-2, 5e-4)
    for _ in training.stream(net, datasets.Banana(), lmbda=2.0, steps=20, batch_size=1024, lr=lr, seed=seed):
        pass
    points = datasets.banana(2**14, torch.Generator().manual_seed(1_000_000))
    with torch.no_grad():
        return float(training.rate_distortion(net.eval()(points), points, 2.0).total)


def test_a_sweep_gives_the_results_of_single_runs_and_repeats_nothing(tmp_path, address, monkeypatch):
    grid = {"scheme": ["noise", "annealed"], "seed": [0, 1]}
    table = sweeps.run(sweep(tmp_path, TOY, grid), address=address, progress=False)
    assert table["status"].tolist() == ["done"] * 4
    for row in table.to_dict("records"):
        assert row["loss"] == toy_loss(row["scheme"], row["seed"])
    assert not list(tmp_path.glob("runs/*"))
    written = (tmp_path / "table.parquet").stat()

    monkeypatch.setattr(driver, "_execute", None)  # from here on, executing a run would fail
    again = sweeps.run(sweep(tmp_path, TOY, grid), address="tcp://nobody:1", progress=False)
    pd.testing.assert_frame_equal(again, table)
    assert (tmp_path / "table.parquet").stat().st_mtime_ns == written.st_mtime_ns

    monkeypatch.undo()
    extended = sweeps.run(sweep(tmp_path, TOY, {**grid, "seed": [2, 1, 0]}), address=address, progress=False)
    assert len(extended) == 6 and extended["seed"].tolist() == [2, 2, 1, 1, 0, 0]
    old = extended[extended["seed"] < 2].sort_values("run", ignore_index=True)
    pd.testing.assert_frame_equal(old, table.sort_values("run", ignore_index=True))  # even the seconds are equal


def test_an_image_codec_is_trained_and_coded_and_a_failed_run_is_recorded(tmp_path, address, two_images):
    shared = {key: value for key, value in CODEC.items() if key != "crop"} | {"test": str(two_images)}
    crops = sweep(tmp_path / "out", shared, {"crop": [64, 4096]})
    table = sweeps.run(crops, address=address, progress=False)
    done, failed = table[table["status"] == "done"], table[table["status"] == "failed"]
    assert len(failed) == 1 and "crops of 4096×4096 need" in failed["error"].item()
    assert "Traceback" in (tmp_path / "out" / "runs" / f"{failed['run'].item()}.txt").read_text()

    net = networks.factorized_prior("tiny", schemes.mixed(), seed=0)
    lr = schedules.cosine(8e-4, 1e-5)
    training.train(
        net, datasets.photos("train"), out=tmp_path / "alone.safetensors", lmbda=0.01, steps=2, batch_size=1, crop=64,
        lr=lr, precision="float32", threads=1, progress=False,
    )  # fmt: skip
    net, _ = training.load_checkpoint(tmp_path / "alone.safetensors")
    report = evaluation.evaluate(net, datasets.folder(two_images), progress=False)
    assert done["name"].tolist() == [row["name"] for row in report.rows]
    for column in MEASURED:
        assert done[column].tolist() == [row[column] for row in report.rows]
    assert set(done["weights"]) == {training.weights_hash(net)}

    kept = ResultsFolder(tmp_path / "out").file(done["run"].iloc[0], "safetensors").stat().st_mtime_ns
    again = sweeps.run(crops, address=address, retry_failed=True, progress=False)
    assert len(again) == 3 and (again["status"] == "failed").sum() == 1
    assert ResultsFolder(tmp_path / "out").file(done["run"].iloc[0], "safetensors").stat().st_mtime_ns == kept


def test_forks_start_from_their_trunk_and_fail_with_it(tmp_path, address, two_images):
    shared = {**FORK, "lmbda": 0.01, "test": [str(two_images)]}
    both = forked(tmp_path / "out", shared, {"scheme": ["noise", "annealed"]})
    table = sweeps.run(both, address=address, progress=False)
    trunk, *forks = both.runs()
    assert table["status"].tolist() == ["done"] * 6 and set(table["set"]) == {two_images.name}
    assert table["trunk"].isna().tolist() == [True] * 2 + [False] * 4

    net = networks.factorized_prior("tiny", schemes.noise(), seed=0)
    settings = {
        "lmbda": 0.01,
        "batch_size": 1,
        "crop": 64,
        "permute_colors": True,
        "precision": "float32",
        "threads": 1,
    }
    settings["progress"] = False
    settings["source"] = datasets.training_images(paths.data() / "photographs" / "train")
    training.train(net, out=tmp_path / "trunk.safetensors", steps=3, lr=schedules.constant(1e-3), **settings)
    for run in forks:
        net, _ = training.load_checkpoint(tmp_path / "trunk.safetensors")
        net.set_scheme(schemes.get(run.settings["scheme"]))
        lr = schedules.cosine(8e-4, 1e-5)
        training.train(net, out=tmp_path / f"{run.name}.safetensors", steps=2, lr=lr, **settings)
        rows = table[table["run"] == run.name]
        assert set(rows["weights"]) == {training.weights_hash(net)} and set(rows["trunk"]) == {trunk.name}
        for x, row in zip(datasets.folder(two_images), rows.to_dict("records"), strict=True):
            with torch.no_grad():  # sides are multiples of 16, and annealed has one temperature
                outputs = [net.train()(x[None]) for _ in range(8)]
            assert row["train_distortion"] != row["distortion"] and row["train_rate"] != row["rate"]
            errors = [(output["x_hat"].clamp(0, 1) - x).square().mean().item() for output in outputs]
            bits = [-output["likelihoods"]["y"].log2().sum().item() / x[0].numel() for output in outputs]
            assert row["train_distortion"] == pytest.approx(255**2 * sum(errors) / 8, rel=2e-4)
            assert row["train_rate"] == pytest.approx(sum(bits) / 8, rel=1e-3)

    broken = forked(tmp_path / "out", shared, {"scheme": ["noise", "annealed"]}, {**TRUNK, "lr": 1e30})
    for _ in range(2):
        table = sweeps.run(broken, address=address, progress=False, retry_failed=True)
        first, *others = table.to_dict("records")
        assert "FloatingPointError" in first["error"] and pd.isna(first["trunk"])
        assert [row["error"] for row in others] == [f"its trunk failed: {first['run']}"] * 2
    more = forked(tmp_path / "out", shared, {"scheme": ["mixed"]}, {**TRUNK, "lr": 1e30})
    table = sweeps.run(more, address=address, progress=False)
    assert [error.split(":")[0] for error in table["error"]] == ["FloatingPointError", "its trunk failed"]


def test_images_that_are_not_coded_have_only_losses(tmp_path, address, two_images):
    shared = {**CODEC, "lmbda": 0.01, "test": str(two_images)}
    assert name(**shared) == name(**shared, coded=True) != name(**shared, coded=False)
    coded = sweeps.run(sweep(tmp_path / "coded", shared), address=address, progress=False)
    uncoded = sweeps.run(sweep(tmp_path / "uncoded", {**shared, "coded": False}), address=address, progress=False)
    assert "bpp" in coded and "bpp" not in uncoded and not uncoded["coded"].any()
    losses = ["name", "rate", "distortion", "loss", "train_rate", "train_distortion", "train_loss", "weights"]
    assert uncoded[losses].equals(coded[losses]) and uncoded["device"].notna().all()


def test_images_of_several_folders_are_distinguished(tmp_path, address, two_images):
    other = shutil.copytree(two_images, tmp_path / "other")
    shared = {**CODEC, "test": [str(two_images), str(other)]}
    table = sweeps.run(sweep(tmp_path / "out", shared), address=address, progress=False)
    assert table["set"].tolist() == [two_images.name] * 2 + ["other"] * 2
    assert table["bytes"].tolist()[:2] == table["bytes"].tolist()[2:]
    assert (
        name(**shared) != name(**{**shared, "test": str(two_images)}) == name(**{**shared, "test": [str(two_images)]})
    )
    with pytest.raises(ValueError, match="test folders must have different names"):
        name(**{**shared, "test": [str(other), str(other)]})


def test_a_worker_waits_for_another_worker_on_the_same_run_and_reads_its_result(tmp_path):
    (run,) = sweep(tmp_path, TOY).runs()
    results, rows = ResultsFolder(tmp_path), []
    with locked(results.file(run.name, "lock")):
        second = threading.Thread(target=lambda: rows.extend(worker.execute(run, str(tmp_path))))
        second.start()
        second.join(0.5)
        assert second.is_alive()
        results.write([run.row("done", loss=1.5, seconds=1.0)])
    second.join()
    assert [row["loss"] for row in rows] == [1.5]


def test_a_dry_run_reports_the_missing_runs_and_writes_nothing(tmp_path, address, capsys):
    sweeps.run(sweep(tmp_path / "out", TOY, {"seed": [0, 1, 2]}), address=address, dry_run=True)
    output = capsys.readouterr().out
    assert "3 runs: 3 missing" in output and "for 3 runs, 2 at a time" in output and not (tmp_path / "out").exists()


def kill_holders(out, times, when=lambda: True):
    """Start a thread that kills processes that hold the lock of a run, `times` of them in total."""

    def kill():
        killed = set()
        while len(killed) < times:
            for path in ResultsFolder(out).runs.glob("*.lock"):
                holder = path.read_text().split()  # "process ID on HOST"
                if holder and int(holder[1]) not in killed and when():
                    killed.add(int(holder[1]))
                    os.kill(int(holder[1]), signal.SIGKILL)
            time.sleep(0.005)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_the_run_of_a_killed_worker_resumes_from_its_checkpoint(tmp_path, address, two_images):
    shared = {**CODEC, "steps": 400, "test": str(two_images), "save_every": 0.2}
    (run,) = sweep(tmp_path / "out", shared).runs()
    log, part = (ResultsFolder(tmp_path / "out").file(run.name, suffix) for suffix in ("csv", "safetensors.part"))
    before = []

    def far_enough():
        if part.exists() and training.states.read(part)["step"] > 20:
            before.append(log.read_text().splitlines()[1:20])
        return bool(before)

    thread = kill_holders(tmp_path / "out", 1, far_enough)
    table = sweeps.run(sweep(tmp_path / "out", shared), address=address, progress=False)
    thread.join(0)
    assert not thread.is_alive()
    assert log.read_text().splitlines()[1:20] == before[0]  # the times are the same, so these steps were not repeated
    alone = pd.DataFrame(worker.execute(run, str(tmp_path / "alone")))
    for column in [*MEASURED, "loss", "weights"]:
        assert table[column].tolist() == alone[column].tolist()


@pytest.mark.slow
def test_a_run_that_kills_every_worker_is_recorded_as_failed(tmp_path, address):
    thread = kill_holders(tmp_path, cluster.DEATHS)
    table = sweeps.run(sweep(tmp_path, {**TOY, "steps": 5000}), address=address, progress=False)
    assert not thread.is_alive() and table["status"].tolist() == ["failed"]
    assert "every worker that executed this run was killed" in table["error"].item()


# The command ----------------------------------------------------------------------------------------------------------


def labkit(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_command_reports_errors_in_one_line(tmp_path, monkeypatch):
    assert labkit("sweep", tmp_path / "none.toml").output.endswith("none.toml: there is no such file\n")
    wrong = labkit("sweep", toml(tmp_path, "lmbd = 1"))
    assert wrong.exit_code == 2 and wrong.output.count("\n") == 1 and "did you mean lmbda" in wrong.output
    monkeypatch.setitem(sys.modules, "distributed", None)
    without = labkit("sweep", toml(tmp_path, "lmbda = 1\nsteps = 1"))
    assert without.exit_code == 2 and 'pip install "quantization-labkit[sweep]"' in without.output


@pytest.mark.slow
def test_the_command_runs_a_grid_on_this_machine_and_reports_a_failure(tmp_path):
    """The command runs in a separate process, which never loads torch."""
    file = toml(tmp_path, 'network = "toy_2d"\nlmbda = 2\nsteps = 20\n[grid]\nlr = [0.01, 1e30]')
    code = f"""
import sys; from labkit.cli import main
try: main(["sweep", {str(file)!r}, "--workers", "1"])
finally: print("torch" in sys.modules)"""
    process = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    lines = process.stdout.splitlines()
    assert process.returncode == 1 and lines[-1] == "False"
    assert "2 runs: 2 missing" in lines[0] and "2 runs: 1 done, 1 failed" in lines[-2]
    assert "failed: toy_2d-mixed-2-0-" in process.stderr and "FloatingPointError" in process.stderr
    assert "Traceback" not in process.stderr and "distributed" not in process.stderr


@pytest.fixture
def control_c():
    """Let child processes react to Ctrl-C; they ignore it if a shell started pytest in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("control_c")
def test_control_c_ends_in_one_line_and_the_same_command_resumes(tmp_path, address):
    """The signal goes to every process of the group, as a terminal sends it. Other workers resume the sweep."""
    file = toml(tmp_path, 'network = "toy_2d"\nlmbda = 2\nsteps = 200\n[grid]\nseed = [0, 1, 2, 3, 4]')
    results = ResultsFolder(tmp_path / "out")

    def names(suffix):
        return {path.stem for path in results.runs.glob(f"*.{suffix}")}

    command = [sys.executable, "-W", "ignore", "-m", "labkit.cli", "sweep", str(file), "--workers", "1"]
    out = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, **out) as process:
        while not names("json") or not names("lock") - names("json"):  # wait until the second run has started
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        message = process.communicate()[1]
    done = len(results.finished())
    assert process.returncode == 130 and 0 < done < 5
    assert message == f"labkit: stopped after {done} of 5 runs; the same command resumes the sweep\n"
    again = labkit("sweep", file, "--address", address).stdout.splitlines()
    assert f"{done} done, {5 - done} missing" in again[0] and "5 runs: 5 done" in again[-1]


@pytest.mark.slow
def test_a_script_needs_no_main_guard_and_workers_do_not_run_it(tmp_path):
    script = tmp_path / "script.py"
    grid = {"seed": [0, 1]}
    script.write_text(
        f"import labkit as lk\nprint('begun')\n"
        f"sweeps = lk.research.sweeps\n"
        f"print(sweeps.run(sweeps.Sweep('out', {TOY!r}, {grid!r}), workers=1)['status'].tolist())\n"
        f"print(__file__, __spec__)\n"
    )
    process = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert process.stdout.count("begun") == 1 and "['done', 'done']" in process.stdout, process.stderr
    assert process.stdout.endswith(f"{script} None\n")


def test_workers_are_spread_over_the_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,8")
    monkeypatch.setattr(cluster, "PRELOAD", "import signal")  # workers that make no runs need no torch
    runs = sweep("out", TOY, {"seed": list(range(9))}).runs()
    with cluster.local_client(runs, 4, 2) as client:
        devices = client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
        assert sorted(devices.values()) == ["5", "5", "7", "7"]
    with (
        pytest.raises(ValueError, match="gpus must be at most 3, as CUDA_VISIBLE_DEVICES lists no more, got 4"),
        cluster.local_client(runs, 4, 4),
    ):
        pass


def test_loading_sweeps_loads_neither_torch_nor_dask():
    code = "import sys, labkit.research.sweeps\n"
    code += "print([m for m in ('torch', 'dask', 'distributed', 'pandas') if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_the_rows_of_a_run_are_saved_as_plain_json(tmp_path):
    ResultsFolder(tmp_path).write([{"run": "a", "value": 0.1}])
    assert json.loads((tmp_path / "runs" / "a.json").read_text()) == [{"run": "a", "value": 0.1}]
