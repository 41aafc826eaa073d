"""Exercises of the lesson “Start here”: bits per pixel and PSNR, the axes of every rate–distortion plot."""

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


def psnr(mse: float) -> float:
    """Return the PSNR in dB of an image with values from 0 to 255, given its mean squared error."""
    return 10 * math.log10(255**2 / mse)


def _errors(seed: int) -> tuple[float]:
    return (float(np.random.default_rng(seed).uniform(5, 400)),)


def _psnr_by_amplitude(mse: float) -> float:
    """Return 20 log₁₀ of the peak minus 20 log₁₀ of the root mean squared error."""
    return float(20 * (np.log10(255) - np.log10(np.sqrt(mse))))


def _peak_of_one(mse: float) -> float:
    return -10 * math.log10(mse)


def _peak_not_squared(mse: float) -> float:
    return 10 * math.log10(255 / mse)


def _natural_logarithm(mse: float) -> float:
    return 10 * math.log(255**2 / mse)


def _squared_twice(mse: float) -> float:
    return 20 * math.log10(255**2 / mse)


EXERCISES = (
    Exercise(
        key="codec.bpp",
        title="Bits per pixel",
        difficulty=1,
        importance=3,
        minutes=3,
        clue="A byte has eight bits. A pixel is one place in the image, and all of its colors belong to it.",
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
        clue="Divide the largest possible squared value, 255², by the mean squared error. Then take 10 log₁₀ of the "
        "ratio.",
        answer=psnr,
        cases=_errors,
        oracle=_psnr_by_amplitude,
        misconceptions={
            _peak_of_one: "This is right for pixel values between 0 and 1. Here the peak is 255.",
            _peak_not_squared: "The error is squared, so the peak must be squared too: 255².",
            _natural_logarithm: "Decibels use the logarithm to base ten. math.log is the natural logarithm.",
            _squared_twice: "This is twice the PSNR. The factor is 20 for a ratio of amplitudes, and 10 for a ratio of "
            "squares.",
        },
    ),
)
