"""The adoption panel: what it compares, what it shows, and that it trains the model that was asked for."""

import copy
import re

import numpy as np
import pytest
import torch
from compressai import models

import labkit as lk
from labkit.live import adoption
from labkit.live.adoption import AdoptionPanel, adoption_panel


@pytest.fixture(scope="module")
def panel():
    made = adoption_panel(model="FactorizedPrior", scheme="noise", temperature=1.0, steps=3)
    yield made
    made.close()


@pytest.fixture(scope="module")
def run(panel):
    """Results by their settings, each run once."""
    done = {}

    def run(model, scheme, temperature=1.0):
        key = model, scheme, temperature
        if key not in done:
            done[key] = panel.run(60, model=model, scheme=scheme, temperature=temperature)
        return done[key]

    return run


CHANGED = {  # modules whose class is another after an adoption, counted in CompressAI's sources
    "FactorizedPrior": 1,
    "ScaleHyperprior": 2,
    "MeanScaleHyperprior": 2,
    "JointAutoregressiveHierarchicalPriors": 3,
    "Cheng2020Anchor": 3,
    "Cheng2020AnchorCheckerboard": 5,
    "Elic2022Official": 17,
}


@pytest.mark.parametrize("name", CHANGED)
def test_every_model_of_the_menu_is_adopted_and_stays_itself(panel, name):
    """Oracle: a model built from the same seed, never adopted."""
    made = panel._adopt({"model": name, "scheme": "annealed", "temperature": 0.5})
    assert made.same_outputs and made.same_keys and len(made.changed) == CHANGED[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = adoption.MODELS[name]().eval()
    assert type(plain) is getattr(models, name) and isinstance(made.model, type(plain))
    with torch.no_grad():
        assert torch.equal(made.model.eval()(panel._test)["x_hat"], plain(panel._test)["x_hat"])
    for row in made.changed:
        assert row["module"] in made.account and row["role"].split(";")[0] in made.account
    assert "⌊y + τu⌉" in made.account and "<caption" in made.account


def test_what_differs_is_not_called_the_same(panel, monkeypatch):
    """An adoption that touched the weights or the keys would be told of."""
    adopt = lk.adoption.adopt

    def touching(model, scheme):
        adopt(model, scheme)
        model.g_s[-1].bias.data.add_(1e-6)
        return model

    settings = {"model": "FactorizedPrior", "scheme": "noise", "temperature": 1.0}
    monkeypatch.setattr("labkit.adoption.adopt", touching)
    made = panel._adopt(settings)
    assert not made.same_outputs and made.same_keys and "NOT the same" in adoption._verdict(made)

    def renaming(model, scheme):
        adopt(model, scheme)
        model.register_buffer("more", torch.zeros(1))
        return model

    monkeypatch.setattr("labkit.adoption.adopt", renaming)
    made = panel._adopt(settings)
    assert made.same_outputs and not made.same_keys and "OTHER" in adoption._verdict(made)


def test_a_run_trains_its_own_copy(panel, run):
    """Its losses are those of `training.stream` on a model built here."""
    result = run("MeanScaleHyperprior", "mixed")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.MeanScaleHyperprior(16, 24)
    lk.adopt(model, lk.schemes.mixed())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps = lk.training.stream(
        model, lk.datasets.photos("train"), lmbda=adoption.LMBDA, steps=3, batch_size=2, crop=128, lr=1e-3, seed=0
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


def test_the_loss_is_the_rounded_one(panel, run):
    result = run("MeanScaleHyperprior", "mixed")
    x = panel._test
    with torch.no_grad():
        output = copy.deepcopy(result.model).eval()(x)
    bits = -sum(float(p.double().log2().sum()) for p in output["likelihoods"].values())
    squares = float(((output["x_hat"] - x) ** 2).double().mean())
    assert result.loss == pytest.approx(bits / x[:, 0].numel() + adoption.LMBDA * 255**2 * squares, rel=1e-4)
    assert result.before > result.loss  # even three steps
    assert f"{result.before:.1f} → {result.loss:.1f} in 3 steps" in str(result)


def test_the_right_plot_shows_the_scheme(panel, run):
    """Noise is uniform on (−½, ½), rounding is what evaluation does, annealing at τ = 1 goes beyond."""
    noise = run("FactorizedPrior", "noise").errors
    assert 12 * np.mean(noise["training"] ** 2) == pytest.approx(1, abs=0.06)
    assert 0.49 < np.abs(noise["training"]).max() <= 0.5 + 1e-5
    rounded = run("FactorizedPrior", "straight_through").errors
    assert np.array_equal(rounded["training"], rounded["evaluation"])
    annealed = run("Cheng2020AnchorCheckerboard", "annealed").errors
    assert np.abs(annealed["training"]).max() > 0.6 and np.abs(annealed["evaluation"]).max() <= 0.5 + 1e-4
    for name, key in (("in training", "training"), ("in evaluation", "evaluation")):
        x, y = panel.plot.points(name)
        share = [(np.abs(annealed[key] - center) < 0.05).mean() for center in x]
        np.testing.assert_allclose(y, share, atol=2e-3)


def test_the_page_says_what_the_run_showed(panel, run):
    run("FactorizedPrior", "noise")
    result = panel.run(60, model="ScaleHyperprior", scheme="soft_then_hard")  # two stages, the second frozen
    assert panel.status.status["result"] == str(result) and len(result.losses) == 3
    assert "entropy_bottleneck" in panel.account.value and "for the first 80% of the steps" in panel.account.value
    steps, losses = panel.plot.points("training crops, surrogate")
    assert steps.tolist() == [1, 2, 3] and np.allclose(losses, result.losses)
    at, rounded = panel.plot.points("test crops, rounded")
    assert at.tolist() == [0, 3] and np.allclose(rounded, [result.before, result.loss])
    assert re.search(rf"from {result.before:.1f} to {result.loss:.1f}\.", panel.plot.label)
    assert panel.still().size[0] > 500


def test_a_look_changes_nothing(panel):
    """Neither mode nor generator nor torch's own random numbers, whatever the training is at."""
    model = panel._adopt({"model": "FactorizedPrior", "scheme": "noise", "temperature": 1.0}).model.train()
    generator, state = torch.Generator().manual_seed(5), torch.get_rng_state()
    lk.entropy.set_generator(model, generator)
    first = panel._measured(model, train=True)
    assert panel._measured(model, train=True)[0] == first[0] != panel._measured(model, train=False)[0]
    assert model.training and model.entropy_bottleneck.generator is generator
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state())
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.g_a._forward_hooks and not model.g_s._forward_pre_hooks


def test_wrong_arguments_end_in_one_line():
    with pytest.raises(ValueError, match=r"^steps must be an integer ≥ 1, got 0$"):
        adoption_panel(steps=0)
    with pytest.raises(ValueError, match=r"^model: takes FactorizedPrior, .*, got 'VGG'$"):
        adoption_panel(model="VGG")
    with pytest.raises(ValueError, match=r"^scheme: takes noise, .*, got 'none'$"):
        adoption_panel(scheme="none")
    with pytest.raises(ValueError, match=r"^temperature: takes 0\.05, .*, got 0\.3$"):
        adoption_panel(temperature=0.3)
    assert lk.live.adoption_panel is adoption_panel and issubclass(AdoptionPanel, lk.live.Panel)
