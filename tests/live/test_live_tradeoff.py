"""The rate–distortion panel and its divider, tested without a browser."""

import math

import numpy as np
import pytest

import labkit as lk
from labkit.live.divider import Divider
from labkit.live.engine import Canceled

PATIENCE = 120  # seconds after which a waiting test fails


@pytest.fixture(scope="module")
def panel():
    panel = lk.live.TradeoffPanel(steps=1, photo="storm")
    yield panel
    panel.close()


@pytest.fixture(scope="module")
def result(panel):
    return panel.run(PATIENCE, lmbda=0.0067, scheme="mixed")


def test_bytes_and_psnr_equal_those_of_evaluate(panel, result):
    test = lk.datasets.photos("test")
    index = test.names.index("storm.webp")
    row = lk.evaluate(result.net, test[index : index + 1], progress=False).rows[0]
    assert (result.n_bytes, result.bpp) == (row["bytes"], row["bpp"]) and result.psnr == pytest.approx(row["psnr"])
    bundled = lk.networks.pretrained(lmbda=0.0067)
    before = lk.evaluate(bundled, test[index : index + 1], progress=False).rows[0]
    assert result.before == pytest.approx((before["bpp"], before["psnr"]))
    assert result.loss == pytest.approx(row["bpp"] + 0.0067 * 255**2 * 10 ** (-row["psnr"] / 10))


def test_the_curves_of_classical_codecs_equal_those_of_the_evaluation(panel, result):
    test = lk.datasets.photos("test")
    index = test.names.index("storm.webp")
    reports = lk.evaluation.classical(test[index : index + 1], "jpeg", (10, 25, 45, 65, 80))
    rates, psnrs = panel.plot.points("JPEG")
    assert rates == pytest.approx([report.mean["bpp"] for report in reports])
    assert psnrs == pytest.approx([report.mean["psnr"] for report in reports])
    inside = min(psnrs) <= result.psnr <= max(psnrs)
    assert math.isfinite(result.at["jpeg"]) == inside
    if inside:
        assert math.log(result.at["jpeg"]) == pytest.approx(np.interp(result.psnr, psnrs, np.log(rates)), abs=1e-5)


def test_earlier_runs_of_the_photograph_stay_in_the_plot(panel, result):
    again = panel.run(PATIENCE, lmbda=0.0067, scheme="noise")
    rates, psnrs = panel.plot.points("earlier runs")
    assert rates[-1] == pytest.approx(result.bpp) and psnrs[-1] == pytest.approx(result.psnr)
    assert panel.plot.points("fine-tuned")[0] == pytest.approx([again.bpp])
    assert f"fine-tuned: {again.bpp:.3f} bpp" in panel.plot.label


def test_the_divider_shows_original_and_reconstruction(panel, result):
    frame = panel.screens[0].frame
    original = np.frombuffer(frame["first"], np.uint8).reshape(frame["height"], frame["width"], 4)
    test = lk.datasets.photos("test")
    pixels = (test[test.names.index("storm.webp")] * 255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(original[..., :3], pixels) and (original[..., 3] == 255).all()
    coded = np.frombuffer(frame["second"], np.uint8).reshape(original.shape)[..., :3].astype(float)
    mse = np.mean((coded - pixels) ** 2)
    assert 10 * math.log10(255**2 / mse) == pytest.approx(panel.history[-1].result.psnr, abs=0.05)


def test_a_run_can_be_canceled(panel, result):
    panel.controls["lmbda"].value = 0.013
    panel.cancel()
    with pytest.raises(Canceled):
        panel.wait(PATIENCE)


def test_an_unknown_photograph_is_rejected():
    with pytest.raises(ValueError, match="unknown test photograph 'nobody'"):
        lk.live.TradeoffPanel(photo="nobody")


def test_the_divider_rejects_images_of_two_sizes_and_its_still_shows_both_images():
    divider = Divider(width=40)
    white, black = np.full((10, 20, 3), 255, np.uint8), np.zeros((10, 20, 3), np.uint8)
    with pytest.raises(ValueError, match=r"second must have the shape of the first image, \(10, 20, 3\)"):
        divider.show(white, black[:5], label="", captions=("", ""))
    divider.show(white, black, label="white and black", captions=("white", "black"))
    still = np.asarray(divider.still())
    assert still.shape == (20, 40, 3) and still[10, 4].tolist() == [255] * 3 and still[10, 36].tolist() == [0] * 3
    assert divider.label == "white and black"
