"""The rates of the bound panel agree with integrals and sums in NumPy, and its codec agrees with the evaluator."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from labkit import datasets, evaluation, networks, schemes
from labkit.live import bound as live_bound
from labkit.live.bound import BOUNDS, BoundPanel
from tests.analysis.oracles import bounded_bits

PATIENCE = 100  # seconds after which a waiting test fails


@pytest.fixture(scope="module")
def photos():
    generator = torch.Generator().manual_seed(0)
    crops = datasets.photos("test").crops_uint8(3, 128, generator)
    return datasets.PhotoSet([crops[0], crops[1, :, :64], crops[2]], ["a", "b", "c"])


@pytest.fixture(scope="module")
def panel(photos):
    panel = BoundPanel(test=photos, steps=2)
    yield panel
    panel.close()


@pytest.fixture(scope="module")
def measured(panel):
    return panel.run(PATIENCE, bound=0.3, surrogate="ste", lmbda=0.0035, codec="measure")


@pytest.fixture(scope="module")
def latents(photos):
    """Return y − μ, σ and the number of pixels for every photograph, computed step by step."""
    net, rows = networks.pretrained("mean_scale_hyperprior", lmbda=0.0035), []
    for image in photos:
        with torch.no_grad():
            y = net.g_a(image[None])
            z_hat, _ = net.entropy_bottleneck(net.h_a(y), training=False)
            scales, means = net.h_s(z_hat).chunk(2, 1)
        rows.append(((y - means).flatten().double().numpy(), scales.flatten().double().numpy(), image[0].numel()))
    return rows


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_test_rate_of_the_codec_agrees_with_its_rounded_latents(measured, latents, bound):
    rates = [bounded_bits(np.round(r), np.maximum(s, bound)).sum() / pixels for r, s, pixels in latents]
    assert measured.test_rates[BOUNDS.index(bound)] == pytest.approx(np.mean(rates), rel=2e-4)
    assert measured.bounds[BOUNDS.index(bound)] == bound


def test_straight_through_has_no_mismatch(measured):
    np.testing.assert_allclose(measured.train_rates, measured.test_rates, rtol=1e-6)


@pytest.mark.parametrize("bound", [0.02, 0.3])
def test_the_rate_of_noise_agrees_with_its_expectation_over_the_bin(panel, latents, bound):
    run = panel.run(PATIENCE, bound=bound, surrogate="aun", lmbda=0.0035, codec="measure")
    u = (np.arange(40) + 0.5) / 40 - 0.5
    means, variance = [], 0.0
    for r, s, pixels in latents:
        noisy = bounded_bits(r[:, None] + u, np.maximum(s, bound)[:, None])
        means.append(noisy.mean(1).sum() / pixels)
        variance += noisy.var(1).sum() / pixels**2
    assert abs(run.train_rate - np.mean(means)) < 5 * math.sqrt(variance) / len(latents)
    assert run.train_rate - run.test_rate > 5 * math.sqrt(variance) / len(latents)


def test_a_run_returns_the_price_of_a_zero_and_the_share_below_the_bound(measured, latents):
    assert measured.price == pytest.approx(-math.log2(1 - 2 * stats.norm.cdf(-0.5 / 0.3)), abs=1e-9)
    scales = np.concatenate([s for _, s, _ in latents])
    np.testing.assert_allclose(measured.scales, scales, rtol=1e-4, atol=1e-5)
    assert measured.share == pytest.approx((scales < 0.3).mean(), abs=1e-3)
    assert f"{100 * measured.share:.1f}% of the latents lie below" in str(measured)
    assert f"{100 * measured.share:.1f}% of the codec's {len(scales):,} latents" in share_sentence(measured)


def share_sentence(result):
    return live_bound._share_sentence(torch.from_numpy(result.scales), result.settings["bound"])


def test_losses_at_another_bound_agree_with_the_evaluator(measured, photos):
    net = networks.pretrained("mean_scale_hyperprior", lmbda=0.0035)
    np.testing.assert_allclose(measured.before, evaluation.rounded_losses(net, photos), rtol=1e-5)
    net.set_scheme(schemes.mixed(scale_lower_bound=0.3))
    switched = np.array(evaluation.rounded_losses(net, photos))
    np.testing.assert_allclose(measured.switched, switched, rtol=1e-4)
    assert measured.switched[:, 0].mean() > 1.005 * measured.before[:, 0].mean()
    assert measured.after is None and len(measured.losses) == 0
    loss = switched @ [1, 0.0035]
    assert measured.loss == pytest.approx(loss.mean(), rel=1e-4)
    assert measured.rise == pytest.approx((loss - measured.before @ [1, 0.0035]).mean(), rel=1e-3)


def test_fine_tuning_uses_the_bound_and_does_not_change_the_pretrained_weights(panel, photos):
    start = copy.deepcopy(panel.run(PATIENCE, bound=0.11, surrogate="aun", lmbda=0.0035, codec="measure").net)
    run = panel.run(PATIENCE, bound=0.5, surrogate="sua", temperature=0.35, codec="retrain")
    scheme = run.net.scheme
    assert (scheme.scale_lower_bound, scheme.rate.name, scheme.distortion.name) == (0.5, "sua", "ste")
    assert scheme.temperature.start == 0.35 and len(run.losses) == 2
    changed = [(a != b).any() for a, b in zip(start.parameters(), run.net.parameters(), strict=True)]
    assert any(changed)
    kept = panel.run(PATIENCE, codec="measure", surrogate="aun", bound=0.11).net
    assert all((a == b).all() for a, b in zip(start.parameters(), kept.parameters(), strict=True))
    after = np.array(evaluation.rounded_losses(run.net, photos))
    np.testing.assert_allclose(run.after, after, rtol=1e-5)
    assert run.loss == pytest.approx((after @ [1, 0.0035]).mean(), rel=1e-5)
    assert not run.net.gaussian_conditional._forward_pre_hooks  # the hook was removed


def test_the_left_plot_shows_one_latent_under_the_bound(panel):
    panel.run(PATIENCE, bound=0.3, surrogate="aun", codec="measure")
    x, test = panel.plot.points("test rate")
    k = np.arange(-20, 21)
    for scale, rate in zip(x, test, strict=True):
        mass = special.ndtr((k + 0.5) / scale) - special.ndtr((k - 0.5) / scale)
        assert rate == pytest.approx(mass @ bounded_bits(k, max(scale, 0.3)), abs=1e-5)
    _, train = panel.plot.points("training rate")
    u = (np.arange(400) + 0.5) / 400 - 0.5
    z = stats.norm.ppf((np.arange(400) + 0.5) / 400)
    for i in (0, 12, 23):
        noisy = bounded_bits(x[i] * z[:, None] + u, max(x[i], 0.3)).mean()
        assert train[i] == pytest.approx(noisy, abs=4e-3)
    for name in ("bound", "bound there", "bound in the codec"):
        np.testing.assert_allclose(panel.plot.points(name)[0], 0.3, rtol=1e-6)
    np.testing.assert_allclose(panel.plot.points("codec, test")[0], BOUNDS, rtol=1e-6)


def test_the_histogram_counts_every_latent(panel, measured):
    x, y = live_bound._histogram(torch.tensor([-1.0, 0.001, 0.11, 0.3, 0.3, 500.0]))
    assert (y[0], y[-1]) == (0, 0) and len(x) == len(y)
    left, heights = x[1:-1:2], y[1:-1:2]
    assert heights.sum() == pytest.approx(100)
    assert heights[0] == pytest.approx(100 / 3) and heights[-1] == pytest.approx(100 / 6)
    index = np.searchsorted(left, 0.3, side="right") - 1
    assert heights[index] == pytest.approx(100 / 3)


def test_changing_the_bound_measures_nothing_twice(panel, monkeypatch):
    for bound in (0.11, 0.2):
        panel.run(PATIENCE, bound=bound, surrogate="aun", lmbda=0.0035, codec="measure")

    def fail(*_, **__):
        raise AssertionError("measured twice")

    for name in ("training_law", "test_law"):
        monkeypatch.setattr(live_bound, name, fail)
    monkeypatch.setattr(live_bound, "codec_latents", fail)
    assert panel.run(PATIENCE, bound=0.15).test_rate < panel.run(PATIENCE, bound=1.0).test_rate
    monkeypatch.setattr(live_bound.BoundPanel, "_rates", fail)
    panel.run(PATIENCE, bound=0.2, temperature=0.1)  # aun has no temperature
    with pytest.raises(AssertionError, match="measured twice"):
        panel.run(PATIENCE, surrogate="soft")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"surrogate": "ast"}, "unknown surrogate 'ast'; did you mean ste"),
        ({"codec": "train"}, "unknown codec 'train'"),
        ({"steps": 0}, "steps must be an integer ≥ 1, got 0"),
    ],
)
def test_an_invalid_argument_raises_an_error_of_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        BoundPanel(**arguments)
    assert "\n" not in str(error.value)
