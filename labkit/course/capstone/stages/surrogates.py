"""Stage 1: additive noise, straight-through, and relaxed uniform annealing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .verdicts import Array, Result, Wrong, array, close, require

PLACES = np.array([-2.35, -1.05, -0.3, 0.15, 0.42, 0.58, 1.9, 3.25])  # latents at which the surrogates are compared
DRAWS = 20_000
Z = 5.0  # standard errors; in fewer than 100 comparisons, a right answer fails with a probability below 1 in 10,000


def relaxed_law(y: Array, tau: float, center: float = 0.5) -> tuple[Array, Array]:
    """Return the mean and variance of ⌊y⌋ + clip((r − ½)/τ + u + center, 0, 1), by midpoints over u."""
    u = (np.arange(4000) + 0.5) / 4000 - 0.5
    low = np.floor(y)
    values = low[:, None] + np.clip((y - low - 0.5)[:, None] / tau + u + center, 0, 1)
    return values.mean(1), values.var(1)


def check(codec: Any, work: Any) -> Result:
    """Compare the distributions and slopes of the three surrogates with NumPy's."""
    _check_noise(codec.noise)
    _check_straight_through(codec.straight_through)
    for tau in (0.8, 0.3):
        _check_relaxed(codec.relaxed, tau)
    return Result("All three laws and slopes agree with NumPy's.")


def _draw(surrogate: Any, name: str, tau: float) -> tuple[Array, Array]:
    """Return draws and slopes at each place, both of shape (DRAWS, places)."""
    y = torch.tensor(PLACES, dtype=torch.float32).repeat(DRAWS, 1).requires_grad_()
    generator = torch.Generator().manual_seed(1)
    value = surrogate(y, tau, generator)
    drawn = array(value, f"{name}(y, tau, generator)", tuple(y.shape))
    require(value.requires_grad, f"{name} cuts the graph: no gradient reaches y. Do not detach y itself.")
    value.sum().backward()
    require(y.grad is not None, f"{name} sends no gradient to y.")
    return drawn, array(y.grad, "the gradient")


def _check_generator(surrogate: Any, name: str) -> None:
    def draws(seed: int) -> list[Array]:
        generator, y = torch.Generator().manual_seed(seed), torch.full((50,), 0.4)
        return [array(surrogate(y, 0.9, generator), name) for _ in range(2)]

    torch.manual_seed(3)
    first, second = draws(5)
    torch.manual_seed(4)
    again = draws(5)[0]
    require(
        close(first, again, 1e-12),
        f"{name} does not draw from its generator: the same seed gave other numbers. Pass generator=generator to "
        "torch.rand.",
    )
    require(not close(first, second), f"{name} draws the same numbers in every call. Do not seed the generator again.")
    require(
        np.ptp(first) > 1e-6,
        f"{name} adds the same number to all latents. Draw one number for each: torch.rand(y.shape).",
    )


def _check_noise(noise: Any) -> None:
    drawn, slope = _draw(noise, "noise", 0.5)
    _check_generator(noise, "noise")
    u = drawn - PLACES
    mean, variance, largest = u.mean(), u.var(), abs(u).max()
    if largest > 0.501 or abs(mean) > Z / np.sqrt(12 * u.size) or abs(variance * 12 - 1) > 0.02:
        if abs(mean - 0.5) < 0.01:
            raise Wrong("The noise has the mean ½: torch.rand lies in (0, 1). Subtract ½, or all latents drift upward.")
        if abs(variance - 1 / 3) < 0.01:
            raise Wrong("The noise spans two steps, from −1 to 1. The rounding error spans one: −½ to ½.")
        if largest > 0.6 and abs(mean) < 0.02:
            raise Wrong(
                f"The noise is not uniform on (−½, ½): its variance is {variance:.3f} and its largest value "
                f"{largest:.2f}. Normal noise does not have the law of a rounding error."
            )
        raise Wrong(f"The noise has mean {mean:.3f} and variance {variance:.4f}; expected 0 and 1/12 = 0.0833.")
    require(close(slope, np.ones_like(slope)), "The slope of noise must be 1: ỹ = y + u, and u does not depend on y.")


def _check_straight_through(straight_through: Any) -> None:
    value, slope = _draw(straight_through, "straight_through", 0.5)
    expected = np.broadcast_to(np.rint(PLACES), value.shape)
    if not close(value, expected, 1e-6):
        if close(value, np.broadcast_to(np.floor(PLACES), value.shape)):
            raise Wrong("straight_through returns ⌊y⌋. Round to the nearest integer, as the codec does.")
        raise Wrong("straight_through must return the rounded latent, so that training reads what the decoder reads.")
    if close(slope, np.zeros_like(slope)):
        raise Wrong(
            "straight_through has the slope 0, that of torch.round: the encoder would never learn. Let the rounded "
            "value go forward as a constant, and y carry the gradient."
        )
    require(close(slope, np.ones_like(slope)), f"straight_through must have the slope 1, got {slope.mean():.3f}.")


def _check_relaxed(relaxed: Any, tau: float) -> None:
    drawn, slope = _draw(relaxed, "relaxed", tau)
    mean, variance = relaxed_law(PLACES, tau)
    if np.ptp(drawn, axis=0).max() < 1e-6:
        raise Wrong("relaxed is not random: it lacks the noise u.")
    _check_generator(relaxed, "relaxed")
    error = np.sqrt(variance / DRAWS) + 1e-4
    if (abs(drawn.mean(0) - mean) > Z * error).any() or (abs(drawn.var(0) - variance) > 0.02).any():
        if close(drawn, np.rint(drawn), 1e-5):
            raise Wrong(
                "relaxed returns integers: this is the hard form ⌊y + τu⌉. The relaxed form clips a ramp between ⌊y⌋ "
                "and ⌊y⌋ + 1, so that it has a slope of its own."
            )
        if (abs(drawn.mean(0) - relaxed_law(PLACES, 1 / tau)[0]) < 0.02).all():
            raise Wrong("relaxed multiplies by τ where it should divide: small τ must make the ramp steep.")
        if (abs(drawn.mean(0) - relaxed_law(PLACES, tau, 0)[0]) < 0.02).all():
            raise Wrong("relaxed lacks the ½ after u: at r = ½, the ramp must lie in the middle between 0 and 1.")
        place = int(np.argmax(abs(drawn.mean(0) - mean)))
        raise Wrong(
            f"relaxed at y = {PLACES[place]:g}, τ = {tau:g} has mean {drawn.mean(0)[place]:.3f} and variance "
            f"{drawn.var(0)[place]:.4f}; expected {mean[place]:.3f} and {variance[place]:.4f}."
        )
    step = 1e-3
    expected = (relaxed_law(PLACES + step, tau)[0] - relaxed_law(PLACES - step, tau)[0]) / (2 * step)
    got = slope.mean(0)
    if (abs(got - expected) > Z * slope.std(0) / np.sqrt(DRAWS) + 0.01).any():
        if close(slope, np.ones_like(slope)):
            raise Wrong(
                "relaxed has the straight-through slope 1. Let autograd differentiate the ramp: detach nothing."
            )
        raise Wrong(
            f"The mean slope of relaxed must be the derivative of its mean: {np.round(expected, 2).tolist()} at "
            f"y = {PLACES.tolist()}, got {np.round(got, 2).tolist()}."
        )
