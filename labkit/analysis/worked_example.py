"""The worked example of the course: a lower temperature gives less mismatch, but more bias or more variance.

The code is x ~ N(0, 1), y = g x, x̂ = ỹ/g, with the loss ℓ = bits + 6 (x̂ − x)². The gradient is with respect to the
gain g, with the decoder's step 1/g and the entropy model's scale g held fixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy import stats

from labkit import surrogates
from labkit.analysis import sources
from labkit.analysis.code import ScalarCode, exact_gradient, test_loss
from labkit.analysis.risk import METHODS, gradient_given, gradient_risk
from labkit.schemes import QuantizationScheme
from labkit.statistics import Array
from labkit.surrogates import Surrogate

if TYPE_CHECKING:
    from pandas import DataFrame

GAINS = (1.7, 0.5)
TEMPERATURES = (1.0, 0.5, 0.25, 0.1)
_SURROGATES = {
    "ste": surrogates.get("ste"),
    "aun": surrogates.get("aun"),
    "sua, identity slope": surrogates.get("sua"),
    "sua, expected slope": surrogates.get("sua", gradient="expected"),
}
_COLUMNS = ["gain", "method", "label", "temperature", "mismatch", "mismatch_se", "bias", "bias_se", "std", "std_se"]
_SAMPLES = 20_000  # samples per step of `batch_gradients`
_NODES = 1000  # number of quadrature nodes per step of `partial_moments`; smaller steps take almost as long


class Tables(NamedTuple):
    """Tables of the worked example.

    Attributes:
        test: One row per gain: gain, total, rate, distortion, exact_gradient.
        training: One row per gain, surrogate, temperature and method.
    """

    test: DataFrame
    training: DataFrame


def code(gain: float, lmbda: float = 6.0) -> ScalarCode:
    """Return the code of the example.

    Args:
        gain: Gain g of the encoder.
        lmbda: Weight λ of the distortion.
    """
    return ScalarCode(sources.gaussian(), gain=gain, lmbda=lmbda)


def batch_gradients(
    code: ScalarCode, surrogate: Surrogate, temperature: float, batch_size: int, batches: int = 200
) -> Iterator[Array]:
    """Simulate gradient estimates with respect to the gain, each the mean over one batch.

    All surrogates see the same samples x. Much of the variance of sga, and of soft rounding at a small τ, comes from
    rare samples. A simulation of these surrogates therefore usually has a smaller spread than `partial_moments` gives.

    Args:
        code: Code of one latent.
        surrogate: Surrogate on both paths.
        temperature: Temperature τ of the surrogate.
        batch_size: Number of samples per batch.
        batches: Number of estimates.

    Yields:
        All estimates so far, one per batch.
    """
    scheme = QuantizationScheme(rate=surrogate, distortion=surrogate)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    at_once = max(1, min(batches, _SAMPLES // batch_size))
    estimates = np.zeros(0)
    while len(estimates) < batches:
        x = np.asarray(code.source.rvs(size=at_once * batch_size, random_state=rng))
        noise = scheme.draw(torch.as_tensor(x), generator)
        gradient = code.training_losses(scheme, x, noise, temperature, "gain")[2]
        estimates = np.append(estimates, gradient.reshape(at_once, batch_size).mean(1))[:batches]
        yield estimates


def partial_moments(code: ScalarCode, surrogate: Surrogate, temperature: float) -> Iterator[tuple[float, float]]:
    """Integrate the mean and the mean square of one sample's gradient with respect to the gain, step by step.

    The source, the laws and the loss of the example are even functions, so integrating over |x| suffices and takes half
    the time.

    Args:
        code: Code of the example, with a standard normal source and a mean of 0.
        surrogate: Surrogate on both paths.
        temperature: Temperature τ of the surrogate.

    Yields:
        Mean and mean square over the part of the source that has been integrated. The last pair is complete.
    """
    half = replace(code, source=stats.halfnorm())
    scheme = QuantizationScheme(rate=surrogate, distortion=surrogate)
    x, weight = half.nodes(temperature, (half.center,))
    mean = square = 0.0
    for part in np.array_split(np.arange(len(x)), -(-len(x) // _NODES)):
        given_x, variance = gradient_given(half, scheme, x[part], "gain", temperature)
        mean += float(weight[part] @ given_x)
        square += float(weight[part] @ (variance + given_x**2))
        yield mean, square


def tables(samples: int = 1_000_000, seed: int = 0) -> Tables:
    """Return the numbers of the example by quadrature, and by Monte Carlo with standard errors.

    The training table has the columns gain, method, label, temperature, mismatch, mismatch_se, bias, bias_se, std and
    std_se. The standard errors of quadrature are 0.

    Args:
        samples: Number of Monte Carlo samples per row; 0 skips Monte Carlo.
        seed: Seed for Monte Carlo.
    """
    import pandas as pd

    test, training = [], []
    for gain in GAINS:
        example = code(gain)
        test.append({"gain": gain, **test_loss(example)._asdict(), "exact_gradient": exact_gradient(example)})
        for method in METHODS if samples else METHODS[:1]:
            options: dict[str, Any] = {"method": method, "samples": samples or 2, "seed": seed}
            for label, surrogate in _SURROGATES.items():
                temperatures = TEMPERATURES if surrogate.annealed else (1.0,)
                rows = gradient_risk(example, {label: surrogate}, "gain", temperatures, 1, **options)
                training.append(rows.assign(gain=gain, method=method).reindex(columns=_COLUMNS, fill_value=0.0))
    return Tables(pd.DataFrame(test), pd.concat(training, ignore_index=True))


def print_tables(samples: int = 1_000_000, seed: int = 0) -> None:
    """Print the tables of the example: the quadrature, and below it the mean ± standard error of Monte Carlo.

    Args:
        samples: Number of Monte Carlo samples per row; 0 skips Monte Carlo.
        seed: Seed for Monte Carlo.
    """
    test, training = tables(samples, seed)
    print("x ~ N(0, 1), y = g x, loss = bits + 6 (x̂ − x)², gradient with respect to the gain g\n")
    for row in test.itertuples():
        print(f"g = {row.gain}: test loss {row.total:.4f}, exact gradient {row.exact_gradient:.4f}")
        print(f"  {'surrogate':<20}{'τ':>6}  {'mismatch':<18}{'bias':<18}{'std of one sample':<18}")
        of_gain = training[training["gain"] == row.gain]
        for _, methods in of_gain.groupby(["label", "temperature"], sort=False):
            for method in methods.itertuples():
                exact = method.method == "quadrature"
                cells = [
                    f"{value:.4f}" if exact else f"{value:.4f} ± {error:.4f}"
                    for value, error in ((method.mismatch, method.mismatch_se), (method.bias, method.bias_se))
                ]
                cells.append(f"{method.std:.2f}" if exact else f"{method.std:.2f} ± {method.std_se:.2f}")
                head = f"{method.label:<20}{method.temperature:>6g}" if exact else f"{'  Monte Carlo':<26}"
                print(f"  {head}  {''.join(f'{cell:<18}' for cell in cells)}".rstrip())
        print()
