"""How fast this machine trains: labkit beside the loop that CompressAI's documentation teaches, and beside the floor.

Each way trains in a process of its own, since how threads wait is settled when a process starts; they work in turn. The
floor is what no trainer of a network can do without: its convolutions, forward and backward, in labkit's layout.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from compressai.layers import GDN
from torch import Tensor, nn
from tqdm.auto import tqdm

from labkit import datasets, networks, paths, schemes
from labkit.disk import write_whole
from labkit.training import trainer
from labkit.training.settings import Settings
from labkit.training.threads import Threads, cores, keep_memory
from labkit.training.trainer import Training

LMBDA, LEARNING_RATE = 0.01, 1e-4
Way = Generator[None, None, None]


@dataclass(frozen=True)
class Task:
    """What is trained, on the bundled photographs: additive noise, as CompressAI has it."""

    network: str
    size: str
    batch_size: int
    crop: int
    device: str = "cpu"
    seed: int = 0

    def net(self) -> networks.Codec:
        return networks.get(self.network, self.size, schemes.noise(), seed=self.seed)


def documented(task: Task, net: Any) -> Way:
    """CompressAI's examples/train.py: DataLoader with four workers, two optimizers, float32, torch's own threads.

    net: the network of the task as CompressAI's own class. The example starts its workers anew for every epoch; here
    an epoch has no end, since the photographs are few.
    """
    from compressai.datasets import ImageFolder
    from compressai.losses import RateDistortionLoss
    from compressai.optimizers import net_aux_optimizer
    from torch.utils.data import DataLoader, RandomSampler
    from torchvision import transforms

    cut = transforms.Compose([transforms.RandomCrop((task.crop, task.crop)), transforms.ToTensor()])
    folder = ImageFolder(paths.data() / "photographs", split="train", transform=cut)
    sampler = RandomSampler(folder, replacement=True, num_samples=2**40)
    pinned = task.device != "cpu"
    loader = DataLoader(folder, task.batch_size, sampler=sampler, num_workers=4, pin_memory=pinned)
    rates = {"net": {"type": "Adam", "lr": LEARNING_RATE}, "aux": {"type": "Adam", "lr": 1e-3}}
    optimizers, criterion = net_aux_optimizer(net, rates), RateDistortionLoss(lmbda=LMBDA)
    for batch in loader:
        batch = batch.to(task.device)
        optimizers["net"].zero_grad()
        optimizers["aux"].zero_grad()
        loss = criterion(net(batch), batch)["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizers["net"].step()
        auxiliary = net.aux_loss()
        auxiliary.backward()
        optimizers["aux"].step()
        yield


def ours(task: Task, net: networks.Codec, precision: str, threads: int | None = None) -> Way:
    """labkit's trainer as `labkit train` runs it, but for the warm-up: both ways learn at the same rate throughout."""
    trainer.WARM_UP = 1
    settings = Settings(
        lmbda=LMBDA, steps=2**40, batch_size=task.batch_size, crop=task.crop, lr=LEARNING_RATE, seed=task.seed,
        device=task.device, precision=precision,
    )  # fmt: skip
    with Threads(threads if task.device == "cpu" else torch.get_num_threads()) as chosen:
        for step in Training(net, datasets.photos("train"), settings):
            chosen.timed(step.seconds)
            yield


def convolutions(task: Task, net: networks.Codec, precision: str) -> Way:
    """Every convolution of a training step by itself, forward and backward, GDN's product with its weights among them.

    Channels-last, as the trainer has it.
    """
    keep_memory()
    net = net.to(task.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    autocast = torch.autocast(task.device, torch.bfloat16, enabled=precision == "bfloat16")
    met: list[Callable[[], None]] = []

    def meet(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        x = inputs[0].detach().contiguous(memory_format=torch.channels_last)
        x.requires_grad_(x.size(1) != 3)  # nothing asks for the gradient of the image
        kernel: Any = module
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            kernel = nn.Conv2d(x.size(1), x.size(1), 1).to(x.device)
        gradient = torch.randn_like(output).contiguous(memory_format=torch.channels_last)
        wanted = [each for each in (x, kernel.weight, kernel.bias) if each is not None and each.requires_grad]

        def run() -> None:
            with autocast:
                y = kernel(x)
            torch.autograd.grad(y, wanted, gradient.to(y.dtype))

        met.append(run)

    kinds = (nn.Conv2d, nn.ConvTranspose2d, GDN)
    hooks = [module.register_forward_hook(meet) for module in net.modules() if isinstance(module, kinds)]
    net(torch.rand(task.batch_size, 3, task.crop, task.crop, device=task.device))
    for hook in hooks:
        hook.remove()
    while True:
        for run in met:
            run()
        yield


WAYS: dict[str, Callable[[Task, Any], Way]] = {
    "compressai": documented,
    "labkit": lambda task, net: ours(task, net, "float32"),
    "labkit, one thread": lambda task, net: ours(task, net, "float32", threads=1),
    "convolutions": lambda task, net: convolutions(task, net, "float32"),
    "labkit bfloat16": lambda task, net: ours(task, net, "bfloat16"),
    "convolutions bfloat16": lambda task, net: convolutions(task, net, "bfloat16"),
}


def _serve(way: str, **task: Any) -> None:
    """Take lines "STEPS THREADS" (0: its own choice) and answer each with seconds, threads and the rounded loss."""
    given = Task(**task)
    net: Any = given.net().to(given.device)
    if way == "compressai":
        own = next(base for base in type(net).__mro__ if base.__module__.startswith("compressai.models"))
        net, start = own(net.N, net.M).to(given.device).train(), net.state_dict()
        net.load_state_dict(start)
    torch.manual_seed(given.seed)
    steps = WAYS[way](given, net)
    for line in sys.stdin:
        count, threads = map(int, line.split())
        if threads:
            torch.set_num_threads(threads)
        start = time.perf_counter()
        for _ in itertools.islice(steps, count):
            pass
        if given.device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "threads": torch.get_num_threads(), "loss": _rounded(net, given)}))
        sys.stdout.flush()


def _rounded(net: Any, task: Task) -> float:
    """The test loss, of crops of four photographs."""
    from labkit.training.losses import rate_distortion

    mode, threads = net.training, torch.get_num_threads()
    x = torch.stack([photo[:, :256, :256] for photo in datasets.photos("test")[:4]]).to(task.device)
    with torch.no_grad():
        loss = rate_distortion(net.eval()(x), x, LMBDA).total.item()
    net.train(mode)
    torch.set_num_threads(threads)
    return loss


@contextmanager
def _worker(way: str, task: Task) -> Iterator[Callable[[int, int], dict[str, float]]]:
    """A process that trains one way: call it with a number of steps, and of threads where they are not its own."""
    code = f"from labkit.training import bench; bench._serve({way!r}, **{asdict(task)!r})"
    waiting = {"OMP_WAIT_POLICY": "passive"} if way != "compressai" else {}
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": {**os.environ, **waiting}}
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], **pipe) as process:  # type: ignore[call-overload]

        def call(steps: int, threads: int = 0) -> dict[str, float]:
            process.stdin.write(f"{steps} {threads}\n")
            process.stdin.flush()
            if not (answer := process.stdout.readline()):
                raise ValueError(f"{way}: its process ended")
            return json.loads(answer)

        try:
            yield call
        finally:
            process.kill()


@contextmanager
def _busy(wanted: bool) -> Iterator[None]:
    """Another process that computes without a pause, while this lasts."""
    if not wanted:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def compare(task: Task, ways: list[str], rounds: int, steps: int, busy: bool) -> dict[str, dict[str, dict[str, Any]]]:
    """Seconds of a step, quiet and, where `busy` asks for it, beside a busy process, by way.

    Each way `rounds` times in turn, `steps` at a time, after some to warm up, in which labkit tries threads.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    with ExitStack() as stack:
        workers = {way: stack.enter_context(_worker(way, task)) for way in ways}
        for load in ["quiet", "busy"] if busy else ["quiet"]:
            rows = found[load] = {way: {"seconds": [], "threads": 0} for way in ways}
            with _busy(load == "busy"):
                for turn in tqdm(range(rounds + 1), desc=load, unit="round", disable=None, leave=False):
                    for way, worker in workers.items():
                        like = way.replace("convolutions", "labkit")
                        threads = rows[like]["threads"] if like != way else 0
                        answer = worker(steps if turn else max(steps, 24), threads)
                        rows[way]["threads"] = answer["threads"]
                        if turn:
                            rows[way]["seconds"].append(answer["seconds"] / steps)
    return found


def learned(task: Task, ways: list[str], seeds: int, steps: int) -> dict[str, list[float]]:
    """The rounded loss on test photographs after so many steps, for each way and seed, from the same first weights."""
    losses: dict[str, list[float]] = {way: [] for way in ways}
    for seed in tqdm(range(seeds), unit="seed", disable=None, leave=False):
        for way, found in losses.items():
            with _worker(way, Task(**{**asdict(task), "seed": seed})) as worker:
                found.append(worker(steps, 1)["loss"])
    return losses


def print_table(
    task: Task, rounds: int, steps: int, busy: bool, seeds: int, learn: int, out: Path | None = None
) -> None:
    """Print seconds a step, images a second and ratios, with threads and load, and write them as JSON to `out`."""
    load = f", load {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    print(f"{task.network} {task.size}, {task.batch_size} crops of {task.crop}×{task.crop}, {task.device}")
    print(f"torch {torch.__version__}, {cores()} cores{load} at the start; {rounds} rounds of {steps} steps, medians")
    found = compare(task, list(WAYS), rounds, steps, busy)
    for name, rows in found.items():
        print(f"{'' if name == 'quiet' else 'beside a busy process':<24}{'threads':>8}{'s a step':>10}", end="")
        print(f"{'images/s':>10}{'× compressai':>14}{'× floor':>9}")
        for way, row in rows.items():
            floor = rows.get(way.replace("labkit", "convolutions")) if "labkit" in way else None
            row["times_compressai"] = _ratio(rows["compressai"], row)
            row["times_floor"] = _ratio(row, floor) if floor else None
            each = statistics.median(row["seconds"])
            beyond = f"{row['times_floor']:>9.2f}" if floor else ""
            print(f"{way:<24}{row['threads']:>8}{each:>10.4f}{task.batch_size / each:>10.1f}", end="")
            print(f"{row['times_compressai']:>14.2f}{beyond}")
    if busy:
        slower = _ratio(found["busy"]["labkit"], found["quiet"]["labkit, one thread"])
        print(f"beside a busy process, labkit takes {slower:.2f} times what a step takes quietly with one thread")
    losses = learned(task, ["compressai", "labkit", "labkit bfloat16"], seeds, learn) if seeds else {}
    for way, values in losses.items():
        spread = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
        print(f"{way:<24}rounded loss after {learn} steps {statistics.mean(values):.4f} ± {spread:.4f}, {seeds} seeds")
    if out:
        report = {**asdict(task), "cores": cores(), "load": load, "ways": found, "losses": losses}
        write_whole(out, json.dumps(report, indent=1).encode())


def _ratio(above: dict[str, Any], below: dict[str, Any]) -> float:
    return statistics.median(a / b for a, b in zip(above["seconds"], below["seconds"], strict=True))
