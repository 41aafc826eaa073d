"""Exercises of the lesson on gradient risk: bias and variance, the exact slope, and the batch size of equal risk."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labkit.course.exercises.base import Exercise, Numbers
from labkit.statistics import Array

Loss = Callable[[Array, Array, float], Any]  # of symbols, samples and a gain

# risk.sampled: bias, standard deviation and risk from samples


def gradient_risk(gradients: Tensor, exact: float, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return bias and standard deviation of the gradient of one sample, and the risk of a mean over n samples."""
    bias = gradients.mean() - exact
    std = gradients.std()
    return bias, std, bias**2 + std**2 / n


def _sampled_gradients(seed: int) -> tuple[Tensor, float, int]:
    rng = np.random.default_rng(seed)
    gradients = torch.from_numpy(rng.normal(2.0, rng.uniform(10, 20), 4000))
    return gradients, float(gradients.mean()) - float(rng.uniform(0.3, 0.6)), int(rng.choice([16, 64, 256]))


def _risk_by_differences(gradients: Tensor, exact: float, n: int) -> tuple[float, float, float]:
    """Compute the variance from differences of two samples, and the risk from the mean squared error of one."""
    error = gradients.numpy() - exact
    bias = math.fsum(error) / len(error)
    pairs = sum(float(np.sum((error - np.roll(error, shift)) ** 2)) for shift in range(1, len(error)))
    variance = pairs / 2 / len(error) / (len(error) - 1)
    return bias, variance**0.5, float(np.mean(error**2)) / n + bias**2 * (1 - 1 / n)


def _of_one_sample(gradients: Tensor, exact: float, n: int) -> tuple[Tensor, Tensor, Tensor]:
    bias = gradients.mean() - exact
    return bias, gradients.std(), bias**2 + gradients.var()


def _with_the_std(gradients: Tensor, exact: float, n: int) -> tuple[Tensor, Tensor, Tensor]:
    bias = gradients.mean() - exact
    return bias, gradients.std(), bias**2 + gradients.std() / n


def _with_the_std_of_a_batch(gradients: Tensor, exact: float, n: int) -> tuple[Tensor, Tensor, Tensor]:
    bias = gradients.mean() - exact
    return bias, gradients.std(), bias**2 + gradients.std() / math.sqrt(n)


def _with_the_bare_bias(gradients: Tensor, exact: float, n: int) -> tuple[Tensor, Tensor, Tensor]:
    bias = gradients.mean() - exact
    return bias, gradients.std(), abs(bias) + gradients.var() / n


def _with_bias_over_n(gradients: Tensor, exact: float, n: int) -> tuple[Tensor, Tensor, Tensor]:
    bias = gradients.mean() - exact
    return bias, gradients.std(), (bias**2 + gradients.var()) / n


def _the_other_way_round(gradients: Tensor, exact: float, n: int) -> tuple[Tensor, Tensor, Tensor]:
    bias = exact - gradients.mean()
    return bias, gradients.std(), bias**2 + gradients.var() / n


def _spread_of_a_batch(gradients: Tensor, exact: float, n: int) -> tuple[Tensor, Tensor, Tensor]:
    bias = gradients.mean() - exact
    return bias, gradients.std() / math.sqrt(n), bias**2 + gradients.var() / n


def _variance_for_spread(gradients: Tensor, exact: float, n: int) -> tuple[Tensor, Tensor, Tensor]:
    bias = gradients.mean() - exact
    return bias, gradients.var(), bias**2 + gradients.var() / n


# risk.exact_slope: the exact slope


def exact_slope(g: float, x: Array, loss: Loss, loss_slope: Loss) -> Numbers:
    """Return the derivative of the loss at the boundaries plus its derivative within the cells."""
    k = np.arange(-20, 20)
    boundary = (k + 0.5) / g
    density = np.exp(-(boundary**2) / 2) / np.sqrt(2 * np.pi) / g
    jump = loss(k + 1, boundary, g) - loss(k, boundary, g)
    within = loss_slope(np.round(g * x), x, g).mean()
    return (density * jump * boundary).sum() + within


def _code(seed: int) -> tuple[float, Array, Loss, Loss]:
    """Return a gain, quantiles of a standard normal, and an asymmetric loss whose decoder depends on the gain."""
    rng = np.random.default_rng(seed)
    g, tilt, more, lmbda = rng.uniform(0.4, 0.7), rng.uniform(0.3, 0.8), rng.uniform(1, 3), rng.uniform(4, 8)
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)

    def loss(k: Array, x: Array, g: float) -> Any:
        return 0.5 + tilt * k + more * np.abs(k) + lmbda * (k / g - x) ** 2

    def loss_slope(k: Array, x: Array, g: float) -> Any:
        return -2 * lmbda * (k / g - x) * k / g**2

    return float(g), quantiles.numpy(), loss, loss_slope


def _slope_by_difference(g: float, x: Array, loss: Loss, loss_slope: Loss) -> Numbers:
    """Return a finite difference of the average loss, which is integrated cell by cell."""
    nodes, weights = np.polynomial.legendre.leggauss(24)

    def average(gain: float) -> float:
        k = np.arange(-8, 9)[:, None]
        inside = (k + nodes / 2) / gain
        mass = np.exp(-(inside**2) / 2) / math.sqrt(2 * math.pi) * weights / (2 * gain)
        return float((mass * loss(k, inside, gain)).sum())

    h = 1e-4
    return (average(g + h) - average(g - h)) / (2 * h)


def _slope(
    g: float,
    x: Array,
    loss: Loss,
    loss_slope: Loss,
    *,
    jump_sign: float = 1.0,
    moved: bool = True,
    of_x: bool = False,
    in_y: bool = False,
    within: bool = True,
) -> Numbers:
    """Return the slope with at most one mistake."""
    k = np.arange(-20, 20)
    boundary = (k + 0.5) / g
    density = np.exp(-(boundary**2) / 2) / np.sqrt(2 * np.pi) / (1.0 if of_x else g)
    place = k + 0.5 if in_y else boundary
    jump = jump_sign * (loss(k + 1, place, g) - loss(k, place, g))
    across = (density * jump * (place if moved else 1.0)).sum()
    return across + (_only_within(g, x, loss, loss_slope) if within else 0.0)


def _only_within(g: float, x: Array, loss: Loss, loss_slope: Loss) -> Numbers:
    return loss_slope(np.round(g * x), x, g).mean()


# risk.batch_size: the batch size at which two surrogates have the same risk


def level_batch_size(bias_1: float, std_1: float, bias_2: float, std_2: float) -> float:
    """Solve bias_1² + std_1²/n = bias_2² + std_2²/n for n."""
    return (std_1**2 - std_2**2) / (bias_2**2 - bias_1**2)


def _two_surrogates(seed: int) -> tuple[float, float, float, float]:
    rng = np.random.default_rng(seed)
    bias_1, std_2 = rng.uniform(0.02, 0.2), rng.uniform(14, 18)
    return float(-bias_1), float(std_2 * rng.uniform(1.2, 4)), float(-bias_1 - rng.uniform(0.2, 0.5)), float(std_2)


def _level_by_bisection(bias_1: float, std_1: float, bias_2: float, std_2: float) -> float:
    """Find by bisection the log n at which the risk of the first surrogate falls below that of the second."""

    def risk(n: float, bias: float, std: float) -> float:
        return math.hypot(bias, std / math.sqrt(n))

    low, high = 0.0, 40.0
    for _ in range(100):
        n = math.exp((low + high) / 2)
        low, high = (low, math.log(n)) if risk(n, bias_1, std_1) < risk(n, bias_2, std_2) else (math.log(n), high)
    return math.exp(low)


def _bare_stds(bias_1: float, std_1: float, bias_2: float, std_2: float) -> float:
    return (std_1 - std_2) / (bias_2**2 - bias_1**2)


def _bare_biases(bias_1: float, std_1: float, bias_2: float, std_2: float) -> float:
    return (std_1**2 - std_2**2) / (abs(bias_2) - abs(bias_1))


def _biases_with_their_signs(bias_1: float, std_1: float, bias_2: float, std_2: float) -> float:
    return (std_1**2 - std_2**2) / (bias_2 - bias_1)


def _squared_differences(bias_1: float, std_1: float, bias_2: float, std_2: float) -> float:
    return (std_1 - std_2) ** 2 / (bias_2 - bias_1) ** 2


def _upside_down(bias_1: float, std_1: float, bias_2: float, std_2: float) -> float:
    return (bias_2**2 - bias_1**2) / (std_1**2 - std_2**2)


def _negative(bias_1: float, std_1: float, bias_2: float, std_2: float) -> float:
    return (std_1**2 - std_2**2) / (bias_1**2 - bias_2**2)


EXERCISES = (
    Exercise(
        key="risk.sampled",
        title="Bias, spread and risk",
        difficulty=1,
        importance=3,
        minutes=8,
        clue="A mean over n independent samples has the same bias as one sample, and its variance divided by n. "
        "The risk is the squared bias plus the variance.",
        answer=gradient_risk,
        cases=_sampled_gradients,
        oracle=_risk_by_differences,
        misconceptions={
            _of_one_sample: "Your risk is that of a single sample. A batch of n samples divides the variance by n.",
            _with_the_std: "Your risk adds the standard deviation divided by n. Add the variance divided by n, std²/n.",
            _with_the_std_of_a_batch: "Your risk adds the standard deviation of a batch. Add its square, std²/n.",
            _with_the_bare_bias: "Your risk adds the bias itself. Add its square: risk is the mean of a squared error.",
            _with_bias_over_n: "You also divide the squared bias by n. No batch size averages a bias away.",
            _the_other_way_round: "The bias has the wrong sign. It is the mean of the estimates minus the exact value.",
            _spread_of_a_batch: "Risk and bias are right. The second number must be the std of one sample, not that of "
            "a batch.",
            _variance_for_spread: "Risk and bias are right. The second number must be the std, not the variance.",
        },
    ),
    Exercise(
        key="risk.exact_slope",
        title="The exact slope of a whole codec",
        difficulty=3,
        importance=3,
        minutes=15,
        clue="The slope has two parts. The first is a sum over the boundaries x = (k + ½)/g: density of y, times jump "
        "of the loss, times ∂y/∂g. The second is the mean of loss_slope over all samples, each with its symbol.",
        answer=exact_slope,
        cases=_code,
        oracle=_slope_by_difference,
        tolerance=5e-3,  # a finite difference over the samples is a right answer too
        misconceptions={
            partial(
                _slope, jump_sign=-1.0
            ): "The jump has the wrong sign. When y = g x rises above k + ½, the loss of symbol k + 1 "
            "replaces that of symbol k.",
            partial(
                _slope, moved=False
            ): "The factor ∂y/∂g = x is missing. Samples far from zero cross their boundaries faster.",
            partial(
                _slope, of_x=True
            ): "You used the density of x. The crossings need the density of y = g x, which is the density "
            "of x times 1/g.",
            partial(
                _slope, in_y=True
            ): "You used y = k + ½ in place of x. The sample at that boundary is x = (k + ½)/g.",
            partial(
                _slope, within=False
            ): "These are the boundary crossings alone. The decoder depends on the gain, so the loss "
            "also changes within the cells. Add the mean of loss_slope.",
            _only_within: "This is the result of autograd, the change at fixed symbols. The crossings are missing.",
        },
    ),
    Exercise(
        key="risk.batch_size",
        title="A batch size of equal risk",
        difficulty=1,
        importance=2,
        minutes=6,
        clue="Write both risks and set them equal. Then collect the terms with n on one side.",
        answer=level_batch_size,
        cases=_two_surrogates,
        oracle=_level_by_bisection,
        misconceptions={
            _bare_stds: "You subtracted standard deviations. The risk contains variances, so square them first.",
            _bare_biases: "You subtracted biases. The risk contains their squares.",
            _biases_with_their_signs: "You subtracted biases. The risk contains their squares.",
            _squared_differences: "You squared differences. Subtract squares instead.",
            _upside_down: "This is 1/n: exchange numerator and denominator.",
            _negative: "This batch size is negative: one of the two differences has the wrong sign.",
        },
    ),
)
