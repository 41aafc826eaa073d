"""CompressAI's entropy modules, carrying a quantization scheme.

Subclasses with the same parameters and buffers: a state dict fits both ways, and in evaluation mode they are
CompressAI's own code. In training mode the scheme says what the entropy model scores (the rate path) and what is
handed on (the distortion path):

    inputs ─┬─ rate surrogate ───────► likelihood
            └─ distortion surrogate ─► output
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck as _EntropyBottleneck
from compressai.entropy_models import GaussianConditional as _GaussianConditional
from compressai.models.base import SCALES_LEVELS, SCALES_MAX, get_scale_table
from torch import Tensor, nn

from labkit import schemes
from labkit.schedules import Schedule
from labkit.schemes import Noise, QuantizationScheme


class SchemeCarrier:
    """The part that both entropy modules share: a scheme, the current temperature, a source of noise."""

    scheme: QuantizationScheme
    temperature: Tensor
    generator: torch.Generator | None
    part: tuple[int, int]
    _offset: Tensor
    register_buffer: Callable[..., None]  # of the nn.Module that this is mixed into

    def _carry(self, scheme: QuantizationScheme | None) -> None:
        self.scheme = scheme or schemes.noise()
        self.generator, self.part = None, (0, 1)
        # a buffer, so that it moves with the model and never recompiles; not persistent, so that state dicts
        # keep CompressAI's keys
        temperature = torch.tensor(float(self.scheme.temperature.start), device=self._offset.device)
        self.register_buffer("temperature", temperature, persistent=False)

    def _own(self, y: Tensor, draw: Callable[[Tensor], Noise]) -> Noise:
        """What `draw` gives for y. Where y is a part of a batch: that part of what it gives for the whole."""
        k, m = self.part
        if m == 1:
            return draw(y)
        noise = draw(y[:1].expand(m * len(y), *y.shape[1:]))  # a draw looks at shape and type alone
        rate, distortion = (None if v is None else v.narrow(v.dim() - y.dim(), k * len(y), len(y)) for v in noise)
        return (rate, rate) if noise[0] is noise[1] else (rate, distortion)


class EntropyBottleneck(SchemeCarrier, _EntropyBottleneck):
    """CompressAI's factorized entropy model, carrying a scheme's hyper paths, or its main ones in a factorized prior.

    channels: C; inputs have shape (batch, C, …). main: use `rate` and `distortion` instead of the hyper paths.
    In training, `forward` gives the distortion path's output and the rate path's likelihood, both of the input's shape.
    """

    def __init__(
        self, channels: int, *args: Any, scheme: QuantizationScheme | None = None, main: bool = False, **kw: Any
    ):
        super().__init__(channels, *args, **kw)
        self.main = main
        self._carry(scheme)

    def forward(self, x: Tensor, training: bool | None = None) -> tuple[Tensor, Tensor]:
        if not (self.training if training is None else training):
            return super().forward(x, training=False)
        with torch.autocast(x.device.type, enabled=False):
            medians = self._extend_ndims(self._get_medians().detach(), x.dim() - 2)
            y, hyper = _at_least_float32(x), not self.main
            noise = self._own(y, lambda whole: self.scheme.draw(whole, self.generator, hyper))
            y_rate, y_distortion = self.scheme.quantize(y, medians, self.temperature, noise=noise, hyper=hyper)
            channels_first = y_rate.transpose(0, 1)
            likelihood, _, _ = self._likelihood(channels_first.reshape(x.size(1), 1, -1))
            if self.use_likelihood_bound:
                likelihood = self.likelihood_lower_bound(likelihood)
            return y_distortion, likelihood.reshape(channels_first.shape).transpose(0, 1)


class GaussianConditional(SchemeCarrier, _GaussianConditional):
    """CompressAI's Gaussian entropy model, carrying a scheme and its lower bound on σ.

    The bound reaches the coder: `scale_table(bound)` starts at it. After loading a state dict the scheme's bound wins,
    with a warning where the two differ.
    """

    def __init__(self, scale_table: Any = None, *args: Any, scheme: QuantizationScheme | None = None, **kw: Any):
        scheme = scheme or schemes.noise()
        super().__init__(scale_table, *args, scale_bound=scheme.scale_lower_bound, **kw)
        self._carry(scheme)

    def forward(
        self,
        inputs: Tensor,
        scales: Tensor,
        means: Tensor | None = None,
        training: bool | None = None,
        noise: Noise | None = None,
    ) -> tuple[Tensor, Tensor]:
        """In training: the distortion path's latent and the rate path's likelihood, with the noise that `draw` gave."""
        if not (self.training if training is None else training):
            return super().forward(inputs, scales, means, training=False)
        with torch.autocast(inputs.device.type, enabled=False):
            y, scales = _at_least_float32(inputs), _at_least_float32(scales)
            means = None if means is None else _at_least_float32(means)
            if noise is None:
                noise = self._own(y, lambda whole: self.scheme.draw(whole, self.generator))
            y_rate, y_distortion = self.scheme.quantize(y, means, self.temperature, noise=noise)
            likelihood = self._likelihood(y_rate, scales, means)
            if self.use_likelihood_bound:
                likelihood = self.likelihood_lower_bound(likelihood)
            return y_distortion, likelihood

    def draw(self, y: Tensor) -> Noise:
        """Noise of (rate, distortion) for a latent that a context model reads as well.

        Where each path has its own, the distortion's is drawn first: CompressAI quantizes for the context model before
        it scores, and the same seed then gives the same numbers.
        """
        return self._own(y, self._draw_for_context)

    def _draw_for_context(self, y: Tensor) -> Noise:
        if self.scheme.shared_noise:
            return self.scheme.draw(y, self.generator)
        distortion = self.scheme.distortion.draw(y, self.generator)
        return self.scheme.rate.draw(y, self.generator), distortion

    def quantize_distortion(self, y: Tensor, means: Tensor | None, noise: Noise) -> Tensor:
        """What a context model reads in training: the distortion path around the means, or, given None, of y itself."""
        means = None if means is None else _at_least_float32(means)
        return self.scheme.quantize_distortion(_at_least_float32(y), means, self.temperature, noise)

    def update_scale_table(self, scale_table: Any, force: bool = False) -> bool:
        """Build the coder's tables, from the scheme's bound on, whatever table the model hands to all its modules."""
        return super().update_scale_table(_from_bound(self.scheme.scale_lower_bound, scale_table), force=force)

    def set_scale_bound(self, bound: float) -> None:
        """Set the lower bound on σ, and drop coder tables that start elsewhere (`update` makes them again)."""
        value = torch.tensor([float(bound)], device=self.scale_bound.device)
        self.scale_bound.copy_(value)
        self.lower_bound_scale.bound.copy_(value)
        if self.scale_table.numel() and float(self.scale_table[0]) != float(value):
            for name in ("scale_table", "_offset", "_quantized_cdf", "_cdf_length"):
                setattr(self, name, getattr(self, name).new_empty(0))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        bound = self.scheme.scale_lower_bound
        loaded = state_dict.get(f"{prefix}lower_bound_scale.bound")
        if loaded is not None and float(loaded) != float(torch.tensor(bound)):
            warnings.warn(
                f"the state dict's scale bound {float(loaded):g} gives way to the scheme's {bound:g}",
                stacklevel=_to_the_caller(),
            )
        for key in (f"{prefix}scale_bound", f"{prefix}lower_bound_scale.bound"):  # the second is a child's, loaded next
            if key in state_dict:
                state_dict[key] = torch.full_like(state_dict[key], bound)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.set_scale_bound(bound)  # drops loaded tables that start elsewhere


def _to_the_caller() -> int:
    """The stack level of whoever called into torch, CompressAI or labkit; from Python 3.12 on, warnings can tell."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in ("torch", "compressai", "labkit"):
        frame, level = frame.f_back, level + 1
    return level


def scale_table(bound: float) -> Tensor:
    """The scales that the coder has tables for: 64 from the bound to 256, evenly spaced on a logarithmic scale.

    The first is the bound as float32, to the bit: a latent at a bound that lay one ulp above the first entry would be
    coded with the second. Shape (64,). Raises ValueError for a bound outside (0, 256).
    """
    if not 0 < bound < SCALES_MAX:
        raise ValueError(f"bound: takes a number between 0 and {SCALES_MAX}, got {bound!r}")
    table = get_scale_table(bound, SCALES_MAX, SCALES_LEVELS)
    table[0] = bound
    return table


def _from_bound(bound: float, table: Any) -> Any:
    return table if float(table[0]) == float(torch.tensor(bound)) else scale_table(bound)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def carriers(model: nn.Module) -> list[SchemeCarrier]:
    """The modules of a model that carry a scheme."""
    return [module for module in model.modules() if isinstance(module, SchemeCarrier)]


def set_scheme(model: nn.Module, scheme: QuantizationScheme) -> None:
    """Give every carrier the scheme, its first temperature, and its scale bound."""
    for module in carriers(model):
        module.scheme = scheme
        if isinstance(module, GaussianConditional):
            module.set_scale_bound(scheme.scale_lower_bound)
    set_temperature(model, scheme.temperature.start)


def set_temperature(model: nn.Module, temperature: float | Schedule) -> None:
    """Set the temperature of every carrier, in place, a schedule's to its first. Raises ValueError if not positive."""
    start = schemes.as_schedule(temperature).start
    for module in carriers(model):
        module.temperature.fill_(start)


def set_generator(model: nn.Module, generator: torch.Generator | None, part: tuple[int, int] = (0, 1)) -> None:
    """Set the source of training noise; None is torch's own.

    part: (k, m) where the model is given the k-th of m equal parts of each batch: it draws the noise of them all, and
    takes its own.
    """
    for module in carriers(model):
        module.generator, module.part = generator, part


def drop_tables(model: nn.Module) -> None:
    """Forget the entropy bottlenecks' coder tables, which training makes stale; `model.update()` makes them again."""
    for module in carriers(model):
        if isinstance(module, EntropyBottleneck):
            for name in ("_offset", "_quantized_cdf", "_cdf_length"):
                setattr(module, name, getattr(module, name).new_empty(0))


def solve_quantiles(model: nn.Module) -> None:
    """Solve the quantiles of every entropy bottleneck directly: no auxiliary optimizer is needed."""
    for module in carriers(model):
        if isinstance(module, EntropyBottleneck):
            module._update_quantiles()
