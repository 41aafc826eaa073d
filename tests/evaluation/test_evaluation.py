"""Real bitstreams are counted correctly, decode exactly, and are close to the estimate."""

import math
import time

import compressai
import compressai.models as models
import numpy as np
import pytest
import torch
from compressai.ans import RansEncoder

import labkit as lk
from labkit import datasets, evaluation, networks, paths, schemes
from labkit.evaluation import bitstream
from labkit.evaluation.evaluator import pad


@pytest.fixture(scope="module")
def net():
    return networks.mean_scale_hyperprior("tiny", seed=1)


def photo(height, width, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


# Like CompressAI's, labkit's autoregressive networks round y in the forward pass and y − μ in the coder.
WITHOUT_CONTEXT = [name for name in networks.names() if not name.startswith(("joint", "cheng"))]


@pytest.mark.parametrize("name", WITHOUT_CONTEXT)
@pytest.mark.parametrize("bound", [0.11, 0.3])
def test_decoding_gives_the_reconstruction_of_the_forward_pass(name, bound):
    """In floating point exactly, and in fixed point, which rounds μ to 14 binary digits, almost."""
    net = networks.get(name, "tiny", schemes.noise(scale_lower_bound=bound), seed=2).eval()
    net.update(update_quantiles=True)
    x = photo(64, 128)[None]
    with torch.no_grad():
        forward = net(x)["x_hat"].clamp(0, 1)
        difference = (net.decompress(**net.compress(x))["x_hat"] - forward).abs()
        lk.portable(net, False)
        assert torch.equal(net.decompress(**net.compress(x))["x_hat"], forward)
    assert (
        difference.median() < 1e-4 and (difference > 1 / 255).float().mean() < 0.05
    )  # a latent at a tie changes a block


def test_the_report_says_in_which_arithmetic_the_network_coded():
    for portable, arithmetic in ((True, "fixed-1"), (False, "floating-point")):
        net = lk.portable(networks.pretrained(), portable)
        report = evaluation.evaluate(net, [photo(64, 64)], progress=False)
        assert report.info["arithmetic"] == arithmetic and f" s in {arithmetic} arithmetic" in str(report)
        assert set(report.to_frame()["arithmetic"]) == {arithmetic}


# CompressAI's coder would never return, so an error here comes instead of a test that hangs.
@pytest.mark.parametrize(
    "value, place",
    [(math.nan, "g_a.2"), (math.nan, "h_a.0"), (math.nan, "h_s.0"), (1e30, "g_a.2"), (1e30, "h_a.0")],
)
@pytest.mark.parametrize("make", [models.MeanScaleHyperprior, networks.MeanScaleHyperprior])
def test_weights_that_cannot_be_coded_cause_an_error_of_one_line_within_a_second(make, value, place):
    torch.manual_seed(0)
    net = make(8, 12).eval()
    net.update()
    with torch.no_grad():
        net.get_submodule(place).weight.fill_(value)
    start = time.perf_counter()
    with pytest.raises(ValueError) as caught:
        evaluation.evaluate(net, [photo(64, 64)], progress=False)
    assert time.perf_counter() - start < 1 and len(str(caught.value).splitlines()) == 1
    if math.isnan(value):
        assert place in str(caught.value)


@pytest.mark.parametrize("height, width", [(1, 1), (63, 65), (64, 64), (200, 170)])
def test_any_size_is_padded_and_its_rate_counts_the_original_pixels(net, height, width):
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


# Where the bits go ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", networks.names())
def test_every_bit_is_accounted_for(name):
    """Estimate, tables and flush add up to the bytes, because the coder itself adds less than 0.1 bits per string."""
    net = networks.get(name, "tiny", seed=4)
    (row,) = evaluation.evaluate(net, [photo(100, 140)], progress=False).rows
    parts = [row[f"{part}_bpp"] for part in ("estimated", "table", "coder", "flush")]
    assert sum(parts) == pytest.approx(row["bpp"]) and all(math.isfinite(part) for part in parts)
    assert abs(row["coder_bpp"]) * 100 * 140 < 0.1 * row["strings"]
    assert 32 < row["flush_bpp"] * 100 * 140 / row["strings"] <= 64


@pytest.mark.parametrize("name", [*WITHOUT_CONTEXT, "pretrained"])
def test_the_estimate_agrees_with_the_likelihoods_of_the_forward_pass(name):
    """The scales of the pretrained weights lie above the bound; in floating point, the forward's latents are coded."""
    trained = name == "pretrained"
    net = networks.pretrained("mean_scale_hyperprior") if trained else networks.get(name, "tiny", seed=4).eval()
    net.update()
    lk.portable(net, False)
    image = datasets.photos("test")[0][:, :64, :128]
    (row,) = evaluation.evaluate(net, [image], progress=False).rows
    with torch.no_grad():
        likelihoods = net(image[None])["likelihoods"].values()
    bits = -sum(torch.log2(likelihood.double()).sum().item() for likelihood in likelihoods)
    assert row["estimated_bpp"] * 64 * 128 == pytest.approx(bits, rel=1e-5)


def test_table_bits_agree_with_the_coder():
    """Compare with the bits of the coder minus the flush, for symbols inside and far outside the tables."""
    model = networks.mean_scale_hyperprior("tiny").gaussian_conditional
    model.update_scale_table(compressai.models.base.get_scale_table())
    generator = torch.Generator().manual_seed(0)
    indexes = torch.randint(64, (5000,), generator=generator)
    spread = model.scale_table[indexes]
    for stretch in (0.5, 1.0, 30.0):  # at 30, most symbols lie outside the tables
        symbols = (stretch * spread * torch.randn(5000, generator=generator)).round().int()
        tables = (model._quantized_cdf, model._cdf_length, model._offset)
        string = RansEncoder().encode_with_indexes(symbols.tolist(), indexes.tolist(), *(t.tolist() for t in tables))
        expected = 8 * len(string) - bitstream.flush_bits(string)
        assert bitstream.table_bits(model, symbols, indexes) == pytest.approx(expected, abs=0.5)


def test_recording_restores_the_network(net):
    before = {module: dict(vars(module)) for module in net.modules()}
    with pytest.raises(KeyError), bitstream.recorded(net):
        raise KeyError
    evaluation.evaluate(net, [photo(64, 64)], progress=False)
    for module, attributes in before.items():
        assert vars(module).keys() == attributes.keys()


def test_bytes_and_quality_agree_with_the_evaluation_of_compressai():
    """On test photographs that need no padding, bytes are equal, and PSNR agrees to 1e-4 dB and MS-SSIM to 1e-5."""
    threads = torch.get_num_threads()
    from compressai.utils.eval_model import __main__ as theirs  # the import sets the thread count to 1

    torch.set_num_threads(threads)
    net = networks.pretrained()
    net.update()
    folder = paths.data() / "photographs" / "test"
    for file in sorted(folder.iterdir())[:3]:
        photos = datasets.PhotoSet([datasets.load_image(file)], [file.name])
        (row,) = evaluation.evaluate(net, photos, progress=False).rows
        reference = theirs.inference(net, theirs.read_image(file))
        assert row["bytes"] == round(reference["bpp"] * row["width"] * row["height"] / 8)
        assert row["psnr"] == pytest.approx(reference["psnr-rgb"], abs=1e-4)
        assert row["ms_ssim"] == pytest.approx(reference["ms-ssim-rgb"], abs=1e-5)


# Images and reports ---------------------------------------------------------------------------------------------------


def test_padding_can_be_removed():
    x = photo(70, 130)[None]
    padded, unpadding = pad(x, 64)
    assert padded.shape[-2:] == (128, 192)
    assert torch.equal(torch.nn.functional.pad(padded, unpadding), x)


def test_metrics_agree_with_numpy():
    a, b = photo(180, 200, 1), photo(180, 200, 2)
    mse = np.mean((a.double().numpy() - b.double().numpy()) ** 2)
    assert evaluation.psnr(a, b) == pytest.approx(-10 * np.log10(mse))
    assert evaluation.psnr(a, a) == math.inf
    assert evaluation.ms_ssim(a, a) == pytest.approx(1)
    assert evaluation.decibels(0.99) == pytest.approx(20)
    eight = evaluation.metrics.eight_bits(torch.tensor([-0.1, 0.0, 0.31, 1.2]))
    assert torch.equal(eight, torch.tensor([0.0, 0.0, 79 / 255, 1.0]))
    assert evaluation.decibels(1.0) == math.inf and math.isnan(evaluation.decibels(math.nan))


def test_rounded_losses_agree_with_the_report(net):
    image = photo(192, 192)
    photos = datasets.PhotoSet([(image * 255).round().to(torch.uint8)], ["one"])
    ((rate, distortion),) = evaluation.rounded_losses(net, photos)
    row = evaluation.evaluate(net, photos, progress=False).rows[0]
    assert rate == pytest.approx(row["estimated_bpp"])
    # only the PSNR of the report is measured after rounding to 8 bits
    assert 10 * math.log10(255**2 / distortion) == pytest.approx(row["psnr"], abs=0.01)


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_restored_even_after_an_error(training):
    net = networks.factorized_prior("tiny").train(training)
    assert evaluation.evaluate(net, [photo(64, 64)], progress=False).rows
    assert {module.training for module in net.modules()} == {training}
    with pytest.raises(RuntimeError):
        evaluation.evaluate(net, [photo(64, 64), torch.rand(1, 64, 64)], progress=False)
    assert {module.training for module in net.modules()} == {training}


def test_a_report_becomes_a_table_a_text_and_a_plot(net, tmp_path):
    report = evaluation.evaluate(net, [photo(64, 64), photo(64, 96)], progress=False)
    frame = report.to_frame()
    assert len(frame) == 2 and report.mean["bpp"] == pytest.approx(frame["bpp"].mean())
    means = evaluation.evaluate(net, [photo(170, 170), photo(64, 64)], progress=False).mean
    assert means["ms_ssim_db"] == pytest.approx(-10 * math.log10(1 - means["ms_ssim"]))
    assert (
        str(report).count("\n") == 4
        and max(map(len, str(report).splitlines())) < 100
        and "<table" in report._repr_html_()
    )
    assert repr(report) == f"Report(2 images, mean {report.mean['bpp']:.4f} bpp, {report.mean['psnr']:.2f} dB)"
    report.save(tmp_path / "r.csv")
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 3
    for column in ("weights", "device", "threads", "labkit", "torch", "compressai", "python", "network"):
        assert frame[column].nunique() == 1
    figure = evaluation.plot(report)
    assert list(figure.data[0].x) == list(frame["bpp"]) and figure.data[-1].x[0] == pytest.approx(report.mean["bpp"])


def test_unreadable_images_cause_errors_of_one_line(tmp_path):
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


def test_transparent_pixels_become_white_and_gray_images_get_three_channels(tmp_path):
    from PIL import Image

    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (datasets.load_image(tmp_path / "clear.png") == 255).all()
    Image.new("L", (5, 4), 7).save(tmp_path / "gray.png")
    gray = datasets.load_image(tmp_path / "gray.png")
    assert gray.shape == (3, 4, 5) and (gray == 7).all()
