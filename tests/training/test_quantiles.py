"""Quantiles that are solved for agree with those that minimize CompressAI's auxiliary loss."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor
from torch.nn import functional

from labkit import entropy, networks

MEDIANS, BITS = 0.01, 1e-3  # absolute tolerance of medians, and relative tolerance of real bits
CHANNELS, DEAD, GAPPED = 12, 3, 5  # channels of the synthetic source


@dataclass
class Case:
    """A trained bottleneck with quantiles from the solver and from Adam, and latents to code.

    If `wide` is true, the latents spread over many integers, and an offset of the grid hardly changes their bits.
    """

    solved: EntropyBottleneck
    minimized: EntropyBottleneck
    latents: list[Tensor]
    wide: bool


def minimized(bottleneck: EntropyBottleneck) -> EntropyBottleneck:
    """Return a copy whose quantiles minimize CompressAI's `loss`, starting from CompressAI's initial values.

    Adam restarts every 300 steps until a round moves no quantile by 0.001. In a gap of the density the cumulative is
    flat, and Adam's memory of steeper gradients would hold a median there for thousands of steps.
    """
    result = copy.deepcopy(bottleneck).requires_grad_(False)
    result.quantiles.copy_(torch.tensor([-10.0, 0.0, 10.0]).expand_as(result.quantiles))
    result.quantiles.requires_grad_(True)
    for _ in range(30):
        before = result.quantiles.detach().clone()
        optimizer = torch.optim.Adam([result.quantiles], lr=0.3)
        decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, (1e-4 / 0.3) ** (1 / 300))
        for _ in range(300):
            optimizer.zero_grad()
            result.loss().backward()
            optimizer.step()
            decay.step()
        if (result.quantiles.detach() - before).abs().max() < 1e-3:
            return result
    raise AssertionError("the auxiliary loss did not converge")


def source(n: int, generator: torch.Generator) -> Tensor:
    """Return skewed latents (n, CHANNELS, 1), far from 0 and from integers; one channel is constant, one has a gap."""
    skewed = -torch.log1p(-torch.rand(n, CHANNELS, generator=generator))
    x = torch.linspace(-20, 23, CHANNELS) + 0.37 + torch.logspace(-0.7, 0.7, CHANNELS) * skewed
    x[:, DEAD] = 7.6
    x[:, GAPPED] = torch.where(x[:, 0] < x[:, 0].median(), -9.0, 11.0) + 0.3 * torch.randn(n, generator=generator)
    return x[..., None]


@pytest.fixture(scope="module")
def synthetic() -> tuple[EntropyBottleneck, list[Tensor]]:
    """Return a bottleneck trained for 300 steps on the source, and latents to code."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    bottleneck = entropy.EntropyBottleneck(CHANNELS).train()
    bottleneck.generator = generator
    parameters = [p for name, p in bottleneck.named_parameters() if name != "quantiles"]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    for step in range(300):
        if step % 100 == 0:
            entropy.solve_quantiles(bottleneck)
        _, likelihood = bottleneck(source(256, generator))
        optimizer.zero_grad()
        torch.log2(likelihood).mean().neg().backward()
        optimizer.step()
    bottleneck.generator = None
    entropy.solve_quantiles(bottleneck)
    return bottleneck.eval(), [source(500, generator).transpose(0, 2) for _ in range(4)]


@torch.no_grad()
def bundled(lmbda: float, photos) -> tuple[EntropyBottleneck, list[Tensor]]:
    """Return the bottleneck of bundled weights, and the latents z of every test photograph and its mirror images.

    A string consists of 32-bit words. Without the mirror images, one word is more than a thousandth of all bits.
    """
    net = networks.pretrained("mean_scale_hyperprior", lmbda)
    views = [photo[None].flip(sides) for photo in photos for sides in ((), (2,), (3,), (2, 3))]
    return net.entropy_bottleneck, [net.h_a(net.g_a(view)) for view in views]


CASES = [pytest.param("synthetic", marks=pytest.mark.slow), *networks.pretrained_lmbdas("mean_scale_hyperprior")]


@pytest.fixture(scope="module", params=CASES)
def case(request, synthetic, test_photos) -> Case:
    bottleneck, latents = synthetic if request.param == "synthetic" else bundled(request.param, test_photos)
    solved = copy.deepcopy(bottleneck)
    with torch.no_grad():
        solved.quantiles.fill_(torch.nan)  # the starting values do not matter
    entropy.solve_quantiles(solved)
    return Case(solved, minimized(bottleneck), latents, wide=request.param == "synthetic")


def medians(bottleneck: EntropyBottleneck) -> Tensor:
    return bottleneck.quantiles[:, 0, 1].detach()


def real_bits(bottleneck: EntropyBottleneck, latents: list[Tensor]) -> int:
    """Count the bits of all strings, including rANS's flush."""
    bottleneck.update(force=True)
    return 8 * sum(len(string) for z in latents for string in bottleneck.compress(z))


def test_the_minimized_auxiliary_loss_is_the_lowest(case):
    """Otherwise the minimization has not converged, and the comparison means nothing."""
    assert case.minimized.loss() <= case.solved.loss() < 0.01 * case.solved.channels


def test_solved_medians_agree_with_a_converged_auxiliary_optimizer(case):
    assert (medians(case.solved) - medians(case.minimized)).abs().max() <= MEDIANS


def test_real_bits_agree_with_a_converged_auxiliary_optimizer(case):
    solved, minimized = real_bits(case.solved, case.latents), real_bits(case.minimized, case.latents)
    assert solved == pytest.approx(minimized, rel=BITS)


def test_the_comparison_detects_a_wrong_median(case):
    off = copy.deepcopy(case.solved)
    with torch.no_grad():
        off.quantiles[:, :, 1] += 0.05
    assert (medians(off) - medians(case.minimized)).abs().max() > MEDIANS
    if not case.wide:
        assert real_bits(off, case.latents) > (1 + BITS) * real_bits(case.minimized, case.latents)


def test_the_synthetic_source_is_as_described(synthetic):
    """Medians are far from 0 and from integers; one channel is constant, and one has a gap at its median."""
    bottleneck, latents = synthetic
    solved, spread = medians(bottleneck), torch.cat(latents, 2)[0].std(dim=1)
    assert solved.abs().median() > 10 and (solved - solved.round()).abs().median() > 0.1
    assert spread[DEAD] == 0 and solved[DEAD] == pytest.approx(7.6, abs=0.1)
    at_median, _, _ = bottleneck._likelihood(solved[:, None, None])
    assert at_median[GAPPED, 0, 0] < 0.01


@pytest.mark.parametrize("shift", [-100.0, 100.0])
def test_medians_move_with_the_density(synthetic, shift):
    """Shifting the cumulative by `shift` shifts its median by as much, which needs no optimizer to check.

    CompressAI's search stops at a relative error of 1e-4, so medians beyond 200 would not agree to 0.01.
    """
    bottleneck, _ = synthetic
    moved = copy.deepcopy(bottleneck)
    with torch.no_grad():
        moved.biases[0] -= functional.softplus(moved.matrices[0]) * shift
    entropy.solve_quantiles(moved)
    assert (medians(moved) - medians(bottleneck) - shift).abs().max() <= MEDIANS
