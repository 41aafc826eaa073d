"""Train–test mismatch of a trained network: the training loss over many draws minus the loss with real rounding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from labkit.analysis.scheme_arguments import SchemesLike, Temperatures
from labkit.analysis.trained.images import Images, named_images, network_input
from labkit.analysis.trained.settings import Setting, settings_of
from labkit.analysis.trained.sums import in_double
from labkit.checks import check_at_least, check_positive
from labkit.progress import progress_bar
from labkit.state_guard import device_of, preserved_state, seed_noise
from labkit.statistics import Array
from labkit.training import rate_distortion

if TYPE_CHECKING:
    from pandas import DataFrame


@torch.no_grad()
def network_mismatch(
    net: nn.Module,
    images: Images,
    schemes: SchemesLike,
    *,
    lmbda: float,
    temperatures: Temperatures | None = None,
    draws: int = 8,
    seed: int = 0,
    progress: bool | None = None,
) -> DataFrame:
    """Return the loss that training reports minus the loss with real rounding, on a trained network, as a table.

    Args:
        net: Any module that carries a scheme. Its state is restored afterwards.
        images: PhotoSet or (3, H, W) tensors in [0, 1], which are padded at the edges to the size that the network
            needs; or (n, d) points, all of which count as one image.
        schemes: Surrogates, presets or schemes, one or several, as objects or by name, or a mapping from labels. A bare
            surrogate is used on all four paths. Surrogates and presets given by name use the network's lower bound on
            σ. A scheme uses its own bound, which then also applies to the rounded evaluation.
        temperatures: One temperature or several; None means the last temperature of the scheme's schedule (1 for a
            surrogate).
        lmbda: Weight λ of the distortion.
        draws: Number of noise draws per image.
        seed: Seed of the noise.
        progress: Whether to show a progress bar; None shows one on a terminal.

    Returns:
        A table with one row per scheme, temperature, image and quantity. The columns are label, temperature (NaN if
        no law depends on it), image (its name, or "mean" for the mean over images), quantity, training, rounded,
        mismatch = training − rounded, se (standard error over noise draws) and se_images (standard error of the mean
        over images, which contains the noise). The quantities are rate (bits per pixel or per point) and its parts
        such as rate_y and rate_z, distortion (255² · MSE, or squared distance), and loss = rate + λ · distortion.

    Raises:
        ValueError: If an argument is invalid, or if the network carries no scheme.
    """
    import pandas as pd

    pairs = named_images(images)
    settings = settings_of(net, schemes, temperatures)
    check_positive(lmbda=lmbda)
    check_at_least(2, draws=draws)
    check_at_least(0, seed=seed)

    rows = []
    device = device_of(net)
    with (
        preserved_state(net),
        progress_bar(total=len(settings) * len(pairs) * (draws + 1), unit="pass", progress=progress) as bar,
    ):
        for setting in settings:
            setting.install(net)
            means, rounds, errors = [], [], []
            for index, (name, image) in enumerate(pairs):
                x = network_input(net, image).to(device)
                rounded = _quantities(net.eval(), x, lmbda)
                bar.update()
                training = []
                for draw in range(draws):
                    seed_noise(net, seed, index, draw)
                    training.append(list(_quantities(net.train(), x, lmbda).values()))
                    bar.update()
                values = np.array(training)
                means.append(values.mean(0))
                rounds.append(np.array(list(rounded.values())))
                errors.append(values.std(0, ddof=1) / math.sqrt(draws))
                rows += _rows(setting, name, list(rounded), means[-1], rounds[-1], errors[-1], np.nan)
            mismatch, n = np.array(means) - np.array(rounds), len(pairs)
            over_images = mismatch.std(0, ddof=1) / math.sqrt(n) if n > 1 else np.nan
            over_draws = np.sqrt(np.square(errors).sum(0)) / n
            mean, mean_rounded = np.mean(means, 0), np.mean(rounds, 0)
            rows += _rows(setting, "mean", list(rounded), mean, mean_rounded, over_draws, over_images)
    return pd.DataFrame(rows)


def _rows(
    setting: Setting,
    image: str,
    names: list[str],
    training: Array,
    rounded: Array,
    se: Array,
    se_images: Array | float,
) -> list[dict[str, Any]]:
    columns = zip(names, training, rounded, training - rounded, *np.broadcast_arrays(se, se_images), strict=True)
    keys = ("quantity", "training", "rounded", "mismatch", "se", "se_images")
    head = {"label": setting.label, "temperature": setting.temperature, "image": image}
    return [{**head, **dict(zip(keys, values, strict=True))} for values in columns]


def _quantities(net: nn.Module, x: Tensor, lmbda: float) -> dict[str, float]:
    output = in_double(net(x))
    loss = rate_distortion(output, x.double(), lmbda)
    parts = {
        f"rate_{part}": rate_distortion({**output, "likelihoods": {part: likelihood}}, x.double(), lmbda).rate
        for part, likelihood in output["likelihoods"].items()
    }
    quantities = {"rate": loss.rate, **parts, "distortion": loss.distortion, "loss": loss.total}
    return {name: value.item() for name, value in quantities.items()}
