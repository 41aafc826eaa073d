"""The measurements of one training step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor


@dataclass(repr=False)
class Step:
    """Measurements of one training step, with the surrogates that training uses instead of rounding.

    On an accelerator, reading `loss`, `rate`, `distortion` or `norm` waits until the device has finished the step.

    Attributes:
        step: Number of the step, counted from 1.
        steps: Number of steps in the run.
        temperature: Temperature of the surrogates.
        lr: Learning rate, including warm-up.
        seconds: Duration of the step as measured on the CPU.
        waited: Part of these seconds that the step spent waiting for its batch.
        measured: Loss, rate, distortion and gradient norm, as numbers or as a tensor of shape (4,) on the device.
    """

    step: int
    steps: int
    temperature: float
    lr: float
    seconds: float
    waited: float
    measured: Tensor | tuple[float, ...]

    COLUMNS: ClassVar = ("step", "loss", "rate", "distortion", "norm", "temperature", "lr", "seconds", "waited")

    def __repr__(self) -> str:
        loss = f"loss {self.loss:.4g}" if self.ready else "loss not read yet"
        return f"Step({self.step} of {self.steps}, {loss})"

    @property
    def ready(self) -> bool:
        """True if reading the loss does not synchronize the device."""
        return not isinstance(self.measured, Tensor) or not self.measured.is_cuda

    def _read(self, index: int) -> float:
        if isinstance(self.measured, Tensor):
            self.measured = tuple(self.measured.tolist())
        return self.measured[index]

    @property
    def loss(self) -> float:
        """Rate plus λ times distortion."""
        return self._read(0)

    @property
    def rate(self) -> float:
        """Bits per pixel for images, bits per point for points."""
        return self._read(1)

    @property
    def distortion(self) -> float:
        """255² · MSE for images, squared distance for points."""
        return self._read(2)

    @property
    def norm(self) -> float:
        """Norm of the gradient before clipping."""
        return self._read(3)

    @property
    def bpp(self) -> float:
        """Rate in bits per pixel, for images."""
        return self.rate

    @property
    def psnr(self) -> float:
        """PSNR in dB of the reconstruction during training, for images."""
        return 10 * math.log10(255**2 / self.distortion) if self.distortion > 0 else math.inf

    def row(self) -> dict[str, float]:
        """Return the step as a row of a table with the columns `COLUMNS`."""
        return {name: getattr(self, name) for name in self.COLUMNS}

    @classmethod
    def from_row(cls, row: Sequence[float], steps: int) -> Step:
        """Return the step that a table row describes.

        Args:
            row: Values in the order of `COLUMNS`.
            steps: Number of steps in the run.
        """
        step, loss, rate, distortion, norm, temperature, lr, seconds, waited = row
        return cls(int(step), steps, temperature, lr, seconds, waited, (loss, rate, distortion, norm))

    def check(self) -> Step:
        """Return this step.

        Raises:
            FloatingPointError: If the loss or the gradient norm is not finite.
        """
        for name, value in (("loss", self.loss), ("gradient", self.norm)):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the {name} is {value} at step {self.step}: lower the learning rate, or clip more"
                )
        return self
