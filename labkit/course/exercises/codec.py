"""Exercises of the lesson “Start here”: bits per pixel and decibels, the axes of every rate–distortion plot."""

from __future__ import annotations

import math

import numpy as np

from labkit.course.exercises.base import Exercise


def bits_per_pixel(n_bytes: int, height: int, width: int) -> float:
    """Return the bits per pixel of a compressed image."""
    return 8 * n_bytes / (height * width)


def _sizes(seed: int) -> tuple[int, int, int]:
    rng = np.random.default_rng(seed)
    return int(rng.integers(2_000, 60_000)), int(rng.integers(200, 900)), int(rng.integers(200, 900))


def _count_bits(n_bytes: int, height: int, width: int) -> float:
    """Unpack the file into bits, make an array of the image's pixels, and count both."""
    return np.unpackbits(np.zeros(n_bytes, np.uint8)).size / np.zeros((height, width)).size


def _bytes_per_pixel(n_bytes: int, height: int, width: int) -> float:
    return n_bytes / (height * width)


def _bits_per_sample(n_bytes: int, height: int, width: int) -> float:
    return 8 * n_bytes / (3 * height * width)


def _compression_ratio(n_bytes: int, height: int, width: int) -> float:
    return 3 * height * width / n_bytes


def typical_error(psnr: float) -> float:
    """Return the root mean squared error in gray levels; for every 20 dB less, the error is ten times as large."""
    return float(255 / 10 ** (psnr / 20))


def _decibels(seed: int) -> tuple[float]:
    return (float(np.random.default_rng(seed).uniform(24, 45)),)


def _error_by_search(psnr: float) -> float:
    """Find the error that gives this PSNR by bisection."""
    low, high = 0.01, 255.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 20 * np.log10(255 / middle) > psnr else (low, middle)
    return low


def _squared_error(psnr: float) -> float:
    return 255**2 / 10 ** (psnr / 10)


def _of_a_power(psnr: float) -> float:
    return 255 / 10 ** (psnr / 10)


def _peak_of_one(psnr: float) -> float:
    return 1 / 10 ** (psnr / 20)


def _natural_exponential(psnr: float) -> float:
    return 255 / math.exp(psnr / 20)


EXERCISES = (
    Exercise(
        key="codec.bpp",
        title="Bits per pixel",
        difficulty=1,
        importance=3,
        minutes=3,
        hints=(
            "A byte has eight bits.",
            "A pixel is one place in the image, and its three color values belong to it.",
            "Divide the bits of the file by height times width.",
        ),
        answer=bits_per_pixel,
        cases=_sizes,
        oracle=_count_bits,
        misconceptions={
            _bytes_per_pixel: "This is the number of bytes per pixel. A byte has eight bits.",
            _bits_per_sample: "This is the number of bits per color value. The three colors of a place count as one "
            "pixel.",
            _compression_ratio: "This is the compression ratio: the size of the raw pixels divided by the size of the "
            "file.",
        },
    ),
    Exercise(
        key="codec.psnr",
        title="Decibels",
        difficulty=1,
        importance=3,
        minutes=4,
        hints=(
            "Solve the formula of the PSNR for the MSE. The typical error is its square root.",
            "PSNR/10 is the logarithm, to base ten, of 255²/MSE. So 255²/MSE is 10 to the power of PSNR/10.",
            "Take the square root on both sides: 255 divided by the error is 10 to the power of PSNR/20.",
        ),
        answer=typical_error,
        cases=_decibels,
        oracle=_error_by_search,
        misconceptions={
            _squared_error: "This is the mean squared error. Take its square root.",
            _of_a_power: "Decibels of a ratio of amplitudes have the factor 20; you used the 10 of a ratio of squares.",
            _peak_of_one: "This is the error of values between 0 and 1. Gray levels go up to 255.",
            _natural_exponential: "Decibels use the logarithm to base ten, so invert it with a power of ten.",
        },
    ),
)
