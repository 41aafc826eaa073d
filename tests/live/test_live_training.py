"""The training panel, tested without a browser: real steps from untrained weights, ghosts, and the end of a run."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

import labkit as lk
from labkit.live.engine import Canceled
from labkit.live.training import PLANS
from labkit.networks import patch_start

PATIENCE = 60  # seconds after which a waiting test fails


@pytest.fixture(scope="module", autouse=True)
def _quick_starts():
    """Fit entropy models in two steps, which is quick and enough for these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patch_start, "FIT_STEPS", 2)
        yield


@pytest.fixture(scope="module")
def panel():
    panel = lk.live.TrainingPanel(steps=2, photo="storm")
    yield panel
    panel.close()


@pytest.fixture(scope="module")
def result(panel):
    return panel.run(PATIENCE, lmbda=0.0067, scheme="mixed")


@pytest.fixture(scope="module")
def photo():
    photos = lk.datasets.photos("test")
    return photos[photos.names.index("storm.webp")]


def test_a_run_takes_real_steps_from_untrained_weights(panel, result):
    net = lk.networks.patch_linear(scheme=lk.schemes.mixed())
    assert not net.started  # these weights are untrained
    steps = lk.training.train_from_scratch(
        net, lk.datasets.photos("train"), lmbda=0.0067, steps=2, seconds=1000.0, seed=0
    )
    assert result.losses.tolist() == [step.loss for step in steps if step is not None]
    for ours, theirs in zip(result.net.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_bytes_and_losses_equal_those_of_the_evaluation(panel, result, photo):
    last = result.measurements[-1]
    assert last.step == len(result.losses) == 2 and last.loss == result.loss
    (row,) = lk.evaluate(result.net, [photo], progress=False).rows
    assert (last.photo.bytes, last.photo.bpp) == (row["bytes"], row["bpp"])
    assert last.photo.psnr == pytest.approx(row["psnr"])
    crops = []
    for image in lk.datasets.photos("test"):
        top, left = ((side - 128) // 2 for side in image.shape[1:])
        crops.append(image[:, top : top + 128, left : left + 128])
    losses = np.array(lk.evaluation.rounded_losses(result.net, crops)) @ [1, 0.0067]
    assert result.loss == pytest.approx(losses.mean(), rel=1e-5)


def test_jpeg_has_at_most_as_many_bytes(panel, result, photo):
    last = result.measurements[-1]
    assert last.jpeg.bytes <= last.photo.bytes
    (report,) = lk.evaluation.classical([photo], "jpeg", (30,), progress=False)
    rates, psnrs = panel.plot.points("JPEG")
    assert report.mean["bpp"] == pytest.approx(rates[4]) and report.mean["psnr"] == pytest.approx(psnrs[4])


def test_the_canvas_shows_original_reconstruction_and_jpeg(panel, result, photo):
    last = result.measurements[-1]
    pixels = panel.canvas.picture.pixels
    assert pixels.shape == (256, 3 * 256 + 2 * 8, 4)
    top, left = ((side - 256) // 2 for side in photo.shape[1:])
    for place, image in enumerate((photo, last.photo.image, last.jpeg.image)):
        crop = (image * 255).round().byte()[:, top : top + 256, left : left + 256].permute(1, 2, 0).numpy()
        assert np.array_equal(pixels[:, place * 264 : place * 264 + 256, :3], crop)
    assert panel.canvas.picture.captions == (
        "original",
        f"codec: {last.photo.bytes:,} bytes, {last.photo.psnr:.2f} dB",
        f"JPEG: {last.jpeg.bytes:,} bytes, {last.jpeg.psnr:.2f} dB",
    )


def test_earlier_runs_stay_as_ghosts(panel, result):
    second = panel.run(PATIENCE, lmbda=0.013)
    third = panel.run(PATIENCE, network="patch_hyperprior")
    for name, results in (("patch_linear", (result, second)), ("patch_hyperprior", ())):
        rates, psnrs = panel.plot.points(f"earlier {name}")
        assert rates == pytest.approx([each.measurements[-1].photo.bpp for each in results])
        assert psnrs == pytest.approx([each.measurements[-1].photo.psnr for each in results])
    assert panel.plot.points("its start, a DCT")[0] == pytest.approx([third.measurements[0].photo.bpp])
    assert panel.plot.points("this run")[0] == pytest.approx([third.measurements[-1].photo.bpp])
    assert np.allclose(panel.plot.points("training", ghost=True)[1][0], second.losses[0])
    assert panel.plot.points("test, rounded", ghost=True)[1][-1] == pytest.approx(second.loss)
    assert f"this run {third.measurements[-1].photo.bpp:.3f} bpp" in panel.plot.label
    assert "earlier patch_linear" in panel.plot.label


def test_a_change_cancels_the_earlier_run_and_cancel_stops_training():
    panel = lk.live.TrainingPanel(steps=10**6, seconds=1000.0)
    measured = threading.Event()
    panel.canvas.observe(lambda change: "bytes" in change.new["label"] and measured.set(), "frame")
    panel.controls["lmbda"].value = 0.013
    assert measured.wait(PATIENCE)
    panel.controls["temperature"].value = 0.2  # from here on, nothing of the first run is shown
    measured.clear()
    assert measured.wait(PATIENCE)
    panel.cancel()
    with pytest.raises(Canceled):
        panel.wait(PATIENCE)
    assert panel.engine.join(PATIENCE)
    assert [run.state for run in panel.history] == ["canceled", "canceled"]
    assert panel.history[1].request["temperature"] == 0.2
    assert len(panel._earlier["patch_linear"]) == 2  # runs that were stopped leave their last points
    assert "unfinished" in panel.status.status["stale"]
    panel.close()


def test_the_curve_of_the_pretrained_weights_is_drawn_as_soon_as_there_are_some(monkeypatch, photo):
    nets = {lmbda: lk.evaluation.ready_copy(lk.networks.patch_linear(seed=i)) for i, lmbda in enumerate((0.01, 0.02))}
    monkeypatch.setattr(lk.networks, "pretrained_lmbdas", lambda name: tuple(nets))
    monkeypatch.setattr(lk.networks, "pretrained", lambda name, lmbda: nets[lmbda])
    panel = lk.live.TrainingPanel(photo="storm", steps=1)
    panel.run(PATIENCE)
    rates, psnrs = panel.plot.points("bundled weights")
    panel.close()
    rows = [lk.evaluate(net, [photo], progress=False).rows[0] for net in nets.values()]
    assert rates == pytest.approx([row["bpp"] for row in rows]) and psnrs == pytest.approx(
        [row["psnr"] for row in rows]
    )


def test_a_change_says_what_is_still_shown_while_the_worker_is_busy():
    panel, go, busy = lk.live.TrainingPanel(steps=1), threading.Event(), threading.Event()
    panel.run(PATIENCE)
    assert panel.plot.points("training")[0].size == 1
    job = panel.job

    def slow(settings):
        busy.set()
        assert go.wait(PATIENCE)  # like the start of a network, which cannot be interrupted
        return (yield from job(settings))

    panel.job = slow
    panel.controls["lmbda"].value = 0.013
    assert busy.wait(PATIENCE)
    panel.controls["lmbda"].value = 0.025
    assert panel.state == "queued" and panel.status.status["stale"].startswith("still showing run 1 (λ = 0.0067")
    go.set()
    assert panel.wait(PATIENCE).settings["lmbda"] == 0.025
    panel.close()


def test_a_change_draws_what_it_decides_before_the_worker_does_anything(panel, result):
    """The line of the reference's lowest loss at the new λ, and the temperature."""
    reference = "bundled weights" if lk.networks.pretrained_lmbdas("patch_hyperprior") else "JPEG"
    coded_rates, coded_psnrs = panel.plot.points(reference)
    go = threading.Event()

    def waiting(settings):
        go.wait(PATIENCE)
        yield from ()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panel.engine, "_job", waiting)
        for lmbda in (0.0018, 0.025):
            panel.controls["lmbda"].value = lmbda
            best = (coded_rates + lmbda * 255**2 / 10 ** (coded_psnrs / 10)).min()
            rates, psnrs = panel.plot.points(f"as good as {reference} at this λ")
            assert len(rates) > 10 and np.allclose(rates + lmbda * 255**2 / 10 ** (psnrs / 10), best, rtol=1e-5)
            assert f"the lowest loss of {reference} at this λ is " in panel.plot.label
        panel.controls["scheme"].value = "annealed"
        panel.controls["shape"].value = "linear"
        steps, values = panel.plot.points("τ over the steps")
        assert steps.tolist() == [1, 2] and np.allclose(values, [0.5, 0.05])
        panel.controls["scheme"].value = "noise"
        assert len(panel.plot.points("τ over the steps")[0]) == 0  # noise has no temperature
        panel.cancel()
        go.set()
        assert panel.engine.join(PATIENCE)


def test_a_superseded_run_stops_while_it_fits_its_entropy_model():
    panel, fitting = lk.live.TrainingPanel(steps=1), threading.Event()
    panel.status.observe(lambda change: "fitting" in change.new["text"] and fitting.set(), "status")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patch_start, "FIT_STEPS", 10**6)
        panel.controls["lmbda"].value = 0.013
        assert fitting.wait(PATIENCE)
        patch.setattr(patch_start, "FIT_STEPS", 2)
        panel.controls["lmbda"].value = 0.025
        assert panel.wait(PATIENCE).settings["lmbda"] == 0.025
    assert [run.state for run in panel.history] == ["canceled", "done"]
    panel.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "patch_linaer"}, "structure must be one of patch_linear, .*, got 'patch_linaer'"),
        ({"lmbda": 3.0}, "tradeoff λ must be one of .*, got 3.0"),
        ({"temperature": 2.0}, "temperature τ must be one of .*, got 2.0"),
        ({"shape": "square"}, "shape must be one of .*, got 'square'"),
        ({"photo": "nobody"}, "unknown test photograph 'nobody'"),
    ],
)
def test_an_invalid_argument_raises_an_error_of_one_line(settings, message):
    with pytest.raises(ValueError, match=message):
        lk.live.TrainingPanel(**settings)


@pytest.fixture(scope="module")
def panel_of_three_steps():
    """Return one panel for all structures and schemes: each new panel would code the curves to compare with again."""
    panel = lk.live.TrainingPanel(steps=3)
    yield panel
    panel.close()


@pytest.mark.parametrize("scheme", lk.schemes.names())
@pytest.mark.parametrize("network", [name for name in PLANS if name in lk.networks.names()])
@pytest.mark.slow
def test_every_structure_trains_with_every_scheme(network, scheme, panel_of_three_steps):
    result = panel_of_three_steps.run(PATIENCE, network=network, scheme=scheme)
    assert np.isfinite(result.loss) and len(result.losses) == 3


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(("network", "seconds"), [("patch_linear", 15), ("patch_hyperprior", 40)])
def test_the_loss_falls_and_the_run_ends_in_time(network, seconds):
    panel = lk.live.TrainingPanel(network=network, scheme="mixed", seconds=1.0)
    panel.run(PATIENCE)  # codes the curves to compare with
    panel._seconds = None  # the next run ends as planned
    result = panel.run(PATIENCE)
    panel.close()
    assert result.loss < result.measurements[0].loss
    assert panel.history[-1].seconds < seconds + 1
