"""Quantization schemes: which surrogate stands on which path of a codec.

A learned codec quantizes in several places, and the literature mixes surrogates between them. In training

    y ─┬─ rate surrogate ────────► entropy model ─► bits
       └─ distortion surrogate ──► synthesis transform ─► reconstruction

and the same two paths for the hyper-latent. At test time a scheme has no say: the codec rounds.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from labkit import surrogates
from labkit.schedules import Schedule, constant
from labkit.schemes.description import SchemeDescription
from labkit.surrogates import Surrogate

Noise = tuple[Tensor | None, Tensor | None]  # of the rate path and of the distortion path
PATHS = ("rate", "distortion", "hyper_rate", "hyper_distortion")


@dataclass(frozen=True)
class QuantizationScheme:
    """Where each surrogate stands in training.

    rate, distortion: surrogate (or its short name) of the latent that the entropy model scores, and of the one that
        the synthesis transform reads; hyper_rate, hyper_distortion: the same for the hyper-latent.
    zero_center: quantize y − μ and add μ back; false quantizes y itself. Coding is always ⌊y − μ⌉ + μ.
    stop_gradient: with zero_center, μ is a constant on the distortion path, so the reconstruction error sends no
        gradient into the network that predicts μ; the rate still does.
    scale_lower_bound: lower bound on σ, in training and in the coder's tables.
    shared_noise: one draw of noise serves both paths, or each its own.
    temperature: a number, or a schedule over training.

    Raises ValueError naming the field, what it got and what it takes.
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
                try:
                    object.__setattr__(self, path, surrogates.get(value))
                except ValueError as error:
                    raise ValueError(f"{path}: {error}") from None
            elif not isinstance(value, Surrogate):
                raise ValueError(f"{path}: takes a surrogate or its name, got {value!r}")
        for name in ("zero_center", "stop_gradient", "shared_noise"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: takes True or False, got {getattr(self, name)!r}")
        bound = self.scale_lower_bound
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 < bound < 256:
            raise ValueError(f"scale_lower_bound: takes a number between 0 and 256, got {bound!r}")
        if self.stop_gradient and not self.zero_center:
            raise ValueError("stop_gradient: needs zero_center=True, since only then μ is on the distortion path")
        if not isinstance(self.temperature, Schedule):
            object.__setattr__(self, "temperature", as_schedule(self.temperature))

    def draw(self, y: Tensor, generator: torch.Generator | None = None, hyper: bool = False) -> Noise:
        """Noise of both paths for latents like y: with `shared_noise` one draw for both, where both take that shape."""
        rate, distortion = self._pair(hyper)
        noise = rate.draw(y, generator)
        if self.shared_noise and rate.random and distortion.random and rate.noise_shape(y) == distortion.noise_shape(y):
            return noise, noise
        return noise, distortion.draw(y, generator)

    def _pair(self, hyper: bool) -> tuple[Surrogate, Surrogate]:
        return (self.hyper_rate, self.hyper_distortion) if hyper else (self.rate, self.distortion)

    def quantize_rate(
        self, y: Tensor, mean: Tensor | None, temperature: float | Tensor, noise: Noise, hyper: bool = False
    ) -> Tensor:
        """ỹ for the entropy model: the surrogate of y − μ, plus μ, or of y itself without `zero_center`."""
        return _around(self._pair(hyper)[0], y, mean if self.zero_center else None, temperature, noise[0])

    def quantize_distortion(
        self, y: Tensor, mean: Tensor | None, temperature: float | Tensor, noise: Noise, hyper: bool = False
    ) -> Tensor:
        """ỹ for the synthesis transform, likewise; with `stop_gradient` μ is a constant there."""
        center = mean if self.zero_center else None
        if center is not None and self.stop_gradient:
            center = center.detach()
        return _around(self._pair(hyper)[1], y, center, temperature, noise[1])

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
        """What training puts in place of ŷ: ỹ for the rate and ỹ for the distortion, both of y's shape.

        y: latents, any shape, floating; mean: μ, of a shape that broadcasts to y's, or None; noise: what `draw` gave,
        or None for a new draw from `generator`. One tensor serves both paths where surrogate, noise and center agree.
        """
        noise = self.draw(y, generator, hyper) if noise is None else noise
        rate, distortion = self._pair(hyper)
        y_rate = self.quantize_rate(y, mean, temperature, noise, hyper)
        stopped = self.stop_gradient and mean is not None and mean.requires_grad
        if rate == distortion and noise[0] is noise[1] and not stopped:
            return y_rate, y_rate
        return y_rate, self.quantize_distortion(y, mean, temperature, noise, hyper)

    def describe(self) -> SchemeDescription:
        """Which surrogate stands where: text when printed, a table and a data-flow picture in a notebook."""
        return SchemeDescription([("", self)])

    def replace(self, **changes: Any) -> QuantizationScheme:
        """The same scheme with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary that JSON can hold; `from_dict` makes the scheme from it again."""
        plain: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for path in PATHS:
            plain[path] = {"name": plain[path].name, **dataclasses.asdict(plain[path])}
        plain["temperature"] = dataclasses.asdict(self.temperature)
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> QuantizationScheme:
        """The scheme that `to_dict` wrote. Raises ValueError for a field that no scheme has."""
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(plain) - known):
            raise ValueError(f"{unknown[0]}: no field of a scheme (there are {', '.join(sorted(known))})")
        values = dict(plain)
        for path in PATHS:
            if isinstance(values.get(path), dict):
                values[path] = surrogates.get(**values[path])
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
    """One scheme for the first `share` of the training steps, another for the rest, with the analysis side frozen.

    The second stage quantizes hard: nothing random is left, and the synthesis transform and the entropy model settle on
    what they will read at test time (Guo et al., Soft then Hard, 2021). Both schemes have one scale lower bound.
    """

    first: QuantizationScheme
    second: QuantizationScheme
    share: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share: takes a fraction between 0 and 1, got {self.share!r}")
        if self.first.scale_lower_bound != self.second.scale_lower_bound:
            raise ValueError("second: both stages take the same scale_lower_bound, the coder's tables start there")

    def describe(self) -> SchemeDescription:
        """Both stages, one below the other."""
        second = f"then, for the remaining {1 - self.share:.0%}, with the analysis side frozen"
        return SchemeDescription([(f"for the first {self.share:.0%} of the steps", self.first), (second, self.second)])

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, for `from_dict`."""
        return {"first": self.first.to_dict(), "second": self.second.to_dict(), "share": self.share}


Scheme = QuantizationScheme | TwoStages


def first_stage(scheme: Scheme) -> QuantizationScheme:
    """The scheme that training starts with: the first of two stages, or the scheme itself."""
    return scheme.first if isinstance(scheme, TwoStages) else scheme


def last_stage(scheme: Scheme) -> QuantizationScheme:
    """What training ends with: the second of two stages, or the scheme itself."""
    return scheme.second if isinstance(scheme, TwoStages) else scheme


def from_dict(plain: dict[str, Any]) -> Scheme:
    """The scheme, of one stage or two, whose `to_dict` gave this."""
    if "first" not in plain:
        return QuantizationScheme.from_dict(plain)
    stages = {name: QuantizationScheme.from_dict(plain[name]) for name in ("first", "second")}
    return TwoStages(**stages, share=plain["share"])


def as_schedule(temperature: float | Schedule) -> Schedule:
    """A number as a constant schedule; a schedule as it is. Raises ValueError for anything else."""
    if isinstance(temperature, Schedule):
        return temperature
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        raise ValueError(f"temperature: takes a positive number or a schedule, got {temperature!r}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature: must be positive and finite, got {temperature!r}")
    return constant(float(temperature))
