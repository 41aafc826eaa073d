"""Toy sources and their codes, compared with closed forms and with the best scalar quantizers."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from labkit import datasets, networks, schedules, schemes, training

LAWS = {"gaussian": stats.norm(), "laplacian": stats.laplace(scale=math.sqrt(0.5))}
SOURCES = {"gaussian": datasets.Gaussian(), "laplacian": datasets.Laplacian()}
every_law = pytest.mark.parametrize("law", LAWS)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def train(net, source, lmbda, **settings):
    settings = {"steps": 300, "batch_size": 1024, "lr": schedules.cosine(1e-2, 5e-4), **settings}
    for _ in training.stream(net, source, lmbda=lmbda, **settings):
        pass
    return net


@torch.no_grad()
def rounded(net, x, lmbda):
    """Return loss, rate and distortion with real rounding."""
    return [float(part) for part in training.rate_distortion(net.eval()(x), x, lmbda)]


# Sources --------------------------------------------------------------------------------------------------------------


@every_law
def test_scalar_sources_follow_their_distributions(law):
    """Kolmogorov–Smirnov test with SciPy's distribution function; a correct source fails for 0.1% of seeds."""
    x = SOURCES[law].draw(20_000, generator(0))
    assert x.shape == (20_000, 1) and x.dtype == torch.float32
    assert stats.kstest(x[:, 0].numpy(), LAWS[law].cdf).pvalue > 1e-3
    wide = type(SOURCES[law])(variance=9.0).draw(20_000, generator(0))
    torch.testing.assert_close(wide, 3 * x)


def test_ring_has_the_moments_of_its_formula():
    """Mean 0, variance (R² + σ²)/2 per axis, and E|x|⁴ of a Gaussian radius, within five standard errors."""
    n, radius, noise = 200_000, 2.0, 0.5
    x = datasets.Ring(radius, noise).draw(n, generator(0)).double().numpy()
    second = radius**2 + noise**2
    fourth = radius**4 + 6 * radius**2 * noise**2 + 3 * noise**4
    squared = (x**2).sum(1)
    standard_error = math.sqrt(fourth / n)  # upper bound for any product of two coordinates
    np.testing.assert_allclose(x.mean(0), 0, atol=5 * math.sqrt(second / 2 / n))
    np.testing.assert_allclose(x.T @ x / n, second / 2 * np.eye(2), atol=5 * standard_error)
    assert (squared**2).mean() == pytest.approx(fourth, abs=5 * (squared**2).std() / math.sqrt(n))
    assert stats.kstest(np.hypot(*x.T), stats.norm(radius, noise).cdf).pvalue > 1e-3  # no radius is negative at 4σ


def test_sawbridge_has_the_covariance_of_the_brownian_bridge():
    """Averaging over a grid of U that the sample times divide evenly gives min(s, t) − st exactly."""
    source = datasets.Sawbridge(points=32)
    x = source.realize((torch.arange(6400) + 0.5) / 6400).double().numpy()
    t = (np.arange(32) + 0.5) / 32
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(x.T @ x / len(x), np.minimum.outer(t, t) - np.outer(t, t), atol=1e-6)
    u = torch.rand(50, generator=generator(3))
    assert torch.equal(source.draw(50, generator(3)), source.realize(u))
    distances = ((source.realize(u)[:, None] - source.realize(u)) ** 2).mean(-1)  # the integral is |u − u'|
    np.testing.assert_allclose(distances, np.abs(np.subtract.outer(u, u)), atol=1 / 32 + 1e-6)


# Scalar codes ---------------------------------------------------------------------------------------------------------


def moments(law, edges):
    """Return probability, mean and variance of each interval between edges, from closed-form integrals."""
    law, ends = LAWS[law], np.concatenate([[-30.0], edges, [30.0]])
    p = np.diff(law.cdf(ends))
    if law.dist.name == "norm":
        first, second = -np.diff(law.pdf(ends)), p - np.diff(ends * law.pdf(ends))
    else:  # ∫ x f and ∫ x² f of ½ a exp(−a|x|)
        a, size = math.sqrt(2), np.abs(ends)
        first = np.diff(-0.5 * np.exp(-a * size) * (size + 1 / a))
        second = np.diff(-np.sign(ends) * 0.5 * np.exp(-a * size) * (size**2 + 2 * size / a + 2 / a**2)) + np.diff(
            np.where(ends > 0, 2 / a**2, 0)
        )
    keep = p > 1e-15
    mean = first[keep] / p[keep]
    return p[keep], mean, np.maximum(second[keep] / p[keep] - mean**2, 0)


def lagrangian(law, edges, lmbda):
    """Return the entropy in bits plus λ times the squared error around the centroids."""
    p, _, variance = moments(law, edges)
    return -(p * np.log2(p)).sum() + lmbda * (p * variance).sum()


def best_uniform(law, lmbda):
    """Return the loss of the best entropy-coded uniform quantizer with an edge or a codeword at 0."""
    losses = []
    for offset in (0.0, 0.5):
        edges = np.arange(-40, 41) + offset

        def loss(log_step, edges=edges):
            return lagrangian(law, np.exp(log_step) * edges, lmbda)

        losses.append(optimize.minimize_scalar(loss, bounds=(-2, 1.5), method="bounded").fun)
    return min(losses)


def best_quantizer(law, lmbda):
    """Return the loss of the best entropy-coded quantizer (Chou, Lookabaugh & Gray 1989) from many starts."""
    losses = []
    for step in np.linspace(0.4, 2.0, 9):
        for offset in (0.0, 0.5):
            edges = step * (np.arange(-20, 21) + offset)
            for _ in range(400):
                p, mean, _ = moments(law, edges)
                cost = lmbda * mean**2 - np.log2(p)
                edges = np.sort(np.diff(cost) / (2 * lmbda * np.diff(mean)))
            losses.append(lagrangian(law, edges, lmbda))
    return min(losses)


@every_law
def test_closed_form_moments_agree_with_quadrature(law):
    edges, grid = np.array([-1.0, -0.2, 0.4, 1.5]), np.linspace(-20, 20, 400_001)
    weight = LAWS[law].pdf(grid) / LAWS[law].pdf(grid).sum()
    for k, (p, mean, variance) in enumerate(zip(*moments(law, edges), strict=True)):
        inside = np.searchsorted(edges, grid) == k
        expected = (weight[inside] * grid[inside]).sum() / weight[inside].sum()
        assert weight[inside].sum() == pytest.approx(p, abs=1e-4) and mean == pytest.approx(expected, abs=1e-3)
        spread = (weight[inside] * (grid[inside] - expected) ** 2).sum() / weight[inside].sum()
        assert variance == pytest.approx(spread, abs=1e-3)


@pytest.mark.slow
@every_law
def test_short_training_finds_a_nearly_optimal_scalar_quantizer(law):
    """The loss is within 5% of the best uniform quantizer's, and not below the best quantizer's.

    The points are quantiles, so there is no sampling error. 100,000 equally likely points lose 1e-4 of the variance in
    the tails. The lower limit of the test allows ten times as much.
    """
    lmbda = 10.0
    net = train(networks.toy_1d(schemes.annealed(), hidden=32), SOURCES[law], lmbda)
    x = torch.from_numpy(LAWS[law].ppf((np.arange(100_000) + 0.5) / 100_000)).float()[:, None]
    loss, _, _ = rounded(net, x, lmbda)
    best = best_quantizer(law, lmbda)
    assert best <= best_uniform(law, lmbda) + 1e-9
    assert best - lmbda * 1e-3 < loss < 1.05 * best_uniform(law, lmbda)

    points, shares = net.codewords(x)
    assert points.shape[1] == 1 and shares.sum() == pytest.approx(1, abs=1e-4)


# The sawbridge and the ring -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_short_training_approaches_the_limit_of_the_sawbridge():
    """Intervals of U have the error Σ p²/6, which is at least 2^(−H)/6; a grid of U avoids sampling errors.

    With n samples of t, an interval of length p has an error of at least p/6 · (1 − 1/(pn)²), 1% less in this test.
    """
    source, lmbda = datasets.Sawbridge(points=64), 40.0
    net = networks.toy_sawbridge(schemes.stochastic_rounding(0.5), points=64)
    train(net, source, lmbda / 64, steps=400, batch_size=256, lr=schedules.cosine(2e-2, 5e-4))
    x = source.realize((torch.arange(8192) + 0.5) / 8192)
    _, rate, distortion = rounded(net, x, lmbda / 64)
    symbols, shares = net.symbols(x)[:, 0], net.codewords(x)[1].astype(float)
    entropy = -(shares * np.log2(shares)).sum()
    assert len(shares) >= 4 and len(torch.unique_consecutive(symbols)) == len(
        shares
    )  # each symbol codes one interval of U
    assert rate > entropy
    limit = (shares**2).sum() / 6
    assert limit >= 2**-entropy / 6 > 0.9 * limit
    assert 0.99 * limit < distortion / 64 < 1.25 * limit


@pytest.mark.slow
def test_codewords_of_the_ring_surround_its_center():
    """Codewords lie on all sides, none lies inside the ring, and the error is far below the radius."""
    source = datasets.Ring()
    net = train(networks.toy_2d(schemes.annealed()), source, 3.0)
    x = source.draw(4000, generator(9))
    _, rate, distortion = rounded(net, x, 3.0)
    points, shares = net.codewords(x)
    used = points[shares > 0.02]
    angles = np.sort(np.arctan2(used[:, 1], used[:, 0]))
    assert np.diff(np.append(angles, angles[0] + 2 * np.pi)).max() < np.pi / 2
    assert np.hypot(*used.T).min() > 1.5 and distortion < 0.1 * 3.0**2 and rate < 6


# Shapes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "net, source, latents",
    [
        (networks.toy_1d(), datasets.Gaussian(), 1),
        (networks.toy_2d(), datasets.Banana(), 2),
        (networks.toy_sawbridge(points=16), datasets.Sawbridge(16), 1),
    ],
)
@torch.no_grad()
def test_every_toy_codes_its_source(net, source, latents):
    x = source.draw(10, generator(0))
    output = net.eval()(x)
    assert output["x_hat"].shape == x.shape and output["likelihoods"]["y"].shape == (10, latents)
    assert net.symbols(x).shape == (10, latents) and net.symbols(x).dtype == torch.int64


def test_cells_of_another_dimension_are_refused():
    with pytest.raises(ValueError, match="cells needs a code of dimension 2, this one has dimension 1"):
        networks.toy_1d().cells((-1, 1, -1, 1))
