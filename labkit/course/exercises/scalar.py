"""Exercises of the lesson on scalar quantization: the loss, a gradient for rounding, and two best gains."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from labkit.course.exercises.base import Answer, Exercise
from labkit.statistics import Array

# scalar.loss: the rate–distortion loss of an image


def rate_distortion_loss(likelihoods: Tensor, x: Tensor, x_hat: Tensor, lmbda: float) -> Tensor:
    """Return bits per pixel + λ · 255² · MSE, for images of shape (1, 3, H, W) with values in [0, 1]."""
    pixels = x.shape[2] * x.shape[3]
    rate = -torch.log2(likelihoods).sum() / pixels
    return rate + lmbda * 255**2 * torch.mean((x - x_hat) ** 2)


def _coded_image(seed: int) -> tuple[Tensor, Tensor, Tensor, float]:
    rng = np.random.default_rng(seed)
    likelihoods = rng.uniform(0.05, 1, (1, 40, 3, 4))
    x = rng.uniform(0, 1, (1, 3, 24, 32))
    x_hat = x + rng.normal(0, 0.03, x.shape)
    tensors = [torch.from_numpy(each).float() for each in (likelihoods, x, x_hat)]
    return tensors[0], tensors[1], tensors[2], float(rng.choice([0.0035, 0.013, 0.05]))


def _loss_by_products(likelihoods: Tensor, x: Tensor, x_hat: Tensor, lmbda: float) -> float:
    """Compute the bits of forty latents from their joint probability, and the error (0 to 255) from a norm."""
    bits = 0.0
    for p in likelihoods.numpy().astype(np.float64).reshape(-1, 40):
        bits -= math.log2(math.prod(p))  # independent latents: their probabilities multiply
    error = 255 * (x.numpy().astype(np.float64) - x_hat.numpy().astype(np.float64))
    height, width = error.shape[-2:]
    return bits / (height * width) + lmbda * float(np.linalg.norm(error)) ** 2 / error.size


def _in_nats(likelihoods: Tensor, x: Tensor, x_hat: Tensor, lmbda: float) -> Tensor:
    return -torch.log(likelihoods).sum() / x[0, 0].numel() + lmbda * 255**2 * torch.mean((x - x_hat) ** 2)


def _per_latent(likelihoods: Tensor, x: Tensor, x_hat: Tensor, lmbda: float) -> Tensor:
    return -torch.log2(likelihoods).mean() + lmbda * 255**2 * torch.mean((x - x_hat) ** 2)


def _per_value(likelihoods: Tensor, x: Tensor, x_hat: Tensor, lmbda: float) -> Tensor:
    return -torch.log2(likelihoods).sum() / x.numel() + lmbda * 255**2 * torch.mean((x - x_hat) ** 2)


def _unit_scale(likelihoods: Tensor, x: Tensor, x_hat: Tensor, lmbda: float) -> Tensor:
    return -torch.log2(likelihoods).sum() / x[0, 0].numel() + lmbda * torch.mean((x - x_hat) ** 2)


def _summed_error(likelihoods: Tensor, x: Tensor, x_hat: Tensor, lmbda: float) -> Tensor:
    return -torch.log2(likelihoods).sum() / x[0, 0].numel() + lmbda * 255**2 * torch.sum((x - x_hat) ** 2)


def _rewards_bits(likelihoods: Tensor, x: Tensor, x_hat: Tensor, lmbda: float) -> Tensor:
    return torch.log2(likelihoods).sum() / x[0, 0].numel() + lmbda * 255**2 * torch.mean((x - x_hat) ** 2)


# scalar.straight_through: straight through


def straight_through(y: Tensor) -> Tensor:
    """Return ⌊y⌉ with derivative 1: autograd treats the correction that rounds y as a constant."""
    return y + (torch.round(y) - y).detach()


def _latents(seed: int) -> tuple[Tensor]:
    return (torch.from_numpy(np.random.default_rng(seed).uniform(-4, 4, 12)).float(),)


def _value_and_gradient(answer: Answer, y: Tensor) -> Array:
    """Return ỹ and the gradient of Σ ỹ³ with respect to y, which is 3 ỹ² if the derivative of ỹ is 1."""
    leaf = y.clone().requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rounded = answer(leaf)
    if not isinstance(rounded, Tensor):
        raise TypeError("the function must return a tensor with the shape of y")
    if rounded.requires_grad:
        (rounded**3).sum().backward()
    gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return np.stack([rounded.detach().numpy(), gradient.numpy()])


def _rounded_and_three_squares(y: Tensor) -> Array:
    rounded = np.floor(y.numpy().astype(np.float64) + 0.5)
    return np.stack([rounded, 3 * rounded**2])


def _only_rounds(y: Tensor) -> Tensor:
    return torch.round(y)


def _does_not_round(y: Tensor) -> Tensor:
    return y + 0


def _adds_noise(y: Tensor) -> Tensor:
    return y + torch.rand_like(y) - 0.5


def _detaches_the_wrong_part(y: Tensor) -> Tensor:
    return torch.round(y) + y.detach() - y


# scalar.gain: the best gain


def best_gain(lmbda: float) -> float:
    """Minimize ½ log₂(2πe g²) + λ/(12 g²) over g: set the derivative 1/(g ln 2) − λ/(6 g³) to zero."""
    return math.sqrt(lmbda * math.log(2) / 6)


def _tradeoff(seed: int) -> tuple[float]:
    return (float(np.random.default_rng(seed).uniform(60, 400)),)


def _best_gain_by_search(lmbda: float) -> float:
    """Minimize the exact loss of a rounded Gaussian; quadrature gives the entropy and the squared error."""
    cells, inside = np.arange(-80, 81), (np.arange(200) + 0.5) / 200 - 0.5

    def loss(gain: float) -> float:
        y = cells[:, None] + inside
        mass = np.exp(-0.5 * (y / gain) ** 2) / (gain * math.sqrt(2 * math.pi)) / len(inside)
        p = mass.sum(1)
        bits = -np.sum(p[p > 0] * np.log2(p[p > 0]))
        return float(bits + lmbda * np.sum(mass * inside**2) / gain**2)

    return _golden_section(loss, 0.5, 20.0)


def _gain_in_nats(lmbda: float) -> float:
    return math.sqrt(lmbda / 6)


def _gain_squared(lmbda: float) -> float:
    return lmbda * math.log(2) / 6


def _step_instead_of_gain(lmbda: float) -> float:
    return 1 / math.sqrt(lmbda * math.log(2) / 6)


def _error_of_the_whole_step(lmbda: float) -> float:
    return math.sqrt(2 * lmbda * math.log(2))


# scalar.minimum: the gain at which the exact slope is zero, while decoder and model stay fixed at ½


def gain_of_the_minimum() -> float:
    """Find the minimum by bisection on the boundary form: the slope is negative below it and positive above it."""
    boundary = torch.arange(-8, 8, dtype=torch.float64) + 0.5
    low, high = 0.3, 0.8
    for _ in range(40):
        gain = (low + high) / 2
        x = boundary / gain
        losses = []
        for k in (boundary - 0.5, boundary + 0.5):  # the integers on both sides of each boundary
            p = (torch.erfc((k.abs() - 0.5) * 2**0.5) - torch.erfc((k.abs() + 0.5) * 2**0.5)) / 2
            losses.append(-torch.log2(p) + 6 * (k / 0.5 - x) ** 2)
        density = torch.exp(-0.5 * x**2) / (gain * math.sqrt(2 * math.pi))
        slope = torch.sum(density * (losses[1] - losses[0]) * x)
        low, high = (gain, high) if slope < 0 else (low, gain)
    return low


def _least_average_loss(rate: float = 1.0) -> float:
    """Minimize the average loss itself, from the moments of a Gaussian within each cell, without its derivative."""
    k = np.arange(-8, 9)
    root = math.sqrt(2)
    p = np.array([0.5 * (math.erfc((abs(n) - 0.5) * root) - math.erfc((abs(n) + 0.5) * root)) for n in k])

    def loss(gain: float) -> float:
        edges = np.append(k - 0.5, k[-1] + 0.5) / gain
        below = np.array([0.5 * math.erfc(-edge / root) for edge in edges])
        density = np.exp(-0.5 * edges**2) / math.sqrt(2 * math.pi)
        mass, mean, square = np.diff(below), -np.diff(density), np.diff(below) - np.diff(edges * density)
        error = square - 4 * k * mean + 4 * k**2 * mass  # error of x − 2k within each cell
        return float(np.sum(-rate * np.log2(p) * mass + 6 * error))

    return _golden_section(loss, 0.3, 0.8)


def _golden_section(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the location of the minimum between two limits."""
    for _ in range(60):
        a, b = high - 0.618034 * (high - low), low + 0.618034 * (high - low)
        low, high = (low, b) if function(a) < function(b) else (a, high)
    return (low + high) / 2


def _read_off_the_figure() -> float:
    return 0.46


def _step_of_one_sample() -> float:
    return 0.5 / 1.3


EXERCISES = (
    Exercise(
        key="scalar.loss",
        title="The loss, from likelihoods",
        difficulty=1,
        importance=3,
        minutes=8,
        hints=(
            "Compute R and D separately, each in the unit that the section on the loss gives, and add them at the end.",
            "Check three things: the base of the logarithm, the number that divides the bits, and the scale of the "
            "error.",
            "The bits of all latents are −log₂ p(ŷ), summed. Divide them by H × W of x, not by the number of latents. "
            "D multiplies the mean of the squared differences by 255².",
        ),
        answer=rate_distortion_loss,
        cases=_coded_image,
        oracle=_loss_by_products,
        misconceptions={
            _in_nats: "Your rate is in nats, because torch.log is the natural logarithm. Bits need the logarithm to "
            "base 2.",
            _per_latent: "Your rate is in bits per latent. Add the bits of all latents, then divide by the number of "
            "pixels.",
            _per_value: "You divide by the number of color values. The three values of a pixel count as one pixel.",
            _unit_scale: "Your error is on the scale 0 to 1, where it has almost no weight. λ multiplies 255² · MSE.",
            _summed_error: "Your error is a sum. D is a mean over pixels and colors.",
            _rewards_bits: "log₂ of a probability is negative. With this sign, training would increase the number of "
            "bits.",
        },
    ),
    Exercise(
        key="scalar.straight_through",
        title="Straight through",
        difficulty=2,
        importance=3,
        minutes=6,
        hints=(
            "You need an expression whose value is ⌊y⌉, but in which autograd sees only y.",
            "Write ⌊y⌉ as y plus a correction. Which of the two should autograd see?",
            "tensor.detach() returns the same values as a constant. Apply it to the correction ⌊y⌉ − y.",
        ),
        answer=straight_through,
        cases=_latents,
        oracle=_rounded_and_three_squares,
        probe=_value_and_gradient,
        misconceptions={
            _only_rounds: "The values are right, but no gradient comes back: the derivative of torch.round is zero.",
            _does_not_round: "The gradient passes, but nothing is rounded. The values must be integers.",
            _adds_noise: "This is additive noise. The straight-through estimator gives integers in the forward pass.",
            _detaches_the_wrong_part: "The values are right, but the gradient has the wrong sign: you detached the "
            "wrong y.",
        },
    ),
    Exercise(
        key="scalar.gain",
        title="The best gain",
        difficulty=3,
        importance=2,
        minutes=12,
        hints=(
            "Write R + λD as a function of g with the two formulas for high rate, and look for its minimum.",
            "½ log₂(2πe g²) is log₂ g plus a constant. Set the derivative of log₂ g + λ/(12 g²) to zero.",
            "The derivative of log₂ g is 1/(g ln 2), and that of λ/(12 g²) is −λ/(6 g³). Multiply their sum by g³.",
        ),
        answer=best_gain,
        cases=_tradeoff,
        oracle=_best_gain_by_search,
        tolerance=5e-3,
        misconceptions={
            _gain_in_nats: "A factor ln 2 is missing. The rate is in bits, so its derivative is 1/(g ln 2), not 1/g.",
            _gain_squared: "This is the square of the gain.",
            _step_instead_of_gain: "This is the step size 1/g in units of the source. Return the gain g.",
            _error_of_the_whole_step: "You used the square of the whole step, 1/g², as the error. A uniform error has "
            "a twelfth of it.",
        },
    ),
    Exercise(
        key="scalar.minimum",
        title="Where the slope is zero",
        difficulty=2,
        importance=2,
        minutes=12,
        hints=(
            "The lesson's exact_slope moves decoder and model along with the gain. Here they stay at ½, so only the "
            "boundaries and the density of y depend on the gain.",
            "Write a function of the gain that calls loss(…, fixed=0.5) at the boundaries, and print it for a few "
            "gains around 0.46. Where does its sign change?",
            "Bisect: start with an interval at whose ends the slope has different signs, halve it, and keep the half "
            "in which the sign changes. Twenty halvings are enough.",
        ),
        answer=gain_of_the_minimum,
        oracle=_least_average_loss,
        tolerance=1e-4,
        misconceptions={
            _read_off_the_figure: "0.46 is what Figure 1 shows. Use the boundary form to get four digits.",
            _step_of_one_sample: "This is the step of the one sample in Figure 1. The average has no step there.",
            partial(_least_average_loss, rate=0.0): "This minimizes the distortion alone. The jump of the loss "
            "includes the bits.",
        },
    ),
)
