"""Predictions of a scalar code for a network: mismatch and gradient risk, averaged over the scales of its latents."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labkit import analysis, entropy, surrogates
from labkit.analysis.risk import gradient_given
from labkit.analysis.scheme_arguments import scalar_schemes
from labkit.evaluation.evaluator import pad
from labkit.schemes import QuantizationScheme, Scheme, last_stage
from labkit.state_guard import device_of, preserved_state
from labkit.statistics import Array

SIGMAS = np.geomspace(0.11, 4, 9)  # smaller and larger scales count as the first and the last, where little changes


@torch.no_grad()
def scale_shares(net: nn.Module, images: Sequence[Tensor]) -> Array:
    """Return the share of a network's latents at each of the scales `SIGMAS`.

    The scale of a latent is the σ of the Gaussian entropy model. Without such a model it is the standard deviation of
    the latent's channel.

    Args:
        net: A network with labkit's entropy modules.
        images: Images of shape (3, height, width).

    Returns:
        Shares of shape (scales,), which sum to 1.
    """
    scales: list[Tensor] = []

    def record(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if isinstance(module, entropy.GaussianConditional):
            sigma = keywords["scales"] if "scales" in keywords else args[1]
            scales.append(sigma.clamp_min(module.scheme.scale_lower_bound).flatten())
        elif isinstance(module, entropy.EntropyBottleneck) and module.main:
            channels = args[0].transpose(0, 1).flatten(1)
            scales.append(channels.std(1).repeat_interleave(channels.size(1)))

    hooks = [
        module.register_forward_pre_hook(record, with_kwargs=True)
        for module in net.modules()
        if isinstance(module, entropy.GaussianConditional | entropy.EntropyBottleneck)
    ]
    try:
        with preserved_state(net):
            for image in images:
                net.eval()(pad(image[None].to(device_of(net)), getattr(net, "downsampling_factor", 64))[0])
    finally:
        for hook in hooks:
            hook.remove()
    logs = torch.cat(scales).double().clamp(SIGMAS[0], SIGMAS[-1]).log().cpu().numpy()
    nearest = np.rint((logs - np.log(SIGMAS[0])) / np.log(SIGMAS[1] / SIGMAS[0])).astype(int)
    return np.asarray(np.bincount(nearest, minlength=len(SIGMAS)) / len(nearest))


def mismatch(schemes: Mapping[str, Scheme], shares: Array) -> dict[str, tuple[float, float]]:
    """Return the mismatch per latent of each scheme at the end of training.

    Args:
        schemes: Schemes by label.
        shares: Share of the latents at each scale, of shape (scales,).

    Returns:
        Mismatch of rate (bits) and of distortion, by label.
    """
    return {label: tuple(shares @ _mismatches(last_stage(scheme))) for label, scheme in schemes.items()}


@functools.cache
def _mismatches(scheme: QuantizationScheme) -> Array:
    """Return the mismatches of Gaussian latents, of shape (scales, 2)."""
    rows = []
    for sigma in SIGMAS:
        table = analysis.mismatch(_code(sigma), {"": scheme}, scheme.temperature.end)
        rows.append(table.loc[0, ["rate", "distortion"]].tolist())
    return np.array(rows)


def gradient(
    compared: Mapping[str, surrogates.Surrogate], temperature: float, shares: Array
) -> dict[str, tuple[float, float]]:
    """Return variance and promise of the gradient by the gain.

    Args:
        compared: Surrogates by label.
        temperature: Their temperature.
        shares: Share of the latents at each scale, of shape (scales,).

    Returns:
        By label, the variance over draws, and the mean gradient per unit of the exact gradient.
    """
    results = {}
    for label, surrogate in compared.items():
        mean, variance, exact = _gradients(surrogate, temperature).T
        results[label] = float(shares @ variance), float(shares @ (mean * exact) / (shares @ exact**2))
    return results


@functools.cache
def _gradients(surrogate: surrogates.Surrogate, temperature: float) -> Array:
    """Return mean and variance over draws of the surrogate's gradient, and the exact gradient: (scales, 3)."""
    (scheme,) = scalar_schemes({"": surrogate}, True).values()
    rows = []
    for sigma in SIGMAS:
        code = _code(sigma)
        x, weight = code.nodes(temperature, (0.0,))
        mean, variance = gradient_given(code, scheme, x, "gain", temperature)
        rows.append([weight @ mean, weight @ variance, analysis.exact_gradient(code)])
    return np.array(rows)


def _code(sigma: float) -> analysis.ScalarCode:
    return analysis.ScalarCode(analysis.sources.gaussian(0, float(sigma)))
