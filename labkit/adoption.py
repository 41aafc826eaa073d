"""Give a CompressAI model a quantization scheme, in place, and take it out again.

In CompressAI a model quantizes inside its entropy models, and in some places beside them: the codecs with a context
model round or add noise on their own, and hand the entropy model's output to nobody. Adoption gives every module that
quantizes a subclass of its own class, by changing its `__class__`: parameters, buffers, keys and whoever holds a
reference stay as they are. In evaluation each subclass is CompressAI's own code. In training, one draw of noise (or
one for each path) serves all places where a latent y is quantized:

    y ─┬─ rate path around μ ─────────────────────────────────────► likelihood, given μ and σ
       ├─ distortion path around μ ───────────────────────────────► ŷ, for the synthesis transform
       └─ distortion path, of y itself ──► context model ─► μ, σ        raster scan, checkerboard in one pass
          or around the anchors' own μ ──► context model ─► μ, σ        checkerboard in two passes

The context model cannot read a ŷ around μ in one pass, since it is what predicts μ.
"""

from __future__ import annotations

import dis
import functools
import re
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

import torch
from compressai import entropy_models, latent_codecs
from compressai.models import JointAutoregressiveHierarchicalPriors
from torch import Tensor, nn

from labkit import entropy
from labkit.schedules import Schedule
from labkit.schemes import QuantizationScheme, Scheme, TwoStages


class AdoptedHyperLatentCodec(latent_codecs.HyperLatentCodec):
    """Training hands on the hyper distortion path, whatever `quantizer` says."""

    def forward(self, y: Tensor) -> dict[str, Any]:
        if not self.training:
            return super().forward(y)
        z_hat, likelihood = self.entropy_bottleneck(self.h_a(y))
        return {"likelihoods": {"z": likelihood}, "params": self.h_s(z_hat)}


class AdoptedGaussianConditionalLatentCodec(latent_codecs.GaussianConditionalLatentCodec):
    """Training hands on the distortion path, whatever `quantizer` says."""

    def forward(self, y: Tensor, ctx_params: Tensor) -> dict[str, Any]:
        if not self.training:
            return super().forward(y, ctx_params)
        scales, means = self._chunk(self.entropy_parameters(ctx_params))
        y_hat, likelihood = self.gaussian_conditional(y, scales, means=means)
        return {"likelihoods": {"y": likelihood}, "y_hat": y_hat}


class AdoptedRasterScanLatentCodec(latent_codecs.RasterScanLatentCodec):
    """Training quantizes y for the context model and y − μ for the decoder."""

    def forward(self, y: Tensor, params: Tensor) -> dict[str, Any]:
        if not self.training:
            return super().forward(y, params)
        y_hat, likelihood = _raster_scan(
            self.gaussian_conditional,
            y,
            lambda context: self.entropy_parameters(self.merge(params, self.context_prediction(context))),
        )
        return {"likelihoods": {"y": likelihood}, "y_hat": y_hat}


class AdoptedJointAutoregressive(JointAutoregressiveHierarchicalPriors):
    """Training quantizes y for the context model and y − μ for the decoder; Cheng et al.'s models are of this kind."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        if not self.training:
            return super().forward(x)
        y = self.g_a(x)
        z_hat, z_likelihood = self.entropy_bottleneck(self.h_a(y))
        params = self.h_s(z_hat)
        y_hat, y_likelihood = _raster_scan(
            self.gaussian_conditional,
            y,
            lambda context: self.entropy_parameters(torch.cat((params, self.context_prediction(context)), dim=1)),
        )
        return {"x_hat": self.g_s(y_hat), "likelihoods": {"y": y_likelihood, "z": z_likelihood}}


def _raster_scan(
    gaussian: entropy.GaussianConditional, y: Tensor, parameters: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """ŷ and its likelihood, where `parameters` predicts (σ, μ) from the distortion path of y itself."""
    noise = gaussian.draw(y)
    scales, means = parameters(gaussian.quantize_distortion(y, None, noise)).chunk(2, 1)
    return gaussian(y, scales, means=means, noise=noise)


class AdoptedCheckerboardLatentCodec(latent_codecs.CheckerboardLatentCodec):
    """Training draws noise once for the whole y: anchors, non-anchors and rate share it.

    Both two-pass methods are one computation, since CompressAI takes `entropy_parameters` to be pointwise: where the
    context is masked out, at the anchors, the second pass predicts what the first did.
    """

    def _forward_onepass(self, y: Tensor, side_params: Tensor) -> dict[str, Any]:
        if not self.training:
            return super()._forward_onepass(y, side_params)
        gaussian = self.latent_codec["y"].gaussian_conditional
        noise = gaussian.draw(y)
        return self._given(gaussian.quantize_distortion(y, None, noise), y, side_params, noise)

    def _forward_twopass(self, y: Tensor, side_params: Tensor) -> dict[str, Any]:
        if not self.training:
            return super()._forward_twopass(y, side_params)
        return self._train_in_two_passes(y, side_params)

    def _forward_twopass_faster(self, y: Tensor, side_params: Tensor) -> dict[str, Any]:
        if not self.training:
            return super()._forward_twopass_faster(y, side_params)
        return self._train_in_two_passes(y, side_params)

    def _train_in_two_passes(self, y: Tensor, side_params: Tensor) -> dict[str, Any]:
        gaussian = self.latent_codec["y"].gaussian_conditional
        noise = gaussian.draw(y)
        _, means = self._predict(self._y_ctx_zero(y), side_params)
        return self._given(gaussian.quantize_distortion(y, means, noise), y, side_params, noise)

    def _given(self, anchors: Tensor, y: Tensor, side_params: Tensor, noise: Any) -> dict[str, Any]:
        """What the codec returns, given the anchors that the context model reads (it looks at no other pixel)."""
        context = self.context_prediction(self._keep_only(anchors, "anchor"))
        scales, means = self._predict(self._keep_only(context, "non_anchor"), side_params)
        y_hat, likelihood = self.latent_codec["y"].gaussian_conditional(y, scales, means=means, noise=noise)
        return {"likelihoods": {"y": likelihood}, "y_hat": y_hat}

    def _predict(self, context: Tensor, side_params: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.latent_codec["y"]
        return inner._chunk(inner.entropy_parameters(self.entropy_parameters(self.merge(context, side_params))))


# what an adopted module is afterwards, by what it was: class itself, or any subclass of it
_ENTROPY: dict[type, type] = {
    entropy_models.EntropyBottleneck: entropy.EntropyBottleneck,
    entropy_models.GaussianConditional: entropy.GaussianConditional,
}
_CODECS: dict[type, type] = {
    adopted.__bases__[0]: adopted
    for adopted in (
        AdoptedHyperLatentCodec,
        AdoptedGaussianConditionalLatentCodec,
        AdoptedRasterScanLatentCodec,
        AdoptedJointAutoregressive,
        AdoptedCheckerboardLatentCodec,
    )
}


def adopt(model: nn.Module, scheme: Scheme) -> nn.Module:
    """Give every place where a CompressAI model quantizes in training a scheme, in place; returns the model.

    model: any image model of `compressai.models` but the variable-rate ones, or a subclass or a `CompressionModel` of
    your own that quantizes nowhere but in its entropy models. Its evaluation forward, `compress`, `decompress`,
    `update` and state-dict keys stay CompressAI's, bit for bit where the scheme's scale bound is the model's own;
    coder tables that start at another bound are dropped, and `update` makes them again. Adopting again changes the
    scheme. `model.scheme` remembers it; of `TwoStages` the first is in force until a trainer changes it.

    Raises ValueError, with the model untouched, naming the module that stands in the way.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: takes a torch module with CompressAI's entropy models, got {model!r}")
    if not isinstance(scheme, QuantizationScheme | TwoStages):
        raise ValueError(f"scheme: takes a scheme such as labkit.schemes.mixed(), got {scheme!r}")
    if own := _own_networks(model):
        for network in own:
            network.set_scheme(scheme)
        return model
    for path, module in model.named_modules():
        if obstacle := _obstacle(module):
            where = f"module {path} ({_name(type(module))})" if path else f"the model ({_name(type(module))})"
            raise ValueError(f"{where} {obstacle}")
    if not any(isinstance(module, entropy_models.EntropyModel) for module in model.modules()):
        raise ValueError(f"model: {_name(type(model))} holds none of CompressAI's entropy models")

    first = scheme.first if isinstance(scheme, TwoStages) else scheme
    has_gaussian = any(isinstance(module, entropy_models.GaussianConditional) for module in model.modules())
    for module in model.modules():
        before: Any = type(module)
        module.__class__ = _adopted(before)
        if isinstance(module, entropy.SchemeCarrier) and not hasattr(module, "scheme"):
            module.attach_scheme(first)
        if isinstance(module, entropy.EntropyBottleneck):
            module.main = not has_gaussian
    entropy.set_scheme(model, first)
    model.scheme = scheme  # type: ignore[assignment]  # a plain attribute of the module
    return model


def release(model: nn.Module) -> nn.Module:
    """Make an adopted model CompressAI's again, in place; returns the model. One that was never adopted stays as it is.

    Weights, coder tables and the scale bound stay: they are the trained model's, and its evaluation outputs and bytes
    never change by this. A later `model.update(force=True)` builds tables that start at 0.11, though: where the scheme
    had another bound, hand it `scale_table=labkit.entropy.scale_table(bound)`.

    Raises ValueError for labkit's own networks, which are made with their scheme.
    """
    if _own_networks(model):
        raise ValueError("model: labkit's own networks are made with their scheme: only an adopted model is released")
    for module in model.modules():
        if isinstance(module, entropy.SchemeCarrier):
            for name in ("temperature", "generator", "part", "main"):
                if hasattr(module, name):
                    delattr(module, name)
        if isinstance(vars(module).get("scheme"), QuantizationScheme | TwoStages):
            del module.scheme
        if before := _before(module):
            module.__class__ = before
    return model


def set_temperature(model: nn.Module, temperature: float | Schedule) -> None:
    """Set the temperature of every module of the model that carries a scheme: a number, or a schedule's first.

    Raises ValueError for a temperature that is not positive and finite, and for a model that carries no scheme.
    """
    _check_carries(model)
    entropy.set_temperature(model, temperature)


def summary(model: nn.Module) -> Any:
    """What an adoption changed, as a pandas table: module (its path), class (before), role (which paths it takes).

    Raises ValueError for a model that carries no scheme.
    """
    import pandas as pd

    _check_carries(model)
    rows = [
        {"module": path or "(the model)", "class": before.__name__, "role": _role(module)}
        for path, module in model.named_modules()
        if (before := _before(module))
    ]
    return pd.DataFrame(rows)


def _own_networks(model: nn.Module) -> list[Any]:
    """labkit's own networks, the model itself or inside a wrapper: they change their scheme themselves."""
    return [module for module in model.modules() if hasattr(module, "set_scheme")]


def _check_carries(model: nn.Module) -> None:
    if not entropy.carriers(model):
        raise ValueError(f"model: {_name(type(model))} carries no scheme: labkit.adopt gives it one")


def _role(module: nn.Module) -> str:
    if isinstance(module, entropy.EntropyBottleneck):
        paths = ("rate", "distortion") if module.main else ("hyper_rate", "hyper_distortion")
        return "scores {}, hands on {}".format(*paths)
    if isinstance(module, entropy.GaussianConditional):
        return f"scores rate, hands on distortion; σ ≥ {module.scheme.scale_lower_bound:g}"
    if isinstance(module, AdoptedHyperLatentCodec):
        return "hands on hyper_distortion"
    if isinstance(module, AdoptedGaussianConditionalLatentCodec):
        return "hands on distortion"
    return "context reads distortion, hands on distortion"


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# Classes made and taken back ------------------------------------------------------------------------------------------


@functools.cache
def _adopted(cls: Any) -> type:
    """The class that a module of class `cls` gets: its own where it has no part in quantizing, or is adopted already.

    Of a user's subclass one is made on the fly. The user's class comes first there and labkit's second, so that a
    `forward` of the user's that calls `super().forward` arrives at labkit's.
    """
    if cls in _ENTROPY:
        return _ENTROPY[cls]
    for theirs, ours in _CODECS.items():
        if issubclass(cls, theirs) and not issubclass(cls, ours):
            members = {"__module__": __name__, "__reduce_ex__": _reduce}
            return ours if cls is theirs else type(f"Adopted{cls.__name__}", (cls, ours), members)
    return cls


def _before(module: nn.Module) -> type | None:
    """The class that the module had before it was adopted, None where it is as it was."""
    if isinstance(module, tuple(_CODECS.values())):
        return type(module).__bases__[0]
    return next((theirs for theirs, ours in _ENTROPY.items() if type(module) is ours), None)


def _reduce(module: nn.Module, protocol: Any) -> tuple[Any, ...]:
    """For pickle and deepcopy: a class made on the fly is found by no name, so it is made again from the user's."""
    state = super(type(module), module).__reduce_ex__(protocol)[2:]
    return (_remake, (type(module).__bases__[0],), *state)


def _remake(cls: type) -> Any:
    return object.__new__(_adopted(cls))


# What stands in the way -----------------------------------------------------------------------------------------------

_UNSUPPORTED = {
    "compressai.models.vbr": "is a variable-rate model, which chooses its own quantization step",
    "compressai.entropy_models.entropy_models_vbr": "belongs to the variable-rate models, which take no scheme",
    "compressai.latent_codecs.gain": "belongs to the variable-rate models, which take no scheme",
    "compressai.models.video": "belongs to a video model: labkit takes image models",
    "compressai.models.pointcloud": "belongs to a point-cloud model: labkit takes image models",
}
_OURS = re.compile(r"(torch|compressai|labkit)\b")
_QUANTIZES = re.compile(r"(\w*_)?(quanti[sz]e|round)(_\w*)?|uniform_|rand_like")


def _obstacle(module: nn.Module) -> str | None:
    """Why a module cannot be adopted, as the end of a sentence; None where it can."""
    cls = type(module)
    for ancestor in cls.__mro__:
        for prefix, reason in _UNSUPPORTED.items():
            if ancestor.__module__.startswith(prefix):
                return reason
    if isinstance(module, entropy_models.EntropyModel) and cls not in (*_ENTROPY, *_ENTROPY.values()):
        return "is an entropy model of another kind than EntropyBottleneck and GaussianConditional, which carry schemes"
    if isinstance(module, latent_codecs.CheckerboardLatentCodec):
        theirs, ours = latent_codecs.GaussianConditionalLatentCodec, AdoptedGaussianConditionalLatentCodec
        inner: Any = type(module.latent_codec["y"])
        if not issubclass(inner, theirs) or inner.forward not in (theirs.forward, ours.forward):
            return f'takes a GaussianConditionalLatentCodec as its inner "y" codec, and has {_name(inner)}'
    if name := next(_own_quantization(cls), None):
        return (
            f"calls {name!r} in its forward: what quantizes on its own is out of a scheme's reach, "
            "use what the entropy model returns"
        )
    return None


def _own_quantization(cls: type) -> Iterator[str]:
    """Names of quantizing calls in a class's forward and in what it calls by name, as far as the user's code goes."""
    todo = [vars(ancestor).get("forward") for ancestor in cls.__mro__ if not _OURS.match(ancestor.__module__)]
    seen = set()
    while todo:
        function: Any = todo.pop()
        if isinstance(function, type) and issubclass(function, torch.autograd.Function):
            function = function.forward
        if not isinstance(function, FunctionType) or function in seen or _OURS.match(function.__module__ or ""):
            continue
        seen.add(function)
        for name, is_global in _names(function.__code__):
            if is_global and name not in function.__globals__:
                continue  # a builtin: round() of a size is no quantization
            if _QUANTIZES.fullmatch(name):
                yield name
            todo.append(function.__globals__.get(name) if is_global else getattr(cls, name, None))


def _names(code: CodeType) -> Iterator[tuple[str, bool]]:
    """The names that a function's code takes from elsewhere, and whether they are globals; nested functions too."""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            yield instruction.argval, True
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "LOAD_DEREF", "IMPORT_FROM"):
            yield instruction.argval, False
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
