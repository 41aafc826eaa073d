"""What one dimension predicts of a network: mismatch and gradient risk, averaged over the scales of its own latents."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from labkit import analysis, entropy, surrogates
from labkit.analysis.risk import gradient_given
from labkit.analysis.scheme_arguments import scalar_schemes
from labkit.evaluation.evaluator import pad
from labkit.schemes import QuantizationScheme, Scheme, last_stage
from labkit.state_guard import device_of, preserved_state

SIGMAS = np.geomspace(0.11, 4, 9)  # a smaller scale counts as the first, a larger one as the last: little changes there


@torch.no_grad()
def scales(net: nn.Module, images: Sequence[Tensor]) -> np.ndarray:
    """The share of a network's latents that has about each of the scales `SIGMAS`, (9,).

    The scale is the σ that a Gaussian entropy model uses; without one, each channel's standard deviation.
    """
    found: list[Tensor] = []

    def keep(module: nn.Module, args: tuple, keywords: dict) -> None:
        if isinstance(module, entropy.GaussianConditional):
            sigma = keywords["scales"] if "scales" in keywords else args[1]
            found.append(sigma.clamp_min(module.scheme.scale_lower_bound).flatten())
        elif isinstance(module, entropy.EntropyBottleneck) and module.main:
            channels = args[0].transpose(0, 1).flatten(1)
            found.append(channels.std(1).repeat_interleave(channels.size(1)))

    hooks = [
        module.register_forward_pre_hook(keep, with_kwargs=True)
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
    logs = torch.cat(found).double().clamp(SIGMAS[0], SIGMAS[-1]).log().cpu().numpy()
    nearest = np.rint((logs - np.log(SIGMAS[0])) / np.log(SIGMAS[1] / SIGMAS[0])).astype(int)
    return np.bincount(nearest, minlength=len(SIGMAS)) / len(nearest)


def mismatch(schemes: Mapping[str, Scheme], shares: np.ndarray) -> dict[str, tuple[float, float]]:
    """Rate (bits) and distortion mismatch a latent that each scheme has at the end of training, by label."""
    return {label: tuple(shares @ _mismatches(last_stage(one))) for label, one in schemes.items()}


@functools.cache
def _mismatches(scheme: QuantizationScheme) -> np.ndarray:
    """(scales, 2), of Gaussian latents."""
    rows = []
    for sigma in SIGMAS:
        table = analysis.mismatch(_code(sigma), {"": scheme}, scheme.temperature.end)
        rows.append(table.loc[0, ["rate", "distortion"]].tolist())
    return np.array(rows)


def gradient(names: Mapping[str, surrogates.Surrogate], temperature: float, shares: np.ndarray) -> dict[str, tuple]:
    """Variance over draws of the gradient by the gain, and its mean for each unit of the exact gradient, by label."""
    found = {}
    for label, one in names.items():
        mean, variance, exact = _gradients(one, temperature).T
        found[label] = float(shares @ variance), float(shares @ (mean * exact) / (shares @ exact**2))
    return found


@functools.cache
def _gradients(surrogate: surrogates.Surrogate, temperature: float) -> np.ndarray:
    """(scales, 3): mean and variance over draws of the returned gradient, and the exact one."""
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
