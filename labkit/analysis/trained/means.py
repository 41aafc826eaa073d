"""The gradient with respect to the Gaussian's means, path by path, with and without the stop-gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from labkit import entropy
from labkit.analysis.scheme_arguments import SchemesLike, Temperatures
from labkit.analysis.trained.images import Images, named_images, random_batches
from labkit.analysis.trained.settings import settings_of
from labkit.analysis.trained.sums import Welford, in_double
from labkit.checks import check_at_least, check_positive
from labkit.progress import progress_bar
from labkit.state_guard import preserved_state, seed_noise
from labkit.training import rate_distortion

if TYPE_CHECKING:
    from pandas import DataFrame


@torch.enable_grad()
def gradient_at_means(
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
    seed: int = 0,
    progress: bool | None = None,
) -> DataFrame:
    """Return the gradient with respect to the Gaussian's means μ, by path, with and without stop_gradient, as a table.

    Args:
        net: Any module that carries a scheme and has a Gaussian entropy model. Its state is restored afterwards.
        images: PhotoSet, (3, H, W) tensors in [0, 1], or (n, d) points.
        schemes: Surrogates, presets or schemes, as in `network_mismatch`. All of them must be zero-centered.
        lmbda: Weight λ of the distortion.
        temperatures: One temperature or several; None means the last temperature of the scheme's schedule.
        draws: Number of noise draws per batch.
        batches: Number of batches.
        batch_size: Number of random crops or points per batch.
        crop: Side of the crops, in pixels.
        seed: Seed of the crops and of the noise.
        progress: Whether to show a progress bar; None shows one on a terminal.

    Returns:
        A table with one row per scheme, temperature, stop_gradient and path. The columns are label, temperature,
        stop_gradient, path, norm, variance and variance_se. The path is "rate", "distortion" (of λ · distortion) or
        "both". norm is the norm of the mean gradient over draws, averaged over batches. variance is the trace of the
        covariance over draws at a fixed batch, averaged over batches, and variance_se its standard error over batches.

    Raises:
        ValueError: If an argument is invalid, if a scheme is not zero-centered, or if the network has no Gaussian.
    """
    import pandas as pd

    tensors = [image for _, image in named_images(images)]
    settings = settings_of(net, schemes, temperatures)
    check_positive(lmbda=lmbda)
    check_at_least(2, draws=draws, batches=batches)
    check_at_least(1, batch_size=batch_size, crop=crop)
    check_at_least(0, seed=seed)
    for setting in settings:
        if not setting.scheme.zero_center:
            raise ValueError(
                f"schemes must be zero-centered, got {setting.label!r}: without zero-center μ is not on its "
                "distortion path"
            )
    gaussians = [module for module in net.modules() if isinstance(module, entropy.GaussianConditional)]
    if not gaussians:
        raise ValueError("net must have a Gaussian entropy model, got none: without it there is no μ")
    xs = random_batches(net, tensors, batches, batch_size, crop, seed)

    means: list[Tensor] = []

    def store_means(_module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        mean = keywords.get("means", args[2] if len(args) > 2 else None)
        if mean is not None:
            means.append(mean)

    hooks = [module.register_forward_pre_hook(store_means, with_kwargs=True) for module in gaussians]
    rows = []
    try:
        with (
            preserved_state(net),
            progress_bar(total=2 * len(settings) * batches * draws, unit="pass", progress=progress) as bar,
        ):
            for setting in settings:
                for stop in (False, True):
                    setting.install(net, stop_gradient=stop)
                    norms, traces = (np.zeros((3, batches)) for _ in range(2))
                    for b, x in enumerate(xs):
                        paths = [Welford() for _ in range(3)]
                        for draw in range(draws):
                            means.clear()
                            seed_noise(net, seed, b, draw)
                            loss = rate_distortion(in_double(net.train()(x)), x.double(), lmbda)
                            rate = _gradient(loss.rate, means)
                            distortion = _gradient(lmbda * loss.distortion, means)
                            for path, gradient in zip(paths, (rate, distortion, rate + distortion), strict=True):
                                path.add(gradient)
                            bar.update()
                        norms[:, b] = [float(path.mean.norm()) for path in paths]
                        traces[:, b] = [path.variance for path in paths]
                    for i, path_name in enumerate(("rate", "distortion", "both")):
                        rows.append(
                            {
                                "label": setting.label,
                                "temperature": setting.temperature,
                                "stop_gradient": stop,
                                "path": path_name,
                                "norm": norms[i].mean(),
                                "variance": traces[i].mean(),
                                "variance_se": traces[i].std(ddof=1) / math.sqrt(batches),
                            }
                        )
    finally:
        for hook in hooks:
            hook.remove()
    return pd.DataFrame(rows)


def _gradient(value: Tensor, means: list[Tensor]) -> Tensor:
    """Return the gradient of a value with respect to all means, as one float64 vector."""
    if not value.requires_grad or not means:
        return torch.zeros(sum(mean.numel() for mean in means), dtype=torch.float64, device=value.device)
    gradients = torch.autograd.grad(value, means, retain_graph=True, allow_unused=True)
    pairs = zip(gradients, means, strict=True)
    return torch.cat([(torch.zeros_like(m) if g is None else g).flatten().double() for g, m in pairs])
