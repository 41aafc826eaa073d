"""Several processes that train one network together, started by torchrun. Usually there is only one process."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import distributed

PRECISIONS: dict[str, Any] = {"float32": "32-true", "bfloat16": "bf16-mixed"}  # our names and Fabric's
Item = TypeVar("Item")


def ranks() -> tuple[int, int]:
    """Return the rank of this process and the number of processes: (0, 1) unless torchrun started it."""
    if not (distributed.is_available() and distributed.is_torchelastic_launched()):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def local_world_size() -> int:
    """Return the number of these processes that run on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if ranks()[1] > 1 else 1


def default_device() -> str:
    """Return `cuda` if torch finds a GPU, and `cpu` otherwise."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device(name: str | None = None) -> torch.device:
    """Return a torch device. Under torchrun, each process on a machine gets its own GPU.

    Args:
        name: Name of the device; None means `default_device()`.

    Raises:
        ValueError: If torch does not know the device, or if it is a GPU that torch does not find.
    """
    try:
        place = torch.device(name or default_device())
    except RuntimeError:
        raise ValueError(f"device must be cpu, cuda or cuda:N, got {name!r}") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but torch finds no GPU; use device='cpu'")
    if place.type == "cuda" and ranks()[1] > 1:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return place


def fabric(device: torch.device, precision: str = "float32", changing: bool = False) -> Fabric:
    """Return Lightning Fabric for this process, connected to the other processes if there are any.

    Args:
        device: Device of this process.
        precision: "float32" or "bfloat16".
        changing: True if the set of trained parameters changes during training.
    """
    with quiet():
        if ranks()[1] == 1:
            devices: Any = [device.index or 0] if device.type == "cuda" else 1
            return Fabric(accelerator=device.type, devices=devices, precision=PRECISIONS[precision])
        local = local_world_size()
        connected = Fabric(
            accelerator=device.type, devices=local, num_nodes=ranks()[1] // local, precision=PRECISIONS[precision],
            strategy=DDPStrategy(find_unused_parameters=changing),
        )  # fmt: skip
        connected.launch()
        return connected


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress Fabric's notices, which it would otherwise print for every run of a sweep."""
    logger = logging.getLogger("lightning_fabric")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def gathered(items: list[Item]) -> list[Item]:
    """Return the items of all processes in turn: each process's first item, then each process's second, and so on.

    Every process must call this function, and every process gets all items. The items are pickled.

    Args:
        items: Items of this process.
    """
    count = ranks()[1]
    if count == 1:
        return items
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    parts: list[Any] = [None] * count
    distributed.all_gather_object(parts, items)
    return [parts[i % count][i // count] for i in range(sum(map(len, parts)))]
