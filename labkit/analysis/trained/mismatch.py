"""Train–test mismatch on a trained network: training's loss over many draws, minus that of real rounding."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from labkit.analysis.inputs import Temperatures, What
from labkit.analysis.trained.inputs import Images, items_of, settings_of, source
from labkit.analysis.trained.running import in_double
from labkit.checks import check_at_least, check_positive
from labkit.progress import progress_bar
from labkit.state_guard import device_of, preserved_state, seed_noise
from labkit.training import rate_distortion


@torch.no_grad()
def network_mismatch(
    net: nn.Module,
    images: Images,
    what: What,
    *,
    lmbda: float,
    temperatures: Temperatures | None = None,
    draws: int = 8,
    seed: int = 0,
    progress: bool | None = None,
):
    """What training reports minus what rounding gives, on a trained network: a pandas table.

    net: any module that carries a scheme; it is handed back as it was. images: a PhotoSet, or (3, H, W) tensors in
    [0, 1], whose sides are padded by their edges to what the network needs; or (n, d) points, all of which are one
    "image". what: a surrogate (which then stands on all four paths), a preset or a scheme, by name or made; several in
    a sequence, or in a dictionary under labels of one's own. Names take the network's lower bound on σ; a scheme
    brings its own, for the rounded evaluation too. temperatures: one or several; None is the last of the scheme's
    schedule (1 for a surrogate). draws: of the noise, for each image.

    Columns: label, temperature (NaN where the law has none), image (its name; "mean" for the mean over images),
    quantity, training, rounded, mismatch = training − rounded, se (standard error over noise draws), se_images (of the
    mean, over images; it contains the noise). Quantities: rate (bits per pixel, or per point) and its parts such as
    rate_y and rate_z, distortion (255² · MSE, or squared distance), loss = rate + λ · distortion.

    Raises ValueError naming the argument, what it got and what it takes.
    """
    import pandas as pd

    items = items_of(images)
    settings = settings_of(net, what, temperatures)
    check_positive(lmbda=lmbda)
    check_at_least(2, draws=draws)
    check_at_least(0, seed=seed)

    rows = []
    device = device_of(net)
    with (
        preserved_state(net),
        progress_bar(total=len(settings) * len(items) * (draws + 1), unit="pass", progress=progress) as bar,
    ):
        for setting in settings:
            setting.install(net)
            means, rounds, errors = [], [], []
            for index, (name, item) in enumerate(items):
                x = source(net, item).to(device)
                rounded = _quantities(net.eval(), x, lmbda)
                bar.update()
                drawn = []
                for draw in range(draws):
                    seed_noise(net, seed, index, draw)
                    drawn.append(list(_quantities(net.train(), x, lmbda).values()))
                    bar.update()
                values = np.array(drawn)
                means.append(values.mean(0))
                rounds.append(np.array(list(rounded.values())))
                errors.append(values.std(0, ddof=1) / math.sqrt(draws))
                rows += setting.rows(name, list(rounded), means[-1], rounds[-1], errors[-1], np.nan)
            mismatch, n = np.array(means) - np.array(rounds), len(items)
            over_images = mismatch.std(0, ddof=1) / math.sqrt(n) if n > 1 else np.nan
            over_draws = np.sqrt(np.square(errors).sum(0)) / n
            rows += setting.rows("mean", list(rounded), np.mean(means, 0), np.mean(rounds, 0), over_draws, over_images)
    return pd.DataFrame(rows)


def _quantities(net: nn.Module, x: Tensor, lmbda: float) -> dict[str, float]:
    output = in_double(net(x))
    loss = rate_distortion(output, x.double(), lmbda)
    parts = {
        f"rate_{part}": rate_distortion({**output, "likelihoods": {part: likelihood}}, x.double(), lmbda).rate
        for part, likelihood in output["likelihoods"].items()
    }
    quantities = {"rate": loss.rate, **parts, "distortion": loss.distortion, "loss": loss.total}
    return {name: value.item() for name, value in quantities.items()}
