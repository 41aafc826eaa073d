"""Reports of classical codecs count the bytes of files, agree with NumPy, and rank the codecs as expected."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from labkit import datasets, evaluation


@pytest.fixture(scope="module")
def images():
    photos = datasets.photos("test")
    return datasets.PhotoSet([image[:, :200, :240] for image in photos.images[:2]], photos.names[:2])


def test_the_installed_pillow_writes_all_codecs():
    assert evaluation.classical_names() == ("jpeg", "webp", "jpeg2000", "avif")


@pytest.mark.parametrize("codec", ["jpeg", "webp", "jpeg2000", "avif"])
def test_quality_rises_with_the_rate(codec, images):
    reports = evaluation.classical(images, codec)
    for measure in ("bpp", "psnr", "ms_ssim"):
        values = [report.mean[measure] for report in reports]
        assert values == sorted(values) and values[-1] > 1.02 * values[0]
    assert math.isnan(reports[0].mean["estimated_bpp"]) and reports[0].info["codec"] == codec
    assert [row["name"] for row in reports[0].rows] == images.names


def test_bytes_and_psnr_equal_those_of_the_file(images):
    (report,) = evaluation.classical(images, "jpeg", [70])
    pixels = images.images[0].permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=70, optimize=True, subsampling=0)
    decoded = np.asarray(Image.open(file)).astype(np.float64)
    row = report.rows[0]
    assert row["bytes"] == len(file.getvalue()) and row["bpp"] == 8 * row["bytes"] / (200 * 240)
    assert row["psnr"] == pytest.approx(10 * np.log10(255**2 / np.mean((decoded - pixels) ** 2)), abs=1e-5)


def test_jpeg2000_reaches_the_requested_psnr(images):
    """Without the color transform of JPEG 2000, the same PSNR took more than twice the bits."""
    for report, target in zip(evaluation.classical(images, "jpeg2000", [30, 38]), (30, 38), strict=True):
        assert all(abs(row["psnr"] - target) < 1 for row in report.rows)


@pytest.mark.slow
def test_avif_needs_fewer_bits_than_jpeg_on_kodak(kodak):
    """Compare the codecs at equal mean RGB PSNR from 28 to 38 dB, on four of the images."""
    photos = datasets.folder(kodak)[::6]
    curves = {}
    for codec, qualities in (("jpeg", (10, 20, 50, 80, 90, 95)), ("avif", (15, 35, 55, 75, 85))):
        means = [report.mean for report in evaluation.classical(photos, codec, qualities)]
        curves[codec] = ([mean["psnr"] for mean in means], np.log([mean["bpp"] for mean in means]))
    for psnr in np.arange(28, 38.1):
        assert np.interp(psnr, *curves["avif"]) < np.interp(psnr, *curves["jpeg"]) - math.log(1.3)


def test_an_unknown_codec_is_rejected_and_an_image_of_one_pixel_is_coded(images):
    with pytest.raises(ValueError, match="codec must be one of jpeg, webp, jpeg2000, avif, got 'gif'"):
        evaluation.classical(images, "gif")
    assert evaluation.classical([torch.rand(3, 1, 1)], "webp", [50])[0].rows[0]["bytes"] > 0
