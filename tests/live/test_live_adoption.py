"""The adoption panel compares models before and after adoption, trains a copy of the model, and plots its errors."""

import copy
import re

import numpy as np
import pytest
import torch
from compressai import models

import labkit as lk
from labkit.live import adoption
from labkit.live.adoption import AdoptionPanel


@pytest.fixture(scope="module")
def panel():
    panel = AdoptionPanel(model="FactorizedPrior", scheme="noise", temperature=1.0, steps=3)
    yield panel
    panel.close()


@pytest.fixture(scope="module")
def run(panel):
    """Return a function that runs the panel once for each combination of settings."""
    results = {}

    def run(model, scheme, temperature=1.0):
        key = model, scheme, temperature
        if key not in results:
            results[key] = panel.run(60, model=model, scheme=scheme, temperature=temperature)
        return results[key]

    return run


CHANGED = {  # number of modules whose class adoption changes, counted in CompressAI's sources
    "FactorizedPrior": 1,
    "ScaleHyperprior": 2,
    "MeanScaleHyperprior": 2,
    "JointAutoregressiveHierarchicalPriors": 3,
    "Cheng2020Anchor": 3,
    "Cheng2020AnchorCheckerboard": 5,
    "Elic2022Official": 17,
}


@pytest.mark.parametrize("name", CHANGED)
def test_adoption_keeps_the_outputs_of_every_model(panel, name):
    """The reference is a model from the same seed that was never adopted."""
    adopted = panel._adopt({"model": name, "scheme": "stochastic_rounding", "temperature": 0.5})
    assert adopted.same_outputs and adopted.same_keys and len(adopted.changed) == CHANGED[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = getattr(models, name)(*adoption.MODELS[name]).eval()
    assert type(plain) is getattr(models, name) and isinstance(adopted.model, type(plain))
    with torch.no_grad():
        assert torch.equal(adopted.model.eval()(panel._test)["x_hat"], plain(panel._test)["x_hat"])
    for row in adopted.changed:
        assert row["module"] in adopted.report and row["role"].split(";")[0] in adopted.report
    assert "⌊y + τu⌉" in adopted.report and "<caption" in adopted.report


def test_the_panel_reports_an_adoption_that_changes_weights_or_keys(panel, monkeypatch):
    adopt = lk.adoption.adopt

    def changing_weights(model, scheme):
        adopt(model, scheme)
        model.g_s[-1].bias.data.add_(1e-6)
        return model

    settings = {"model": "FactorizedPrior", "scheme": "noise", "temperature": 1.0}
    monkeypatch.setattr("labkit.adoption.adopt", changing_weights)
    adopted = panel._adopt(settings)
    assert not adopted.same_outputs and adopted.same_keys and "NOT the same" in adoption._verdict(adopted)

    def changing_keys(model, scheme):
        adopt(model, scheme)
        model.register_buffer("more", torch.zeros(1))
        return model

    monkeypatch.setattr("labkit.adoption.adopt", changing_keys)
    adopted = panel._adopt(settings)
    assert adopted.same_outputs and not adopted.same_keys and "OTHER" in adoption._verdict(adopted)


def test_a_run_trains_a_copy(panel, run):
    """The losses equal those of `training.stream` on a model from the same seed."""
    result = run("MeanScaleHyperprior", "mixed")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.MeanScaleHyperprior(16, 24)
    lk.adopt(model, lk.schemes.mixed())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps = lk.training.stream(
        model,
        lk.datasets.photos("train"),
        lmbda=adoption.LMBDA,
        steps=3,
        batch_size=2,
        crop=128,
        lr=1e-3,
        seed=0,
        device="cpu",
        precision="float32",
    )
    losses = [step.loss for step in steps]
    torch.set_num_threads(threads)
    np.testing.assert_allclose(result.losses, losses, rtol=1e-5)
    assert result.model.scheme == lk.schemes.mixed()
    fresh, _ = panel._plain("MeanScaleHyperprior")
    assert not any(
        torch.equal(a, b) for a, b in zip(fresh.g_s.parameters(), result.model.g_s.parameters(), strict=True)
    )
    assert type(fresh) is models.MeanScaleHyperprior


def test_the_loss_is_measured_with_rounding(panel, run):
    result = run("MeanScaleHyperprior", "mixed")
    x = panel._test
    with torch.no_grad():
        output = copy.deepcopy(result.model).eval()(x)
    bits = -sum(float(p.double().log2().sum()) for p in output["likelihoods"].values())
    squares = float(((output["x_hat"] - x) ** 2).double().mean())
    assert result.loss == pytest.approx(bits / x[:, 0].numel() + adoption.LMBDA * 255**2 * squares, rel=1e-4)
    assert result.before > result.loss  # even three steps lower the loss
    assert f"{result.before:.1f} → {result.loss:.1f} in 3 steps" in str(result)


def test_the_right_plot_shows_the_errors_of_the_scheme(panel, run):
    """Noise is uniform on (−½, ½), straight-through rounds as evaluation, and stochastic rounding errs beyond ½."""
    noise = run("FactorizedPrior", "noise").errors
    assert 12 * np.mean(noise["training"] ** 2) == pytest.approx(1, abs=0.06)
    assert 0.49 < np.abs(noise["training"]).max() <= 0.5 + 1e-5
    rounded = run("FactorizedPrior", "straight_through").errors
    assert np.array_equal(rounded["training"], rounded["evaluation"])
    stochastic = run("Cheng2020AnchorCheckerboard", "stochastic_rounding").errors
    assert np.abs(stochastic["training"]).max() > 0.6 and np.abs(stochastic["evaluation"]).max() <= 0.5 + 1e-4
    for name, key in (("in training", "training"), ("in evaluation", "evaluation")):
        x, y = panel.plot.points(name)
        share = [(np.abs(stochastic[key] - center) < 0.05).mean() for center in x]
        np.testing.assert_allclose(y, share, atol=2e-3)


def test_status_line_report_and_plot_show_the_result(panel, run):
    run("FactorizedPrior", "noise")
    result = panel.run(60, model="ScaleHyperprior", scheme="soft_then_hard")  # two stages; g_a is frozen in the second
    assert panel.status.status["result"] == str(result) and len(result.losses) == 3
    assert "entropy_bottleneck" in panel.report.value and "for the first 80% of the steps" in panel.report.value
    steps, losses = panel.plot.points("training crops, surrogate")
    assert steps.tolist() == [1, 2, 3] and np.allclose(losses, result.losses)
    step, rounded = panel.plot.points("test crops, rounded")
    assert step.tolist() == [0, 3] and np.allclose(rounded, [result.before, result.loss])
    assert re.search(rf"from {result.before:.1f} to {result.loss:.1f}\.", panel.plot.label)
    assert panel.still().size[0] > 500


def test_measuring_changes_nothing(panel):
    """Training mode, generator, hooks and torch's random state do not change."""
    model = panel._adopt({"model": "FactorizedPrior", "scheme": "noise", "temperature": 1.0}).model.train()
    generator, state = torch.Generator().manual_seed(5), torch.get_rng_state()
    lk.entropy.set_generator(model, generator)
    first = panel._measure(model, train=True)
    assert panel._measure(model, train=True)[0] == first[0] != panel._measure(model, train=False)[0]
    assert model.training and model.entropy_bottleneck.generator is generator
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state())
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.g_a._forward_hooks and not model.g_s._forward_pre_hooks


def test_an_invalid_argument_raises_an_error_of_one_line():
    with pytest.raises(ValueError, match=r"^steps must be an integer ≥ 1, got 0$"):
        AdoptionPanel(steps=0)
    with pytest.raises(ValueError, match=r"^CompressAI model must be one of FactorizedPrior, .*, got 'VGG'$"):
        AdoptionPanel(model="VGG")
    with pytest.raises(ValueError, match=r"^scheme must be one of noise, .*, got 'none'$"):
        AdoptionPanel(scheme="none")
    with pytest.raises(ValueError, match=r"^temperature τ must be one of 0\.05, .*, got 0\.3$"):
        AdoptionPanel(temperature=0.3)
    assert lk.live.AdoptionPanel is AdoptionPanel and issubclass(AdoptionPanel, lk.live.Panel)
