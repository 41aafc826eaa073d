"""Exercises of the lesson on scalar quantization: the loss, a gradient for rounding, and the best step size."""

from __future__ import annotations

import math

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

    low, high = 0.5, 20.0
    for _ in range(60):  # golden-section search
        a, b = high - 0.618034 * (high - low), low + 0.618034 * (high - low)
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return (low + high) / 2


def _gain_in_nats(lmbda: float) -> float:
    return math.sqrt(lmbda / 6)


def _gain_squared(lmbda: float) -> float:
    return lmbda * math.log(2) / 6


def _step_instead_of_gain(lmbda: float) -> float:
    return 1 / math.sqrt(lmbda * math.log(2) / 6)


def _error_of_the_whole_step(lmbda: float) -> float:
    return math.sqrt(2 * lmbda * math.log(2))


EXERCISES = (
    Exercise(
        key="scalar.loss",
        title="The loss, from likelihoods",
        difficulty=1,
        importance=3,
        minutes=8,
        clue="Check three things: the base of the logarithm, the number that divides the bits, and the scale of the "
        "error.",
        answer=rate_distortion_loss,
        cases=_coded_image,
        oracle=_loss_by_products,
        misconceptions={
            _in_nats: "Your rate is in nats, since torch.log is the natural logarithm. Bits need the logarithm to base "
            "2.",
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
        clue="Write ⌊y⌉ as y plus a correction. Which of the two should autograd see? tensor.detach() hides the other "
        "one.",
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
        clue="Set the derivative of ½ log₂(2πe g²) + λ/(12 g²) with respect to g to zero. That of log₂ g is 1/(g ln "
        "2).",
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
)
