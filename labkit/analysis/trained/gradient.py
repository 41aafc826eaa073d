"""Gradient risk of a trained network: variance over draws and batches, and bias against the test loss itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from labkit import entropy
from labkit.analysis.scheme_arguments import SchemesLike, Temperatures
from labkit.analysis.trained.images import Images, named_images, random_batches
from labkit.analysis.trained.layers import Layer, gradient_vectors, layers_of
from labkit.analysis.trained.settings import on_all_paths, scale_bound_of, settings_of
from labkit.analysis.trained.sums import Welford, in_double
from labkit.checks import check_at_least, check_positive
from labkit.progress import progress_bar
from labkit.state_guard import preserved_state, seed_noise
from labkit.statistics import Array
from labkit.training import rate_distortion

if TYPE_CHECKING:
    from pandas import DataFrame

LARGEST_STEP = 0.01  # largest step of the finite difference, relative to the norm of the layer
CURVATURE = 0.02  # relative error of the derivative that curvature may cause; it determines the step of a layer


@torch.enable_grad()
def network_gradient_risk(
    net: nn.Module,
    images: Images,
    schemes: SchemesLike,
    *,
    lmbda: float,
    temperatures: Temperatures | None = None,
    draws: int = 8,
    batches: int = 8,
    batch_size: int = 1,
    crop: int = 256,
    directions: int = 3,
    step: float | None = None,
    by: str = "layer",
    seed: int = 0,
    progress: bool | None = None,
) -> DataFrame:
    """Return the variance and bias of the gradient that training uses, layer by layer, as a table.

    **Variance.** The gradient is measured for several noise draws on each of several batches. Its covariance over draws
    and over batches gives variance_draws and variance_batches.

    **Bias.** Rounding is piecewise constant in every latent, but the mean test loss over images is smooth. A symmetric
    difference of the rounded loss therefore has the right mean, and its error falls with the number of batches. If the
    step is small, few latents cross a boundary and the quotient is noisy. If the step is large, the quotient contains
    curvature. The best step varies between layers by a factor of thirty. By default, each layer gets the largest step
    whose third-order error is 2% of the derivative, and at most 0.01 of the layer's norm. The error is extrapolated
    from larger steps on the batches of the directions. To see whether noise or curvature matters, compare the results
    at this step with those at twice the step, where the error from curvature is four times as large.

    The directions are gradients of straight-through rounding on separate batches, normalized to 1. Isotropic directions
    would be almost orthogonal to every gradient in a space of so many dimensions. The gradients are random, point
    uphill, and are independent of the measured batches and of the measured noise. For each batch and direction, p is
    the projection of the mean gradient (the change that training predicts), and f is the difference quotient (the
    change of the test loss).

    Args:
        net: Any module that carries a scheme. Its state is restored afterwards.
        images: PhotoSet, (3, H, W) tensors in [0, 1], or (n, d) points.
        schemes: Surrogates, presets or schemes, as in `network_mismatch`.
        lmbda: Weight λ of the distortion.
        temperatures: One temperature or several; None means the last temperature of the scheme's schedule.
        draws: Number of noise draws per batch.
        batches: Number of batches.
        batch_size: Number of random crops or points per batch.
        crop: Side of the crops, in pixels.
        directions: Number of directions.
        step: Step of the finite difference for all layers, relative to the norm of the layer; None chooses a step
            for each layer.
        by: "layer" gives one row per module that owns parameters, "part" one row per top-level module (g_a, h_a, …).
            Quantiles and parameters that do not require a gradient are left out.
        seed: Seed of the crops and of the noise.
        progress: Whether to show a progress bar; None shows one on a terminal.

    Returns:
        A table with one row per scheme, temperature and layer. Standard errors (_se) are over batches for the given
        directions; the standard errors of slopes use the delete-one jackknife. They apply to other crops of these
        images or other draws of these points, so a few images say little about other images. The columns are:

        label, temperature, layer, part, parameters: the scheme and the layer.
        norm: norm of the mean gradient over all batches and draws.
        variance_draws, variance_draws_se: trace of the covariance over draws at a fixed batch, averaged over batches.
        variance_batches: trace of the covariance over batches of the noise-free mean. The noise of the draws is
            subtracted, so the value can be slightly negative.
        snr: norm, corrected for its own variance, over the standard deviation of one batch and one draw.
        step: step relative to the norm of the layer.
        derivative, bias (and _se): means of f and of p − f.
        slope (and _se): regression of f on p through the origin, with the noise of the draws subtracted from Σp². It
            is 1 if the gradient is unbiased, and 1 − slope is the relative bias.
        agreed, found: sums over directions of p · f and of f², averaged over batches. Their ratio is the regression
            of p on f, which is not affected by the noise of the draws. The noise in f reduces it by the same factor for
            all schemes.
        slope_twice (and _se): slope at twice the step.

    Raises:
        ValueError: If an argument is invalid, or if the network carries no scheme.
    """
    import pandas as pd

    tensors = [image for _, image in named_images(images)]
    settings = settings_of(net, schemes, temperatures)
    check_positive(lmbda=lmbda, **({} if step is None else {"step": step}))
    check_at_least(2, draws=draws, batches=batches)
    check_at_least(1, batch_size=batch_size, crop=crop, directions=directions)
    check_at_least(0, seed=seed)
    layers = layers_of(net, by)
    xs = random_batches(net, tensors, batches + directions, batch_size, crop, seed)
    bounds = sorted({setting.scheme.scale_lower_bound for setting in settings})
    differences = len(layers) * directions * 4 * (len(bounds) * batches + (step is None))

    with (
        preserved_state(net),
        progress_bar(
            total=directions + differences + len(settings) * batches * draws, unit="pass", progress=progress
        ) as bar,
    ):
        straight_through = on_all_paths("ste", scale_bound_of(net))
        entropy.set_scheme(net, straight_through)
        gradients = []
        for k, x in enumerate(xs[batches:]):
            seed_noise(net, seed, batches + k)
            gradients.append(gradient_vectors(net, layers, x, lmbda))
            bar.update()
        uphill = [[_normalized(gradient) for gradient in vectors] for vectors in gradients]
        probe = _Probe(net, layers, lmbda, bar)
        lengths = probe.lengths(xs[batches:], gradients, uphill) if step is None else [step * n for n in probe.norms]
        test = {}
        for bound in bounds:
            entropy.set_scheme(net, straight_through.replace(scale_lower_bound=bound))
            test[bound] = probe.quotients(xs[:batches], uphill, lengths)

        rows = []
        for setting in settings:
            setting.install(net)
            over_batches = [Welford() for _ in layers]
            traces = np.zeros((len(layers), batches))
            promised = np.zeros((len(layers), batches, directions, draws))
            for b, x in enumerate(xs[:batches]):
                over_draws = [Welford() for _ in layers]
                for draw in range(draws):
                    seed_noise(net, seed, b, draw)
                    for i, gradient in enumerate(gradient_vectors(net, layers, x, lmbda)):
                        over_draws[i].add(gradient)
                        promised[i, b, :, draw] = [float(gradient @ direction[i]) for direction in uphill]
                    bar.update()
                for i, of_batch in enumerate(over_draws):
                    over_batches[i].add(of_batch.mean)
                    traces[i, b] = of_batch.variance
            for i, layer in enumerate(layers):
                spread = _spread(over_batches[i], traces[i], draws)
                bias = _bias(promised[i], test[setting.scheme.scale_lower_bound][i])
                head = {"label": setting.label, "temperature": setting.temperature, "layer": layer.name}
                head |= {"part": layer.part, "parameters": layer.size}
                rows.append({**head, **spread, "step": lengths[i] / probe.norms[i], **bias})
    return pd.DataFrame(rows)


def _normalized(vector: Tensor) -> Tensor:
    return vector / vector.norm() if vector.norm() > 0 else vector


class _Probe:
    """Symmetric difference quotients of the rounded loss, moving one layer at a time."""

    def __init__(self, net: nn.Module, layers: list[Layer], lmbda: float, bar: Any):
        self.net, self.layers, self.lmbda, self.bar = net, layers, lmbda, bar
        squares = [sum(float(p.detach().double().square().sum()) for p in layer.parameters) for layer in layers]
        self.norms = [math.sqrt(square) or 1.0 for square in squares]

    @torch.no_grad()
    def quotient(self, layer: Layer, direction: Tensor, length: float, xs: list[Tensor]) -> Array:
        """Return (L(θ + length · direction) − L(θ − length · direction)) / (2 · length) for each batch."""
        self.net.eval()
        values = [parameter.data for parameter in layer.parameters]
        moves = direction.split([value.numel() for value in values])
        change = np.zeros(len(xs))
        try:
            for sign in (1, -1):
                for parameter, value, along in zip(layer.parameters, values, moves, strict=True):
                    parameter.data = (value.double() + sign * length * along.view_as(value)).to(value.dtype)
                for b, x in enumerate(xs):
                    loss = rate_distortion(in_double(self.net(x)), x.double(), self.lmbda).total
                    change[b] += sign * loss.item()
                    self.bar.update()
        finally:
            for parameter, value in zip(layer.parameters, values, strict=True):
                parameter.data = value
        return change / (2 * length)

    def quotients(self, xs: list[Tensor], directions: list[list[Tensor]], lengths: list[float]) -> Array:
        """Return quotients at each layer's length and at twice this length, (layers, batches, directions, 2)."""
        return np.array(
            [
                [
                    [self.quotient(layer, vectors[i], twice * lengths[i], xs) for twice in (1, 2)]
                    for vectors in directions
                ]
                for i, layer in enumerate(self.layers)
            ]
        ).transpose(0, 3, 1, 2)

    def lengths(self, xs: list[Tensor], gradients: list[list[Tensor]], directions: list[list[Tensor]]) -> list[float]:
        """Return the length for each layer at which the third-order error is `CURVATURE` of the derivative.

        The error is proportional to the squared length, so f(2h) − f(h) is three times the error of f(h). It is
        measured at the largest lengths, where single crossings cause the least noise, and each direction is measured
        on the batch of the next one.
        """
        chosen = []
        for i, layer in enumerate(self.layers):
            largest, errors, derivatives = LARGEST_STEP * self.norms[i], [], []
            for k, vectors in enumerate(directions):
                other = (k + 1) % len(directions)
                near, far = (self.quotient(layer, vectors[i], n * largest, [xs[other]])[0] for n in (1, 2))
                errors.append((far - near) / 3)
                derivatives.append(float(gradients[other][i] @ vectors[i]))
            error, derivative = math.hypot(*errors), math.hypot(*derivatives)
            chosen.append(largest * min(1.0, math.sqrt(CURVATURE * derivative / error)) if error > 0 else largest)
        return [length or LARGEST_STEP * norm for length, norm in zip(chosen, self.norms, strict=True)]


def _spread(over_batches: Welford, traces: Array, draws: int) -> dict[str, float]:
    norm, batches = float(over_batches.mean.norm()), len(traces)
    within = float(traces.mean())
    between = over_batches.variance - within / draws
    signal = math.sqrt(max(0.0, norm**2 - over_batches.variance / batches))
    deviation = math.sqrt(max(0.0, between + within))
    return {
        "norm": norm,
        "variance_draws": within,
        "variance_draws_se": float(traces.std(ddof=1)) / math.sqrt(batches),
        "variance_batches": between,
        "snr": signal / deviation if deviation > 0 else math.nan,
    }


def _bias(promised: Array, test: Array) -> dict[str, float]:
    """Compare predicted changes, (batches, directions, draws), with the test loss, (batches, directions, 2)."""
    batches, _, draws = promised.shape
    p, noise = promised.mean(-1), promised.var(-1, ddof=1) / draws
    result: dict[str, float] = {}
    for j, suffix in enumerate(("", "_twice")):
        f = test[:, :, j]
        if not suffix:
            for name, value in (("derivative", f.mean(1)), ("bias", (p - f).mean(1))):
                result[name] = float(value.mean())
                result[f"{name}_se"] = float(value.std(ddof=1)) / math.sqrt(batches)
        above, below = (p * f).sum(1), (p**2 - noise).sum(1)
        slope, slope_se = _jackknifed_ratio(above, below)
        result[f"slope{suffix}"], result[f"slope{suffix}_se"] = slope, slope_se
        if not suffix:
            result |= {"agreed": float(above.mean()), "found": float((f**2).sum(1).mean())}
    return result


def _jackknifed_ratio(above: Array, below: Array) -> tuple[float, float]:
    """Return Σ above / Σ below and its standard error; NaN if the predicted change does not exceed the noise."""
    n = len(above)
    without = below.sum() - below
    if not (below.sum() > 0 and (without > 0).all()):
        return math.nan, math.nan
    left_out = (above.sum() - above) / without
    return float(above.sum() / below.sum()), float(np.sqrt((n - 1) * left_out.var()))
