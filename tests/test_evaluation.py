"""Real bitstreams: counted right, decoded exactly, close to the estimate."""

import math

import numpy as np
import pytest
import torch

from labkit import datasets, evaluation, networks, schemes
from labkit.evaluation.evaluator import pad


@pytest.fixture(scope="module")
def net():
    return networks.mean_scale_hyperprior("tiny", seed=1)


def photo(height, width, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


# the autoregressive ones round y itself in forward and y − μ in coding, as CompressAI's do
WITHOUT_CONTEXT = [name for name in networks.names() if name.endswith(("prior", "elic"))]


@pytest.mark.parametrize("name", WITHOUT_CONTEXT)
@pytest.mark.parametrize("bound", [0.11, 0.3])
def test_decoding_gives_the_networks_own_rounded_reconstruction(name, bound):
    net = networks.get(name, "tiny", schemes.noise(scale_lower_bound=bound), seed=2).eval()
    net.update(update_quantiles=True)
    x = photo(64, 128)[None]
    with torch.no_grad():
        decoded = net.decompress(**net.compress(x))["x_hat"]
        assert torch.equal(decoded, net(x)["x_hat"].clamp(0, 1))


@pytest.mark.parametrize("height, width", [(1, 1), (63, 65), (64, 64), (200, 170)])
def test_any_size_is_padded_and_counted_by_its_own_pixels(net, height, width):
    image = photo(height, width)
    report = evaluation.evaluate(net, [image], progress=False)
    (row,) = report.rows
    assert (row["height"], row["width"]) == (height, width)
    padded, _ = pad(image[None], 64)
    coded = net.compress(padded)
    size = sum(len(s) for group in coded["strings"] for s in group)
    assert row["bytes"] == size and row["bpp"] == pytest.approx(8 * size / (height * width))
    assert row["strings"] == 2 and math.isfinite(row["psnr"])
    assert math.isnan(row["ms_ssim"]) == (min(height, width) < 161)


def test_padding_repeats_the_edge_and_comes_off_again():
    x = photo(70, 130)[None]
    padded, unpadding = pad(x, 64)
    assert padded.shape[-2:] == (128, 192)
    assert torch.equal(torch.nn.functional.pad(padded, unpadding), x)


def test_metrics_against_numpy():
    a, b = photo(180, 200, 1), photo(180, 200, 2)
    mse = np.mean((a.double().numpy() - b.double().numpy()) ** 2)
    assert evaluation.psnr(a, b) == pytest.approx(-10 * np.log10(mse))
    assert evaluation.psnr(a, a) == math.inf
    assert evaluation.ms_ssim(a, a) == pytest.approx(1)
    assert evaluation.decibels(0.99) == pytest.approx(20)


def test_rounded_losses_agree_with_the_coded_images(net):
    image = photo(192, 192)
    photos = datasets.PhotoSet([(image * 255).round().to(torch.uint8)], ["one"])
    ((rate, distortion),) = evaluation.rounded_losses(net, photos)
    row = evaluation.evaluate(net, photos, progress=False).rows[0]
    assert rate == pytest.approx(row["estimated_bpp"])
    assert 10 * math.log10(255**2 / distortion) == pytest.approx(row["psnr"], abs=1e-4)


def test_report_as_table_text_and_plot(net, tmp_path):
    report = evaluation.evaluate(net, [photo(64, 64), photo(64, 96)], progress=False)
    frame = report.to_frame()
    assert len(frame) == 2 and report.mean["bpp"] == pytest.approx(frame["bpp"].mean())
    assert str(report).count("\n") == 3 and "<table" in report._repr_html_()
    report.to_csv(tmp_path / "r.csv")
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 3
    figure = report.plot()
    assert list(figure.data[0].x) == list(frame["bpp"]) and figure.data[-1].x[0] == pytest.approx(report.mean["bpp"])


def test_images_that_cannot_be_read_get_one_clear_line(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    with pytest.raises(ValueError, match=r"bad\.png cannot be read as an image") as error:
        datasets.folder(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="there is no such folder"):
        datasets.folder(tmp_path / "absent")
    with pytest.raises(ValueError, match="there is no such file"):
        datasets.load_image(tmp_path / "absent.png")
    (tmp_path / "bad.png").unlink()
    with pytest.raises(ValueError, match="holds no image"):
        datasets.folder(tmp_path)


def test_transparency_is_laid_on_white(tmp_path):
    from PIL import Image

    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (datasets.load_image(tmp_path / "clear.png") == 255).all()
    Image.new("L", (5, 4), 7).save(tmp_path / "grey.png")
    grey = datasets.load_image(tmp_path / "grey.png")
    assert grey.shape == (3, 4, 5) and (grey == 7).all()
