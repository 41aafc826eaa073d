"""Classical codecs: bytes as a file has them, quality as NumPy has it, and the order that everyone knows."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from labkit import datasets, evaluation

KODAK = Path(__file__).resolve().parents[3] / "shared" / "datasets" / "kodak"


@pytest.fixture(scope="module")
def images():
    photos = datasets.photos("test")
    return datasets.PhotoSet([image[:, :200, :240] for image in photos.images[:2]], photos.names[:2])


def test_this_pillow_writes_all_four():
    assert evaluation.classical_names() == ("jpeg", "webp", "jpeg2000", "avif")


@pytest.mark.parametrize("codec", ["jpeg", "webp", "jpeg2000", "avif"])
def test_more_bits_buy_more_quality(codec, images):
    reports = evaluation.classical(images, codec)
    for measure in ("bpp", "psnr", "ms_ssim"):
        values = [report.mean[measure] for report in reports]
        assert values == sorted(values) and values[-1] > 1.02 * values[0]
    assert math.isnan(reports[0].mean["estimated_bpp"]) and reports[0].info["codec"] == codec
    assert [row["name"] for row in reports[0].rows] == images.names


def test_bytes_and_psnr_are_those_of_the_file(images):
    (report,) = evaluation.classical(images, "jpeg", [70])
    pixels = images.images[0].permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=70, optimize=True, subsampling=0)
    decoded = np.asarray(Image.open(file)).astype(np.float64)
    row = report.rows[0]
    assert row["bytes"] == len(file.getvalue()) and row["bpp"] == 8 * row["bytes"] / (200 * 240)
    assert row["psnr"] == pytest.approx(10 * np.log10(255**2 / np.mean((decoded - pixels) ** 2)), abs=1e-5)


def test_jpeg2000_reaches_the_psnr_that_it_is_asked_for(images):
    """Without its color transform the same aim took twice the bits and more."""
    for report, aim in zip(evaluation.classical(images, "jpeg2000", [30, 38]), (30, 38), strict=True):
        assert all(abs(row["psnr"] - aim) < 1 for row in report.rows)


@pytest.mark.skipif(not KODAK.is_dir(), reason="the Kodak images are not beside the checkout")
def test_avif_needs_fewer_bits_than_jpeg_on_kodak():
    """At equal mean RGB PSNR from 28 to 38 dB, on four of the images."""
    kodak = datasets.folder(KODAK)
    some = datasets.PhotoSet(kodak.images[::6], kodak.names[::6])
    curves = {}
    for codec, qualities in (("jpeg", (10, 20, 50, 80, 90, 95)), ("avif", (15, 35, 55, 75, 85))):
        means = [report.mean for report in evaluation.classical(some, codec, qualities)]
        curves[codec] = ([mean["psnr"] for mean in means], np.log([mean["bpp"] for mean in means]))
    for psnr in np.arange(28, 38.1):
        assert np.interp(psnr, *curves["avif"]) < np.interp(psnr, *curves["jpeg"]) - math.log(1.3)


def test_bad_input_gets_one_clear_line(images):
    with pytest.raises(ValueError, match="codec: takes one of jpeg, webp, jpeg2000, avif, got 'gif'"):
        evaluation.classical(images, "gif")
    assert evaluation.classical([torch.rand(3, 1, 1)], "webp", [50])[0].rows[0]["bytes"] > 0
