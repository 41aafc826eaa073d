"""Adding a quantization scheme to a CompressAI model in place, and removing it again.

A CompressAI model quantizes inside its entropy models. Codecs with a context model also round or add noise themselves,
and ignore the output of the entropy model. Adoption changes the `__class__` of every module that quantizes to a
subclass of its own class. Parameters, buffers, keys and references to the module stay the same, and in evaluation mode
each subclass runs CompressAI's own code.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from compressai import entropy_models, latent_codecs
from torch import Tensor, nn

from labkit import entropy, fixed_point
from labkit.adoption import codecs
from labkit.adoption.trace import find_quantization
from labkit.schedules import Schedule
from labkit.schemes import QuantizationScheme, Scheme, TwoStages, first_stage
from labkit.state_guard import preserved_state

if TYPE_CHECKING:
    from pandas import DataFrame

# The class of an adopted module for each class that it had before or inherits from.
_ENTROPY: dict[type, type] = {
    entropy_models.EntropyBottleneck: entropy.EntropyBottleneck,
    entropy_models.GaussianConditional: entropy.GaussianConditional,
}
_CODECS: dict[type, type] = {
    adopted.__bases__[0]: adopted
    for adopted in (
        codecs.AdoptedHyperLatentCodec,
        codecs.AdoptedGaussianConditionalLatentCodec,
        codecs.AdoptedRasterScanLatentCodec,
        codecs.AdoptedJointAutoregressive,
        codecs.AdoptedCheckerboardLatentCodec,
    )
}


def adopt(model: nn.Module, scheme: Scheme, example: Tensor | None = None) -> nn.Module:
    """Make a CompressAI model follow a scheme wherever it quantizes in training, in place.

    The forward pass in evaluation mode, `compress`, `decompress`, `update` and the state-dict keys remain CompressAI's.
    They give the same results bit for bit if the scheme's scale bound is the model's own. Coder tables that start at a
    different bound are dropped, and `update` builds them again. Adopting a model a second time changes the scheme.

    Quantization outside the entropy models would not follow the scheme. One forward pass in training mode looks for it;
    the state of the model and of PyTorch's random generators is restored afterwards. The pass detects latents that are
    rounded or get uniform noise, in any module and in any function that it calls. It does not detect branches that are
    not taken for the example, values that were converted to an integer type, or quantization by comparisons.

    Args:
        model: Any image model of `compressai.models` except the variable-rate ones, or your own model that quantizes
            only in CompressAI's entropy models and latent codecs. One of labkit's own networks just gets the new
            scheme.
        scheme: Scheme, which `model.scheme` returns afterwards. If it has two stages, the first one applies until a
            trainer starts the second.
        example: Input for the forward pass. The default is random numbers of shape 1×3×64×64.

    Returns:
        The model itself.

    Raises:
        ValueError: If the model cannot be adopted. The message names the module that prevents it, and the model is
            unchanged.

    Warns:
        UserWarning: If the model cannot be run on the example.

    Example:
        >>> import labkit as lk
        >>> from compressai.models import FactorizedPrior
        >>> model = lk.adopt(FactorizedPrior(8, 12), lk.schemes.mixed())
        >>> model.scheme
        QuantizationScheme(distortion=ste, hyper_distortion=ste)
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a PyTorch module with CompressAI's entropy models, got {model!r}")
    if not isinstance(scheme, QuantizationScheme | TwoStages):
        raise ValueError(f"scheme must be a scheme such as labkit.schemes.mixed(), got {scheme!r}")
    if networks := _own_networks(model):
        for network in networks:
            network.set_scheme(scheme)
        return model
    with fixed_point.plain(model):
        for path, module in model.named_modules():
            if obstacle := _obstacle(module):
                raise ValueError(f"{_where(model, path)} {obstacle}")
        if not any(isinstance(module, entropy_models.EntropyModel) for module in model.modules()):
            raise ValueError(f"model must have entropy models of CompressAI, and {_name(type(model))} has none")
        classes: list[Any] = [type(module) for module in model.modules()]
        if any(_adopted(cls) is not cls for cls in classes):
            _check_quantization(model, first_stage(scheme), example)
        attach_scheme(model, first_stage(scheme))
    model.scheme = scheme  # type: ignore[assignment]  # a plain attribute of the module
    return model


def attach_scheme(model: nn.Module, scheme: QuantizationScheme) -> None:
    """Attach a scheme to a model without any checks.

    Args:
        model: Model or latent codec that is known not to quantize anywhere else.
        scheme: Scheme of one stage.
    """
    _change_classes(model, scheme)
    entropy.set_scheme(model, scheme)


def _change_classes(model: nn.Module, scheme: QuantizationScheme) -> list[nn.Module]:
    """Change the classes of all modules that quantize, and return the modules that were changed."""
    changed = []
    has_gaussian = any(isinstance(module, entropy_models.GaussianConditional) for module in model.modules())
    for module in model.modules():
        before: Any = type(module)
        module.__class__ = _adopted(before)
        if type(module) is not before:
            changed.append(module)
        if isinstance(module, entropy.SchemeCarrier) and not hasattr(module, "scheme"):
            module.attach_scheme(scheme)
        if isinstance(module, entropy.EntropyBottleneck):
            module.main = not has_gaussian
    return changed


def _restore_classes(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        if isinstance(module, entropy.SchemeCarrier):
            for name in ("temperature", "generator", "part", "main", "scheme"):
                if hasattr(module, name):
                    delattr(module, name)
        if before := _before(module):
            module.__class__ = before


def release(model: nn.Module) -> nn.Module:
    """Turn an adopted model back into a plain CompressAI model, in place. Other models do not change.

    The weights, the coder tables and the scale bound belong to the trained model and are kept, so its evaluation
    outputs and its bytes do not change. However, a later `model.update(force=True)` builds tables that start at 0.11.
    If the scheme had another bound, pass `scale_table=labkit.entropy.scale_table(bound)` to it.

    Args:
        model: Adopted model.

    Returns:
        The model itself.

    Raises:
        ValueError: If the model is one of labkit's own networks, which always carry a scheme.
    """
    if _own_networks(model):
        raise ValueError("model must be an adopted model; labkit's own networks always carry a scheme")
    with fixed_point.plain(model):
        _restore_classes(model.modules())
    for module in model.modules():
        if isinstance(vars(module).get("scheme"), QuantizationScheme | TwoStages):
            del module.scheme
    return model


def set_temperature(model: nn.Module, temperature: float | Schedule) -> None:
    """Set the temperature of every module that carries a scheme.

    Args:
        model: Adopted model, or one of labkit's networks.
        temperature: Positive number, or a schedule whose first value is used.

    Raises:
        ValueError: If the temperature is not a positive finite number, or the model carries no scheme.
    """
    check_adopted(model)
    entropy.set_temperature(model, temperature)


def summary(model: nn.Module) -> DataFrame:
    """Return what adoption changed, as a table.

    Args:
        model: Adopted model.

    Returns:
        A pandas table with one row per changed module: `module` (its path), `class` (its class before adoption) and
        `role` (the paths of the scheme that it uses).

    Raises:
        ValueError: If the model carries no scheme.
    """
    import pandas as pd

    check_adopted(model)
    rows = [
        {"module": path or "(the model)", "class": before.__name__, "role": _role(module)}
        for path, module in model.named_modules()
        if (before := _before(module))
    ]
    return pd.DataFrame(rows)


def check_adopted(model: nn.Module) -> None:
    """Check that a model carries a scheme.

    Args:
        model: Any PyTorch module.

    Raises:
        ValueError: If no module of the model carries a scheme. The message says how to adopt the model.
    """
    if not entropy.carriers(model):
        raise ValueError(f"{_name(type(model))} carries no scheme; call labkit.adopt(model, scheme) first")


def _own_networks(model: nn.Module) -> list[Any]:
    """Return labkit's own networks, also if they are inside a wrapper. They change their scheme themselves."""
    return [module for module in model.modules() if hasattr(module, "set_scheme")]


def _role(module: nn.Module) -> str:
    if isinstance(module, entropy.EntropyBottleneck):
        paths = ("rate", "distortion") if module.main else ("hyper_rate", "hyper_distortion")
        return "scores {}, returns {}".format(*paths)
    if isinstance(module, entropy.GaussianConditional):
        return f"scores rate, returns distortion; σ ≥ {module.scheme.scale_lower_bound:g}"
    if isinstance(module, codecs.AdoptedHyperLatentCodec):
        return "returns hyper_distortion"
    if isinstance(module, codecs.AdoptedGaussianConditionalLatentCodec):
        return "returns distortion"
    return "context model reads distortion, returns distortion"


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _where(model: nn.Module, path: str) -> str:
    module = model.get_submodule(path)
    return f"module {path} ({_name(type(module))})" if path else f"the model ({_name(type(module))})"


# Classes before and after adoption ------------------------------------------------------------------------------------


@functools.cache
def _adopted(cls: Any) -> type:
    """Return the class that adoption assigns to modules of class `cls`, or `cls` itself.

    For a user's subclass, this creates a class. It inherits from the user's class first and from labkit's second, so
    `super().forward` in the user's class calls labkit's method.
    """
    if cls in _ENTROPY:
        return _ENTROPY[cls]
    for theirs, ours in _CODECS.items():
        if issubclass(cls, theirs) and not issubclass(cls, ours):
            members = {"__module__": __name__, "__reduce_ex__": _reduce}
            return ours if cls is theirs else type(f"Adopted{cls.__name__}", (cls, ours), members)
    return cls  # type: ignore[no-any-return]


def _before(module: nn.Module) -> type | None:
    """Return the class that a module had before adoption, or None if adoption did not change it."""
    cls = fixed_point.plain_class(type(module))
    if issubclass(cls, tuple(_CODECS.values())):
        return cls.__bases__[0]
    return next((theirs for theirs, ours in _ENTROPY.items() if cls is ours), None)


def _reduce(module: nn.Module, protocol: Any) -> tuple[Any, ...]:
    """Make pickle and deepcopy recreate an adopted class from the user's own class."""
    state = super(type(module), module).__reduce_ex__(protocol)[2:]
    return (_remake, (type(module).__bases__[0],), *state)


def _remake(cls: type) -> Any:
    return object.__new__(_adopted(cls))


# What prevents adoption -----------------------------------------------------------------------------------------------

_UNSUPPORTED = {
    "compressai.models.vbr": "is a variable-rate model, which chooses its own quantization step",
    "compressai.entropy_models.entropy_models_vbr": "belongs to the variable-rate models, which take no scheme",
    "compressai.latent_codecs.gain": "belongs to the variable-rate models, which take no scheme",
    "compressai.models.video": "belongs to a video model; labkit supports image models",
    "compressai.models.pointcloud": "belongs to a point-cloud model; labkit supports image models",
}


def _obstacle(module: nn.Module) -> str | None:
    """Return the reason why the class of a module prevents adoption, as the end of a sentence."""
    cls = type(module)
    for ancestor in cls.__mro__:
        for prefix, reason in _UNSUPPORTED.items():
            if ancestor.__module__.startswith(prefix):
                return reason
    if isinstance(module, entropy_models.EntropyModel) and cls not in (*_ENTROPY, *_ENTROPY.values()):
        return "is neither an EntropyBottleneck nor a GaussianConditional; no other entropy model can carry a scheme"
    if isinstance(module, latent_codecs.CheckerboardLatentCodec):
        theirs, ours = latent_codecs.GaussianConditionalLatentCodec, codecs.AdoptedGaussianConditionalLatentCodec
        inner: Any = type(module.latent_codec["y"])
        if not issubclass(inner, theirs) or inner.forward not in (theirs.forward, ours.forward):
            return f'must have a GaussianConditionalLatentCodec as its inner "y" codec, and has {_name(inner)}'
    return None


def _check_quantization(model: nn.Module, scheme: QuantizationScheme, example: Tensor | None) -> None:
    """Raise ValueError if the model quantizes outside its entropy models on the example; warn if it cannot be run."""
    with preserved_state(model):
        changed = _change_classes(model, scheme)
        try:
            findings = find_quantization(model, _default_example(model) if example is None else example)
        except Exception as error:
            findings = []
            reason = str(error).partition("\n")[0] or type(error).__name__
            shape = "1×3×64×64" if example is None else "×".join(map(str, example.shape))
            warnings.warn(
                f"{_name(type(model))} cannot be run on an input of shape {shape} ({reason}), so labkit cannot see if "
                "it quantizes outside its entropy models; pass an input that it accepts as example=",
                stacklevel=3,
            )
        finally:
            _restore_classes(changed)
    if findings:
        path, action = findings[0]
        raise ValueError(
            f"{_where(model, path)} {action} in its forward, where no scheme can replace the quantization; use the "
            "output of the entropy model instead"
        )


def _default_example(model: nn.Module) -> Tensor:
    weight = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, 64, 64, generator=generator).to(weight.device, weight.dtype)
