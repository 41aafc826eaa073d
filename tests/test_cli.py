"""The command line: it does what it says, and bad input gets one clear line."""

import json
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from labkit import networks, schemes, surrogates, training
from labkit.cli import main


def labkit(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "net.safetensors"
    training.save_checkpoint(networks.factorized_prior("tiny"), path, lmbda=0.01)
    return path


def test_importing_labkit_loads_neither_torch_nor_jupyter_nor_plotly():
    code = (
        "import sys, labkit, labkit.cli;"
        "print([m for m in ('torch', 'IPython', 'plotly', 'ipywidgets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_training_needs_neither_jupyter_nor_plotly():
    code = (
        "import sys, labkit as lk; lk.train; lk.evaluate; lk.networks.toy_2d();"
        "print([m for m in ('IPython', 'plotly', 'ipywidgets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_train_then_evaluate(tmp_path):
    out = tmp_path / "run.safetensors"
    scheme = ["--network", "factorized_prior", "--scheme", "annealed", "--temperature", "exponential:1:0.1"]
    short = ["--lmbda", 0.01, "--steps", 3, "--batch-size", 1, "--device", "cpu"]
    done = labkit("train", *scheme, *short, "--out", out)
    assert done.exit_code == 0, done.output
    net, info = training.load_checkpoint(out)
    assert info["lmbda"] == 0.01 and net.scheme == schemes.annealed(temperature=net.scheme.temperature)
    assert net.scheme.temperature(2, 3) == pytest.approx(0.1)
    again = labkit("train", *scheme[:2], "--start", out, *short, "--out", tmp_path / "two.safetensors")
    assert again.exit_code == 0, again.output

    from PIL import Image

    (tmp_path / "images").mkdir()
    Image.effect_noise((70, 40), 60).save(tmp_path / "images" / "noise.png")
    done = labkit("evaluate", out, "--data", tmp_path / "images", "--csv", tmp_path / "table.csv")
    assert done.exit_code == 0 and "noise.png" in done.output and "mean" in done.output
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["evaluate", "absent.safetensors"], "absent.safetensors: there is no such checkpoint"),
        (["evaluate", "CHECKPOINT", "--data", "absent"], "absent: there is no such folder"),
        (["train", "--scheme", "anneal", "--lmbda", 1, "--steps", 1, "--out", "x"], "did you mean annealed"),
        (
            ["train", "--network", "hyperprior", "--lmbda", 1, "--steps", 1, "--out", "x"],
            "no network is named 'hyperprior'",
        ),
        (
            ["train", "--start", "CHECKPOINT", "--lmbda", 1, "--steps", 1, "--out", "x"],
            "holds a factorized_prior, not a mean",
        ),
        (["train", "--lmbda", 0, "--steps", 1, "--device", "cpu", "--out", "x"], "lmbda: takes a positive number"),
        (["train", "--lr", "cosine:1", "--lmbda", 1, "--steps", 1, "--out", "x"], "KIND:START:END"),
        (["train", "--lr", "fast", "--lmbda", 1, "--steps", 1, "--out", "x"], "schedule 'fast': takes a number"),
        (["train", "--device", "cudaa", "--lmbda", 1, "--steps", 1, "--out", "x"], "device"),
    ],
)
def test_bad_input_gets_one_clear_line_and_status_two(arguments, message, checkpoint):
    done = labkit(*(checkpoint if a == "CHECKPOINT" else a for a in arguments))
    lines = [line for line in done.output.splitlines() if line and not line.startswith(("Usage:", "Try "))]
    assert done.exit_code == 2 and len(lines) == 1 and message in lines[0], done.output


def test_lessons_are_laid_out_and_never_overwritten(tmp_path):
    target = tmp_path / "mine"
    first = labkit("lessons", "--to", target)
    assert first.exit_code == 0 and "lessons written" in first.output
    notebook = target / "00_start_here.ipynb"
    assert json.loads(notebook.read_text())["nbformat"] == 4
    notebook.write_text("my own work")
    second = labkit("lessons", "--to", target)
    assert "0 lessons written" in second.output and "left as they are" in second.output
    assert notebook.read_text() == "my own work"


def test_bench_prints_threads_and_load():
    done = labkit("bench", "train", "--steps", 1)
    assert done.exit_code == 0 and "1 thread(s)" in done.output and "toy_2d, 300 steps" in done.output
    assert torch.get_num_threads() == 1


def test_bench_surrogates_prints_ratios_and_writes_them(tmp_path):
    done = labkit("bench", "surrogates", "--latents", 4096, "--rounds", 3, "--json", tmp_path / "figures.json")
    assert done.exit_code == 0 and "4,096 float32 latents" in done.output and "floor: 4 passes" in done.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    rows = {row["surrogate"]: row for row in figures["rows"]}
    assert figures["threads"] == 1 and rows["aun"]["ratio"] == rows["aun"]["memory_ratio"] == 1
    assert {row for row, figure in rows.items() if figure["bound"]} == set(surrogates.names()) - {"round", "aun"}


@pytest.mark.parametrize("name", ["ste", "sr", "uq", "dither", "sua"])
def test_identity_slopes_hold_at_most_twice_the_memory_of_noise(name):
    """Bytes are counted, not timed: 8 bytes a latent for the draw and its shift, 4 for the result (aun)."""
    from labkit.surrogates import bench

    assert bench.peak_bytes(surrogates.get("aun"), 1024) == 3 * 4 * 1024
    assert bench.peak_bytes(surrogates.get(name), 1024) <= 2 * 3 * 4 * 1024


def test_study_example_prints_quadrature_over_monte_carlo():
    done = labkit("study", "example", "--samples", 1000)
    assert done.exit_code == 0 and "g = 0.5: test loss 3.2237, exact gradient 2.4151" in done.output
    lines = done.output.splitlines()
    row = next(i for i, line in enumerate(lines) if line.split()[:4] == ["sua,", "expected", "slope", "0.1"])
    assert lines[row + 1].split()[:2] == ["Monte", "Carlo"] and lines[row + 1].count("±") == 3
