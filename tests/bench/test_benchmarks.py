"""The developers' benchmarks: each command prints its figures and writes them to a JSON file."""

from __future__ import annotations

import json
import multiprocessing

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from labkit import datasets, networks, surrogates, training
from labkit.live import lines
from labkit.live.controls import choice
from labkit.live.panel import Result
from labkit.live.plot import Axes, Plot, PlotFrame, PlotPanel
from tests.bench import bundle, code_lines, data, evaluate, kills, portable, rate_gradient, soak, stack
from tests.bench import surrogates as bench_surrogates


@pytest.fixture(autouse=True)
def same_threads():
    """Restore the number of torch threads, which benchmarks change."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(tmp_path):
    """Return a function that runs a command and returns its output and the figures in its JSON file."""

    def run(command, *arguments):
        out = tmp_path / "figures.json"
        result = CliRunner().invoke(command, [*map(str, arguments), "--json", str(out)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert max(map(len, result.output.splitlines())) <= 120
        return result.output, json.loads(out.read_text())

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with two small photographs."""
    folder = tmp_path_factory.mktemp("images")
    for index, photo in enumerate(datasets.photos("test").images[:2]):
        Image.fromarray(photo[:, :192, :256].permute(1, 2, 0).contiguous().numpy()).save(folder / f"{index}.png")
    return folder


def test_data_measures_memory_and_files(run, folder):
    arguments = ("--crop", 96, "--batch-size", 2, "--threads", 1, "--workers", 1, "--seconds", 0.05)
    output, figures = run(data.main, "--data", folder, *arguments)
    assert [row["data"] for row in figures["rows"]] == ["in memory", "files, 0 workers", "files, 1 worker"]
    assert (figures["threads"], figures["workers"]) == (1, 1)
    for row in figures["rows"]:
        assert row["floor_crops_per_second"] > 0 and f"{row['crops_per_second']:,.0f}" in output
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_evaluate_compares_with_compressai_and_measures_growth(run, folder):
    sizes = ("--rounds", 1, "--megapixels", 0.02, "--megapixels", 0.08)
    output, figures = run(evaluate.main, "--data", folder, *sizes)
    comparison = figures["beside_compressai"]
    assert comparison["images"] == 2 and comparison["ratio"] > 0 and "2 images" in output
    assert comparison["bpp_difference"] == 0 and abs(comparison["psnr_difference"]) < 1e-4
    assert [row["width"] * row["height"] // 1000 for row in figures["growth"]] == [19, 80]


def test_the_benchmark_of_surrogates_compares_them_with_additive_noise(run):
    output, figures = run(bench_surrogates.main, "--latents", 4096, "--rounds", 3)
    rows = {row["surrogate"]: row for row in figures["rows"]}
    assert {name for name, row in rows.items() if row["bound"]} == set(surrogates.names()) - {"round", "aun"}
    assert (rows["aun"]["ratio"], rows["aun"]["memory_ratio"]) == (1, 1)
    for name, row in rows.items():
        assert name in output and row["seconds"] > 0


@pytest.mark.parametrize("name", ["ste", "sr", "uq", "dither", "sua"])
def test_simple_surrogates_need_at_most_twice_the_memory_of_noise(name):
    """Noise needs 12 bytes per latent: 8 for the draw and its shift, and 4 for the result."""
    assert bench_surrogates.peak_bytes(surrogates.get("aun"), 1024) == 3 * 4 * 1024
    assert bench_surrogates.peak_bytes(surrogates.get(name), 1024) <= 2 * 3 * 4 * 1024


def test_expected_gradients_have_less_variance_on_the_bundled_codec(run):
    output, figures = run(rate_gradient.main, "--batches", 1, "--draws", 3, "--crop", 64, "--rounds", 1)
    sampled, *expected = figures["rows"]
    assert "× sampled" in output and all(row["seconds"] > 0 for row in figures["rows"])
    for row in expected:
        assert row["latent_variance"] < 0.2 * sampled["latent_variance"]
        assert row["encoder_variance"] < 0.3 * sampled["encoder_variance"]


@pytest.mark.slow
def test_portable_strings_lose_nothing_and_rows_are_measured_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(portable, "CROP", 128)
    monkeypatch.setattr(portable, "SETTINGS", {"SSE4.1": portable.SETTINGS["SSE4.1"]})
    network, codecs = "scale_hyperprior", portable.codecs()
    monkeypatch.setattr(portable, "codecs", lambda: {network: codecs[network]})
    options = ["--kodak", str(folder), "--json", str(tmp_path / "rows.json")]
    result = CliRunner().invoke(portable.main, options, catch_exceptions=False)
    rows = json.loads((tmp_path / "rows.json").read_text())
    counts = rows[f"fixed point | {network} | SSE4.1"]
    assert all(count["images"] == 2 and not count["lost"] and not count["latents_differ"] for count in counts.values())
    differences = [row["difference_percent"] for key, row in rows.items() if key.startswith("bytes")]
    bundled = sum(len(networks.pretrained_lmbdas(kind)) for kind in networks.names())
    assert len(differences) == bundled and max(map(abs, differences)) < 0.1  # of images of a tenth of Kodak's size
    monkeypatch.setattr(portable, "decoded_by_child", None)
    again = CliRunner().invoke(portable.main, options, catch_exceptions=False)
    assert again.output.splitlines()[1:] == result.output.splitlines()[1:]


def test_half_precision_is_restored_exactly(tmp_path):
    net, file = networks.patch_hyperprior("tiny"), tmp_path / "net.safetensors"
    rounded = bundle.round_weights(net)
    bundle.save_rounded(rounded, file)
    loaded, _ = training.load_checkpoint(file)
    assert training.weights_hash(loaded) == training.weights_hash(rounded) != training.weights_hash(net)
    assert training.weights_hash(bundle.round_weights(loaded)) == training.weights_hash(loaded)
    weights = sum(parameter.numel() for parameter in bundle.layers(net))
    assert 2 * weights < file.stat().st_size < 2 * weights + 1_000_000  # the coder tables have 4 bytes per entry
    with torch.no_grad():
        net.g_a[0].bias[0] = 1e5
    with pytest.raises(ValueError, match="must be below 65,520"):
        bundle.round_weights(net)


def test_a_stack_gives_the_results_of_single_toys(run):
    output, figures = run(stack.main, "--steps", 2, "--rounds", 1, "--batch-size", 16)
    assert figures["loss"] < 1e-4 and figures["ratio"] > 0 and "16 toys" in output


@pytest.mark.slow
def test_killed_runs_resume_to_identical_results():
    result = CliRunner().invoke(kills.main, ["--kills", "4", "--steps", "100", "--seed", "1"], catch_exceptions=False)
    assert "4 kills" in result.output


class Wave(PlotPanel):
    """A panel whose run takes a moment."""

    def __init__(self):
        super().__init__({"pitch": choice("pitch f", (1.0, 2.0), 1.0)}, Plot([Axes(lines=[lines.Line("sine")])]))

    def job(self, settings):
        for n in range(1, 51):
            yield lambda n=n: PlotFrame({"sine": (np.arange(n), np.arange(n))}, n / 50, f"point {n}")
        return Result(settings=settings)


class FailingWave(Wave):
    """A panel whose run raises an error."""

    def job(self, settings):
        raise ArithmeticError("the loss is too large")
        yield


def test_a_soak_counts_runs_and_errors(monkeypatch):
    monkeypatch.setattr(soak, "PAUSES", (0.01, 0.05))
    figures = soak.soak(Wave(), 1.5, seed=1)
    assert figures["moves"] > 10 and figures["done"] > 0 and figures["errors"] == 0 and figures["threads_left"] == 0
    assert figures["growth"] == pytest.approx(figures["memory_after"] - figures["memory_before"])
    figures = soak.soak(FailingWave(), 0.5, seed=1)
    assert figures["errors"] > 0 and figures["error"] == "the loss is too large"


TEXT = '''"""Module."""

# comment
x = [
    1,  # one

    2,
]


def f():
    """Summary.

    More.
    """
    return """a
b"""
'''


def test_code_lines_exclude_docstrings_comments_and_blank_lines():
    assert code_lines.code_lines(TEXT) == 4 + 3  # the list, and the function without its docstring


def test_code_lines_compare_with_another_version(tmp_path):
    (tmp_path / "labkit" / "live").mkdir(parents=True)
    (tmp_path / "labkit" / "live" / "soak.py").write_text("x = 1\ny = 2\n")
    result = CliRunner().invoke(code_lines.main, ["--before", str(tmp_path)], catch_exceptions=False)
    assert "2 of the lines before lie in benchmarks" in result.output
