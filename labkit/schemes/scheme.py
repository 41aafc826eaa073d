"""Quantization schemes: which surrogate is used on which path of a codec.

A learned codec quantizes in several places, and the literature combines different surrogates. In training, the latent
takes two paths,

    y ─┬─ rate surrogate ────────► entropy model ─► bits
       └─ distortion surrogate ──► synthesis transform ─► reconstruction

and the hyper-latent takes the same two paths. At test time, the codec rounds under every scheme.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from labkit import surrogates
from labkit.checks import check_name
from labkit.schedules import Schedule, constant
from labkit.schemes.description import SchemeDescription, StageDescription
from labkit.surrogates import Surrogate

Noise = tuple[Tensor | None, Tensor | None]  # noise of the rate path and of the distortion path
PATHS = ("rate", "distortion", "hyper_rate", "hyper_distortion")


@dataclass(frozen=True, repr=False)
class QuantizationScheme:
    """The surrogate of each path, and how the latent is quantized in training.

    Attributes:
        rate: Surrogate for the latent that the entropy model scores. Instead of a surrogate, its short name is
            accepted, or a dictionary of the name and options: {"name": "aun", "gradient": "expected"}.
        distortion: Surrogate for the latent that the synthesis transform reads.
        hyper_rate: Surrogate for the hyper-latent that the entropy model scores.
        hyper_distortion: Surrogate for the hyper-latent that the hyper-synthesis transform reads.
        zero_center: True quantizes y − μ and adds μ back; False quantizes y itself. The coder always uses ⌊y − μ⌉ + μ.
        stop_gradient: With zero_center, treat μ as a constant on the distortion path, so the reconstruction error sends
            no gradient into the network that predicts μ. The rate still does.
        scale_lower_bound: Lower bound on σ, in training and in the coder's tables.
        shared_noise: True uses one draw of noise for both paths; False draws noise for each path.
        temperature: Schedule over the training steps, or a number.

    Raises:
        ValueError: If a field has an invalid value. The message names the field.

    Example:
        >>> import labkit as lk
        >>> scheme = lk.schemes.QuantizationScheme(distortion="ste", temperature=0.5)
        >>> scheme
        QuantizationScheme(distortion=ste, temperature=0.5)
    """

    rate: Surrogate = field(default_factory=lambda: surrogates.get("aun"))
    distortion: Surrogate = field(default_factory=lambda: surrogates.get("aun"))
    hyper_rate: Surrogate = field(default_factory=lambda: surrogates.get("aun"))
    hyper_distortion: Surrogate = field(default_factory=lambda: surrogates.get("aun"))
    zero_center: bool = True
    stop_gradient: bool = False
    scale_lower_bound: float = 0.11
    shared_noise: bool = True
    temperature: Schedule = field(default_factory=lambda: constant(1.0))

    def __post_init__(self) -> None:
        for path in PATHS:
            value = getattr(self, path)
            if isinstance(value, str):
                value = {"name": value}
            if isinstance(value, Mapping) and "name" in value:
                try:
                    object.__setattr__(self, path, surrogates.get(**value))
                except ValueError as error:
                    raise ValueError(f"{path}: {error}") from None
            elif not isinstance(value, Surrogate):
                raise ValueError(f"{path} must be a surrogate or the name of one, got {value!r}")
        for name in ("zero_center", "stop_gradient", "shared_noise"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        bound = self.scale_lower_bound
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 < bound < 256:
            raise ValueError(f"scale_lower_bound must be a number between 0 and 256, got {bound!r}")
        if self.stop_gradient and not self.zero_center:
            raise ValueError("stop_gradient requires zero_center=True: μ is on the distortion path only then")
        if not isinstance(self.temperature, Schedule):
            object.__setattr__(self, "temperature", as_schedule(self.temperature))

    def __repr__(self) -> str:
        default = QuantizationScheme()
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        changed = (f"{name}={value}" for name, value in values.items() if value != getattr(default, name))
        return f"QuantizationScheme({', '.join(changed)})"

    def __str__(self) -> str:
        return str(self.describe())

    def draw(self, y: Tensor, generator: torch.Generator | None = None, hyper: bool = False) -> Noise:
        """Draw the noise of both paths.

        Args:
            y: Latents of any shape.
            generator: Source of the noise.
            hyper: Use the hyper paths.

        Returns:
            The noise of the rate path and of the distortion path. With `shared_noise`, they are the same tensor if both
            surrogates take noise of the same shape. The entry of a path without noise is None.
        """
        rate, distortion = self.pair(hyper)
        noise = rate.draw(y, generator)
        if self.shared_noise and rate.random and distortion.random and rate.noise_shape(y) == distortion.noise_shape(y):
            return noise, noise
        return noise, distortion.draw(y, generator)

    def pair(self, hyper: bool = False) -> tuple[Surrogate, Surrogate]:
        """Return the surrogates of the rate path and of the distortion path.

        Args:
            hyper: Use the hyper paths.
        """
        return (self.hyper_rate, self.hyper_distortion) if hyper else (self.rate, self.distortion)

    def quantize_rate(
        self, y: Tensor, mean: Tensor | None, temperature: float | Tensor, noise: Noise, hyper: bool = False
    ) -> Tensor:
        """Return ỹ for the entropy model.

        Args:
            y: Latents of any shape.
            mean: Mean μ, broadcastable to the shape of y, or None.
            temperature: Temperature τ.
            noise: Result of `draw`.
            hyper: Use the hyper paths.

        Returns:
            The surrogate of y − μ, plus μ. Without `zero_center`, the surrogate of y itself.
        """
        return _around(self.pair(hyper)[0], y, mean if self.zero_center else None, temperature, noise[0])

    def quantize_distortion(
        self, y: Tensor, mean: Tensor | None, temperature: float | Tensor, noise: Noise, hyper: bool = False
    ) -> Tensor:
        """Return ỹ for the synthesis transform, as `quantize_rate` does; with `stop_gradient`, μ is a constant here."""
        center = mean if self.zero_center else None
        if center is not None and self.stop_gradient:
            center = center.detach()
        return _around(self.pair(hyper)[1], y, center, temperature, noise[1])

    def quantize(
        self,
        y: Tensor,
        mean: Tensor | None = None,
        temperature: float | Tensor = 1.0,
        *,
        generator: torch.Generator | None = None,
        noise: Noise | None = None,
        hyper: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return the two latents that training uses in place of ŷ.

        Args:
            y: Latents of any shape, floating-point.
            mean: Mean μ, broadcastable to the shape of y, or None.
            temperature: Temperature τ.
            generator: Source of the noise.
            noise: Result of `draw`, used instead of a new draw.
            hyper: Use the hyper paths.

        Returns:
            ỹ for the rate and ỹ for the distortion, both with the shape of y. They are the same tensor if both paths
            have the same surrogate, noise and center.
        """
        noise = self.draw(y, generator, hyper) if noise is None else noise
        rate, distortion = self.pair(hyper)
        y_rate = self.quantize_rate(y, mean, temperature, noise, hyper)
        stopped = self.stop_gradient and mean is not None and mean.requires_grad
        if rate == distortion and noise[0] is noise[1] and not stopped:
            return y_rate, y_rate
        return y_rate, self.quantize_distortion(y, mean, temperature, noise, hyper)

    def describe(self) -> SchemeDescription:
        """Describe the scheme: text when printed, a table and a data-flow diagram in a notebook."""
        return SchemeDescription([self._stage()])

    def _stage(self, title: str = "") -> StageDescription:
        center = "y − μ is quantized and μ is added back" if self.zero_center else "y itself is quantized, not y − μ"
        if self.stop_gradient:
            center += "; on the distortion path μ is a constant, so the reconstruction error sends no gradient into it"
        notes = [
            f"center: {center}",
            f"scale: σ ≥ {self.scale_lower_bound:g}, in training and in the coder's tables",
            f"noise: {'one draw for both paths' if self.shared_noise else 'one draw for each path'}",
            f"temperature: {self.temperature}",
            "at test time: ⌊y − μ⌉ + μ on both paths, whatever the scheme",
        ]
        surrogates_of_paths = {path: getattr(self, path) for path in PATHS}
        return StageDescription(surrogates_of_paths, self.zero_center, self.stop_gradient, notes, title)

    def replace(self, **changes: Any) -> QuantizationScheme:
        """Return the same scheme with other values for some fields."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the scheme as a JSON-compatible dictionary, which `from_dict` reads."""
        plain: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for path in PATHS:
            plain[path] = plain[path].to_dict()
        plain["temperature"] = dataclasses.asdict(self.temperature)
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> QuantizationScheme:
        """Make a scheme from the dictionary that `to_dict` returned.

        Args:
            plain: Dictionary of fields.

        Raises:
            ValueError: If a field is unknown or has an invalid value.
        """
        for name in plain:
            check_name("field", name, (f.name for f in dataclasses.fields(cls)), where="scheme")
        values = dict(plain)
        if isinstance(values.get("temperature"), dict):
            values["temperature"] = Schedule(**values["temperature"])
        return cls(**values)


def _around(
    surrogate: Surrogate, y: Tensor, center: Tensor | None, temperature: float | Tensor, noise: Tensor | None
) -> Tensor:
    if center is None:
        return surrogate(y, temperature, noise=noise)
    return surrogate(y - center, temperature, noise=noise) + center


@dataclass(frozen=True)
class TwoStages:
    """One scheme for the first part of the training and another for the rest, with the analysis transforms frozen.

    The second stage rounds and has no noise, so the synthesis transform and the entropy model adapt to the latents that
    they will read at test time (Guo et al., 2021, https://arxiv.org/abs/2104.05168).

    Attributes:
        first: Scheme of the first stage.
        second: Scheme of the second stage, with the same scale lower bound.
        share: Fraction of the training steps that belong to the first stage.

    Raises:
        ValueError: If the share is not between 0 and 1, or the scale lower bounds differ.
    """

    first: QuantizationScheme
    second: QuantizationScheme
    share: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share must be a number between 0 and 1, got {self.share!r}")
        if self.first.scale_lower_bound != self.second.scale_lower_bound:
            raise ValueError("both stages must have the same scale_lower_bound, since the coder's tables start there")

    def __str__(self) -> str:
        return str(self.describe())

    def describe(self) -> SchemeDescription:
        """Describe both stages, one below the other."""
        first = self.first._stage(f"for the first {self.share:.0%} of the steps")
        second = self.second._stage(f"for the remaining {1 - self.share:.0%}, with the analysis side frozen")
        return SchemeDescription([first, second])

    def to_dict(self) -> dict[str, Any]:
        """Return both stages as a JSON-compatible dictionary, which `from_dict` reads."""
        return {"first": self.first.to_dict(), "second": self.second.to_dict(), "share": self.share}


Scheme = QuantizationScheme | TwoStages


def first_stage(scheme: Scheme) -> QuantizationScheme:
    """Return the scheme that training starts with: the first of two stages, or the scheme itself."""
    return scheme.first if isinstance(scheme, TwoStages) else scheme


def last_stage(scheme: Scheme) -> QuantizationScheme:
    """Return the scheme that training ends with: the second of two stages, or the scheme itself."""
    return scheme.second if isinstance(scheme, TwoStages) else scheme


def from_dict(plain: dict[str, Any]) -> Scheme:
    """Make a scheme of one or two stages from the dictionary that `to_dict` returned.

    Args:
        plain: Dictionary of fields.

    Raises:
        ValueError: If a field is unknown or has an invalid value.
    """
    if "first" not in plain:
        return QuantizationScheme.from_dict(plain)
    stages = {name: QuantizationScheme.from_dict(plain[name]) for name in ("first", "second")}
    return TwoStages(**stages, share=plain["share"])


def as_schedule(temperature: float | Schedule) -> Schedule:
    """Convert a number to a constant schedule; return a schedule unchanged.

    Args:
        temperature: Positive number or schedule.

    Raises:
        ValueError: If the temperature is neither a positive number nor a schedule.
    """
    if isinstance(temperature, Schedule):
        return temperature
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be a positive finite number or a schedule, got {temperature!r}")
    return constant(float(temperature))
