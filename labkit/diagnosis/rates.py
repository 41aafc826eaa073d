"""Findings about rates: training against rounding, the lower bound on σ, and the forward pass against the coder."""

from __future__ import annotations

import math
import statistics

import torch
from torch import Tensor

from labkit.diagnosis.findings import Finding, judged
from labkit.diagnosis.passes import ImagePass

DEAD = 1e-3  # bits per position below which a channel carries no information


def mismatch(passes: list[ImagePass]) -> list[Finding]:
    """Check whether training reports a different rate than rounding gives."""
    rounded = sum(each.rounded.rate for each in passes)
    training = sum(statistics.mean(draw.rate for draw in each.training) for each in passes)
    mse = sum(statistics.mean(draw.mse for draw in each.training) for each in passes)
    mse_change = 100 * (mse / sum(each.rounded.mse for each in passes) - 1)
    more, fewer = ("Training", "rounding") if training >= rounded else ("Rounding", "training")
    figure = 100 * (max(training, rounded) / min(training, rounded) - 1)
    message = (
        f"{more} gives {figure:.1f}% more bits than {fewer}; the mean squared error of training is {mse_change:+.1f}%."
    )
    remedy = (
        "Report the rate in evaluation mode. A surrogate closer to rounding at the end of training makes the "
        "difference smaller."
    )
    return judged("mismatch", figure, message, remedy)


def scale_bound(passes: list[ImagePass]) -> list[Finding]:
    """Measure the cost of noise at latents whose σ is at the lower bound."""
    extra, count, latents, rate = 0.0, 0, 0, 0.0
    for each in passes:
        rate += each.rounded.rate
        for index, call in enumerate(each.rounded.scales):
            rounded = float(call.bits[call.at_bound].sum())
            noisy = [float(draw.scales[index].bits[call.at_bound].sum()) for draw in each.training]
            extra += statistics.mean(noisy) - rounded
            count, latents = count + int(call.at_bound.sum()), latents + call.at_bound.numel()
    if not count:
        return []
    figure = 100 * extra / rate
    message = (
        f"{100 * count / latents:.0f}% of the latents have a σ at its lower bound; there, training reports bits that "
        f"rounding does not need, {figure:.1f}% of the rate."
    )
    remedy = "Report the rate in evaluation mode. A moderately higher bound makes the difference larger, not smaller."
    return judged("scale_bound", figure, message, remedy)


def center(passes: list[ImagePass]) -> list[Finding]:
    """Check whether the forward pass in evaluation mode rounds different values than the coder, by rate and error."""
    pairs = [(each.rounded, each.coding) for each in passes if each.coding]
    if not pairs:
        return []
    rate = 100 * (sum(other.estimate for _, other in pairs) / sum(one.rate for one, _ in pairs) - 1)
    mse = 100 * (sum(other.mse for _, other in pairs) / sum(one.mse for one, _ in pairs) - 1)
    message = (
        f"The coder has {rate:+.1f}% bits and {mse:+.1f}% mean squared error, compared with the forward pass in "
        "evaluation mode: it quantizes other values, such as y − μ instead of y."
    )
    remedy = "Quantize in the forward pass as the coder does: quantize(y, mode, means)."
    return [] if math.isnan(mse) else judged("center", max(abs(rate), abs(mse)), message, remedy)


def dead_channels(passes: list[ImagePass]) -> list[Finding]:
    """Find channels that carry no information."""
    dead = {name: int((bits < DEAD).sum()) for name, bits in bits_per_channel(passes).items()}
    total = {name: len(bits) for name, bits in bits_per_channel(passes).items()}
    figure = 100 * sum(dead.values()) / max(1, sum(total.values()))
    parts = [f"{dead[name]} of the {total[name]} channels of {name}" for name in dead if dead[name]]
    message = f"{' and '.join(parts)} need less than {DEAD:g} bits per position."
    return judged("dead_channels", figure, message, "A network with fewer channels would be faster and code as well.")


def dominant_channel(passes: list[ImagePass]) -> list[Finding]:
    """Find a channel that takes most of the bits, if there are several channels."""
    sums = {
        name: torch.stack([each.rounded.bits[name].transpose(0, 1).flatten(1).sum(1) for each in passes]).sum(0)
        for name in passes[0].rounded.bits
    }
    name = max(sums, key=lambda name: float(sums[name].max()))
    channel, total = int(sums[name].argmax()), sum(float(each.sum()) for each in sums.values())
    figure = 100 * float(sums[name][channel]) / total if len(sums[name]) > 1 and total else 0.0
    message = f"Channel {channel} of {name} takes {figure:.0f}% of the bits."
    return judged("dominant_channel", figure, message, "Train longer, or from other initial weights.")


def bits_per_channel(passes: list[ImagePass]) -> dict[str, Tensor]:
    """Return the mean bits per position of each channel of each latent, with rounding.

    Returns:
        Tensors of shape (C,), for each latent by name.
    """
    names = passes[0].rounded.bits
    result = {}
    for name in names:
        sums = torch.stack([each.rounded.bits[name].transpose(0, 1).flatten(1).sum(1) for each in passes]).sum(0)
        positions = sum(each.rounded.bits[name][:, 0].numel() for each in passes)
        result[name] = sums / positions
    return result
