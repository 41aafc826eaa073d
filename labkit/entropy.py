"""CompressAI's entropy models with a quantization scheme.

Both classes have the parameters and buffers of CompressAI's classes, so state dicts can be exchanged. In evaluation
mode they run CompressAI's own code. In training mode the scheme chooses what the entropy model scores (the rate path)
and what it returns (the distortion path):

    inputs ─┬─ rate surrogate ───────► likelihood
            └─ distortion surrogate ─► output

A rate surrogate with `expected_rate_gradient` also determines the derivative of the likelihood with respect to the
latent.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit import rans, schemes
from labkit.schedules import Schedule
from labkit.schemes import Noise, QuantizationScheme
from labkit.surrogates.base import with_slope

with warnings.catch_warnings():
    # A dependency of CompressAI calls torch.jit.script, which PyTorch deprecates: users cannot act on it.
    warnings.filterwarnings("ignore", message=r".torch\.jit\.script.")
    from compressai.entropy_models import EntropyBottleneck as _EntropyBottleneck
    from compressai.entropy_models import GaussianConditional as _GaussianConditional
    from compressai.models.base import SCALES_LEVELS, SCALES_MAX, get_scale_table


class SchemeCarrier:
    """Base of both entropy models: a scheme, its current temperature and a source of noise.

    Attributes:
        scheme: Quantization scheme of the training forward pass.
        temperature: Current temperature, a 0-d tensor.
        generator: Source of the training noise. None means PyTorch's default generator.
        part: (k, m) if the inputs are the k-th of m equal parts of a batch.
    """

    scheme: QuantizationScheme
    temperature: Tensor
    generator: torch.Generator | None
    part: tuple[int, int]
    _offset: Tensor
    register_buffer: Callable[..., None]  # inherited from nn.Module in the subclasses

    def attach_scheme(self, scheme: QuantizationScheme) -> None:
        """Attach a scheme to a module that has none yet, and set the temperature to the scheme's first value."""
        self.scheme = scheme
        self.generator, self.part = None, (0, 1)
        # A buffer moves with the model and never causes recompilation. It is not persistent, so state dicts keep
        # CompressAI's keys.
        temperature = torch.tensor(float(scheme.temperature.start), device=self._offset.device)
        self.register_buffer("temperature", temperature, persistent=False)

    def _noise_of_part(self, y: Tensor, draw: Callable[[Tensor], Noise]) -> Noise:
        """Draw noise for the whole batch and return the share that belongs to this part."""
        k, m = self.part
        if m == 1:
            return draw(y)
        noise = draw(y[:1].expand(m * len(y), *y.shape[1:]))  # a draw depends only on the shape and the dtype
        rate, distortion = (None if v is None else v.narrow(v.dim() - y.dim(), k * len(y), len(y)) for v in noise)
        return (rate, rate) if noise[0] is noise[1] else (rate, distortion)


class EntropyBottleneck(SchemeCarrier, rans.BottleneckCoding, _EntropyBottleneck):
    """CompressAI's factorized entropy model with a scheme (Ballé et al., 2018, https://arxiv.org/abs/1802.01436).

    Args:
        channels: Number of channels C. Inputs have shape (batch, C, …).
        *args: Further arguments of CompressAI's class.
        scheme: Quantization scheme; additive uniform noise by default.
        main: Use the scheme's main paths, as in a factorized prior, instead of its hyper paths.
        **kw: Further keyword arguments of CompressAI's class.
    """

    def __init__(
        self, channels: int, *args: Any, scheme: QuantizationScheme | None = None, main: bool = False, **kw: Any
    ):
        super().__init__(channels, *args, **kw)
        self.main = main
        self.attach_scheme(scheme or schemes.noise())

    def forward(self, x: Tensor, training: bool | None = None) -> tuple[Tensor, Tensor]:
        """Quantize and score a latent.

        Args:
            x: Latent of shape (batch, C, …).
            training: Overrides the module's own training flag.

        Returns:
            The output of the distortion path and the likelihood of the rate path, both with the shape of x.
        """
        if not (self.training if training is None else training):
            evaluated: tuple[Tensor, Tensor] = super().forward(x, training=False)
            return evaluated
        with torch.autocast(x.device.type, enabled=False):
            medians = self._extend_ndims(self._get_medians().detach(), x.dim() - 2)
            y, hyper = _at_least_float32(x), not self.main
            noise = self._noise_of_part(y, lambda whole: self.scheme.draw(whole, self.generator, hyper))
            y_rate, y_distortion = self.scheme.quantize(y, medians, self.temperature, noise=noise, hyper=hyper)
            expected = self.scheme.pair(hyper)[0].expected_rate_gradient
            channels_first = (y_rate.detach() if expected else y_rate).transpose(0, 1)
            likelihood, _, _ = self._likelihood(channels_first.reshape(x.size(1), 1, -1))
            if self.use_likelihood_bound:
                likelihood = self.likelihood_lower_bound(likelihood)
            likelihood = likelihood.reshape(channels_first.shape).transpose(0, 1)
            return y_distortion, _with_log_slope(likelihood, y, self._expected_slope(y)) if expected else likelihood

    @torch.no_grad()
    def _expected_slope(self, y: Tensor) -> Tensor:
        """Return log p(y + ½) − log p(y − ½), where p(y) is the probability between y − ½ and y + ½."""
        channels_first = y.transpose(0, 1)
        values = channels_first.reshape(y.size(1), 1, -1)
        edges = torch.cat([values - 1, values, values + 1], -1)
        low, middle, high = self._logits_cumulative(edges, stop_gradient=True).chunk(3, -1)
        # log(σ(b) − σ(a)) = log σ(b) + log σ(−a) + log(1 − exp(a − b)), which keeps its digits in both tails
        tails = F.logsigmoid(high) - F.logsigmoid(-low) - middle  # log σ(−m) − log σ(m) = −m
        slope = tails + _log_one_minus_exp(middle, high) - _log_one_minus_exp(low, middle)
        slope_of_y: Tensor = slope.reshape(channels_first.shape).transpose(0, 1)
        return slope_of_y


class GaussianConditional(SchemeCarrier, rans.GaussianCoding, _GaussianConditional):
    """CompressAI's Gaussian entropy model with a scheme and its lower bound on σ.

    This is the model of Minnen et al., 2018, https://arxiv.org/abs/1809.02736. The scheme's bound also applies to the
    coder: its tables start at the bound (see `scale_table`). The bound overrides the one in a loaded state dict, with a
    warning if the two differ.

    Args:
        scale_table: Scales for which the coder has tables, or None if `update` builds them later.
        *args: Further arguments of CompressAI's class.
        scheme: Quantization scheme; additive uniform noise by default.
        **kw: Further keyword arguments of CompressAI's class.
    """

    def __init__(self, scale_table: Any = None, *args: Any, scheme: QuantizationScheme | None = None, **kw: Any):
        scheme = scheme or schemes.noise()
        super().__init__(scale_table, *args, scale_bound=scheme.scale_lower_bound, **kw)
        self.attach_scheme(scheme)

    def forward(
        self,
        inputs: Tensor,
        scales: Tensor,
        means: Tensor | None = None,
        training: bool | None = None,
        noise: Noise | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Quantize and score a latent.

        Args:
            inputs: Latent y of any shape.
            scales: Scales σ, broadcastable to the shape of y.
            means: Means μ, broadcastable to the shape of y, or None for zero means.
            training: Overrides the module's own training flag.
            noise: Result of `draw`, or None for a new draw.

        Returns:
            The latent of the distortion path and the likelihood of the rate path, both with the shape of y.
        """
        if not (self.training if training is None else training):
            evaluated: tuple[Tensor, Tensor] = super().forward(inputs, scales, means, training=False)
            return evaluated
        with torch.autocast(inputs.device.type, enabled=False):
            y, scales = _at_least_float32(inputs), _at_least_float32(scales)
            means = None if means is None else _at_least_float32(means)
            if noise is None:
                noise = self._noise_of_part(y, lambda whole: self.scheme.draw(whole, self.generator))
            y_rate, y_distortion = self.scheme.quantize(y, means, self.temperature, noise=noise)
            expected = self.scheme.rate.expected_rate_gradient
            distance = y if means is None else y - means
            if expected:  # the latent and its mean get the slope below
                y_rate, means = y_rate.detach(), None if means is None else means.detach()
            likelihood = self._likelihood(y_rate, scales, means)
            if self.use_likelihood_bound:
                likelihood = self.likelihood_lower_bound(likelihood)
            if expected:
                likelihood = _with_log_slope(likelihood, distance, self._expected_slope(distance, scales))
            return y_distortion, likelihood

    @torch.no_grad()
    def _expected_slope(self, distance: Tensor, scales: Tensor) -> Tensor:
        """Return log p(y + ½) − log p(y − ½), where p(y) is the probability between y − ½ and y + ½.

        Args:
            distance: y − μ.
            scales: Scales σ, not yet bounded.
        """
        scales = self.lower_bound_scale(scales)
        # The slope is odd in the distance. In the lower tail, log Φ keeps its digits.
        inner, middle, outer = (torch.special.log_ndtr((edge - distance.abs()) / scales) for edge in (1, 0, -1))
        slope = middle - inner + _log_one_minus_exp(outer, middle) - _log_one_minus_exp(middle, inner)
        signed: Tensor = slope * distance.sign()
        return signed

    def draw(self, y: Tensor) -> Noise:
        """Draw the noise of both paths for a latent that also feeds a context model.

        If the paths use separate noise, the noise of the distortion path is drawn first. CompressAI, too, quantizes for
        the context model before it scores the latent, so the same seed gives the same numbers.

        Args:
            y: Latent of any shape.
        """
        return self._noise_of_part(y, self._draw_for_context)

    def _draw_for_context(self, y: Tensor) -> Noise:
        if self.scheme.shared_noise:
            return self.scheme.draw(y, self.generator)
        distortion = self.scheme.distortion.draw(y, self.generator)
        return self.scheme.rate.draw(y, self.generator), distortion

    def quantize_distortion(self, y: Tensor, means: Tensor | None, noise: Noise) -> Tensor:
        """Return the latent that a context model reads in training.

        Args:
            y: Latent of any shape.
            means: Means μ to quantize around, or None to quantize y itself.
            noise: Result of `draw`.
        """
        means = None if means is None else _at_least_float32(means)
        return self.scheme.quantize_distortion(_at_least_float32(y), means, self.temperature, noise)

    def update_scale_table(self, scale_table: Any, force: bool = False) -> bool:
        """Build the coder's tables.

        Args:
            scale_table: Scales for the tables. If they do not start at the scheme's bound, `scale_table(bound)`
                replaces them, because CompressAI's `update` gives the same table to all modules.
            force: Build the tables again if they exist already.

        Returns:
            True if tables were built.
        """
        table = _from_bound(self.scheme.scale_lower_bound, scale_table)
        return bool(super().update_scale_table(table, force=force))

    def set_scale_bound(self, bound: float) -> None:
        """Set the lower bound on σ, and drop coder tables that start at another scale; `update` builds them again.

        Args:
            bound: New lower bound, positive.
        """
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
                f"the scheme's scale bound {bound:g} replaces the bound {float(loaded):g} of the state dict",
                stacklevel=2,
            )
        for key in (f"{prefix}scale_bound", f"{prefix}lower_bound_scale.bound"):  # the second is in a child module
            if key in state_dict:
                state_dict[key] = torch.full_like(state_dict[key], bound)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.set_scale_bound(bound)  # drops loaded tables that start at another scale


def _log_one_minus_exp(low: Tensor, high: Tensor) -> Tensor:
    """Return log(1 − exp(low − high)) for low < high, finite even if rounding makes both equal."""
    least = torch.finfo(high.dtype).eps * high.abs().clamp_min(torch.finfo(high.dtype).tiny)
    return torch.maximum(high - low, least).neg_().expm1_().neg_().log_()


def _with_log_slope(likelihood: Tensor, latent: Tensor, slope: Tensor) -> Tensor:
    """Return the likelihood, with `slope` as the derivative of its logarithm with respect to the latent."""
    return likelihood + with_slope(torch.zeros_like(likelihood), latent, likelihood.detach() * slope)


def scale_table(bound: float) -> Tensor:
    """Return the scales for which the coder has tables: 64 from the bound to 256, evenly spaced on a logarithmic scale.

    The first scale is exactly the bound in float32. If it were smaller by one unit in the last place, latents at the
    bound would be coded with the second table.

    Args:
        bound: Lower bound on σ, between 0 and 256.

    Returns:
        Tensor of shape (64,).

    Raises:
        ValueError: If the bound is not between 0 and 256.

    Example:
        >>> import labkit as lk
        >>> table = lk.entropy.scale_table(0.5)
        >>> table.shape, table[0].item()
        (torch.Size([64]), 0.5)
    """
    if not 0 < bound < SCALES_MAX:
        raise ValueError(f"bound must be between 0 and {SCALES_MAX}, got {bound!r}")
    table: Tensor = get_scale_table(bound, SCALES_MAX, SCALES_LEVELS)
    table[0] = bound
    return table


def _from_bound(bound: float, table: Any) -> Any:
    return table if float(table[0]) == float(torch.tensor(bound)) else scale_table(bound)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def carriers(model: nn.Module) -> list[SchemeCarrier]:
    """Return the modules of a model that carry a scheme."""
    return [module for module in model.modules() if isinstance(module, SchemeCarrier)]


def set_scheme(model: nn.Module, scheme: QuantizationScheme) -> None:
    """Set the scheme of every module that carries one, together with its first temperature and its scale bound.

    Args:
        model: Network or adopted model.
        scheme: New scheme.
    """
    for module in carriers(model):
        module.scheme = scheme
        if isinstance(module, GaussianConditional):
            module.set_scale_bound(scheme.scale_lower_bound)
    set_temperature(model, scheme.temperature.start)


def set_temperature(model: nn.Module, temperature: float | Schedule) -> None:
    """Set the temperature of every module that carries a scheme.

    Args:
        model: Network or adopted model.
        temperature: Positive number, or a schedule whose first value is used.

    Raises:
        ValueError: If the temperature is not a positive finite number.
    """
    start = schemes.as_schedule(temperature).start
    for module in carriers(model):
        module.temperature.fill_(start)


def set_generator(model: nn.Module, generator: torch.Generator | None, part: tuple[int, int] = (0, 1)) -> None:
    """Set the source of the training noise.

    Args:
        model: Network or adopted model.
        generator: Source of the noise on the model's device. None means PyTorch's default generator.
        part: (k, m) if the model receives the k-th of m equal parts of each batch. It then draws the noise of the whole
            batch and uses its own part.
    """
    for module in carriers(model):
        module.generator, module.part = generator, part


def drop_tables(model: nn.Module) -> None:
    """Drop the coder tables of all entropy bottlenecks, because training invalidates them; `update` builds them again.

    Args:
        model: Network or adopted model.
    """
    for module in carriers(model):
        if isinstance(module, EntropyBottleneck):
            for name in ("_offset", "_quantized_cdf", "_cdf_length"):
                setattr(module, name, getattr(module, name).new_empty(0))


def solve_quantiles(model: nn.Module) -> None:
    """Compute the quantiles of all entropy bottlenecks directly, so that no auxiliary optimizer is needed.

    Args:
        model: Network or adopted model.
    """
    for module in carriers(model):
        if isinstance(module, EntropyBottleneck):
            module._update_quantiles()
