"""Stage 6: a Gaussian with predicted mean and scale, its bound, and zero-center quantization with a partial stop."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import stats

from .loop import Reader
from .prior import FLOOR, masses
from .verdicts import Array, Result, Wrong, array, close, first_match, require
from .work import LMBDA, Jpeg, as_tensor, estimated, outputs, picture

STEPS, BOUND = 1000, 0.11


def gaussian_masses(y: Array, mu: Array, sigma: Array) -> Array:
    """Return SciPy's mass of (y − ½, y + ½) under normal distributions, at least 10⁻⁹, precise in both tails."""
    distance = abs(y - mu)
    mass = stats.norm.cdf((0.5 - distance) / sigma) - stats.norm.cdf((-0.5 - distance) / sigma)
    bounded: Array = np.maximum(mass, FLOOR)
    return bounded


def check(codec: Any, work: Any) -> Result:
    """Check the parts and the passes of the hyperprior codec, train it, and compare the results with thresholds."""
    _check_likelihood(codec.gaussian_likelihood)
    _check_bound(codec.lower_bound)
    _check_center(codec.zero_center)
    net = codec.Hyperprior(LMBDA)
    x = as_tensor(work.test_photos[0][:128, :160])
    for name in ("g_a", "g_s", "h_a", "h_s", "prior", "distribution"):
        require(hasattr(net, name), f"Hyperprior must have an attribute {name}.")
    check_distribution(codec.Hyperprior(LMBDA))
    check_evaluation(net, x)
    check_training(net, x)
    net = codec.Hyperprior(LMBDA)
    work.train(net, codec.train, STEPS)
    check_evaluation(net, x)
    loss, points, images = estimated(net, work.test_photos, LMBDA)
    point = points.mean(0)
    work.save(net, "hyperprior")
    work.limit(
        "stage 6: loss",
        loss,
        "Compare with the recipe in the text: the start of h_s (means and log σ of the channels in its bias), rounded "
        "z for h_s, noise for both rates. It must be better than the codec of stage 4.",
    )
    jpeg = Jpeg(work.test_photos)
    sizes = [bpp * photo[..., 0].size / 8 for bpp, photo in zip(points[:, 0], work.test_photos, strict=True)]
    return Result(
        f"After {STEPS} steps: loss {loss:.4f}, {point[0]:.3f} bpp (estimated), {point[1]:.2f} dB. JPEG has "
        f"{jpeg.psnr_at(point[0]):.2f} dB with as many bits.",
        {"stage 6: loss": loss, "bpp": point[0], "psnr": point[1]},
        picture(work.test_photos, images, sizes, point, jpeg),
    )


def _check_likelihood(gaussian_likelihood: Any) -> None:
    rng = np.random.default_rng(0)
    y, mu = rng.normal(0, 3, (1, 4, 6, 5)), rng.normal(0, 1, (1, 4, 6, 5))
    sigma = rng.uniform(0.3, 4, y.shape)
    tensors = [torch.tensor(each, dtype=torch.float32) for each in (y, mu, sigma)]
    got, expected = array(gaussian_likelihood(*tensors), "gaussian_likelihood", y.shape), gaussian_masses(y, mu, sigma)
    if not close(got, expected, 1e-4):
        raise Wrong(
            first_match(
                got,
                {
                    "gaussian_likelihood takes sigma as a variance; it is the standard deviation.": lambda: (
                        gaussian_masses(y, mu, np.sqrt(sigma))
                    ),
                    "gaussian_likelihood returns a density; integrate it over (y − ½, y + ½).": lambda: stats.norm.pdf(
                        y, mu, sigma
                    ),
                    "gaussian_likelihood ignores mu.": lambda: gaussian_masses(y, 0 * mu, sigma),
                },
                "gaussian_likelihood differs from Φ((y + ½ − μ)/σ) − Φ((y − ½ − μ)/σ).",
            )
        )
    tail = np.linspace(4.9, 5.7, 9)
    y = np.concatenate([-tail, tail])
    arguments = torch.tensor(y, dtype=torch.float32), torch.zeros(18), torch.ones(18)
    got, expected = array(gaussian_likelihood(*arguments), "gaussian_likelihood"), gaussian_masses(y, 0 * y, 1 + 0 * y)
    require(
        np.allclose(got, expected, rtol=0.02),
        "gaussian_likelihood loses its digits in a tail: near 1, float32 has steps of 6·10⁻⁸. The mass is even in "
        "|y − μ|, so take both values of Φ in the lower tail.",
    )
    far = array(gaussian_likelihood(torch.tensor([1e4]), torch.zeros(1), torch.ones(1)), "gaussian_likelihood")
    require(0.9e-9 < far[0] < 1.1e-9, "Bound gaussian_likelihood from below by 10⁻⁹.")


def _check_bound(lower_bound: Any) -> None:
    x = torch.tensor([0.02, 0.1, 0.2, 3.0], requires_grad=True)
    value = lower_bound(x, BOUND)
    require(
        close(array(value, "lower_bound(x, bound)", (4,)), np.array([BOUND, BOUND, 0.2, 3.0])),
        "lower_bound(x, bound) must return the larger of both.",
    )
    (down,) = torch.autograd.grad(value.sum(), x, retain_graph=True, allow_unused=True)
    (up,) = torch.autograd.grad(-value.sum(), x, allow_unused=True)
    require(down is not None and up is not None, "lower_bound cuts the graph: no gradient reaches x.")
    lowers, raises = array(down, "the gradient").tolist(), array(up, "the gradient").tolist()
    if lowers[2:] != [1, 1] or raises[2:] != [-1, -1]:
        raise Wrong("Above the bound lower_bound must pass every gradient unchanged.")
    if raises[:2] == [0, 0]:
        raise Wrong(
            "Below the bound lower_bound passes no gradient, like torch.clamp: a σ that falls below never comes back. "
            "A gradient that raises x must pass: a negative one, since descent subtracts it."
        )
    if lowers[:2] != [0, 0]:
        raise Wrong(
            "Below the bound lower_bound also passes gradients that lower x, so σ sinks ever deeper without an effect. "
            "Pass only negative ones."
        )
    require(raises[:2] == [-1, -1], f"Below the bound a gradient of −1 must arrive as −1, got {raises[0]:g}.")


def _check_center(zero_center: Any) -> None:
    slope = 0.3

    def surrogate(r: torch.Tensor) -> torch.Tensor:
        return torch.round(r).detach() + slope * (r - r.detach())

    rng = np.random.default_rng(1)
    values = rng.normal(0, 3, 40), rng.normal(0, 1, 40)
    for stop in (False, True):
        y, mu = (torch.tensor(each, requires_grad=True) for each in values)
        result = zero_center(y, mu, surrogate, stop)
        got = array(result, "zero_center", (40,))
        if not close(got, np.rint(values[0] - values[1]) + values[1]):
            raise Wrong(
                first_match(
                    got,
                    {
                        "zero_center quantizes y around 0. Quantize y − μ, and add μ again.": lambda: np.rint(
                            values[0]
                        ),
                        "zero_center returns the residual. Add μ again.": lambda: np.rint(values[0] - values[1]),
                    },
                    "zero_center must return surrogate(y − μ) + μ.",
                )
            )
        at_y, at_mu = torch.autograd.grad(result.sum(), (y, mu), allow_unused=True)
        to_y = 0.0 if at_y is None else float(at_y.mean())
        to_mu = 0.0 if at_mu is None else float(at_mu.mean())
        require(
            abs(to_y - slope) < 1e-6,
            f"The slope at y must be that of the surrogate, {slope}, got {to_y:g}. Detach only μ.",
        )
        if stop and abs(to_mu) > 1e-6:
            reasons = {
                1 - slope: "Nothing is stopped.",
                1.0: "μ is detached inside the surrogate only; detach it where it is added, too.",
                -slope: "μ is detached where it is added only; detach it inside the surrogate, too.",
            }
            reason = next(
                (text for value, text in reasons.items() if abs(to_mu - value) < 1e-6), "Take μ as a constant."
            )
            raise Wrong(f"With stop=True the slope of zero_center at μ must be 0, got {to_mu:g}. {reason}")
        if not stop and abs(to_mu - (1 - slope)) > 1e-6:
            raise Wrong(
                f"With stop=False the slope at μ must be 1 − s = {1 - slope:g}, got {to_mu:g}. Do not detach μ."
            )


def check_distribution(net: Any) -> None:
    """Compare μ and σ with the outputs of h_s, with σ below and above its bound. This changes the biases of h_s."""
    layers = [type(layer).__name__ for layer in net.h_s.children()]
    require(
        layers == ["ConvTranspose2d", "ReLU", "Conv2d"],
        f"h_s must be an nn.Sequential of ConvTranspose2d, ReLU and Conv2d, which stage 7 reads; got {layers}.",
    )
    with torch.no_grad():
        net.h_s[2].bias.copy_(torch.linspace(-5, 5, len(net.h_s[2].bias))[torch.randperm(len(net.h_s[2].bias))])
        z = torch.randn(1, net.h_s[0].in_channels, 2, 3)
        first, second = (array(each, "h_s(z)") for each in net.h_s(z).chunk(2, 1))
        mu, sigma = (array(each, "distribution(z)", first.shape) for each in net.distribution(z))
    if not close(mu, first):
        if close(mu, second):
            raise Wrong("distribution takes the last M outputs of h_s as μ. The first M are μ, the other M are log σ.")
        raise Wrong("distribution must return the first M outputs of h_s as μ.")
    if not close(sigma, np.maximum(np.exp(second), BOUND)):
        if close(sigma, np.exp(second)):
            raise Wrong(f"distribution must bound σ from below by {BOUND}: lower_bound(exp(log σ), {BOUND}).")
        raise Wrong(f"σ must be lower_bound(exp(log σ), {BOUND}), with the last M outputs of h_s as log σ.")


def check_evaluation(net: Any, x: torch.Tensor) -> None:
    """Compare an evaluation pass with NumPy's rounding and SciPy's masses."""
    net.eval()
    reader = Reader(net.g_s)
    _, likelihoods = outputs(net, x)
    require(len(likelihoods) == 2, "Hyperprior must return two likelihoods: of y and of z.")
    with torch.no_grad():
        latent = net.g_a(x)
        hyper = torch.round(net.h_a(latent))
        mu, sigma = (array(each, "distribution(z)", tuple(latent.shape)) for each in net.distribution(hyper))
    y, z = array(latent, "g_a(x)"), array(hyper, "h_a(y)", (1, 24, x.shape[2] // 32, x.shape[3] // 32))
    require(sigma.min() >= 0.999 * BOUND, f"distribution must bound σ from below by {BOUND}, got {sigma.min():.3g}.")
    read, expected = array(reader.read, "what g_s reads", y.shape), np.rint(y - mu) + mu
    reader.remove()
    off = abs(y - mu - np.floor(y - mu) - 0.5) < 1e-3  # latents that float32 may round the other way
    if not close(read[~off], expected[~off], 1e-4):
        if close(read, np.rint(y)):
            raise Wrong("In evaluation g_s reads ⌊y⌉. With zero-center it reads ⌊y − μ⌉ + μ.")
        raise Wrong("In evaluation g_s must read ⌊y − μ⌉ + μ, with μ from the rounded z.")
    if not close(likelihoods[0], gaussian_masses(read, mu, sigma), 2e-3):
        raise Wrong("In evaluation the likelihood of y must be that of ⌊y − μ⌉ + μ, under μ and σ from the rounded z.")
    if not close(likelihoods[1], masses(net.prior, z), 2e-3):
        raise Wrong("In evaluation the likelihood of z must be the prior's mass at ⌊z⌉.")


def check_training(net: Any, x: torch.Tensor) -> None:
    """Check which latents training reads and scores, and that the distortion sends no gradient through μ."""
    net.train()
    reader = Reader(net.g_s)
    x_hat, likelihoods = net(x, torch.Generator().manual_seed(0))
    _, again = net(x, torch.Generator().manual_seed(1))
    with torch.no_grad():
        mu, _ = net.distribution(torch.round(net.h_a(net.g_a(x))))
    residual = array(reader.read, "what g_s reads") - array(mu, "μ")
    reader.remove()
    require(
        close(residual, np.rint(residual), 1e-3),
        "In training g_s must read ⌊y − μ⌉ + μ (straight-through), with μ from the rounded z, as the decoder does.",
    )
    for name, first, second in zip(("y", "z"), likelihoods, again, strict=True):
        require(
            not close(array(first, name), array(second, name), 1e-7),
            f"In training the likelihoods of {name} do not depend on the generator. Score {name} + u.",
        )
    parameters = list(net.h_s.parameters())
    gradients = torch.autograd.grad(x_hat.square().mean(), parameters, retain_graph=True, allow_unused=True)
    require(
        all(each is None or float(each.abs().max()) < 1e-9 for each in gradients),
        "The reconstruction sends a gradient through μ into h_s. Use stop=True on this path.",
    )
    gradients = torch.autograd.grad(-likelihoods[0].log2().sum(), parameters, allow_unused=True)
    require(
        all(each is not None for each in gradients),
        "The rate of y sends no gradient into h_s. The stop is partial: the rate's path must keep μ and σ in the "
        "graph.",
    )
