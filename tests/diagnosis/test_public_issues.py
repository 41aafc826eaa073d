"""Symptoms of public issues, rebuilt with the numbers that the doctor prints."""

import pytest
import torch
from compressai import models
from compressai.entropy_models import GaussianConditional
from compressai.ops import quantize_ste

import labkit as lk
from labkit import diagnosis, entropy
from tests.diagnosis.models import PHOTOS, estimated_bits, factorized, found, healthy, real_bits


def test_real_bits_several_times_the_estimate_come_from_tables_of_other_weights():
    """InterDigitalInc/CompressAI issue 236: 2.7 bits per pixel in the file, 1.1 according to the likelihoods."""
    net = factorized()
    fresh, early = real_bits(net), net.entropy_bottleneck
    weights = {name: parameter.detach().clone() for name, parameter in early.named_parameters()}
    with torch.no_grad():  # tables of an earlier training step, in which the densities were narrower
        early.matrices[0] += 12
    net.update(force=True, update_quantiles=True)
    with torch.no_grad():
        for name, parameter in early.named_parameters():
            parameter.copy_(weights[name])
    report = diagnosis.diagnose(net, PHOTOS, progress=False)
    bits, real = report.bits["all"], real_bits(net)
    assert bits["real"] / bits["coded"] == pytest.approx(real / estimated_bits(net), rel=0.01)
    assert bits["real"] > 2 * bits["coded"]  # as in the issue
    finding = report.findings[0]
    assert (finding.kind, finding.severity) == ("stale_tables", "error")
    assert finding.figure == pytest.approx(100 * (real / fresh - 1), rel=0.05)
    assert f"{finding.figure:.1f}% more bits" in str(report)
    net.update(force=True)
    assert found(net, "stale_tables") is None and real_bits(net) < 1.1 * estimated_bits(net)


@pytest.mark.slow
def test_training_reports_several_times_the_real_bits_if_most_latents_sit_at_the_scale_bound():
    """microsoft/DCVC issue 164: training reports 0.198 bits per pixel, and the file has 0.031."""
    one = PHOTOS[:1]
    torch.manual_seed(0)
    model = models.MeanScaleHyperprior(24, 320).eval()
    with torch.no_grad():
        model.g_a[-1].weight *= 1e-3
        for parameter in (model.g_a[-1].bias, model.h_s[-1].weight, model.h_s[-1].bias):
            parameter.zero_()
    model.update(force=True, update_quantiles=True)
    report = diagnosis.diagnose(model, one, progress=False)
    assert report.count("error") == 0
    row = report.bits["all"]
    torch.manual_seed(0)
    training = sum(estimated_bits(model.train(), one) for _ in range(2)) / 2
    real = real_bits(model.eval(), one)
    assert row["training"] / row["real"] == pytest.approx(training / real, rel=0.02)
    assert row["training"] > 5 * row["real"]  # as in the issue
    bound, mismatch = report.of("scale_bound"), report.of("mismatch")
    assert bound.severity == mismatch.severity == "warning"
    assert mismatch.figure == pytest.approx(100 * (training / estimated_bits(model, one) - 1), rel=0.03)
    assert 0.7 * mismatch.figure < bound.figure < 1.05 * mismatch.figure  # the bound explains the mismatch
    assert f"{mismatch.figure:.1f}% more bits" in str(report)
    assert found(model, "scale_bound", one, scheme="straight_through") is None  # the rate of evaluation mode
    lk.adopt(model, lk.schemes.noise(scale_lower_bound=1.0))
    assert found(model, "scale_bound", one).severity == "note"


class RoundsY(models.MeanScaleHyperprior):
    """A model whose forward pass rounds y itself, as in lianqi1008/ICLR2024-FTIC issue 10."""

    def forward(self, x):
        y = self.g_a(x)
        z_hat, z_likelihoods = self.entropy_bottleneck(self.h_a(y))
        scales, means = self.h_s(z_hat).chunk(2, 1)
        _, y_likelihoods = self.gaussian_conditional(y, scales, means=means)
        likelihoods = {"y": y_likelihoods, "z": z_likelihoods}
        return {"x_hat": self.g_s(quantize_ste(y)), "likelihoods": likelihoods}


def test_a_forward_pass_that_rounds_y_and_a_coder_that_rounds_y_minus_the_mean():
    model = healthy(RoundsY)
    with torch.no_grad():
        model.g_a[-1].bias += 0.4  # far from integers, as trained means often are
        model.h_s[-1].bias[36:] += 0.4
        squares = [
            [((decoded - photo[None]) ** 2).mean() for decoded in (model.decompress(**coded)["x_hat"], forward)]
            for photo in PHOTOS
            for coded, forward in [(model.compress(photo[None]), model(photo[None])["x_hat"].clamp(0, 1))]
        ]
    coder, forward = torch.tensor(squares).sum(0).tolist()
    finding = found(model, "center")
    assert finding.figure == pytest.approx(100 * abs(coder / forward - 1), rel=1e-2) and finding.figure > 0.5
    assert f"{100 * (coder / forward - 1):+.1f}% mean squared error" in finding.message
    model.__class__ = models.MeanScaleHyperprior  # which rounds y − μ, as the coder does
    assert found(model, "center") is None


class TwoGaussians(models.MeanScaleHyperprior):
    """A model with an entropy model for each half of y, as in CompressAI issue 217; `update` forgets the second."""

    def __init__(self, N, M):
        super().__init__(N, M)
        self.second = GaussianConditional(None)

    def halves(self, y, parameters):
        scales, means = parameters.chunk(2, 1)
        return zip((self.gaussian_conditional, self.second), *(x.chunk(2, 1) for x in (y, scales, means)), strict=True)

    def forward(self, x):
        y = self.g_a(x)
        z_hat, z = self.entropy_bottleneck(self.h_a(y))
        parts = [gaussian(part, s, means=m) for gaussian, part, s, m in self.halves(y, self.h_s(z_hat))]
        y_hat, likelihoods = (torch.cat(each, 1) for each in zip(*parts, strict=True))
        return {"x_hat": self.g_s(y_hat), "likelihoods": {"y": likelihoods, "z": z}}

    def compress(self, x):
        y = self.g_a(x)
        z = self.h_a(y)
        strings = self.entropy_bottleneck.compress(z)
        z_hat = self.entropy_bottleneck.decompress(strings, z.shape[-2:])
        parts = [g.compress(part, g.build_indexes(s), m) for g, part, s, m in self.halves(y, self.h_s(z_hat))]
        return {"strings": [*parts, strings], "shape": z.shape[-2:]}

    def decompress(self, strings, shape):
        parameters = self.h_s(self.entropy_bottleneck.decompress(strings[2], shape))
        halves = self.halves(parameters.chunk(2, 1)[0], parameters)
        parts = [
            g.decompress(part, g.build_indexes(s), means=m)
            for part, (g, _, s, m) in zip(strings[:2], halves, strict=True)
        ]
        return {"x_hat": self.g_s(torch.cat(parts, 1)).clamp(0, 1)}

    def update(self, force=False):
        updated = self.entropy_bottleneck.update(force)
        return self.gaussian_conditional.update_scale_table(entropy.scale_table(0.11), force) or updated


def test_one_of_two_gaussian_conditionals_has_no_tables():
    model = healthy(TwoGaussians)
    with pytest.raises(ValueError, match="Uninitialized CDFs"):
        model.compress(PHOTOS[0][None])
    report = diagnosis.diagnose(model, PHOTOS[:1], progress=False)
    finding = report.findings[0]
    assert (finding.kind, finding.severity, finding.figure) == ("missing_tables", "error", 1)
    assert "second has no coder tables" in str(report)
    models.MeanScaleHyperprior.update(model, force=True)
    report = diagnosis.diagnose(model, PHOTOS[:1], progress=False)
    assert report.of("missing_tables") is None and report.count("error") == report.count("warning") == 0
    assert report.bits["all"]["real"] == pytest.approx(real_bits(model, PHOTOS[:1]) / 128**2)
