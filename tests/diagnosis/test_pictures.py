"""The pictures show the figures of the model's own modules."""

import numpy as np
import pytest
import torch
from compressai import models

import labkit as lk
from labkit import diagnosis
from tests.diagnosis.models import PHOTOS, healthy

PHOTO = PHOTOS[0][:, :64, :64]


def test_maps_show_the_gaussian_of_the_channel_with_the_most_bits():
    model = healthy()
    maps = diagnosis.latent_maps(model, PHOTO)
    with torch.no_grad():
        y = model.g_a(PHOTO[None])
        z = model.h_a(y)
        medians = model.entropy_bottleneck.quantiles[:, 0, 1][:, None, None]
        scales, means = model.h_s(torch.round(z - medians) + medians).chunk(2, 1)
        scales = scales.clamp(min=0.11)
        normal = torch.distributions.Normal(means.double(), scales.double())
        y_hat = torch.round(y - means) + means
        bits = -(normal.cdf(y_hat + 0.5) - normal.cdf(y_hat - 0.5)).clamp(min=1e-9).log2()[0]
    channel = int(bits.sum((1, 2)).argmax())
    assert maps.channel == channel and not model.training
    np.testing.assert_allclose(maps.mean, means[0, channel], atol=1e-5)
    np.testing.assert_allclose(maps.scale, scales[0, channel], atol=1e-5)
    np.testing.assert_allclose(maps.bits, bits.sum(0), rtol=1e-3, atol=1e-3)
    figure = diagnosis.plots.latent_maps(maps)
    assert [trace.type for trace in figure.data] == ["image", "heatmap", "heatmap", "heatmap"]
    assert np.array_equal(figure.data[1].z, maps.bits)


def test_densities_are_those_of_the_cumulative_function_beside_the_latents():
    torch.manual_seed(0)
    model = models.FactorizedPrior(8, 12).eval()
    with torch.no_grad():
        model.g_a[-1].weight *= 30
        y = model.g_a(PHOTO[None])[0].flatten(1)
    channels = diagnosis.densities(model, [PHOTO], channels=2)
    assert len(channels) == 2
    for each in channels:
        symbols = torch.round(y[each.channel]).int().numpy()  # the medians of a new model are 0
        counts = np.array([(symbols == value).sum() for value in each.values])
        assert each.shares == pytest.approx(counts / symbols.size) and each.shares.sum() == pytest.approx(1)
        with torch.no_grad():
            edges = torch.tensor(each.values).float() + torch.tensor([[-0.5], [0.5]])
            logits = model.entropy_bottleneck._logits_cumulative(edges.reshape(1, 1, -1).expand(12, 1, -1), True)
            low, high = torch.sigmoid(logits[each.channel, 0]).chunk(2)
        assert each.probabilities == pytest.approx((high - low).numpy(), rel=1e-3, abs=1e-6)
    figure = diagnosis.plots.densities(channels)
    assert [trace.type for trace in figure.data] == ["bar", "scatter"] * 2
    assert diagnosis.latent_maps(model, PHOTO) is None


@pytest.mark.slow
def test_a_notebook_and_a_page_show_all_pictures(monkeypatch):
    import IPython.display

    report = diagnosis.diagnose(healthy(), [PHOTO], draws=1, progress=False)
    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda *objects: shown.extend(objects))
    report._ipython_display_()
    assert len(shown) == 4 and "<table>" in shown[0].data
    page = report.to_html()
    assert page.count("Plotly.newPlot(") >= 3 and "cdn" not in page.partition("<div")[0]
    assert not {"codec", "image"} & set(report.to_dict()) and lk.diagnosis.plots.channel_bits(report.channels).data
