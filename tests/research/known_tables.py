"""Tables of the study with known verdicts, for tests."""

import math
from itertools import product

import numpy as np
import pandas as pd

from labkit.research.study import tables

IMAGES = [f"photo {k}" for k in range(13)]
TEMPERATURES = ["0.02", "0.05", "0.1", "0.2", "0.35", "0.5", "0.7", "1"]
RATE_FACTORS = {"annealed": 0.95, "noise": 1.0, "mixed": 0.97}


def fork_rows(loss, seeds=4, noise=1e-3, part="forks", names=IMAGES, **axes):
    """Return a table of forks.

    The loss of each cell of the grid is proportional to loss(**cell). All cells share the effects of seeds and images.
    """
    rng, rows = np.random.default_rng(4), []
    seed_effects, image_effects = rng.normal(0, 0.02, seeds), rng.normal(0, 0.3, len(names))
    for values in product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        for seed, (k, name) in product(range(seeds), enumerate(names)):
            factor = loss(**cell) * math.exp(seed_effects[seed] + image_effects[k] + noise * rng.standard_normal())
            row = {"part": part, "seed": seed, "set": "test", "name": name, "lmbda": 0.0093, "seconds": 60.0, **cell}
            row |= {"run": "-".join(map(str, (*values, seed))), "estimated_bpp": 0.4 * factor, "psnr": 30.0}
            row |= {"mse255": 60 * factor, "train_bpp": 0.41 * factor, "train_mse255": 59 * factor}
            row |= {"train_spread": 0.3 * factor, "bpp": 0.4 * factor}
            rows.append(row)
    return tables.with_losses(pd.DataFrame(rows))


def measured_rows(values, part="measured", seeds=4, **columns):
    """Return measured or predicted rows with the given value for each label; only measured values have noise."""
    rng, rows = np.random.default_rng(5), []
    for (label, value), seed, name in product(values.items(), range(seeds), IMAGES if part == "measured" else [""]):
        noisy = value * (1 + 0.02 * rng.standard_normal()) if part == "measured" else value
        row = {"part": part, "label": label, "seed": seed, "set": "test", "name": name, "lmbda": 0.0093}
        rows.append({**row, "value": noisy, **columns})
    return pd.DataFrame(rows)


def curve_rows(factors, noise=1e-3, seeds=4):
    """Return curves of three points, on which the PSNR is linear in the log rate.

    At equal PSNR, the rate of a scheme is proportional to its factor.
    """
    rng, rows = np.random.default_rng(6), []
    for part, (scheme, factor), (k, lmbda), seed, image in product(
        ("forks", "scratch"), factors.items(), enumerate((0.0035, 0.0093, 0.025)), range(seeds), range(13)
    ):
        bpp = 0.2 * 2**k * factor * (1 + 0.05 * image) * math.exp(0.01 * seed + noise * rng.standard_normal())
        row = {"part": part, "network": "one", "scheme": scheme, "lmbda": lmbda, "seed": seed, "set": "test"}
        row |= {"name": str(image), "bpp": bpp, "psnr": 28.0 + 3 * k + 0.1 * image, "estimated_bpp": bpp}
        row |= {"mse255": 100 / 2**k, "train_bpp": bpp, "train_mse255": 100 / 2**k, "seconds": 90.0}
        rows.append(row | {"run": f"{part}{scheme}{lmbda}{seed}"})
    return pd.DataFrame(rows)


def parabola(best, depth=0.02):
    """Return a loss that is a parabola over the log temperature, with its minimum at `best`."""
    return lambda temperature, **_: math.exp(depth * (math.log(float(temperature) / best)) ** 2)
