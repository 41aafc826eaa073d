"""Stage 3: a mixture of logistic distributions as the prior, and the rate–distortion loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import special, stats

from .verdicts import Array, Result, Wrong, array, close, first_match, require

FLOOR = 1e-9


def mixture_cdf(prior: Any, y: Array) -> Array:
    """Compute the mixture's cumulative distribution with SciPy from the learner's parameters, for (batch, C, h, w)."""
    logits, means, log_scales = (
        array(getattr(prior, name), f"prior.{name}")[None, :, None, None] for name in ("logits", "means", "log_scales")
    )
    weights = special.softmax(logits, axis=-1)
    cdf: Array = (weights * stats.logistic.cdf(y[..., None], loc=means, scale=np.exp(log_scales))).sum(-1)
    return cdf


def masses(prior: Any, y: Array) -> Array:
    """Return the probability of (y − ½, y + ½) according to SciPy, at least 10⁻⁹."""
    return np.maximum(mixture_cdf(prior, y + 0.5) - mixture_cdf(prior, y - 0.5), FLOOR)


def check(codec: Any, work: Any) -> Result:
    """Compare probabilities and loss with SciPy and NumPy, and fit the prior to a Laplacian."""
    prior = codec.Prior(4)
    for name in ("logits", "means", "log_scales"):
        parameter = getattr(prior, name, None)
        require(
            isinstance(parameter, torch.nn.Parameter) and tuple(parameter.shape) == (4, 3),
            f"Prior(4) must have nn.Parameter {name} of shape (4, 3): one row per channel, one column per component.",
        )
    _spread(prior)
    y = np.random.default_rng(0).normal(0, 3, (2, 4, 5, 6))
    _check_masses(prior, y)
    _check_tails(prior)
    _check_loss(codec.rate_distortion)
    excess = _fit(codec.Prior(1))
    return Result(
        f"Masses and loss agree with SciPy's, and your prior codes a Laplacian with {excess:.4f} bit more than its "
        f"entropy.",
        {"excess": excess},
    )


def _spread(prior: Any) -> None:
    rng = np.random.default_rng(2)
    with torch.no_grad():
        for parameter, scale in ((prior.logits, 1.0), (prior.means, 2.0), (prior.log_scales, 0.5)):
            parameter.copy_(torch.tensor(rng.normal(0, scale, (4, 3))))


def _check_masses(prior: Any, y: Array) -> None:
    tensor = torch.tensor(y, dtype=torch.float32)
    got, expected = array(prior.cdf(tensor), "prior.cdf(y)", y.shape), mixture_cdf(prior, y)
    if not close(got, expected, 1e-4):
        raise Wrong(
            "prior.cdf differs from SciPy's mixture of logistic distributions: Σ softmax(logits) · sigmoid((y − "
            "mean)/scale), with scale = exp(log_scale) and parameters per channel (dimension 1 of y)."
        )
    got, expected = array(prior.likelihood(tensor), "prior.likelihood(y)", y.shape), masses(prior, y)
    if close(got, expected, 1e-4):
        return
    density = (mixture_cdf(prior, y + 1e-4) - mixture_cdf(prior, y - 1e-4)) / 2e-4
    raise Wrong(
        first_match(
            got,
            {
                "likelihood returns the density at y. The codec codes integers, so it needs the mass of (y − ½, y + "
                "½): cdf(y + ½) − cdf(y − ½).": lambda: density,
                "likelihood returns the mass of (y, y + 1). Center the interval on y.": lambda: (
                    mixture_cdf(prior, y + 1) - mixture_cdf(prior, y)
                ),
                "likelihood returns bits. Return the probability; the loss takes the logarithm.": lambda: (
                    -np.log2(expected)
                ),
            },
            "prior.likelihood differs from cdf(y + ½) − cdf(y − ½).",
        )
    )


def _check_tails(prior: Any) -> None:
    k = torch.arange(-400.0, 401.0)[None, None, :, None].expand(1, 4, -1, 1)
    total = array(prior.likelihood(k), "prior.likelihood").sum(2).ravel()
    require(close(total, np.ones(4), 1e-4), f"The masses of all integers must sum to 1, got {total.round(4).tolist()}.")
    for side in (-1, 1):
        y = side * np.linspace(0, 100, 401)[None, None, :, None].repeat(4, 1)
        got, expected = array(prior.likelihood(torch.tensor(y).float()), "prior.likelihood"), masses(prior, y)
        small = (expected > 1e-8) & (expected < 1e-6)
        worst = np.argmax(np.where(small, abs(got / expected - 1), 0))
        require(
            abs(got.flat[worst] / expected.flat[worst] - 1) < 0.05,
            f"{'Above' if side > 0 else 'Below'} the means, a likelihood is {got.flat[worst]:.1e} instead of "
            f"{expected.flat[worst]:.1e}: float32 loses the difference of two numbers near 1. Use d = |y − mean|, as "
            "in the text.",
        )
    far = torch.tensor([-1e4, -60.0, 60.0, 1e4])[None, None, :, None].repeat(1, 4, 1, 1).requires_grad_()
    likelihood = prior.likelihood(far)
    value = likelihood.detach().numpy()
    if not (np.isfinite(value).all() and (value > 0).all()):
        raise Wrong(
            f"Far from the means the likelihood is {float(value.min()):g}, so its bits are not finite. Bound it "
            f"from below by 10⁻⁹."
        )
    require(
        value.min() >= 0.99e-9 and value.max() < 1, "Bound the likelihood from below by 10⁻⁹, not by another number."
    )
    (gradient,) = torch.autograd.grad(-likelihood.log2().sum(), far)
    require(gradient.isfinite().all(), "In the tails the gradient of the bits is not finite.")


def _check_loss(rate_distortion: Any) -> None:
    rng = np.random.default_rng(3)
    x = rng.random((2, 3, 32, 64))
    x_hat = x + rng.normal(0, 0.02, x.shape)
    likelihoods = [rng.uniform(0.01, 1, (2, 192, 2, 4)), rng.uniform(0.01, 1, (2, 99, 1, 2))]
    tensors = [torch.tensor(each, dtype=torch.float32) for each in (x_hat, x, *likelihoods)]
    got = array(rate_distortion(tensors[0], tensors[1], tensors[2:], 0.01), "rate_distortion", ())
    bits, mse = sum(-np.log2(each).sum() for each in likelihoods), ((x - x_hat) ** 2).mean()
    pixels = 2 * 32 * 64
    if close(got, np.asarray(bits / pixels + 0.01 * 255**2 * mse)):
        return
    nats = sum(-np.log(each).sum() for each in likelihoods)
    latents = sum(each.size for each in likelihoods)
    distortion = 0.01 * 255**2 * mse
    first = -np.log2(likelihoods[0]).sum()
    wrong = {
        "rate_distortion counts nats. Use log₂, or divide by ln 2.": nats / pixels + distortion,
        "rate_distortion divides the bits by all color values. A pixel has three of them and counts once.": bits
        / (3 * pixels)
        + distortion,
        "rate_distortion averages bits over latents. Divide their sum by the pixels of the batch.": bits / latents
        + distortion,
        "rate_distortion forgets the batch: divide by batch · height · width.": bits / (32 * 64) + distortion,
        "rate_distortion lacks the factor 255²: x lies in [0, 1], and λ is for values up to 255.": bits / pixels
        + 0.01 * mse,
        "rate_distortion takes the sum of squares over colors. MSE is the mean over pixels and colors.": bits / pixels
        + 3 * distortion,
        "rate_distortion counts only the first likelihoods. Sum over the list: y and, later, z.": first / pixels
        + distortion,
    }
    for message, value in wrong.items():
        if close(got, np.asarray(value)):
            raise Wrong(message)
    raise Wrong(f"rate_distortion returned {float(got):.4f}; expected {bits / pixels + distortion:.4f}.")


def _fit(prior: Any) -> float:
    """Fit the prior to a rounded Laplacian and return the cross-entropy minus the entropy, in bits."""
    scale, k = 2.0, np.arange(-40, 41)
    exact = np.diff(stats.laplace.cdf(np.arange(-40, 42) - 0.5, scale=scale))
    values = torch.tensor(k, dtype=torch.float32)[None, None, :, None]
    weights = torch.tensor(exact, dtype=torch.float32)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
    for _ in range(200):
        loss = -(weights * prior.likelihood(values)[0, 0, :, 0].log2()).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    entropy = float(-(exact * np.log2(exact)).sum())
    excess = float(-(exact * np.log2(masses(prior, k[None, None, :, None].astype(float))[0, 0, :, 0])).sum()) - entropy
    if not excess < 0.02:
        raise Wrong(
            f"After 200 steps the prior needs {excess:.3f} bit more than the entropy of a Laplacian; less than 0.02 is "
            "possible. Do the three components start apart? Equal ones get equal gradients and stay equal."
        )
    return excess
