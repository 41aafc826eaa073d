"""The settings of a training run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from labkit import defaults, schedules
from labkit.checks import check_at_least, check_positive
from labkit.schedules import Schedule
from labkit.training import processes
from labkit.training.precision import native_precision


@dataclass(frozen=True)
class Settings:
    """Settings of a training run, checked on creation.

    `labkit.train`, `labkit train` and sweep files share these defaults, which `labkit.defaults` defines:

    - The learning rate falls from 8e-4 to 1e-5 along half a cosine. A constant rate leaves gradient noise in the
      final weights, and a rate that ends near zero averages it out.
    - The device is a GPU if there is one, and the CPU otherwise.
    - The precision of image codecs is the one in which the device trains faster (see `native_precision`). Toys, which
      are too small to gain from bfloat16, train in float32, as do stacks.
    - Networks are created with `schemes.mixed()`: noise for the rate and straight-through rounding for the decoder,
      which Minnen and Singh (2020, https://arxiv.org/abs/2007.08739) found better than noise for both.

    Sweeps have three different defaults, because results from different machines must be comparable: float32 instead of
    the device's own precision, one thread, and no processes that read images. Toys in sweeps have their own defaults.

    Attributes:
        lmbda: Weight of the distortion, on CompressAI's scale (λ · 255² · MSE for images).
        steps: Number of optimizer steps.
        batch_size: Number of crops or points per step, over all processes.
        crop: Side of the training crops in pixels.
        permute_colors: True trains with a random order of the color channels in half of the crops.
        lr: Learning rate of Adam: a number, a schedule, or a schedule as text such as "cosine:8e-4:1e-5".
        clip: Largest gradient norm; gradients with a larger norm are scaled down to it.
        ema: Decay of an exponential moving average of the weights, such as 0.999. The network ends with the averaged
            weights. None keeps the weights of the last step.
        seed: Seed for batches and quantization noise.
        device: Name of a torch device. None uses a GPU if there is one.
        precision: "float32" or "bfloat16", for the transforms. The entropy model, quantization and loss always use
            float32. None chooses a precision.
        compile: True compiles the transforms with `torch.compile`, which needs a C++ compiler and takes about a minute.
        workers: Number of processes that read images if the images do not fit into memory. None chooses a number.

    Raises:
        ValueError: If a setting is out of range. The message names the setting.
    """

    lmbda: float
    steps: int
    batch_size: int = defaults.BATCH_SIZE
    crop: int = defaults.CROP
    permute_colors: bool = defaults.PERMUTE_COLORS
    lr: float | str | Schedule = defaults.LR
    clip: float = defaults.CLIP
    ema: float | None = defaults.EMA
    seed: int = defaults.SEED
    device: str | None = defaults.DEVICE
    precision: str | None = defaults.PRECISION
    compile: bool = defaults.COMPILE
    workers: int | None = defaults.WORKERS

    def __post_init__(self) -> None:
        check_positive(lmbda=self.lmbda, clip=self.clip)
        check_at_least(1, steps=self.steps, batch_size=self.batch_size, crop=self.crop)
        check_at_least(0, seed=self.seed, workers=self.workers or 0)
        if isinstance(self.lr, str):
            object.__setattr__(self, "lr", schedules.parse(self.lr))
        if not isinstance(self.lr, Schedule):
            check_positive(lr=self.lr)
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must be a decay between 0 and 1, or None, got {self.ema!r}")
        if self.precision not in (None, *processes.PRECISIONS):
            raise ValueError(f"precision must be {' or '.join(processes.PRECISIONS)}, got {self.precision!r}")
        processes.device(self.device)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0, without warm-up."""
        return self.lr(step, self.steps) if isinstance(self.lr, Schedule) else float(self.lr)

    def resolved(self, low_precision: bool) -> Settings:
        """Return the settings with None replaced by this machine's device and precision.

        Args:
            low_precision: True replaces None with the faster precision, and False replaces it with float32.
        """
        device = self.device or processes.default_device()
        precision = self.precision or (native_precision(device) if low_precision else "float32")
        if device == "cpu":  # processes that train together time separately, and all use the result of the first
            precision = processes.gathered([precision])[0]
        return dataclasses.replace(self, device=device, precision=precision)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-compatible values, with schedules as text."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: str(value) if isinstance(value, Schedule) else value for name, value in values.items()}
