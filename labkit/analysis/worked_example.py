"""The course's worked example: lower temperature, less mismatch, and then either more bias or more variance.

x ~ N(0, 1), y = g x, x̂ = ỹ/g, ℓ = bits + 6 (x̂ − x)², and the gradient with respect to the gain g, with the decoder's
step 1/g and the entropy model's scale g held fixed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from labkit import surrogates
from labkit.analysis import sources
from labkit.analysis.code import ScalarCode, exact_gradient, test_loss
from labkit.analysis.risk import METHODS, gradient_risk

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


class Tables(NamedTuple):
    """test: gain, loss, rate, distortion, exact gradient. training: one row a gain, surrogate, temperature, method."""

    test: DataFrame
    training: DataFrame


def code(gain: float) -> ScalarCode:
    """The example's transform code."""
    return ScalarCode(sources.gaussian(), gain=gain, lmbda=6.0)


def tables(samples: int = 1_000_000, seed: int = 0) -> Tables:
    """The example's numbers by quadrature, and by Monte Carlo with standard errors, as tidy tables.

    training has the columns gain, method, label, temperature, mismatch, mismatch_se, bias, bias_se, std, std_se; the
    standard errors of quadrature are 0. samples: Monte Carlo's, for each row; 0 leaves Monte Carlo out.
    """
    import pandas as pd

    test, training = [], []
    for gain in GAINS:
        here = code(gain)
        test.append({"gain": gain, **test_loss(here)._asdict(), "exact_gradient": exact_gradient(here)})
        for method in METHODS if samples else METHODS[:1]:
            how: dict[str, Any] = {"method": method, "samples": samples or 2, "seed": seed}
            for label, one in _SURROGATES.items():
                temperatures = TEMPERATURES if one.annealed else (1.0,)
                rows = gradient_risk(here, {label: one}, "gain", temperatures, 1, **how)
                training.append(rows.assign(gain=gain, method=method).reindex(columns=_COLUMNS, fill_value=0.0))
    return Tables(pd.DataFrame(test), pd.concat(training, ignore_index=True))


_COLUMNS = ["gain", "method", "label", "temperature", "mismatch", "mismatch_se", "bias", "bias_se", "std", "std_se"]


def print_tables(samples: int = 1_000_000, seed: int = 0) -> None:
    """Print the example's tables: what quadrature gives, and Monte Carlo's mean ± standard error below it."""
    test, training = tables(samples, seed)
    print("x ~ N(0, 1), y = g x, loss = bits + 6 (x̂ − x)², gradient with respect to the gain g\n")
    for row in test.itertuples():
        print(f"g = {row.gain}: test loss {row.total:.4f}, exact gradient {row.exact_gradient:.4f}")
        print(f"  {'surrogate':<20}{'τ':>6}  {'mismatch':<18}{'bias':<18}{'std of one sample':<18}")
        here = training[training["gain"] == row.gain]
        for _, pair in here.groupby(["label", "temperature"], sort=False):
            for one in pair.itertuples():
                exact = one.method == "quadrature"
                cells = [
                    f"{value:.4f}" if exact else f"{value:.4f} ± {error:.4f}"
                    for value, error in ((one.mismatch, one.mismatch_se), (one.bias, one.bias_se))
                ]
                cells.append(f"{one.std:.2f}" if exact else f"{one.std:.2f} ± {one.std_se:.2f}")
                head = f"{one.label:<20}{one.temperature:>6g}" if exact else f"{'  Monte Carlo':<26}"
                print(f"  {head}  {''.join(f'{cell:<18}' for cell in cells)}".rstrip())
        print()
