"""A training forward pass that looks for quantization outside the entropy models.

The pass watches every operation on tensors. A latent is a floating-point tensor whose values depend on both the input
and the weights. The pass reports

- latents that are rounded, if the reconstruction or a likelihood depends on the result;
- latents to which uniform noise with the width of a quantization step is added, under the same condition;
- latents that `floor`, `ceil` or `trunc` turns into integers, if the integers enter a layer or an entropy model. Other
  uses of these functions, such as the coordinates of a warp, are not quantization.

It therefore accepts rounded image sizes, weights and inputs, dropout and other random numbers, and values that are only
computed for information. It does not detect branches that are not taken, values that were converted to an integer type,
or quantization by comparisons.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from labkit import entropy

_INPUT, _WEIGHTS = 1, 2
_LATENT = _INPUT | _WEIGHTS
_ROUND = ("round", "fake_quantize", "quantize_per")  # prefixes of the names of these operations
_FLOOR = ("floor", "ceil", "trunc", "fix")
_UNIFORM = ("rand", "rand_like", "uniform")
_SUM = ("add", "sub", "rsub")
_LAYERS = ("convolution", "addmm", "mm", "bmm", "baddbmm", "linear")

Finding = tuple[str, str]  # path of a module, and a description of what its forward method does


class _Facts(NamedTuple):
    """The inputs, weights and quantization that the values in a storage depend on."""

    origins: int = 0
    rounded: frozenset[Finding] = frozenset()
    floored: frozenset[Finding] = frozenset()

    def __or__(self, other: _Facts) -> _Facts:
        return _Facts(self.origins | other.origins, self.rounded | other.rounded, self.floored | other.floored)


class QuantizationTracer(TorchDispatchMode):
    """Follows latents through a forward pass and finds those that are quantized.

    Facts belong to storages, because views and in-place operations share them.

    Args:
        model: Model whose weights the latents depend on.
        example: Input that the latents depend on.
    """

    def __init__(self, model: nn.Module, example: Tensor):
        super().__init__()
        self.running = [""]  # paths of the modules whose forward method is running
        self.findings: dict[Finding, None] = {}  # in chronological order
        self._allowed = False
        self._storages: dict[int, torch.UntypedStorage] = {}  # kept alive, because addresses are reused
        self._facts = {self._key(weight): _Facts(_WEIGHTS) for weight in model.parameters()}
        self._facts[self._key(example)] = _Facts(_INPUT)
        self._noise: dict[int, Finding] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and derive the facts about its output from the facts about its inputs."""
        name = func.overloadpacket.__name__.removesuffix("_")
        inputs = _floating((args, kwargs))
        if name in _LAYERS:
            self.check_integers(inputs)
        facts, noise = _Facts(), None
        if not name.endswith("_like") and not name.startswith("new_"):  # these operations only use shapes
            for tensor in inputs:
                facts |= self._facts_of(tensor)
                noise = noise or self._noise.get(self._key(tensor))
        if not self._allowed:
            facts |= self._quantization(name, inputs, facts, noise)
        output = func(*args, **(kwargs or {}))
        for tensor in _floating(output):
            key = self._key(tensor)
            if name in _UNIFORM and not self._allowed:
                self._facts.pop(key, None)
                self._noise[key] = (self.running[-1], "adds uniform noise to a latent")
            elif facts.origins:
                self._facts[key] = self._facts_of(tensor) | facts
                self._noise.pop(key, None)
            elif noise:
                self._noise[key] = noise
        return output

    def _quantization(self, name: str, inputs: list[Tensor], facts: _Facts, noise: Finding | None) -> _Facts:
        """Return the facts that an operation adds."""
        finding = (self.running[-1], f"rounds a latent with torch.{name}")
        if inputs and self._facts_of(inputs[0]).origins == _LATENT:
            if name.startswith(_ROUND):
                return _Facts(rounded=frozenset({finding}))
            if name in _FLOOR:
                return _Facts(floored=frozenset({finding}))
        if name in _SUM and noise and facts.origins == _LATENT:
            dither = next(tensor for tensor in inputs if self._key(tensor) in self._noise)
            if 0.5 < (dither.max() - dither.min()).item() < 1.001:
                return _Facts(rounded=frozenset({noise}))
        return _Facts()

    def check_integers(self, values: Any) -> None:
        """Record the inputs of a layer that `floor`, `ceil` or `trunc` turned into integers."""
        for tensor in _floating(values):
            floored = self._facts_of(tensor).floored
            if floored and (tensor - tensor.round()).abs().max().item() < 1e-3:
                self.findings |= dict.fromkeys(sorted(floored))

    def check_output(self, output: Any) -> None:
        """Record the quantization that affects the reconstruction and the likelihoods."""
        self.check_integers(output)
        if isinstance(output, dict):
            output = [output.get("x_hat"), output.get("likelihoods")]
        for tensor in _floating(output):
            self.findings |= dict.fromkeys(sorted(self._facts_of(tensor).rounded))

    def run_allowed(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a method of an entropy model, which may quantize."""
        allowed, self._allowed = self._allowed, True
        try:
            self.check_integers((args, kwargs))
            return method(*args, **kwargs)
        finally:
            self._allowed = allowed

    def _facts_of(self, tensor: Tensor) -> _Facts:
        return self._facts.get(self._key(tensor), _Facts())

    def _key(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        key = int(storage._cdata)
        self._storages[key] = storage
        return key


def _floating(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor) and value.is_floating_point()]


def find_quantization(model: nn.Module, example: Tensor) -> list[Finding]:
    """Find quantization outside the entropy models in one forward pass.

    Args:
        model: Model whose entropy models carry a scheme. Its modes and buffers are not restored.
        example: Input of the model.

    Returns:
        Pairs of the path of a module and a description of what its forward method does.
    """
    tracer = QuantizationTracer(model, example)
    with _watched_by(tracer, model), torch.enable_grad(), tracer:
        output = model.train()(example)
    tracer.check_output(output)
    return list(tracer.findings)


@contextmanager
def _watched_by(tracer: QuantizationTracer, model: nn.Module) -> Iterator[None]:
    """Tell the tracer which module is running and which calls may quantize."""
    carriers: list[Any] = entropy.carriers(model)
    methods = [(carrier, name) for carrier in carriers for name in ("forward", "draw", "quantize_distortion")]
    methods = [(carrier, name) for carrier, name in methods if hasattr(carrier, name)]

    def enter(path: str, module: nn.Module, args: Any) -> None:
        tracer.running.append(path)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        tracer.running.pop()

    hooks = [module.register_forward_pre_hook(partial(enter, path)) for path, module in model.named_modules()]
    hooks += [module.register_forward_hook(leave) for module in model.modules()]
    for carrier, name in methods:
        setattr(carrier, name, partial(tracer.run_allowed, getattr(carrier, name)))
    try:
        yield
    finally:
        for carrier, name in methods:
            delattr(carrier, name)
        for hook in hooks:
            hook.remove()
