"""The developers' benchmarks run on small inputs and write their figures."""

import json

import pytest
from PIL import Image

from labkit import surrogates
from tests.bench import data, evaluate
from tests.bench import surrogates as surrogates_benchmark


@pytest.mark.slow
def test_evaluation_is_compared_with_compressai_and_timed_as_images_grow(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    Image.effect_noise((192, 192), 60).convert("RGB").save(tmp_path / "images" / "noise.png")
    evaluate.print_tables(None, tmp_path / "images", 1, 1, (0.02, 0.08), tmp_path / "figures.json")
    assert "1 thread(s)" in capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    beside = figures["beside_compressai"]
    assert beside["images"] == 1 and beside["bpp_difference"] == 0 and abs(beside["psnr_difference"]) < 1e-4
    assert [row["width"] * row["height"] // 1000 for row in figures["growth"]] == [19, 80]


def test_reading_of_crops_is_timed(tmp_path):
    data.print_table(None, 64, 2, 1, 0, 0.1, tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text())


def test_surrogates_are_compared_with_additive_noise(tmp_path, capsys):
    surrogates_benchmark.print_table(4096, 3, 1, tmp_path / "figures.json")
    output = capsys.readouterr().out
    assert "4,096 float32 latents" in output and "floor: 4 passes" in output
    figures = json.loads((tmp_path / "figures.json").read_text())
    rows = {row["surrogate"]: row for row in figures["rows"]}
    assert figures["threads"] == 1 and rows["aun"]["ratio"] == rows["aun"]["memory_ratio"] == 1
    assert {row for row, figure in rows.items() if figure["bound"]} == set(surrogates.names()) - {"round", "aun"}


@pytest.mark.parametrize("name", ["ste", "sr", "uq", "dither", "sua"])
def test_surrogates_with_identity_slope_need_at_most_twice_the_memory_of_noise(name):
    """The test counts bytes: additive noise needs 8 per latent for the draw and its shift, and 4 for the result."""
    assert surrogates_benchmark.peak_bytes(surrogates.get("aun"), 1024) == 3 * 4 * 1024
    assert surrogates_benchmark.peak_bytes(surrogates.get(name), 1024) <= 2 * 3 * 4 * 1024
