"""Decodes damaged strings in a process of its own, and checks that it neither crashes nor hangs nor fills the memory.

python -m tests.bench.hostile --strings 10000

Valid strings of every tiny network are damaged behind correct checksums. They are decoded from a `.lkc` container, by
the network itself, and by CompressAI's model after adoption, if it has one, in both kinds of arithmetic. Each must
decode or be refused by a ValueError of one line. An image to 256×256 may take 2 s and 500 MB more than before. A larger
image may take twice the time and memory of the slowest valid one. Seconds are of the processor, so that other work does
not count.
"""

from __future__ import annotations

import copy
import faulthandler
import functools
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import psutil
import torch
from tqdm.auto import tqdm

import labkit as lk
from labkit.files import codec
from tests.bench.common import COMMAND, json_option, machine_line, write_json

SECONDS, MEGABYTES = 2.0, 500.0  # limits of an image to 256×256
HANG = 120  # seconds after which the process of a case ends
SIDES = (*[(64, 64)] * 5, *[(64, 128)] * 2, (128, 128), (256, 256))  # one of them is drawn
LARGE, EVERY = (512, 768), 200  # one of so many cases has a large image
WAYS = ("container", "network", "adopted", "adopted, floating-point")


# Damage ---------------------------------------------------------------------------------------------------------------


def flip(string: bytes, draw: random.Random) -> bytes:
    """Flip one to eight bits."""
    changed = bytearray(string)
    for _ in range(draw.choice((1, 1, 2, 8))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(string: bytes, draw: random.Random) -> bytes:
    """Truncate to the state of the coder, or to any number of words."""
    return string[: draw.choice((8, 4 * draw.randrange(2, len(string) // 4 + 1)))]


def swap(string: bytes, draw: random.Random) -> bytes:
    """Let two words change places."""
    words = [string[n : n + 4] for n in range(0, len(string), 4)]
    one, other = draw.randrange(len(words)), draw.randrange(len(words))
    words[one], words[other] = words[other], words[one]
    return b"".join(words)


def zeros(string: bytes, draw: random.Random) -> bytes:
    """Overwrite a run of any length with zeros."""
    start = draw.randrange(len(string))
    length = min(draw.choice((4, 64, len(string))), len(string) - start)
    return string[:start] + bytes(length) + string[start + length :]


def ones(string: bytes, draw: random.Random) -> bytes:
    """Overwrite with bytes of 255, as many in sequence as the container allows."""
    run = draw.choice((1, 4, 15)) * b"\xff" + draw.choice((b"\x00", b"\x7f", b"\xfe"))
    start = draw.choice((0, 8, draw.randrange(len(string))))
    length = min(draw.choice((16, 256, len(string))), len(string) - start)
    return (string[:start] + (run * (1 + length // len(run)))[:length] + string[start + length :]).replace(
        b"\xff" * 16, b"\xff" * 15 + b"\x7f"
    )


def noise(string: bytes, draw: random.Random) -> bytes:
    """Replace the whole string by random bytes, half of the time with a first state that a coder may write."""
    data = bytearray(draw.randbytes(draw.choice((8, len(string), len(string), 4096, 2**16))))
    if draw.random() < 0.5:
        data[7] &= 127
    return bytes(data)


def extend(string: bytes, draw: random.Random) -> bytes:
    """Append zeros, random bytes, or the string itself."""
    return string + draw.choice((bytes(4), bytes(4096), draw.randbytes(64), string))


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    each.__name__: each for each in (flip, cut, swap, zeros, ones, noise, extend)
}
KINDS = (*DAMAGE, "another image", "another network", "another place", "all at once")


# Cases ----------------------------------------------------------------------------------------------------------------


@functools.cache
@torch.no_grad()
def network(kind: str) -> Any:
    """Return a tiny network with random weights, scaled so that many latents are not zero."""
    net = lk.networks.get(kind, "tiny", seed=0).eval()
    for name, parameter in net.named_parameters():
        if name.startswith("g_a") and name.endswith("weight") and parameter.dim() == 4:
            parameter *= 2.2
    net.update()
    return lk.portable(net)


@functools.cache
def adopted(kind: str, portable: bool) -> Any:
    """Return CompressAI's model with the same weights, after adoption."""
    net = network(kind)
    theirs: Any = next(cls for cls in type(net).__mro__ if cls.__module__.startswith("compressai.models"))
    groups = [net.latent_codec["y"].groups] if kind == "elic" else []
    model = theirs(net.N, *([] if kind.startswith("cheng") else [net.M]), *groups).eval()
    model.load_state_dict(net.state_dict())
    model.update()
    return lk.portable(lk.adopt(model, lk.schemes.mixed()), portable)


@functools.cache
def _photo(image: int) -> torch.Tensor:
    return lk.datasets.photos("test")[3 * image][None]


@functools.cache
def coded(kind: str, side: tuple[int, int], image: int, floating_point: bool = False) -> tuple[list[bytes], Any]:
    """Return the valid strings and the shape of one of two crops of photographs."""
    height, width = side
    pixels = _photo(image).repeat(1, 1, 2, 2)[..., :height, :width]
    net = lk.portable(copy.deepcopy(network(kind)), False) if floating_point else network(kind)
    result = net.compress(pixels)
    return [string for group in result["strings"] for string in group], result["shape"]


@dataclass(frozen=True)
class Case:
    """One string, or all strings of one image, to be damaged."""

    kind: str
    way: str
    side: tuple[int, int]
    damage: str
    seed: str

    def strings(self) -> list[bytes]:
        """Return the damaged strings."""
        draw = random.Random(self.seed)
        strings, _ = coded(self.kind, self.side, 0, "floating" in self.way)
        strings = list(strings)
        place = draw.randrange(len(strings))
        if self.damage == "another image":
            strings[place] = coded(self.kind, self.side, 1, "floating" in self.way)[0][place]
        elif self.damage == "another network":
            names = lk.networks.names()
            other = names[(names.index(self.kind) + 1) % len(names)]
            strings[place] = draw.choice(coded(other, (64, 64), 0)[0])
        elif self.damage == "another place":
            draw.shuffle(strings)
        elif self.damage == "all at once":
            strings = [DAMAGE[draw.choice(tuple(DAMAGE))](string, draw) for string in strings]
        else:
            strings[place] = DAMAGE[self.damage](strings[place], draw)
        return strings

    def decode(self, strings: list[bytes]) -> None:
        """Decode strings in the way of this case; any exception is the decoder's."""
        if self.way == "container":
            template = _container(self.kind, self.side)
            packed = replace(template, strings=tuple(strings)).pack()
            codec.decompress(codec.Container.unpack(packed), network(self.kind), ignore_checksum=True)
            return
        model = adopted(self.kind, "floating" not in self.way) if "adopted" in self.way else network(self.kind)
        _, shape = coded(self.kind, self.side, 0, "floating" in self.way)
        model.decompress([[string] for string in strings], shape)


@functools.cache
def _container(kind: str, side: tuple[int, int]) -> Any:
    return codec.compress(torch.zeros(3, *side, dtype=torch.uint8), network(kind), verify=False)


def cases(kind: str, count: int, seed: int) -> list[Case]:
    """Return the cases of a network, the same for the same seed."""
    drawn = []
    for number in range(count):
        draw = random.Random(f"{seed} {kind} {number}")
        way = draw.choice([way for way in WAYS if kind in lk.networks.ALIASES.values() or "adopted" not in way])
        slow = "floating" in way and kind in ("joint_autoregressive", "cheng2020_anchor", "cheng2020_attention")
        side = SIDES[0] if slow else LARGE if number % EVERY == EVERY - 1 else draw.choice(SIDES)
        drawn.append(Case(kind, way, side, KINDS[number % len(KINDS)], f"{seed} {kind} {number}"))
    return drawn


# Measurement ----------------------------------------------------------------------------------------------------------


@functools.cache
def baseline(kind: str) -> int:
    """Return the bytes that this process uses before it decodes the first string of a network."""
    network(kind)
    return int(psutil.Process().memory_info().rss)


def peak_megabytes(run: Callable[[], Any], before: int) -> tuple[str, float, float]:
    """Run something, and return its outcome, its seconds, and the peak of memory in MB above `before`, in bytes."""
    outcome = "decoded"
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    start = time.process_time()
    try:
        run()
    except ValueError as error:
        outcome = "refused" if "\n" not in str(error) else f"ValueError of several lines: {str(error)[:200]!r}"
    except Exception as error:
        outcome = f"{type(error).__name__}: {str(error)[:200]!r}"
    seconds = time.process_time() - start
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return outcome, seconds, (1024 * int(peak.split()[1]) - before) / 1e6


@functools.cache
def limits(kind: str, way: str, side: tuple[int, int]) -> tuple[float, float]:
    """Return the most seconds and megabytes of a case; valid strings are decoded first, also to warm up."""
    case = Case(kind, way, side, "", "")
    strings, _ = coded(kind, side, 0, "floating" in way)
    valid = [
        peak_megabytes(lambda: case.decode(list(strings)), baseline(kind)) for _ in range(3 if side == LARGE else 1)
    ]
    if any(outcome != "decoded" for outcome, _, _ in valid):
        raise ValueError(f"valid strings of {kind} ({way}) do not decode: {valid}")
    if side != LARGE:
        return SECONDS, MEGABYTES
    return 2 * max(seconds for _, seconds, _ in valid), 2 * max(megabytes for _, _, megabytes in valid)


def run_cases(kind: str, count: int, seed: int, start: int = 0) -> Iterator[dict[str, Any]]:
    """Decode the cases of a network from number `start` on; yield each before it runs, and again with its result."""
    torch.set_num_threads(1)
    baseline(kind)
    with torch.no_grad():
        for number, case in enumerate(cases(kind, count, seed)[start:], start):
            most_seconds, most_megabytes = limits(kind, case.way, case.side)
            strings = case.strings()
            yield {"number": number}
            faulthandler.dump_traceback_later(HANG, exit=True)
            outcome, seconds, megabytes = peak_megabytes(functools.partial(case.decode, strings), baseline(kind))
            faulthandler.cancel_dump_traceback_later()
            within = seconds <= most_seconds and megabytes <= most_megabytes
            row = {"number": number, "outcome": outcome, "seconds": seconds, "megabytes": megabytes, "within": within}
            yield row | {"way": case.way, "side": case.side, "damage": case.damage}


def _child(kind: str, count: int, seed: int, start: int) -> Iterator[dict[str, Any]]:
    """Yield the results of `run_cases` in another process; a case in which it ends gets the outcome "crashed"."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.hostile", "--child", kind]
    command += ["--strings", str(count), "--seed", str(seed), "--start", str(start)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        number = None
        for line in process.stdout or ():
            row = json.loads(line)
            number = row["number"]
            if "outcome" in row:
                yield row
    if process.returncode:
        if number is None:
            raise click.ClickException("the process of the cases ended before its first case")
        crash = {"number": number, "outcome": f"crashed with status {process.returncode}", "within": False}
        yield crash | {"seconds": 0.0, "megabytes": 0.0, **vars(cases(kind, count, seed)[number])}


def results(kind: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Return a result for each case of a network; after a crash another process goes on."""
    rows: list[dict[str, Any]] = []
    with tqdm(total=count, desc=kind, disable=None) as bar:
        while len(rows) < count:
            for row in _child(kind, count, seed, start=len(rows)):
                rows.append(row)
                bar.update()
    return rows


@click.command(context_settings=COMMAND)
@click.option("--strings", type=click.IntRange(8), default=10_000, help="Number of cases.")
@click.option("--seed", default=0, help="Seed of the damage.")
@click.option("--network", "kinds", multiple=True, help="Only these networks.")
@click.option("--child", hidden=True)
@click.option("--start", type=int, default=0, hidden=True)
@json_option
def main(strings: int, seed: int, kinds: tuple[str, ...], child: str | None, start: int, out: Path | None) -> None:
    """Decode damaged strings of every network."""
    if child:
        for row in run_cases(child, strings, seed, start):
            print(json.dumps(row), flush=True)
        return
    click.echo(machine_line(1))
    kinds = kinds or lk.networks.names()
    click.echo(f"{'network':24}{'cases':>7}{'decoded':>9}{'refused':>9}{'slowest s':>11}{'peak MB':>9}{'failed':>8}")
    figures, failures = {}, []
    for place, kind in enumerate(kinds):
        rows = results(kind, strings // len(kinds) + (place < strings % len(kinds)), seed)
        count = Counter(row["outcome"] for row in rows)
        failed = [row for row in rows if row["outcome"] not in ("decoded", "refused") or not row["within"]]
        small = [row for row in rows if tuple(row["side"]) != LARGE]
        slowest, peak = (max(row[name] for row in small) for name in ("seconds", "megabytes"))
        click.echo(
            f"{kind:24}{len(rows):7}{count['decoded']:9}{count['refused']:9}{slowest:11.2f}{peak:9.0f}{len(failed):8}"
        )
        figures[kind] = {"cases": len(rows), **count, "slowest": slowest, "megabytes": peak, "failed": failed}
        failures += [f"{kind}: {row}" for row in failed]
    click.echo(f"slowest s and peak MB: images to 256×256; limits {SECONDS:g} s and {MEGABYTES:g} MB")
    write_json(out, figures)
    if failures:
        raise click.ClickException("\n".join([f"{len(failures)} cases failed", *failures[:20]]))


if __name__ == "__main__":
    main()
