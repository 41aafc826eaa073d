"""One image, coded to real bytes: by a copy of a network in training, and as JPEG of at most as many bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

import labkit as lk


@pytest.fixture(scope="module")
def image():
    return lk.datasets.photos("test")[0][:, :120, :136]


@pytest.fixture(scope="module")
def sizes(image):
    """The sizes of the JPEG files at all qualities, by Pillow alone."""
    pixels = Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy())
    sizes = {}
    for quality in range(1, 96):
        pixels.save(file := io.BytesIO(), "JPEG", quality=quality, optimize=True, subsampling=0)
        sizes[quality] = len(file.getvalue())
    return sizes


def test_jpeg_has_the_highest_quality_that_fits(image, sizes):
    ladder = lk.evaluation.JpegLadder(image)
    for limit in (sizes[1], sizes[30] - 1, sizes[30], 5_000, sizes[95], 10**6):
        assert ladder.within(limit).bytes == max(size for size in sizes.values() if size <= limit)
    assert ladder.within(sizes[1] - 1) is None
    assert len(ladder._files) < 40  # no quality is coded twice, and few are coded at all


def test_jpeg_is_that_of_the_classical_codecs(image):
    decoded = lk.evaluation.JpegLadder(image).at(40)
    (report,) = lk.evaluation.classical([image], "jpeg", (40,), progress=False)
    assert (decoded.bytes, decoded.bpp) == (report.rows[0]["bytes"], report.rows[0]["bpp"])
    assert decoded.psnr == pytest.approx(report.rows[0]["psnr"])


def test_a_copy_codes_between_two_steps_and_the_training_does_not_notice(image):
    photos = lk.datasets.photos("train")[:1]
    losses = []
    for codes in (False, True):
        net = lk.networks.patch_linear()
        steps = lk.training.stream(net, photos, lmbda=0.01, steps=3, batch_size=1, crop=64, device="cpu")
        losses.append([])
        for step in steps:
            losses[-1].append(step.loss)
            if codes:
                before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
                decoded = lk.evaluation.code(lk.evaluation.ready_copy(net), image)
                assert net.training and before.keys() == net.state_dict().keys()
                assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert losses[0] == losses[1]
    assert decoded.image.shape == image.shape


def test_bytes_and_psnr_equal_those_of_evaluate(image):
    net = lk.networks.patch_linear().eval()
    decoded = lk.evaluation.code(lk.evaluation.ready_copy(net), image)
    lk.entropy.solve_quantiles(net)
    (row,) = lk.evaluate(net, [image], progress=False).rows
    assert (decoded.bytes, decoded.bpp) == (row["bytes"], row["bpp"])
    assert decoded.psnr == pytest.approx(row["psnr"])
    pixels = decoded.image.numpy() * 255
    assert np.allclose(pixels, pixels.round(), atol=1e-4)  # eight bits
    assert repr(decoded) == f"Decoded({row['bytes']} bytes, {row['bpp']:.4f} bpp, {row['psnr']:.2f} dB)"
