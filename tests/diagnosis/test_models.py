"""The diagnosis of every class of model that can be adopted, of other inputs than images, and of hostile quantiles."""

import math

import psutil
import pytest
import torch
from click.testing import CliRunner
from compressai import models
from compressai.entropy_models import EntropyBottleneck
from torch import nn

import labkit as lk
from labkit import diagnosis, evaluation, networks
from labkit.cli import main
from labkit.diagnosis import processor, rates
from labkit.diagnosis.passes import Forward, ImagePass
from tests.adoption.test_adoption import MODELS, build
from tests.diagnosis.models import PHOTOS, found, healthy


def same_figures(report, model, x):
    """Check the bits of a report against CompressAI's own forward pass and strings."""
    with torch.no_grad():
        likelihoods, coded = model(x)["likelihoods"], model.compress(x)
    pixels = x[0, 0].numel()
    bits = {name: -float(value.log2().sum()) / pixels for name, value in likelihoods.items()}
    assert {name: row["rounded"] for name, row in report.bits.items() if name != "all"} == pytest.approx(bits)
    real = 8 * sum(len(string) for group in coded["strings"] for string in group) / pixels
    assert report.bits["all"]["real"] == pytest.approx(real)
    for name, channels in report.channels.items():
        assert sum(channels) == pytest.approx(bits[name] * pixels / likelihoods[name][0, 0].numel(), rel=1e-4)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "FactorizedPrior" else pytest.mark.slow) for name in MODELS]
)
def test_every_class_that_can_be_adopted(name):
    model, x = build(name), PHOTOS[0][None, :, :64, :64]
    model.update(force=True, update_quantiles=True)
    for _ in range(2):
        report = diagnosis.diagnose(model, [x[0]], draws=1, progress=False)
        assert report.count("error") == 0, report
        assert report.of("not_reproducible").severity == "note"
        same_figures(report, model, x)
        lk.adopt(model, lk.schemes.mixed())


def test_a_model_of_one_channel():
    torch.manual_seed(0)
    model = models.FactorizedPrior(8, 12).eval()
    model.g_a[0] = nn.Conv2d(1, 8, 5, stride=2, padding=2)
    model.g_s[-1] = nn.ConvTranspose2d(8, 1, 5, stride=2, padding=2, output_padding=1)
    model.update()
    gray = PHOTOS[0].mean(0, keepdim=True)
    same_figures(diagnosis.diagnose(model, [gray], progress=False), model, gray[None])


class Vectors(nn.Module):
    """An entropy bottleneck on vectors, without `compress` and `update`."""

    def __init__(self, d):
        super().__init__()
        self.g_a, self.g_s = nn.Linear(d, d), nn.Linear(d, d)
        self.entropy_bottleneck = EntropyBottleneck(d)

    def forward(self, x):
        y_hat, likelihoods = self.entropy_bottleneck(self.g_a(x))
        return {"x_hat": self.g_s(y_hat), "likelihoods": {"y": likelihoods}}


@pytest.mark.parametrize("tables", [False, True])
def test_a_model_of_vectors_has_rates_but_no_strings(tables):
    torch.manual_seed(0)
    model, x = Vectors(4).eval(), torch.rand(100, 4)
    if tables:
        model.entropy_bottleneck.update()
    report = diagnosis.diagnose(model, [x[:60], x[60:]], progress=False)
    with torch.no_grad():
        bits = -model(x)["likelihoods"]["y"].log2().sum(0) / 100
    assert report.channels["y"] == pytest.approx(bits.tolist(), rel=1e-4)
    assert report.bits["all"]["rounded"] == pytest.approx(float(bits.sum()), rel=1e-4)
    assert "real" not in report.bits["all"] and report.count("error") == 0
    with torch.no_grad():  # an old table costs nothing as long as nothing is coded, but it is another one
        model.entropy_bottleneck.matrices[0] += 1
    stale = diagnosis.diagnose(model, [x], progress=False).of("stale_tables")
    assert (stale is not None) == tables


def test_a_toy_of_labkit():
    net = networks.toy_2d().eval()
    report = diagnosis.diagnose(net, [lk.datasets.Banana().draw(200)], progress=False)
    assert set(report.bits) == {"y", "all"} and report.of("missing_tables") is None


def test_one_channel_that_takes_most_bits():
    bits = {"y": torch.ones(1, 6, 4, 4), "z": torch.ones(1, 2, 2, 2)}
    passes = [ImagePass("photo", 64**2, Forward(bits, 0.0, []))]
    assert not rates.dominant_channel(passes)
    bits["y"][0, 3] = 20
    (finding,) = rates.dominant_channel(passes)
    assert finding.severity == "note" and finding.figure == pytest.approx(100 * 320 / (320 + 5 * 16 + 8))
    assert "Channel 3 of y takes 78% of the bits" in finding.message


def test_tails_that_end_too_early_are_found():
    model = healthy()
    bottleneck = model.entropy_bottleneck
    bottleneck._update_quantiles()
    points = torch.linspace(-100, 100, 20_001)
    with torch.no_grad():
        cumulative = torch.sigmoid(bottleneck._logits_cumulative(points.expand(24, 1, -1), True))[3, 0]
        end = points[cumulative > 1 - 5e-4][0]  # 0.05% of the probability lies above, and as much below the other tail
        bottleneck.quantiles[3, 0, 2] = end - 2
    model.update(force=True)
    finding = found(model, "quantiles", PHOTOS[:1])
    assert finding.severity == "warning" and finding.figure == pytest.approx(2, abs=0.05) and "tail" in finding.message
    model.update(force=True, update_quantiles=True)
    assert found(model, "quantiles", PHOTOS[:1]) is None


@pytest.mark.parametrize("value", [1e9, math.inf, math.nan])
@pytest.mark.parametrize("cls", [models.MeanScaleHyperprior, networks.MeanScaleHyperprior])
def test_huge_quantiles_are_found_or_refused_before_memory_is_used(cls, value, tmp_path):
    model = cls(8, 12).eval()
    with torch.no_grad():
        model.entropy_bottleneck.quantiles[3, 0, 2] = value
    before = psutil.Process().memory_info().rss
    finding = diagnosis.diagnose(model, PHOTOS[:1], progress=False).findings[0]
    assert finding.severity == "error" and finding.kind == ("quantiles" if value == 1e9 else "nonfinite")
    if value == 1e9:
        with pytest.raises(ValueError, match=r"quantiles of .*bottleneck must be within 8192 steps") as refused:
            evaluation.evaluate(model, PHOTOS[:1], progress=False)
        assert "\n" not in str(refused.value)
    assert psutil.Process().memory_info().rss - before < 200e6
    if isinstance(model, networks.MeanScaleHyperprior) and value == 1e9:
        with pytest.raises(ValueError, match="within 8192 steps"):
            model.update()
        torch.save(model.state_dict(), tmp_path / "net.pth")
        arguments = [str(tmp_path / "net.pth"), str(tmp_path / "net.safetensors"), "--network", "mbt2018-mean"]
        done = CliRunner().invoke(main, ["convert", *arguments])
        assert done.exit_code and "within 8192 steps" in done.output


def test_the_architecture_of_a_model_has_a_name():
    model = models.JointAutoregressiveHierarchicalPriors(8, 12)
    assert processor.kind_of(model) == processor.kind_of(lk.adopt(model, lk.schemes.mixed())) == "joint_autoregressive"
    assert processor.kind_of(networks.patch_linear("tiny")) == "patch_linear"
    assert processor.kind_of(Vectors(2)) is None
    assert processor.kind_of(type("Mine", (models.FactorizedPrior,), {})(8, 12)) is None


@pytest.mark.slow
def test_an_old_processor_decodes_portable_strings_only():
    model = healthy()
    with torch.no_grad():  # σ next to a boundary of the tables, which it crosses when sums are rounded otherwise
        model.h_s[-1].weight[:36] *= 1e-7
        model.h_s[-1].bias[:36] = model.gaussian_conditional.scale_table[20]
    finding = found(model, "not_reproducible", old_processor=True)
    assert finding.severity == "error" and "old processor" in finding.message
    assert found(lk.portable(model), "not_reproducible", old_processor=True) is None
