"""Several processes that train one network together, as torchrun starts them. One process is the usual case."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import distributed

PRECISIONS: dict[str, Any] = {"float32": "32-true", "bfloat16": "bf16-mixed"}  # labkit's names, and Fabric's


def ranks() -> tuple[int, int]:
    """The number of this process and how many there are: 0 of 1, unless torchrun started it."""
    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def local_world_size() -> int:
    """Return how many of the processes run on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if ranks()[1] > 1 else 1


def device(name: str) -> torch.device:
    """The device of that name; of cuda, each process of a machine has its own.

    Raises ValueError for a name that torch does not know, and for a GPU that is not there.
    """
    try:
        found = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: takes cpu, cuda or cuda:N, got {name!r}") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: torch finds no GPU for {name!r}; cpu is there")
    if found.type == "cuda" and ranks()[1] > 1:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return found


def fabric(device: torch.device, precision: str = "float32", changing: bool = False) -> Fabric:
    """Fabric on this process's device, joined to the other processes where there are any.

    changing: the parameters that are trained change on the way.
    """
    with quiet():
        if ranks()[1] == 1:
            devices: Any = [device.index or 0] if device.type == "cuda" else 1
            return Fabric(accelerator=device.type, devices=devices, precision=PRECISIONS[precision])
        strategy = DDPStrategy(find_unused_parameters=changing)
        local = local_world_size()
        found = Fabric(
            accelerator=device.type, devices=local, num_nodes=ranks()[1] // local, strategy=strategy,
            precision=PRECISIONS[precision],
        )  # fmt: skip
        found.launch()
        return found


@contextmanager
def quiet() -> Iterator[None]:
    """Fabric announces itself, and on a GPU what torch could be told of its precision: in a sweep, for every run."""
    logger = logging.getLogger("lightning_fabric")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def gathered(own: list[Any]) -> list[Any]:
    """The items of all processes, in turn: the first one's first, the second's first, …, each process's second, ….

    Every process calls this, and gets all of them. They go from one process to another by pickle.
    """
    count = ranks()[1]
    if count == 1:
        return own
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    parts: list[Any] = [None] * count
    distributed.all_gather_object(parts, own)
    return [parts[i % count][i // count] for i in range(sum(map(len, parts)))]
