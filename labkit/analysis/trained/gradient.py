"""Gradient risk on a trained network: variance over draws and batches, and bias against the test loss itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labkit import entropy
from labkit.analysis.inputs import Temperatures, What
from labkit.analysis.trained.inputs import (
    Images,
    bound_of,
    items_of,
    on_all_paths,
    random_batches,
    settings_of,
)
from labkit.analysis.trained.layers import Layer, gradient_vectors, layers_of
from labkit.analysis.trained.running import Welford, in_double
from labkit.checks import check_at_least, check_positive
from labkit.progress import progress_bar
from labkit.state_guard import preserved_state, seed_noise
from labkit.training import rate_distortion

LARGEST_STEP = 0.01  # of the finite difference, relative to the layer's norm
CURVATURE = 0.02  # share of the derivative that curvature may falsify: it sets the step of a layer


@torch.enable_grad()
def network_gradient_risk(
    net: nn.Module,
    images: Images,
    what: What,
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
):
    """Variance and bias of the gradient that training returns, layer by layer: a pandas table.

    net, images, what, temperatures: as in `network_mismatch`. Each batch is `batch_size` random crops of crop × crop
    (or random points). by: "layer" gives a row for each module that owns parameters, "part" for each top-level one
    (g_a, h_a, …). Quantiles and parameters that require no gradient are left out.

    **Variance.** norm: of the mean gradient over all batches and draws. variance_draws: trace of the covariance over
    noise draws at a fixed batch, averaged over batches, and its standard error over them. variance_batches: trace of
    the covariance over batches of the noise-free mean, what the draws left in it taken out (so it can come out just
    below zero). snr: norm, its own share of variance taken out, over the standard deviation of one batch and draw.

    **Bias.** Rounding is piecewise constant in every latent, but the mean test loss over images is smooth, so a
    symmetric difference of the rounded loss has the right mean, and an error that falls with the number of batches.
    With a small step few latents cross a boundary, and the quotient is noisy; a large one sees curvature. Layers differ
    thirtyfold in the step that suits them: by default each gets the largest whose third-order error, as extrapolated
    from larger steps on the directions' batches, is 2% (at most 0.01 of the layer's norm). `step` sets one for all.
    Results at the step and at twice it (four times the error of curvature) show whether either matters.
    The directions are gradients (of straight-through rounding) on batches of their own, of norm 1: isotropic ones would
    be nearly orthogonal to every gradient in a space of so many dimensions. They are random, point uphill, and are
    independent of the batches and of the noise that is measured. For each batch and direction, p is the mean gradient's
    projection (what training promises), f the difference quotient (what the test loss does).
    step: relative to the layer's norm. derivative, bias: the means of f and of p − f. slope: regression of f on p
    through the origin, with the draws' noise taken out of Σp²; 1 where the gradient is unbiased, and 1 − slope is the
    relative bias. agreed, found: the sums over directions of p · f and of f², means over batches. Their ratio is the
    other regression, of p on f, which no noise of draws disturbs, however large: what is promised for each unit that is
    found, made smaller alike for all that is compared by the noise in f. slope_twice: at twice the step. The standard
    errors (_se) are over batches, given the directions, the slopes' by delete-one jackknife: they speak for other crops
    of these images (or draws of these points), so a few images say little of the rest.

    Raises ValueError naming the argument, what it got and what it takes.
    """
    import pandas as pd

    items = [item for _, item in items_of(images)]
    settings = settings_of(net, what, temperatures)
    check_positive(lmbda=lmbda, **({} if step is None else {"step": step}))
    check_at_least(2, draws=draws, batches=batches)
    check_at_least(1, batch_size=batch_size, crop=crop, directions=directions)
    check_at_least(0, seed=seed)
    layers = layers_of(net, by)
    xs = random_batches(net, items, batches + directions, batch_size, crop, seed)
    bounds = sorted({setting.scheme.scale_lower_bound for setting in settings})
    differences = len(layers) * directions * 4 * (len(bounds) * batches + (step is None))

    with (
        preserved_state(net),
        progress_bar(
            total=directions + differences + len(settings) * batches * draws,
            unit="pass",
            progress=progress,
        ) as bar,
    ):
        straight_through = on_all_paths("ste", bound_of(net))
        entropy.set_scheme(net, straight_through)
        gradients = []
        for k, x in enumerate(xs[batches:]):
            seed_noise(net, seed, batches + k)
            gradients.append(gradient_vectors(net, layers, x, lmbda))
            bar.update()
        uphill = [[_normalized(gradient) for gradient in one] for one in gradients]
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
                        promised[i, b, :, draw] = [float(gradient @ one[i]) for one in uphill]
                    bar.update()
                for i, one_batch in enumerate(over_draws):
                    over_batches[i].add(one_batch.mean)
                    traces[i, b] = one_batch.variance
            for i, layer in enumerate(layers):
                spread = _spread(over_batches[i], traces[i], draws)
                bias = _bias(promised[i], test[setting.scheme.scale_lower_bound][i])
                about = {"label": setting.label, "temperature": setting.temperature, "layer": layer.name}
                about |= {"part": layer.part, "parameters": layer.size}
                rows.append({**about, **spread, "step": lengths[i] / probe.norms[i], **bias})
    return pd.DataFrame(rows)


def _normalized(vector: Tensor) -> Tensor:
    return vector / vector.norm() if vector.norm() > 0 else vector


class _Probe:
    """Symmetric difference quotients of the rounded loss, one layer moved at a time."""

    def __init__(self, net: nn.Module, layers: list[Layer], lmbda: float, bar: Any):
        self.net, self.layers, self.lmbda, self.bar = net, layers, lmbda, bar
        squares = [sum(float(p.detach().double().square().sum()) for p in layer.parameters) for layer in layers]
        self.norms = [math.sqrt(square) or 1.0 for square in squares]

    @torch.no_grad()
    def quotient(self, layer: Layer, direction: Tensor, length: float, xs: list[Tensor]) -> np.ndarray:
        """(L(θ + length · direction) − L(θ − length · direction)) / (2 · length), one for each batch."""
        self.net.eval()
        rest = [parameter.data for parameter in layer.parameters]
        move = direction.split([value.numel() for value in rest])
        change = np.zeros(len(xs))
        try:
            for sign in (1, -1):
                for parameter, value, along in zip(layer.parameters, rest, move, strict=True):
                    parameter.data = (value.double() + sign * length * along.view_as(value)).to(value.dtype)
                for b, x in enumerate(xs):
                    loss = rate_distortion(in_double(self.net(x)), x.double(), self.lmbda).total
                    change[b] += sign * loss.item()
                    self.bar.update()
        finally:
            for parameter, value in zip(layer.parameters, rest, strict=True):
                parameter.data = value
        return change / (2 * length)

    def quotients(self, xs: list[Tensor], directions: list[list[Tensor]], lengths: list[float]) -> np.ndarray:
        """(layers, batches, directions, 2): at each layer's length, and at twice it."""
        return np.array(
            [
                [[self.quotient(layer, one[i], twice * lengths[i], xs) for twice in (1, 2)] for one in directions]
                for i, layer in enumerate(self.layers)
            ]
        ).transpose(0, 3, 1, 2)

    def lengths(self, xs: list[Tensor], gradients: list[list[Tensor]], directions: list[list[Tensor]]) -> list[float]:
        """For each layer, the length at which the third-order error is `CURVATURE` of the derivative, or the largest.

        That error goes with the length squared, so f(2h) − f(h) is three times the error of f(h). It is measured at the
        largest lengths, where the noise of single crossings is smallest, each direction on the next one's batch.
        """
        chosen = []
        for i, layer in enumerate(self.layers):
            largest, errors, derivatives = LARGEST_STEP * self.norms[i], [], []
            for k, one in enumerate(directions):
                other = (k + 1) % len(directions)
                near, far = (self.quotient(layer, one[i], n * largest, [xs[other]])[0] for n in (1, 2))
                errors.append((far - near) / 3)
                derivatives.append(float(gradients[other][i] @ one[i]))
            error, derivative = math.hypot(*errors), math.hypot(*derivatives)
            chosen.append(largest * min(1.0, math.sqrt(CURVATURE * derivative / error)) if error > 0 else largest)
        return [length or LARGEST_STEP * norm for length, norm in zip(chosen, self.norms, strict=True)]


def _spread(over_batches: Welford, traces: np.ndarray, draws: int) -> dict[str, float]:
    norm, batches = float(over_batches.mean.norm()), len(traces)
    within = float(traces.mean())
    between = over_batches.variance - within / draws
    signal = math.sqrt(max(0.0, norm**2 - over_batches.variance / batches))
    one = math.sqrt(max(0.0, between + within))
    return {
        "norm": norm,
        "variance_draws": within,
        "variance_draws_se": float(traces.std(ddof=1)) / math.sqrt(batches),
        "variance_batches": between,
        "snr": signal / one if one > 0 else math.nan,
    }


def _bias(promised: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """promised: (batches, directions, draws); test: (batches, directions, 2)."""
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


def _jackknifed_ratio(above: np.ndarray, below: np.ndarray) -> tuple[float, float]:
    """Σ above / Σ below and its standard error; NaN where nothing is promised beyond the noise."""
    n = len(above)
    without = below.sum() - below
    if not (below.sum() > 0 and (without > 0).all()):
        return math.nan, math.nan
    left_out = (above.sum() - above) / without
    return float(above.sum() / below.sum()), float(np.sqrt((n - 1) * left_out.var()))
