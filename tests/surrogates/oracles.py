"""The laws of the surrogates in NumPy float64, implemented independently from their formulas.

A law is a function of the latent y, a uniform draw v on [0, 1), and the temperature. `ORACLES` contains the law of each
surrogate. `SLOPES` contains the derivative that back-propagation uses, if it is not the exact derivative of the law.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from labkit import surrogates

Array = Any
Law = Callable[[Array, Array, float], Array]


def softmax(*logits: Array) -> list[Array]:
    largest = np.max(np.stack(np.broadcast_arrays(*logits)), axis=0)
    weights = [np.exp(logit - largest) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def soft(y: Array, tau: float) -> Array:
    if 1 / tau < 1e-3:
        return y
    m = np.floor(y) + 0.5
    return m + np.tanh((y - m) / tau) / (2 * np.tanh(0.5 / tau))


def soft_inverse(z: Array, tau: float) -> Array:
    if 1 / tau < 1e-3:
        return z
    m = np.floor(z) + 0.5
    with np.errstate(divide="ignore"):
        return m + np.clip(np.arctanh(2 * (z - m) * np.tanh(0.5 / tau)) * tau, -0.5, 0.5)


def soft_mean(z: Array, tau: float) -> Array:
    return soft_inverse(z - 0.5, tau) + 0.5


def soft_slope(y: Array, tau: float) -> Array:
    if 1 / tau < 1e-3:
        return np.ones_like(y)
    m = np.floor(y) + 0.5
    return (1 - np.tanh((y - m) / tau) ** 2) / tau / (2 * np.tanh(0.5 / tau))


def tied_a(tau: float) -> float:
    return 1 + min(max((tau - 0.1) / 0.2, 0.0), 1.0)


def kumaraswamy(v: Array, a: float) -> Array:
    b = (2**a * (a - 1) + 1) / a
    return (1 - (1 - v) ** (1 / b)) ** (1 / a) - 0.5


def logistic(v: Array) -> Array:
    return np.log(v) - np.log1p(-v)


def sra_up_probability(y: Array, tau: float) -> Array:
    down = np.floor(y)
    with np.errstate(divide="ignore"):
        return softmax(-np.arctanh(y - down) / tau, -np.arctanh(down + 1 - y) / tau)[1]


def sga(y: Array, v: Array, tau: float) -> Array:
    down, up = np.floor(y), np.ceil(y)
    logits = [-np.arctanh(np.minimum(distance, 1 - 1e-5)) / tau for distance in (y - down, up - y)]
    weight_down, weight_up = softmax(logits[0] / tau, (logits[1] + logistic(v)) / tau)
    return weight_down * down + weight_up * up


def ssl2(y: Array, v: Array, tau: float, a: float = 4 / 3) -> Array:
    down, up = np.floor(y), np.ceil(y)
    distances = [np.clip(distance, 1e-5, 1 - 1e-5) for distance in (y - down, up - y)]
    logits = [-np.log(1 + (d / (1 - d)) ** a) / tau for d in distances]
    weight_down, weight_up = softmax(logits[0] / tau, (logits[1] + logistic(v)) / tau)
    return weight_down * down + weight_up * up


def ssl3(y: Array, v: Array, tau: float, a: float = 1.4, f: float = 1.4, n: float = 1.5) -> Array:
    candidates = [np.rint(y) + step for step in (-1, 0, 1)]
    distances = [np.clip(f * np.abs(y - c) / 1.5, 1e-5, 1 - 1e-5) for c in candidates]
    logits = [-n * np.log(1 + (d / (1 - d)) ** a) / tau for d in distances]
    gumbels = [-np.log(-np.log(draw)) for draw in v]
    weights = softmax(*[(logit + gumbel) / tau for logit, gumbel in zip(logits, gumbels, strict=True)])
    return sum(weight * c for weight, c in zip(weights, candidates, strict=True))


def sua_relaxed(y: Array, v: Array, tau: float) -> Array:
    down = np.floor(y)
    return down + np.clip((y - down - 0.5) / tau + v, 0, 1)


def sua_mean(y: Array, tau: float) -> Array:
    down = np.floor(y)
    return down + np.clip((y - down - 0.5) / tau + 0.5, 0, 1)


def sua_slope(y: Array, v: Array, tau: float) -> Array:
    return np.where(np.abs(y - np.floor(y) - 0.5) < tau / 2, 1 / tau, 0.0)


SPECS: dict[str, tuple[str, dict[str, Any]]] = {
    "round": ("round", {}),
    "aun": ("aun", {}),
    "ste": ("ste", {}),
    "sr": ("sr", {}),
    "uq": ("uq", {}),
    "uq-shared": ("uq", {"shared": True}),
    "ds": ("ds", {}),
    "sra": ("sra", {}),
    "soft": ("soft", {}),
    "soft-noise": ("soft", {"noise": True}),
    "ksr": ("ksr", {}),
    "ksr-1": ("ksr", {"a": 1.0}),
    "ksr-1.6": ("ksr", {"a": 1.6}),
    "sga": ("sga", {}),
    "ssl2": ("ssl", {"classes": 2}),
    "ssl3": ("ssl", {"classes": 3}),
    "dither": ("dither", {}),
    "sua": ("sua", {}),
    "sua-expected": ("sua", {"gradient": "expected"}),
    "sua-relaxed": ("sua", {"relaxed": True}),
}
SURROGATES = {key: surrogates.get(name, **options) for key, (name, options) in SPECS.items()}

ORACLES: dict[str, Law] = {
    "round": lambda y, v, tau: np.rint(y),
    "aun": lambda y, v, tau: y + v - 0.5,
    "ste": lambda y, v, tau: np.rint(y),
    "sr": lambda y, v, tau: np.floor(y) + (v < y - np.floor(y)),
    "uq": lambda y, v, tau: np.rint(y - (v - 0.5)) + v - 0.5,
    "uq-shared": lambda y, v, tau: np.rint(y - (v - 0.5)) + v - 0.5,
    "ds": lambda y, v, tau: np.rint(y),
    "sra": lambda y, v, tau: np.floor(y) + (v < sra_up_probability(y, tau)),
    "soft": lambda y, v, tau: soft(y, tau),
    "soft-noise": lambda y, v, tau: soft_mean(soft(y, tau) + v - 0.5, tau),
    "ksr": lambda y, v, tau: soft_mean(soft(y, tau) + kumaraswamy(v, tied_a(tau)), tau),
    "ksr-1": lambda y, v, tau: soft_mean(soft(y, tau) + v - 0.5, tau),
    "ksr-1.6": lambda y, v, tau: soft_mean(soft(y, tau) + kumaraswamy(v, 1.6), tau),
    "sga": sga,
    "ssl2": ssl2,
    "ssl3": ssl3,
    "dither": lambda y, v, tau: np.rint(y + tau * (v - 0.5)) - tau * (v - 0.5),
    "sua": lambda y, v, tau: np.rint(y + tau * (v - 0.5)),
    "sua-expected": lambda y, v, tau: np.rint(y + tau * (v - 0.5)),
    "sua-relaxed": sua_relaxed,
}

SLOPES: dict[str, Law] = {
    "round": lambda y, v, tau: np.zeros_like(y),
    **dict.fromkeys(("aun", "ste", "sr", "uq", "uq-shared", "sra", "dither", "sua"), lambda y, v, tau: np.ones_like(y)),
    "ds": lambda y, v, tau: soft_slope(y, tau),
    "sua-expected": sua_slope,
}
