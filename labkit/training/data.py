"""Batches that depend only on the seed and the step, so a resumed run gets the same batches as an uninterrupted one."""

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

DATA, NOISE = 0, 1  # streams of random numbers; drawing from one does not affect the other


class Points(Protocol):
    """A source of points, such as `datasets.Banana`."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n points as a tensor of shape (n, d)."""


Images: TypeAlias = PhotoSet | ImageFiles
Source: TypeAlias = Images | Points
Loaded: TypeAlias = Tensor | np.ndarray[Any, Any] | str  # crops, or an error message


def generator_for(seed: int, step: int, stream: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new generator for one step and stream, as `reseed` sets it.

    Args:
        seed: Seed of the run.
        step: Number of the step, counted from 0.
        stream: DATA or NOISE.
        device: Device of the generator.
    """
    return reseed(torch.Generator(device), seed, step, stream)


def reseed(generator: torch.Generator, seed: int, step: int, stream: int) -> torch.Generator:
    """Seed a generator for one step and stream, and return it.

    NumPy's SeedSequence mixes the three numbers, so neighboring seeds and steps are unrelated. Torch uses 32 bits of
    the result on a CPU and 64 on a GPU. On a CPU, about a hundred pairs among a million steps share their draws.

    Args:
        generator: Generator to seed in place.
        seed: Seed of the run.
        step: Number of the step, counted from 0.
        stream: DATA or NOISE.

    Raises:
        ValueError: If a number is negative.
    """
    check_at_least(0, seed=seed, step=step, stream=stream)
    # A seed of two words would shift the numbers that follow it, so the seed comes last
    sequence = np.random.SeedSequence([stream, step, seed])
    return generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


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
    """Return an iterator over the batches of the steps `first` to `steps` − 1.

    A PhotoSet is moved to the device, and crops are cut there. ImageFiles are decoded in advance by worker processes,
    which start immediately and end when the generator is closed or garbage-collected. The batches are the same in both
    cases and for every number of workers.

    Args:
        source: Photographs or points.
        first: Number of the first step, counted from 0.
        steps: Number of steps in the run.
        batch_size: Number of crops or points per batch, summed over all processes.
        crop: Side of the crops in pixels.
        permute_colors: True puts the color channels of half of the crops into random order.
        seed: Seed of the run.
        device: Device of the batches.
        workers: Number of processes that decode ImageFiles. None uses one fewer than the cores per torchrun process,
            at least 1 and at most 4. 0 decodes in this process when a batch is needed.
        part: (k, m) yields the k-th of m equal parts of each batch, for process k of m.

    Returns:
        An iterator over float32 tensors: crops of shape (n, 3, crop, crop) with values in [0, 1], or points (n, d).

    Raises:
        ValueError: If an image is smaller than the crops, if the batch cannot be split into m equal parts, or, while
            iterating, if an image file is damaged.
        ChildProcessError: While iterating, if a worker was killed.
    """
    check_at_least(0, first=first, seed=seed, workers=workers or 0)
    check_at_least(1, batch_size=batch_size, crop=crop)
    if batch_size % part[1]:
        raise ValueError(f"batch_size must be a multiple of the {part[1]} processes, got {batch_size}")
    device = torch.device(device)
    if isinstance(source, ImageFiles):
        source.check_crop(crop)
        numbered = _Batches(source, batch_size, crop, permute_colors, seed, part)
        workers = max(1, min(4, cores() // processes.local_world_size() - 1)) if workers is None else workers
        return _loaded(iter(_loader(numbered, range(first, steps), workers, device)), device)
    if isinstance(source, PhotoSet):
        source.check_crop(crop)
        numbered = _Batches(source.to(device), batch_size, crop, permute_colors, seed, part)
        return (_floats(numbered.cut(step)) for step in range(first, steps))
    draws = (source.draw(batch_size, generator_for(seed, step, DATA)) for step in range(first, steps))
    return (points.chunk(part[1])[part[0]].to(device) for points in draws)


class _Batches(Dataset[Any]):
    """Batches indexed by step, as uint8, because workers then transfer a quarter of the bytes of float32."""

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

    def __getitem__(self, step: int) -> Loaded:
        """Return the batch, or an error message, because DataLoader would turn an exception into a page of text."""
        try:
            crops = self.cut(step)
        except ValueError as error:
            return str(error)  # the traceback of an exception would keep the workers alive
        try:
            return crops if get_worker_info() is None else crops.share_memory_()
        except RuntimeError:  # shared memory is scarce in containers; without this, the parent would wait forever
            return crops.numpy()  # is sent through a pipe


def _loader(dataset: _Batches, steps: range, workers: int, device: torch.device) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # without it, DataLoader would advance torch's global generator
        pin_memory=device.type == "cuda",
    )


def _unchanged(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    """Ignore Ctrl-C, which every process of a terminal receives; the parent decides which processes to end.

    DataLoader has set one torch thread before this call. A forked process with more threads would wait for threads that
    exist only in its parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _loaded(received: Iterator[Loaded], device: torch.device) -> Generator[Tensor, None, None]:
    try:
        while (batch := _next(received)) is not None:
            if isinstance(batch, str):
                raise ValueError(batch)
            yield _floats(torch.as_tensor(batch).to(device, non_blocking=True))
    finally:
        del received  # ends the workers, which the traceback of an error would otherwise keep alive


def _next(received: Iterator[Loaded]) -> Loaded | None:
    try:
        return next(received, None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        message = " ".join(str(error).split())
        raise ChildProcessError(
            f"a process that reads images was killed, perhaps because memory ran out: {message}"
        ) from None


def _floats(crops: Tensor) -> Tensor:
    return crops.float().div_(255)  # in place, because allocating another float32 batch costs more than dividing
