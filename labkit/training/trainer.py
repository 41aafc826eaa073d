"""The training loop. `stream` is all of it; `train` drains it with a progress bar."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from labkit import entropy
from labkit.datasets import PhotoSet
from labkit.networks import Codec, ToyTransformCode
from labkit.schedules import Schedule, constant
from labkit.schemes import TwoStages
from labkit.training.checkpoints import save_checkpoint
from labkit.training.losses import rate_distortion

PRECISIONS = ("float32", "bfloat16")
SOLVE_EVERY = 100  # steps between two solutions of the entropy bottleneck's quantiles
WARM_UP = 50  # steps over which the learning rate rises: Adam's first steps move every weight by the whole rate


class Source(Protocol):
    """An endless supply of points, such as `datasets.Banana`."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n points, of shape (n, d)."""


@dataclass(frozen=True)
class Step:
    """What one training step showed: the surrogate's own loss, not the rounded one.

    rate: bits per pixel (images) or per point; distortion: 255² · MSE (images) or squared distance.
    """

    step: int
    steps: int
    loss: float
    rate: float
    distortion: float
    temperature: float

    @property
    def bpp(self) -> float:
        """Rate in bits per pixel."""
        return self.rate

    @property
    def psnr(self) -> float:
        """PSNR in dB of the surrogate's reconstruction, for images."""
        return 10 * math.log10(255**2 / self.distortion) if self.distortion > 0 else math.inf


def stream(
    net: Codec | ToyTransformCode,
    source: PhotoSet | Source,
    *,
    lmbda: float,
    steps: int,
    batch_size: int = 4,
    crop: int = 256,
    permute_colours: bool = False,
    lr: float | Schedule = 1e-3,
    clip: float = 1.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    precision: str = "float32",
) -> Iterator[Step]:
    """Train `net` in place, one step for each item taken; leave the loop, or close the iterator, to stop.

    lmbda: weight of the distortion, in CompressAI's scale; crop: side of the training crops, and permute_colours:
    half of them with their colours in a random order, both for photographs (see `PhotoSet.crops`);
    lr: learning rate of Adam, a number or a schedule; clip: largest gradient norm; precision: of the transforms (the
    entropy model, quantisation and loss are float32 throughout). Same seed, machine and threads: same numbers.

    Raises ValueError for a bad setting or an image too small, FloatingPointError when the loss is no longer finite.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: takes {' or '.join(PRECISIONS)}, got {precision!r}")
    for name, value in (("lmbda", lmbda), ("steps", steps), ("batch_size", batch_size), ("crop", crop)):
        if not value > 0:
            raise ValueError(f"{name}: takes a positive number, got {value!r}")
    device = torch.device(device)
    if isinstance(source, PhotoSet):
        source.check_crop(crop)
        source = source.to(device)
        layout = _layout(net, device)
        net.to(memory_format=layout)
    net.to(device).train()

    data_generator = torch.Generator().manual_seed(seed)
    noise_generator = torch.Generator(device).manual_seed(seed + 1)
    schedule = lr if isinstance(lr, Schedule) else constant(lr)
    parameters = [p for name, p in net.named_parameters() if not name.endswith("quantiles")]
    optimizer = torch.optim.Adam(parameters, lr=schedule.start, fused=True)
    scheme = net.scheme.first if isinstance(net.scheme, TwoStages) else net.scheme

    @torch.enable_grad()  # the gradient mode is the thread's own, and a worker thread starts with its default
    def one_step(batch: Tensor) -> tuple[float, float, float]:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            output = net(batch)
        loss = rate_distortion(output, batch, lmbda)
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        total, rate, distortion = torch.stack([part.detach() for part in loss]).tolist()
        return total, rate, distortion

    entropy.set_generator(net, noise_generator)
    entropy.drop_tables(net)
    try:
        for step in range(steps):
            if isinstance(net.scheme, TwoStages) and step == round(net.scheme.share * steps):
                scheme = net.scheme.second
                entropy.set_scheme(net, scheme)
                for path, part in net.named_modules():
                    if path.rpartition(".")[2] in ("g_a", "h_a"):  # CompressAI's latent codecs hold h_a further down
                        part.requires_grad_(False)
            if step % SOLVE_EVERY == 0:
                entropy.solve_quantiles(net)
            temperature = scheme.temperature(step, steps)
            entropy.set_temperature(net, temperature)
            for group in optimizer.param_groups:
                group["lr"] = schedule(step, steps) * min(1.0, (step + 1) / WARM_UP)
            if isinstance(source, PhotoSet):
                batch = source.crops(batch_size, crop, data_generator, permute_colours)
                batch = batch.contiguous(memory_format=layout)
            else:
                batch = source.draw(batch_size, data_generator).to(device)
            total, rate, distortion = one_step(batch)
            if not math.isfinite(total):
                raise FloatingPointError(
                    f"the loss is {total} at step {step + 1}: lower the learning rate, or clip more"
                )
            yield Step(step + 1, steps, total, rate, distortion, temperature)
    finally:
        entropy.set_generator(net, None)
        entropy.solve_quantiles(net)
        net.requires_grad_(True)
        net.eval()


def _layout(net: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels-last, but not on a CPU with a strided 1×1 convolution, whose backward in torch 2.15 corrupts memory."""
    strided = any(type(m) is nn.Conv2d and m.kernel_size == (1, 1) and m.stride != (1, 1) for m in net.modules())
    return torch.contiguous_format if strided and device.type == "cpu" else torch.channels_last


@dataclass
class Run:
    """A finished training run."""

    net: Codec | ToyTransformCode
    settings: dict[str, Any]
    seconds: float
    history: list[Step] = field(repr=False)

    def to_frame(self):
        """The history as a pandas table, one row a step."""
        import pandas as pd

        return pd.DataFrame([vars(step) for step in self.history])


def train(
    net: Codec | ToyTransformCode,
    source: PhotoSet | Source,
    *,
    lmbda: float,
    steps: int,
    out: str | Path | None = None,
    log: str | Path | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Run:
    """Train `net` in place as `stream` does, with a progress bar, and write a checkpoint to `out` at the end.

    log: CSV file that gets a row for each step as it is made, to follow a long run.
    progress: True or False; None shows the bar on a terminal or in a notebook only.
    """
    if out is not None and isinstance(net, ToyTransformCode):
        raise ValueError("out: the toy is trained in two seconds and has no checkpoint")
    if out is not None and not hasattr(net, "kind"):
        raise ValueError("out: takes labkit's own networks; save the state dict of an adopted model yourself")
    start, history = time.perf_counter(), []
    hide = None if progress is None else not progress
    with tqdm(total=steps, unit="step", disable=hide) as bar, open(log or os.devnull, "w", buffering=1) as table:
        table.write(",".join(f.name for f in fields(Step)) + "\n")
        for step in stream(net, source, lmbda=lmbda, steps=steps, **settings):
            history.append(step)
            table.write(",".join(f"{value:.6g}" for value in vars(step).values()) + "\n")
            bar.set_postfix_str(f"loss {step.loss:.3f}", refresh=False)
            bar.update()
    run = Run(net, {"lmbda": lmbda, "steps": steps, **settings}, time.perf_counter() - start, history)
    if out is not None and not isinstance(net, ToyTransformCode):
        net.update()
        about = {key: str(value) if isinstance(value, Schedule) else value for key, value in run.settings.items()}
        save_checkpoint(net, out, **about, total_steps=net.info.get("total_steps", 0) + steps)
    return run
