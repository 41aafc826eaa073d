"""Times a training step against its convolutions alone, with or without a busy process next to it.

python -m tests.bench.train --busy
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import torch
from compressai.layers import GDN
from torch import Tensor, nn

from labkit import networks
from labkit.training.bench import Loop, Task, compare, ours, speedups
from labkit.training.threads import keep_memory


def convolutions(task: Task, net: networks.Codec, precision: str, threads: int = 1) -> Loop:
    """Run only the convolutions of a training step, with those of GDN, forward and backward, in channels-last layout.

    No trainer of this network can be faster.
    """
    torch.set_num_threads(threads)
    keep_memory()
    net = net.to(task.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    autocast = torch.autocast(task.device, torch.bfloat16, enabled=precision == "bfloat16")
    runs: list[Callable[[], None]] = []

    def record(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        x = inputs[0].detach().contiguous(memory_format=torch.channels_last)
        x.requires_grad_(x.size(1) != 3)  # training does not need the gradient of the image
        kernel: Any = module
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            kernel = nn.Conv2d(x.size(1), x.size(1), 1).to(x.device)
        gradient = torch.randn_like(output).contiguous(memory_format=torch.channels_last)
        variables = [
            tensor for tensor in (x, kernel.weight, kernel.bias) if tensor is not None and tensor.requires_grad
        ]

        def run() -> None:
            with autocast:
                y = kernel(x)
            torch.autograd.grad(y, variables, gradient.to(y.dtype))

        runs.append(run)

    kinds = (nn.Conv2d, nn.ConvTranspose2d, GDN)
    hooks = [module.register_forward_hook(record) for module in net.modules() if isinstance(module, kinds)]
    net(torch.rand(task.batch_size, 3, task.crop, task.crop, device=task.device))
    for hook in hooks:
        hook.remove()
    while True:
        for run in runs:
            run()
        yield


VARIANTS: dict[str, Callable[[Task, Any], Loop]] = {
    "labkit float32": lambda task, net: ours(task, net, "float32", threads=1),
    "floor float32": lambda task, net: convolutions(task, net, "float32"),
    "labkit bfloat16": lambda task, net: ours(task, net, "bfloat16", threads=1),
    "floor bfloat16": lambda task, net: convolutions(task, net, "bfloat16"),
    "labkit threads chosen": lambda task, net: ours(task, net, "float32"),
}


@contextmanager
def busy_process(enabled: bool) -> Iterator[None]:
    """Run another process that computes without pause, if `enabled`."""
    if not enabled:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


@click.command()
@click.option("--network", default="mean_scale_hyperprior")
@click.option("--size", default="small")
@click.option("--batch-size", default=8)
@click.option("--crop", default=128)
@click.option("--rounds", default=5)
@click.option("--steps", default=8)
@click.option("--busy", is_flag=True, help="Run beside another process that occupies a core.")
def main(network: str, size: str, batch_size: int, crop: int, rounds: int, steps: int, busy: bool) -> None:
    """Print seconds per step with one thread, and each precision's time relative to its convolutions alone."""
    with busy_process(busy):
        table = compare(Task(network, size, batch_size, crop), rounds, steps, 1, VARIANTS, "tests.bench.train")
    for name, row in table.items():
        print(f"{name:<24}{row['threads']:>3} threads {statistics.median(row['seconds']):.4f} s/step")
    for precision in ("float32", "bfloat16"):
        ratio = statistics.median(speedups(table, f"floor {precision}", f"labkit {precision}"))
        print(f"{precision}: a step takes {ratio:.2f} times as long as its convolutions")
    ratio = statistics.median(speedups(table, "labkit threads chosen", "labkit float32"))
    print(f"threads chosen by timing: {ratio:.2f} times as fast as one thread")


if __name__ == "__main__":
    main()
