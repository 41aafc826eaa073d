"""The training loop. `Training` implements it, `stream` iterates over it, and `labkit.train` manages a long run."""

from __future__ import annotations

import atexit
import functools
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from labkit import defaults, entropy
from labkit.denormals import denormals_are_zero
from labkit.networks import Codec, ToyTransformCode
from labkit.schedules import Schedule
from labkit.schemes import QuantizationScheme, TwoStages
from labkit.training import data, processes
from labkit.training.graphs import Graphed
from labkit.training.losses import rate_distortion
from labkit.training.settings import Settings
from labkit.training.steps import Step
from labkit.training.threads import keep_memory

Network: TypeAlias = Codec | ToyTransformCode

SOLVE_EVERY = 100  # steps between solutions for the entropy bottleneck's quantiles
WARM_UP = 50  # steps over which the learning rate rises, because Adam's first steps move every weight by the full rate
LOOK_EVERY = 50  # steps between checks of the loss on an accelerator, because each check synchronizes the device
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # Adam's state for each parameter


class Training:
    """A training run as an iterator: each item is a `Step`. Leave the loop or close the iterator to stop.

    The network is trained in place. The batch and the noise of a step depend only on the seed and the step number, so a
    run that resumes from `tensors()` and `step` gives the same numbers as an uninterrupted run. Processes started by
    torchrun each take an equal part of every batch and of its noise. Together, they make the same steps as a single
    process, up to the order of floating-point sums.

    Args:
        net: One of labkit's networks, or a CompressAI model to which `labkit.adopt` has added a scheme.
        source: Photographs, or points such as `datasets.Banana()`.
        settings: Settings of the run.

    Raises:
        ValueError: If the network has no scheme, if an image is smaller than the crops, or if there is no such device.
    """

    def __init__(self, net: Network, source: data.Source, settings: Settings):
        if not isinstance(getattr(net, "scheme", None), QuantizationScheme | TwoStages):
            raise ValueError(
                f"{type(net).__name__} carries no quantization scheme: call labkit.adopt(model, scheme) first"
            )
        images = isinstance(source, data.Images)
        self.net, self.source = net, source
        self.settings = settings.resolved(images and getattr(net, "low_precision", True))
        self.step = 0
        place, two_stages = processes.device(self.settings.device), isinstance(net.scheme, TwoStages)
        self.fabric = processes.fabric(place, self.settings.precision or "float32", changing=two_stages)
        self.part = processes.ranks()
        device = self.fabric.device
        if isinstance(source, data.Images):
            source.check_crop(settings.crop)
            self.layout = _layout(net, device)
            net.to(memory_format=self.layout)
        net.to(device)
        keep_memory()
        trained = {name: p for name, p in net.named_parameters() if p.requires_grad and not is_quantile(name)}
        self.parameters = list(trained.values())
        self.factors = [lr_factor(net, name) for name in trained]
        pairs = list(zip(self.factors, self.parameters, strict=True))
        groups = [{"factor": f, "params": [p for g, p in pairs if g == f]} for f in dict.fromkeys(self.factors)]
        self.optimizer = torch.optim.Adam(groups, lr=1.0, fused=True)
        self.average = [p.detach().clone() for p in self.parameters] if settings.ema else []

    def __repr__(self) -> str:
        return f"Training({type(self.net).__name__}, step {self.step} of {self.settings.steps})"

    def __iter__(self) -> Generator[Step, None, None]:
        with closing(self.interruptible()) as parts:
            yield from (step for step in parts if step is not None)

    def interruptible(self) -> Generator[Step | None, None, None]:
        """Return an iterator over the steps that also yields None after each part of the network's start.

        If the caller leaves the loop during the start, the network is unfinished.
        """
        net = self.net
        noise = torch.Generator(self.fabric.device)
        stage: QuantizationScheme | None = None
        with ExitStack() as stack:
            batches: Iterator[Tensor] = stack.enter_context(closing(self.batches()))
            if self.step == 0:
                first = next(batches)
                yield from self.starting(first)
                batches = chain([first], batches)
            model, optimizer = stack.enter_context(self.training_mode(noise))
            while self.step < (s := self.settings).steps:  # the caller may shorten the run between steps
                start = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - start
                data.reseed(noise, s.seed, self.step, data.NOISE)
                if self.step % SOLVE_EVERY == 0:
                    entropy.solve_quantiles(net)
                if stage is not (stage := self.enter_stage()):  # true in the first step of each stage
                    gradient = self._gradients(model, optimizer, noise)
                temperature = stage.temperature(self.step, s.steps)
                entropy.set_temperature(net, temperature)
                rate = self.learning_rate()
                for group in self.optimizer.param_groups:
                    group["lr"] = rate * group["factor"]
                with denormals_are_zero():
                    step = Step(self.step + 1, s.steps, temperature, rate, 0.0, waited, gradient(batch))
                    if step.ready or step.step % LOOK_EVERY == 0:
                        step.check()
                    optimizer.step()
                if s.ema:
                    torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - s.ema)
                self.step += 1
                step.seconds = time.perf_counter() - start
                yield step
            if s.ema:
                torch._foreach_copy_([p.detach() for p in self.parameters], self.average)

    def starting(self, batch: Tensor) -> Generator[None, None, None]:
        """Fit a network that adapts to its λ and its first batch, such as a patch codec, before step 1.

        Args:
            batch: This process's part of the first batch.

        Yields:
            None after each part of the start.
        """
        net: Any = self.net
        if hasattr(net, "starting"):
            gathered: Any = self.fabric.all_gather(batch) if self.part[1] > 1 else batch[None]
            yield from net.starting(self.settings.lmbda, gathered.flatten(0, 1))
            self.average = [p.detach().clone() for p in self.parameters] if self.settings.ema else []

    def batches(self) -> Generator[Tensor, None, None]:
        """Return this process's part of the batches of all remaining steps."""
        s = self.settings
        return data.batches(
            self.source, first=self.step, steps=s.steps, batch_size=s.batch_size, crop=s.crop,
            permute_colors=s.permute_colors, seed=s.seed, device=self.fabric.device, workers=s.workers,
            part=self.part,
        )  # fmt: skip

    def learning_rate(self) -> float:
        """Return the learning rate of the next step, including warm-up."""
        return self.settings.learning_rate(self.step) * min(1.0, (self.step + 1) / WARM_UP)

    def _gradients(self, model: nn.Module, optimizer: Any, noise: torch.Generator) -> Callable[[Tensor], Tensor]:
        """Return `_gradient` for the current parameters and scheme, as a CUDA graph if there is a single GPU."""
        gradient = functools.partial(self._gradient, model, optimizer)
        graphed = noise.device.type == "cuda" and self.part[1] == 1 and not self.settings.compile
        return Graphed(gradient, noise) if graphed else gradient

    @torch.enable_grad()  # torch has a gradient mode per thread, and a worker thread starts with the default
    def _gradient(self, model: nn.Module, optimizer: Any, batch: Tensor) -> Tensor:
        """Compute the clipped gradients of a batch; return loss, rate, distortion and gradient norm, of shape (4,)."""
        if batch.dim() == 4:
            batch = batch.contiguous(memory_format=self.layout)
        loss = rate_distortion(model(batch), batch, self.settings.lmbda)
        optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss.total)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        return torch.stack([*self.fabric.all_reduce(torch.stack([*loss]).detach()), norm.detach()])

    def enter_stage(self) -> QuantizationScheme:
        """Return the scheme of the next step. When a second stage begins or resumes, freeze the analysis transforms."""
        scheme, net = self.net.scheme, self.net
        if not isinstance(scheme, TwoStages):
            return scheme
        second = self.step >= round(scheme.share * self.settings.steps)
        stage = scheme.second if second else scheme.first
        if entropy.carriers(net)[0].scheme != stage:
            entropy.set_scheme(net, stage)
        for path, part in net.named_modules():
            if second and path.rpartition(".")[2] in ("g_a", "h_a"):  # latent codecs contain h_a at a deeper level
                part.requires_grad_(False)
        return stage

    @contextmanager
    def training_mode(self, noise: torch.Generator) -> Iterator[tuple[nn.Module, Any]]:
        """Put the network into training mode, and back into evaluation mode when the block ends.

        Args:
            noise: Generator of the quantization noise.

        Yields:
            The network and its optimizer as Fabric wraps them.
        """
        net = self.net.train()
        transforms = [part for path, part in net.named_children() if path in ("g_a", "g_s", "h_a", "h_s")]
        trained = [p for p in net.parameters() if p.requires_grad]
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and not is_quantile(name))  # quantiles are solved for
        benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        entropy.set_generator(net, noise, self.part)
        entropy.drop_tables(net)
        try:
            for part in transforms if self.settings.compile else []:
                part.compile()
            with processes.quiet():
                wrapped = self.fabric.setup(net, self.optimizer)
            yield wrapped
        finally:
            torch.backends.cudnn.benchmark = benchmark
            for part in transforms:
                part._compiled_call_impl = None
            entropy.set_generator(net, None)
            entropy.solve_quantiles(net)
            for parameter in trained:
                parameter.requires_grad_(True)
            net.eval()

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that a step changes, by name. Overwriting them in place restores a run."""
        tensors = {f"net.{name}": value for name, value in self.net.state_dict().items() if not is_table(name)}
        for i, parameter in enumerate(self.parameters):
            if not self.optimizer.state[parameter]:  # the state that Adam's first step would create
                zeros = {name: torch.zeros_like(parameter) for name in MOMENTS[:2]}
                self.optimizer.state[parameter] = {**zeros, "step": torch.zeros((), device=parameter.device)}
            tensors |= {f"adam.{i}.{name}": self.optimizer.state[parameter][name] for name in MOMENTS}
        return tensors | {f"average.{i}": value for i, value in enumerate(self.average)}


def stream(  # noqa: D417 - Settings describes the other arguments
    net: Network,
    source: data.Source,
    *,
    lmbda: float,
    steps: int,
    batch_size: int = defaults.BATCH_SIZE,
    crop: int = defaults.CROP,
    permute_colors: bool = defaults.PERMUTE_COLORS,
    lr: float | str | Schedule = defaults.LR,
    clip: float = defaults.CLIP,
    ema: float | None = defaults.EMA,
    seed: int = defaults.SEED,
    device: str | None = defaults.DEVICE,
    precision: str | None = defaults.PRECISION,
    compile: bool = defaults.COMPILE,
    workers: int | None = defaults.WORKERS,
) -> Generator[Step, None, None]:
    """Train a network in place, one step per item of the iterator. Leave the loop or close the iterator to stop.

    The same settings, machine and number of threads give the same numbers if the precision is set explicitly.

    Args:
        net: One of labkit's networks, or a CompressAI model to which `labkit.adopt` has added a scheme.
        source: Photographs, or points such as `datasets.Banana()`.
        lmbda: Weight of the distortion. `Settings` describes this and all other arguments.

    Returns:
        An iterator over the measurements of each step.

    Raises:
        ValueError: If a setting is out of range, or an image is smaller than the crops.
        FloatingPointError: While iterating, if the loss or the gradient is no longer finite.

    >>> import labkit as lk
    >>> toy = lk.networks.toy_2d()
    >>> for step in lk.training.stream(toy, lk.datasets.Banana(), lmbda=1.0, steps=3, batch_size=64):
    ...     print(step.step, step.loss > 0)
    1 True
    2 True
    3 True
    """
    settings = Settings(
        lmbda=lmbda, steps=steps, batch_size=batch_size, crop=crop, permute_colors=permute_colors, lr=lr, clip=clip,
        ema=ema, seed=seed, device=device, precision=precision, compile=compile, workers=workers,
    )  # fmt: skip
    iterator = Training(net, source, settings).__iter__()
    _streams.add(iterator)
    return iterator


_streams: weakref.WeakSet[Generator[Step, None, None]] = weakref.WeakSet()


@atexit.register
def _close() -> None:
    """Close open iterators before torch is unloaded, because freeing their tensors later would abort the process."""
    for iterator in list(_streams):
        with suppress(ValueError):  # the iterator is running in another thread, and ends with the process
            iterator.close()


def _layout(net: nn.Module, device: torch.device) -> torch.memory_format:
    """Return channels-last, except for strided 1×1 convolutions on a CPU, where torch 2.14.1 corrupts memory."""
    strided = any(type(m) is nn.Conv2d and m.kernel_size == (1, 1) and m.stride != (1, 1) for m in net.modules())
    return torch.contiguous_format if strided and device.type == "cpu" else torch.channels_last


def lr_factor(net: nn.Module, name: str) -> float:
    """Return the learning-rate factor of a parameter, given its name."""
    factors: dict[str, float] = getattr(net, "lr_factors", {"": 1.0})
    return next(factor for start, factor in factors.items() if name.startswith(start))


def is_quantile(name: str) -> bool:
    """Return whether a parameter name belongs to the quantiles of an entropy bottleneck."""
    return name.endswith("quantiles")


def is_table(name: str) -> bool:
    """Return whether a buffer's name is that of a coder table."""
    return name.rpartition(".")[2] in ("_offset", "_quantized_cdf", "_cdf_length", "scale_table")
