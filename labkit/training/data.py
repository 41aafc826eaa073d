"""Batches that depend on the seed and the step alone: a run that was stopped goes on with those it would have seen."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from labkit.checks import check_at_least
from labkit.datasets import ImageFiles, PhotoSet
from labkit.training import processes
from labkit.training.threads import cores

DATA, NOISE = 0, 1  # streams of random numbers: one step draws from each, and none shifts another


class Points(Protocol):
    """An endless supply of points, such as `datasets.Banana`."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n points, of shape (n, d)."""


Images: TypeAlias = PhotoSet | ImageFiles
Source: TypeAlias = Images | Points
Handed: TypeAlias = Tensor | np.ndarray | str


def generator_for(seed: int, step: int, stream: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one step and stream, DATA or NOISE, as it stands before the first draw. See `reseed`."""
    return reseed(torch.Generator(device), seed, step, stream)


def reseed(generator: torch.Generator, seed: int, step: int, stream: int) -> torch.Generator:
    """Put a generator where `generator_for` has it, and return it.

    NumPy's SeedSequence mixes the three numbers, so that neighboring seeds and steps have nothing in common. Torch
    takes 32 bits of its result on a CPU, 64 on a GPU: in a million steps about a hundred pairs share their draws on a
    CPU. Raises ValueError naming the number that is negative.
    """
    check_at_least(0, seed=seed, step=step, stream=stream)
    mixed = np.random.SeedSequence([stream, step, seed])  # the seed last: of two words, it would else shift the step
    return generator.manual_seed(int(mixed.generate_state(1, np.uint64)[0]))


def batches(
    source: Source,
    *,
    first: int,
    steps: int,
    batch_size: int,
    crop: int,
    permute_colors: bool,
    seed: int,
    device: torch.device | str,
    workers: int | None = None,
    part: tuple[int, int] = (0, 1),
) -> Generator[Tensor, None, None]:
    """The batches of the steps `first` to `steps` − 1, float32 on `device`: crops (n, 3, crop, crop), or points (n, d).

    part: (k, m) gives the k-th of m equal parts of each batch, what one of m processes trains on.

    A PhotoSet is moved to the device, and crops are cut there. ImageFiles are decoded ahead of time by `workers`
    processes (None: one fewer than the cores that fall to each process of torchrun, at least 1 and at most 4; 0: by
    this process, when they are due), started at once, and ended when the generator is closed or dropped. The batches
    are the same in every case.

    Raises ValueError at once for a picture too small and for a batch that has no m equal parts, and when it is met for
    a damaged file, naming it; ChildProcessError where a worker is killed.
    """
    check_at_least(0, first=first, seed=seed, workers=workers or 0)
    check_at_least(1, batch_size=batch_size, crop=crop)
    if batch_size % part[1]:
        raise ValueError(f"batch_size: {part[1]} processes have equal parts of a batch, got {batch_size}")
    device = torch.device(device)
    if isinstance(source, ImageFiles):
        source.check_crop(crop)
        drawn = _Batches(source, batch_size, crop, permute_colors, seed, part)
        workers = max(1, min(4, cores() // processes.local_world_size() - 1)) if workers is None else workers
        return _loaded(iter(_loader(drawn, range(first, steps), workers, device)), device)
    if isinstance(source, PhotoSet):
        source.check_crop(crop)
        drawn = _Batches(source.to(device), batch_size, crop, permute_colors, seed, part)
        return (_floats(drawn.cut(step)) for step in range(first, steps))
    draws = (source.draw(batch_size, generator_for(seed, step, DATA)) for step in range(first, steps))
    return (points.chunk(part[1])[part[0]].to(device) for points in draws)


class _Batches(Dataset[Any]):
    """Batches by number of step, as uint8: a quarter of what a worker would have to hand over in float32."""

    def __init__(
        self,
        source: Images,
        batch_size: int,
        crop: int,
        permute_colors: bool,
        seed: int,
        part: tuple[int, int] = (0, 1),
    ):
        self.source, self.seed = source, seed
        self.settings = (batch_size, crop, permute_colors, part)

    def cut(self, step: int) -> Tensor:
        batch_size, crop, permute_colors, part = self.settings
        return self.source.crops_uint8(batch_size, crop, generator_for(self.seed, step, DATA), permute_colors, part)

    def __getitem__(self, step: int) -> Handed:
        """What a worker hands over: the batch, or what is wrong with a file, which DataLoader would raise as a page."""
        try:
            crops = self.cut(step)
        except ValueError as error:
            return str(error)  # as an exception it could bring a traceback with it, whose frames keep the workers alive
        try:
            return crops if get_worker_info() is None else crops.share_memory_()
        except RuntimeError:  # containers have little shared memory; left to DataLoader, the parent would wait forever
            return crops.numpy()  # travels through a pipe


def _loader(dataset: _Batches, steps: range, workers: int, device: torch.device) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # for seeds that nothing here uses, and else drawn from torch's own generator
        pin_memory=device.type == "cuda",
    )


def _as_it_is(handed: Any) -> Any:
    return handed


def _start_worker(_: int) -> None:
    """Ctrl-C reaches every process of a terminal; what it ends is the parent's to say.

    DataLoader has set one torch thread before this: a forked process that used more would wait for threads that exist
    in its parent only.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _loaded(found: Iterator[Handed], device: torch.device) -> Generator[Tensor, None, None]:
    try:
        while (handed := _next(found)) is not None:
            if isinstance(handed, str):
                raise ValueError(handed)
            yield _floats(torch.as_tensor(handed).to(device, non_blocking=True))
    finally:
        del found  # its workers end with it, while the frame would live on in the traceback of an error


def _next(found: Iterator[Handed]) -> Handed | None:
    try:
        return next(found, None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        message = " ".join(str(error).split())
        raise ChildProcessError(
            f"a process that reads images was lost, perhaps for want of memory: {message}"
        ) from None


def _floats(crops: Tensor) -> Tensor:
    return crops.float().div_(255)  # in place: another batch of float32 costs more than the division
