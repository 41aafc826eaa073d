"""The training loop. `Training` is all of it; `stream` iterates over it, `train` looks after a long run."""

from __future__ import annotations

import atexit
import functools
import math
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from labkit import entropy
from labkit.checks import check_at_least, check_positive
from labkit.networks import Codec, ToyTransformCode
from labkit.schedules import Schedule
from labkit.schemes import QuantizationScheme, TwoStages
from labkit.training import data, processes
from labkit.training.graphs import Graphed
from labkit.training.losses import rate_distortion
from labkit.training.threads import keep_memory

Network: TypeAlias = Codec | ToyTransformCode

SOLVE_EVERY = 100  # steps between two solutions of the entropy bottleneck's quantiles
WARM_UP = 50  # steps over which the learning rate rises: Adam's first steps move every weight by the whole rate
LOOK_EVERY = 50  # steps between two looks at the loss on an accelerator, which would wait for each
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what Adam keeps of a parameter


@dataclass(frozen=True)
class Settings:
    """How to train. Raises ValueError naming the field that is wrong.

    lmbda: weight of the distortion, in CompressAI's scale. crop: side of the training crops, and permute_colors: half
    of them with their colors in a random order, both for photographs (see `PhotoSet.crops`). lr: learning rate of
    Adam, a number or a schedule. clip: largest gradient norm. ema: decay of an exponential moving average of the
    weights, 0.999 for example, which the network is left with at the end; None keeps the last step's. precision: of
    the transforms; the entropy model, quantization and loss are float32 throughout. compile: the transforms by
    torch.compile, which takes a minute and a C++ compiler first. workers: processes that read pictures, where they are
    too many for memory; None chooses.
    """

    lmbda: float
    steps: int
    batch_size: int = 4
    crop: int = 256
    permute_colors: bool = False
    lr: float | Schedule = 1e-3
    clip: float = 1.0
    ema: float | None = None
    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"
    compile: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        check_positive(lmbda=self.lmbda, clip=self.clip)
        check_at_least(1, steps=self.steps, batch_size=self.batch_size, crop=self.crop)
        check_at_least(0, seed=self.seed, workers=self.workers or 0)
        if not isinstance(self.lr, Schedule):
            check_positive(lr=self.lr)
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema: takes a decay between 0 and 1, or None, got {self.ema!r}")
        if self.precision not in processes.PRECISIONS:
            raise ValueError(f"precision: takes {' or '.join(processes.PRECISIONS)}, got {self.precision!r}")
        processes.device(self.device)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: a schedule as its text."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: str(value) if isinstance(value, Schedule) else value for name, value in values.items()}


@dataclass
class Step:
    """What one training step showed: the surrogate's own loss, not the rounded one.

    rate: bits per pixel (images) or per point; distortion: 255² · MSE (images) or squared distance; norm: of the
    gradient, before it was clipped; seconds: of the step, and waited: the part in which there was no batch yet, both
    as the CPU saw them. On an accelerator, reading loss, rate, distortion or norm waits until the step has been made.
    """

    step: int
    steps: int
    temperature: float
    lr: float
    seconds: float
    waited: float
    measured: Tensor | tuple[float, ...]

    COLUMNS: ClassVar = ("step", "loss", "rate", "distortion", "norm", "temperature", "lr", "seconds", "waited")

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
        return self._read(0)

    @property
    def rate(self) -> float:
        return self._read(1)

    @property
    def distortion(self) -> float:
        return self._read(2)

    @property
    def norm(self) -> float:
        return self._read(3)

    @property
    def bpp(self) -> float:
        """Rate in bits per pixel."""
        return self.rate

    @property
    def psnr(self) -> float:
        """PSNR in dB of the surrogate's reconstruction, for images."""
        return 10 * math.log10(255**2 / self.distortion) if self.distortion > 0 else math.inf

    def row(self) -> dict[str, float]:
        """The step as a row of a table."""
        return {name: getattr(self, name) for name in self.COLUMNS}

    @classmethod
    def from_row(cls, row: Sequence[float], steps: int) -> Step:
        """The step of a row of so many steps' table."""
        step, loss, rate, distortion, norm, temperature, lr, seconds, waited = row
        return cls(int(step), steps, temperature, lr, seconds, waited, (loss, rate, distortion, norm))

    def check(self) -> Step:
        """This step. Raises FloatingPointError where its loss or gradient is not finite."""
        for name in ("loss", "norm"):
            if not math.isfinite(value := getattr(self, name)):
                what = "loss" if name == "loss" else "gradient"
                raise FloatingPointError(
                    f"the {what} is {value} at step {self.step}: lower the learning rate, or clip more"
                )
        return self


class Training:
    """A network in training: iterate for one step after the other. Leave the loop, or close the iterator, to stop.

    `net` is trained in place. Batch and noise of a step come from the seed and the step's number alone, so a training
    that was stopped goes on from `tensors` and `step` as if it had never been. The processes of torchrun have equal
    parts of each batch, and of the noise: together they make the steps that one process would make, but for the order
    of their sums.
    """

    def __init__(self, net: Network, source: data.Source, settings: Settings):
        self.net, self.source, self.settings = net, source, settings
        self.step = 0
        two_stages = isinstance(net.scheme, TwoStages)
        self.fabric = processes.fabric(processes.device(settings.device), settings.precision, changing=two_stages)
        self.part = processes.ranks()
        device = self.fabric.device
        if isinstance(source, data.Images):
            source.check_crop(settings.crop)
            self.layout = _layout(net, device)
            net.to(memory_format=self.layout)
        net.to(device)
        keep_memory()
        self.parameters = [p for name, p in net.named_parameters() if p.requires_grad and not _is_quantile(name)]
        self.optimizer = torch.optim.Adam(self.parameters, lr=1.0, fused=True)
        self.average = [p.detach().clone() for p in self.parameters] if settings.ema else []

    def __iter__(self) -> Generator[Step, None, None]:
        s, net = self.settings, self.net
        noise = torch.Generator(self.fabric.device)
        stage: QuantizationScheme | None = None
        with closing(self._batches()) as batches, self._in_training_mode(noise) as (model, optimizer):
            while self.step < s.steps:
                start = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - start
                data.reseed(noise, s.seed, self.step, data.NOISE)
                if self.step % SOLVE_EVERY == 0:
                    entropy.solve_quantiles(net)
                if stage is not (stage := self._stage()):  # the last step's, at first none
                    gradient = self._gradients(model, optimizer, noise)
                temperature = stage.temperature(self.step, s.steps)
                entropy.set_temperature(net, temperature)
                rate = self.optimizer.param_groups[0]["lr"] = self._rate()
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

    def _batches(self) -> Generator[Tensor, None, None]:
        s = self.settings
        return data.batches(
            self.source, first=self.step, steps=s.steps, batch_size=s.batch_size, crop=s.crop,
            permute_colors=s.permute_colors, seed=s.seed, device=self.fabric.device, workers=s.workers,
            part=self.part,
        )  # fmt: skip

    def _rate(self) -> float:
        """The learning rate of the present step."""
        lr, steps = self.settings.lr, self.settings.steps
        return (lr(self.step, steps) if isinstance(lr, Schedule) else lr) * min(1.0, (self.step + 1) / WARM_UP)

    def _gradients(self, model: nn.Module, optimizer: Any, noise: torch.Generator) -> Callable[[Tensor], Tensor]:
        """What `_gradient` does with a batch, until parameters or scheme change; on a GPU as one graph."""
        gradient = functools.partial(self._gradient, model, optimizer)
        graphed = noise.device.type == "cuda" and self.part[1] == 1 and not self.settings.compile
        return Graphed(gradient, noise) if graphed else gradient

    @torch.enable_grad()  # the gradient mode is the thread's own, and a worker thread starts with its default
    def _gradient(self, model: nn.Module, optimizer: Any, batch: Tensor) -> Tensor:
        """Clipped gradients of a batch in the parameters; loss, rate, distortion and gradient norm as a (4,) tensor."""
        if batch.dim() == 4:
            batch = batch.contiguous(memory_format=self.layout)
        loss = rate_distortion(model(batch), batch, self.settings.lmbda)
        optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss.total)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        return torch.stack([*self.fabric.all_reduce(torch.stack([*loss]).detach()), norm.detach()])

    def _stage(self) -> QuantizationScheme:
        """The scheme of the present step. Where a second stage starts, or is gone on with, analysis is frozen."""
        scheme, net = self.net.scheme, self.net
        if not isinstance(scheme, TwoStages):
            return scheme
        second = self.step >= round(scheme.share * self.settings.steps)
        stage = scheme.second if second else scheme.first
        if entropy.carriers(net)[0].scheme != stage:
            entropy.set_scheme(net, stage)
        for path, part in net.named_modules():
            if second and path.rpartition(".")[2] in ("g_a", "h_a"):  # latent codecs hold h_a further down
                part.requires_grad_(False)
        return stage

    @contextmanager
    def _in_training_mode(self, noise: torch.Generator) -> Iterator[tuple[nn.Module, Any]]:
        """The network and its optimizer as Fabric drives them; at the end, the network ready to be evaluated."""
        net = self.net.train()
        transforms = [part for path, part in net.named_children() if path in ("g_a", "g_s", "h_a", "h_s")]
        trained = [p for p in net.parameters() if p.requires_grad]
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and not _is_quantile(name))  # they are solved
        benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        entropy.set_generator(net, noise, self.part)
        entropy.drop_tables(net)
        try:
            for part in transforms if self.settings.compile else []:
                part.compile()
            with processes.quiet():
                driven = self.fabric.setup(net, self.optimizer)
            yield driven
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
        """Everything that a step changes, by name: to look at, and to write other values to."""
        found = {f"net.{name}": value for name, value in self.net.state_dict().items() if not _is_table(name)}
        for i, parameter in enumerate(self.parameters):
            if not self.optimizer.state[parameter]:  # as Adam's first step makes it
                zeros = {name: torch.zeros_like(parameter) for name in MOMENTS[:2]}
                self.optimizer.state[parameter] = {**zeros, "step": torch.zeros((), device=parameter.device)}
            found |= {f"adam.{i}.{name}": self.optimizer.state[parameter][name] for name in MOMENTS}
        return found | {f"average.{i}": value for i, value in enumerate(self.average)}


def native_precision(device: str) -> str:
    """bfloat16 where the device multiplies matrices of it, a GPU or a CPU with AMX; float32 elsewhere."""
    if processes.device(device).type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return "bfloat16" if amx and amx() else "float32"


def stream(net: Network, source: data.Source, **settings: Any) -> Generator[Step, None, None]:
    """Train `net` in place, one step for each item taken; leave the loop, or close the iterator, to stop.

    source: photographs, or points such as `datasets.Banana`. settings: see `Settings`; lmbda and steps are required.
    Same seed, machine and threads: same numbers.

    Raises ValueError for a bad setting or an image too small, FloatingPointError when the loss is no longer finite.
    """
    steps = Training(net, source, Settings(**settings)).__iter__()
    _streams.add(steps)
    return steps


_streams: weakref.WeakSet[Generator] = weakref.WeakSet()


@atexit.register
def _close() -> None:
    """A loop left open when Python ends would free its tensors after torch has gone, and abort the process."""
    for steps in list(_streams):
        with suppress(ValueError):  # it is being run, by a thread that ends with the process
            steps.close()


def _layout(net: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels-last, but not on a CPU with a strided 1×1 convolution, whose backward in torch 2.15 corrupts memory."""
    strided = any(type(m) is nn.Conv2d and m.kernel_size == (1, 1) and m.stride != (1, 1) for m in net.modules())
    return torch.contiguous_format if strided and device.type == "cpu" else torch.channels_last


def _is_quantile(name: str) -> bool:
    return name.endswith("quantiles")


def _is_table(name: str) -> bool:
    return name.rpartition(".")[2] in ("_offset", "_quantized_cdf", "_cdf_length", "scale_table")
