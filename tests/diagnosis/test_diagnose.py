"""Each kind of finding, in a model in which the fault was planted, against an independent computation."""

import copy
import json
import math

import pytest
import torch
from compressai import models
from torch import nn

import labkit as lk
from labkit import diagnosis, entropy, evaluation, networks, schemes
from tests.diagnosis.models import PHOTOS, factorized, found, healthy, real_bits


@pytest.mark.parametrize("adopted", [False, True])
def test_a_healthy_model_has_notes_only_and_does_not_change(adopted):
    model = healthy()
    if adopted:
        lk.adopt(model, schemes.mixed())
    before = copy.deepcopy(model.state_dict())
    report = diagnosis.diagnose(model, PHOTOS, progress=False, lmbda=0.0035)
    assert report.count("error") == report.count("warning") == 0, report
    assert not model.training and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert report.bits["all"]["real"] == pytest.approx(real_bits(model) / (2 * 128**2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["factorized_prior", "mean_scale_hyperprior", "patch_hyperprior"])
def test_a_freshly_trained_network_has_notes_only(kind):
    net = networks.get(kind, "tiny", seed=0)
    settings = {"lmbda": 0.0067, "steps": 200, "batch_size": 4, "crop": 64, "device": "cpu", "precision": "float32"}
    for _ in lk.training.stream(net, lk.datasets.photos("train"), **settings):
        pass
    entropy.solve_quantiles(net)
    net.update(force=True)
    report = diagnosis.diagnose(net, PHOTOS, progress=False)
    assert report.count("error") == report.count("warning") == 0, report
    assert report.of("not_reproducible") is None  # labkit's networks code portably


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "lmbda"), [(kind, lmbda) for kind in networks.names() for lmbda in networks.pretrained_lmbdas(kind)]
)
def test_bundled_weights_have_notes_only(kind, lmbda):
    report = diagnosis.diagnose(networks.pretrained(kind, lmbda), PHOTOS, draws=1, progress=False)
    assert report.count("error") == report.count("warning") == 0, report
    assert report.of("not_reproducible") is None


def test_values_that_are_not_finite_are_found_in_the_first_module():
    model = healthy()
    with torch.no_grad():
        model.g_a[2].weight[0, 0, 0, 0] = math.nan
    finding = found(model, "nonfinite")
    assert finding.severity == "error" and "g_a.2.weight" in finding.message


def test_latents_that_cannot_be_coded_are_found():
    model = healthy()
    with torch.no_grad():
        model.g_a[-1].weight *= 1e5
    finding = found(model, "nonfinite")
    assert finding.severity == "error" and "outside ±8192" in finding.message


def test_missing_tables_are_found_until_they_are_built():
    model = models.MeanScaleHyperprior(8, 12).eval()
    model.entropy_bottleneck.update()  # one of two entropy models: "Uninitialized CDFs"
    finding = found(model, "missing_tables", PHOTOS[:1])
    assert (finding.severity, finding.figure) == ("error", 1) and "gaussian_conditional" in finding.message
    model.update(force=True)
    assert found(model, "missing_tables", PHOTOS[:1]) is None


def test_tables_of_other_weights_are_found_with_the_bits_that_they_cost():
    """The weights have the tables of an earlier training step, as in issue 236 of CompressAI."""
    net = factorized()
    fresh, weights = real_bits(net), copy.deepcopy(net.entropy_bottleneck.state_dict())
    with torch.no_grad():
        net.entropy_bottleneck.matrices[0] -= 3  # wider densities
    net.update(force=True, update_quantiles=True)
    with torch.no_grad():
        for name, parameter in net.entropy_bottleneck.named_parameters():
            parameter.copy_(weights[name])
    finding = found(net, "stale_tables")
    assert finding.severity == "error"
    assert finding.figure == pytest.approx(100 * (real_bits(net) / fresh - 1), rel=0.05)
    net.update(force=True)
    assert found(net, "stale_tables") is None


def test_tables_that_another_machine_rounded_are_no_finding():
    model = healthy()
    model.gaussian_conditional._quantized_cdf[5, 3] += 1
    assert found(model, "stale_tables") is None


def test_quantiles_far_from_those_of_the_densities_are_found():
    model = healthy()
    model.entropy_bottleneck._update_quantiles()
    with torch.no_grad():
        model.entropy_bottleneck.quantiles += 3
    model.update(force=True)
    finding = found(model, "quantiles", PHOTOS[:1])
    assert finding.severity == "warning" and finding.figure == pytest.approx(3, abs=1e-3)
    model.update(force=True, update_quantiles=True)
    assert found(model, "quantiles", PHOTOS[:1]) is None


def test_symbols_outside_the_tables_are_found_with_their_cost():
    net = factorized()
    fresh = real_bits(net)
    with torch.no_grad():  # an auxiliary loss that did not converge leaves tables of a few symbols
        median = net.entropy_bottleneck.quantiles[:, :, 1:2]
        net.entropy_bottleneck.quantiles.copy_(median + torch.tensor([-0.6, 0, 0.6]))
    net.update(force=True)
    finding = found(net, "overflow")
    assert finding.severity in ("warning", "error")
    assert finding.figure == pytest.approx(100 * (1 - fresh / real_bits(net)), rel=0.05)
    net.update(force=True, update_quantiles=True)
    assert found(net, "overflow") is None


@pytest.mark.slow
def test_the_mismatch_is_that_of_the_measured_losses():
    net = networks.pretrained("mean_scale_hyperprior", 0.0035)
    training = [evaluation.surrogate_losses(net, PHOTOS, seed) for seed in range(8)]
    expected = sum(rate for draw in training for rate, _ in draw) / 8
    expected /= sum(rate for rate, _ in evaluation.rounded_losses(net, PHOTOS))
    assert found(net, "mismatch", draws=8).figure == pytest.approx(100 * (expected - 1), abs=0.5)
    assert found(net, "mismatch", scheme="straight_through") is None  # rounding has no mismatch


def test_noise_at_the_scale_bound_costs_what_the_closed_form_says():
    """A codec whose latents mostly sit at the bound over-reports its rate, as in issue 164 of microsoft/DCVC."""
    model = healthy()
    with torch.no_grad():
        model.g_a[-1].weight *= 1e-3
        model.g_a[-1].bias.zero_()
        model.h_s[-1].weight.zero_()
        model.h_s[-1].bias.fill_(0.0)
        model.h_s[-1].bias[:36] = 0.01  # σ below the bound
    report = diagnosis.diagnose(model, PHOTOS, progress=False, draws=4)
    bits = report.bits["y"]
    latents = 36 * 8 * 8 / 128**2  # per pixel
    # with y = μ, noise costs 0.152 bits a latent at σ = 0.11: the mean of −log₂(Φ((u + ½)/σ) − Φ((u − ½)/σ)) over u
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000 - 0.5
    normal = torch.distributions.Normal(0.0, 0.11)
    cost = -torch.log2(normal.cdf(u + 0.5) - normal.cdf(u - 0.5)).mean().item()
    assert cost == pytest.approx(0.152, abs=5e-4)
    assert bits["training"] == pytest.approx(cost * latents, rel=0.05) and bits["rounded"] < 1e-3 * latents
    finding = report.of("scale_bound")
    assert finding.severity == "warning" and "100% of the latents" in finding.message


def test_a_forward_pass_that_rounds_y_is_found_with_the_difference_in_squared_error():
    """CompressAI's autoregressive models round y in the forward pass and y − μ in the coder."""
    torch.manual_seed(0)
    model = models.JointAutoregressiveHierarchicalPriors(8, 12).eval()
    with torch.no_grad():
        for layer in model.g_a[::2]:
            layer.weight *= 2.2
        for layer in model.g_s[::2]:
            layer.weight *= 3
        model.g_s[-1].bias.fill_(0.5)
        model.entropy_parameters[-1].bias[12:] = 0.3
    model.update()
    lk.portable(model)
    x = PHOTOS[0][None, :, :64, :64]
    finding = diagnosis.diagnose(model, [x[0]], progress=False).of("center")
    with torch.no_grad():
        coded, rounded = (each["x_hat"].clamp(0, 1) for each in (model.decompress(**model.compress(x)), model(x)))
    figure = 100 * (float(((coded - x) ** 2).mean() / ((rounded - x) ** 2).mean()) - 1)
    assert f"{figure:+.1f}% mean squared error" in finding.message and finding.figure >= abs(figure) - 1e-3


class DependsOnThreads(nn.Module):
    """A hyper-synthesis whose output depends on the number of threads far more than a real one."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) * (1 + (torch.get_num_threads() > 1))


def test_decoding_that_depends_on_threads_is_an_error_and_a_plain_model_a_note():
    model = healthy()
    assert found(model, "not_reproducible", PHOTOS[:1]).severity == "note"
    assert found(lk.portable(healthy()), "not_reproducible", PHOTOS[:1]) is None
    model.h_s = DependsOnThreads(model.h_s)
    finding = found(model, "not_reproducible", PHOTOS[:1])
    assert finding.severity == "error" and "threads" in finding.message


def test_channels_without_information_are_counted():
    model = healthy()
    with torch.no_grad():
        model.g_a[-1].weight[:9] = 0
        model.g_a[-1].bias[:9] = 0
        for rows in (slice(0, 9), slice(36, 45)):  # of σ and of μ
            model.h_s[-1].weight[rows] = 0
            model.h_s[-1].bias[rows] = 0
    report = diagnosis.diagnose(model, PHOTOS, progress=False)
    dead = sum(bits < 1e-3 for bits in report.channels["y"])
    assert dead >= 9 and f"{dead} of the 36 channels of y" in report.of("dead_channels").message


def test_the_report_is_text_json_and_a_page():
    report = diagnosis.diagnose(healthy(), PHOTOS[:1], progress=False, lmbda=0.0035)
    values = json.loads(json.dumps(report.to_dict()))
    assert [each["kind"] for each in values["findings"]] == [each.kind for each in report.findings]
    assert values["kinds"].keys() == diagnosis.KINDS.keys()
    for finding in report.findings:
        assert finding.message in str(report) and finding.unit
    text = " ".join(str(report).split())
    for name, kind in diagnosis.KINDS.items():  # the report prints the thresholds by which it judges
        limits = "/".join("–" if each is None else f"{each:g}" for each in (kind.note, kind.warning, kind.error))
        assert f"{name} {limits} {kind.unit}" in text
    assert len(str(report).splitlines()) < 30
    assert "<table>" in report._repr_html_() and [len(figure.data) for figure in report.figures()] == [2, 8, 4]
    assert set(report.losses) == {"training", "rounded"}


def test_a_scheme_is_judged_on_a_copy():
    model = healthy()
    report = diagnosis.diagnose(model, PHOTOS[:1], progress=False, scheme="annealed")
    assert not entropy.carriers(model) and report.bits["all"]["training"] > 0


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([], {}, "images must have at least one image"),
        (PHOTOS, {"draws": 0}, "draws must be"),
        (PHOTOS, {"lmbda": -1.0}, "lmbda must be a positive finite number"),
        (PHOTOS, {"scheme": "anealed"}, "annealed"),
    ],
)
def test_bad_arguments_get_one_line(images, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        diagnosis.diagnose(healthy(), images, progress=False, **options)
    assert "\n" not in str(refused.value)
