"""The gradient that reaches the Gaussian's means, path by path: what stop_gradient takes away."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from labkit import entropy
from labkit.analysis.inputs import Temperatures, What
from labkit.analysis.trained.inputs import (
    Images,
    items_of,
    random_batches,
    settings_of,
)
from labkit.analysis.trained.running import Welford, in_double
from labkit.checks import check_at_least, check_positive
from labkit.progress import progress_bar
from labkit.state_guard import preserved_state, seed_noise
from labkit.training import rate_distortion


@torch.enable_grad()
def gradient_at_means(
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
    seed: int = 0,
    progress: bool | None = None,
):
    """The gradient that reaches μ, the Gaussian's means, by path, with and without stop_gradient: a pandas table.

    Arguments as in `network_gradient_risk`. Columns: label, temperature, stop_gradient, path ("rate": of the rate;
    "distortion": of λ times the distortion; "both"), norm (of the mean gradient over draws, mean over batches),
    variance (trace of the covariance over draws at a fixed batch, mean over batches), variance_se (over batches).

    Raises ValueError for bad arguments, schemes that are not zero-centered, and networks without a Gaussian.
    """
    import pandas as pd

    items = [item for _, item in items_of(images)]
    settings = settings_of(net, what, temperatures)
    check_positive(lmbda=lmbda)
    check_at_least(2, draws=draws, batches=batches)
    check_at_least(1, batch_size=batch_size, crop=crop)
    check_at_least(0, seed=seed)
    for setting in settings:
        if not setting.scheme.zero_center:
            raise ValueError(f"what: {setting.label!r} is not zero-centered, so μ is not on its distortion path")
    gaussians = [module for module in net.modules() if isinstance(module, entropy.GaussianConditional)]
    if not gaussians:
        raise ValueError("net: has no Gaussian entropy model, so there is no μ")
    xs = random_batches(net, items, batches, batch_size, crop, seed)

    means: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple, keywords: dict) -> None:
        mean = keywords.get("means", args[2] if len(args) > 2 else None)
        if mean is not None:
            means.append(mean)

    hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in gaussians]
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
                            rate = _at_means(loss.rate, means)
                            distortion = _at_means(lmbda * loss.distortion, means)
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


def _at_means(value: Tensor, means: list[Tensor]) -> Tensor:
    if not value.requires_grad or not means:
        return torch.zeros(sum(mean.numel() for mean in means), dtype=torch.float64, device=value.device)
    found = torch.autograd.grad(value, means, retain_graph=True, allow_unused=True)
    pairs = zip(found, means, strict=True)
    return torch.cat([(torch.zeros_like(m) if g is None else g).flatten().double() for g, m in pairs])
