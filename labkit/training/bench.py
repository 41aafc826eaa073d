"""Training speed on this machine: labkit's trainer against the loop from CompressAI's documentation.

Each variant trains in its own process, because OpenMP reads how threads wait when a process starts. The variants take
turns, so a change in the machine's load affects all of them. They start from the same weights and use the same learning
rate, so their final losses are comparable.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from labkit import datasets, networks, paths, schemes
from labkit.disk import write_whole
from labkit.progress import progress_bar
from labkit.training import trainer
from labkit.training.losses import rate_distortion
from labkit.training.settings import Settings
from labkit.training.threads import Threads, cores

LMBDA, LEARNING_RATE = 0.01, 1e-4
WARM_UP = 24  # steps before the first timed round, during which labkit tries numbers of threads
Loop = Generator[None, None, None]


@dataclass(frozen=True)
class Task:
    """A network to train on the bundled photographs, with additive noise as in CompressAI.

    Attributes:
        network: Name of the network.
        size: "tiny", "small" or "paper".
        batch_size: Number of crops per step.
        crop: Side of the crops in pixels.
        device: Name of a torch device.
        seed: Seed of the weights, the crops and the noise.
    """

    network: str
    size: str
    batch_size: int
    crop: int
    device: str = "cpu"
    seed: int = 0

    def net(self) -> networks.Codec:
        """Return the untrained network."""
        return networks.get(self.network, self.size, schemes.noise(), seed=self.seed)


def documented(task: Task, net: Any) -> Loop:
    """Train like CompressAI's examples/train.py: a DataLoader with four workers, two optimizers and float32.

    The example restarts its workers in every epoch. Here an epoch never ends, because there are only few photographs.

    Args:
        task: Network and data to train on.
        net: The network as an instance of CompressAI's own class.
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


def ours(task: Task, net: networks.Codec, precision: str | None = None, threads: int | None = None) -> Loop:
    """Train with labkit's trainer, as `labkit train` does, but without a warm-up of the learning rate.

    Args:
        task: Network and data to train on.
        net: The network.
        precision: "float32" or "bfloat16". None uses labkit's default, the faster of the two.
        threads: Number of torch threads. None uses labkit's default, which is chosen by timing.
    """
    trainer.WARM_UP = 1
    settings = Settings(
        lmbda=LMBDA, steps=2**40, batch_size=task.batch_size, crop=task.crop, lr=LEARNING_RATE, seed=task.seed,
        device=task.device, precision=precision,
    )  # fmt: skip
    with Threads(threads if task.device == "cpu" else torch.get_num_threads()) as chosen:
        for step in trainer.Training(net, datasets.photos("train"), settings):
            chosen.timed(step.seconds)
            yield


VARIANTS: dict[str, Callable[[Task, Any], Loop]] = {
    "CompressAI": documented,
    "labkit": ours,
    "labkit float32": lambda task, net: ours(task, net, "float32"),
}


def serve(loop: Callable[[Task, Any], Loop], compressai: bool, **fields: Any) -> None:
    """Train in this process: read numbers of steps from standard input, and answer with time, threads and test loss.

    Args:
        loop: Function that trains one variant.
        compressai: True trains CompressAI's own class instead of labkit's.
        **fields: Fields of the `Task`.
    """
    task = Task(**fields)
    net: Any = task.net().to(task.device)
    if compressai:
        original = next(base for base in type(net).__mro__ if base.__module__.startswith("compressai.models"))
        weights, net = net.state_dict(), original(net.N, net.M).to(task.device).train()
        net.load_state_dict(weights)
    torch.manual_seed(task.seed)
    steps = loop(task, net)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in itertools.islice(steps, int(line)):
            pass
        if task.device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        answer = {"seconds": seconds, "threads": torch.get_num_threads(), "loss": _test_loss(net, task)}
        print(json.dumps(answer), flush=True)


def _test_loss(net: Any, task: Task) -> float:
    """Return the loss with rounded latents, on crops of four test photographs."""
    mode, threads = net.training, torch.get_num_threads()
    x = torch.stack([photo[:, :256, :256] for photo in datasets.photos("test")[:4]]).to(task.device)
    with torch.no_grad():
        loss = rate_distortion(net.eval()(x), x, LMBDA).total.item()
    net.train(mode)
    torch.set_num_threads(threads)
    return loss


@contextmanager
def worker(variant: str, task: Task, module: str = __name__) -> Iterator[Callable[[int], dict[str, Any]]]:
    """Start a process that trains one variant, and end it when the block ends.

    Args:
        variant: A name in `VARIANTS`.
        task: Network and data to train on.
        module: Module that defines `VARIANTS`.

    Yields:
        A function that takes a number of steps and returns the seconds, the threads and the test loss.
    """
    compressai = variant == "CompressAI"
    code = (
        f"from {module} import VARIANTS; from labkit.training.bench import serve; "
        f"serve(VARIANTS[{variant!r}], {compressai}, **{asdict(task)!r})"
    )
    environment = {**os.environ, **({} if compressai else {"OMP_WAIT_POLICY": "passive"})}  # as `labkit train` sets it
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout
        requests, answers = process.stdin, process.stdout

        def train(steps: int) -> dict[str, Any]:
            requests.write(f"{steps}\n")
            requests.flush()
            if not (line := answers.readline()):
                raise ValueError(f"the process that trains {variant!r} ended early")
            answer: dict[str, Any] = json.loads(line)
            return answer

        try:
            yield train
        finally:
            process.kill()


def compare(
    task: Task, rounds: int, steps: int, seeds: int, variants: Mapping[str, Any] = VARIANTS, module: str = __name__
) -> dict[str, dict[str, Any]]:
    """Time the variants in turn.

    Args:
        task: Network and data to train on.
        rounds: Number of timed rounds per seed.
        steps: Number of steps per round.
        seeds: Number of seeds.
        variants: The variants to time.
        module: Module that defines them as `VARIANTS`.

    Returns:
        The seconds per step of each round, the number of threads, and the test loss of each seed, for each variant.
    """
    table: dict[str, dict[str, Any]] = {name: {"seconds": [], "threads": 0, "losses": []} for name in variants}
    with progress_bar(total=seeds * (rounds + 1), unit="round", progress=None) as bar:
        for seed in range(seeds):
            with ExitStack() as stack:
                workers = {
                    name: stack.enter_context(worker(name, replace(task, seed=seed), module)) for name in variants
                }
                for turn in range(rounds + 1):
                    count = steps if turn else WARM_UP
                    answers = {name: train(count) for name, train in workers.items()}
                    for name, answer in answers.items() if turn else ():
                        table[name]["seconds"].append(answer["seconds"] / count)
                    bar.update()
            for name, answer in answers.items():
                table[name]["threads"] = answer["threads"]
                table[name]["losses"].append(answer["loss"])
    return table


def speedups(table: Mapping[str, Mapping[str, Any]], variant: str, reference: str = "CompressAI") -> list[float]:
    """Return the speed of a variant as a multiple of the reference's, for each round."""
    pairs = zip(table[reference]["seconds"], table[variant]["seconds"], strict=True)
    return [above / below for above, below in pairs]


def print_table(task: Task, rounds: int, steps: int, seeds: int, out: Path | None = None) -> None:
    """Print the speed and the final loss of each variant, with the number of threads and the machine's load.

    Args:
        task: Network and data to train on.
        rounds: Number of timed rounds per seed.
        steps: Number of steps per round.
        seeds: Number of seeds.
        out: JSON file for the results, or None.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{task.network} {task.size}, {task.batch_size} crops of {task.crop}×{task.crop}, {task.device}")
    print(f"torch {torch.__version__}, {cores()} cores, load {load:.2f} at the start")
    print(f"medians of {seeds} × {rounds} rounds of {steps} steps; range of the speed-up over the rounds")
    table = compare(task, rounds, steps, seeds)
    total = WARM_UP + rounds * steps
    print(f"{'':<16}{'threads':>8}{'s/step':>9}{'images/s':>10}{'speed-up':>10}{'range':>14}  loss after {total} steps")
    for name, row in table.items():
        row["speedups"] = speedups(table, name)
        seconds, speedup = statistics.median(row["seconds"]), statistics.median(row["speedups"])
        span = f"{min(row['speedups']):.2f}–{max(row['speedups']):.2f}"
        error = statistics.stdev(row["losses"]) / seeds**0.5 if seeds > 1 else float("nan")
        print(f"{name:<16}{row['threads']:>8}{seconds:>9.4f}{task.batch_size / seconds:>10.1f}", end="")
        print(f"{speedup:>10.2f}{span:>14}  {statistics.mean(row['losses']):.3f} ± {error:.3f}")
    if out:
        report = {**asdict(task), "cores": cores(), "load": load, "variants": table}
        write_whole(out, json.dumps(report, indent=1).encode())
