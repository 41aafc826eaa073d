"""Train several networks with one call: as a stack if that is possible and faster, and otherwise in turn."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from torch import nn

from labkit import defaults
from labkit.checks import check_name
from labkit.networks import ToyTransformCode
from labkit.progress import progress_bar
from labkit.schedules import Schedule
from labkit.schemes import QuantizationScheme, TwoStages
from labkit.training import data, processes
from labkit.training.logs import History
from labkit.training.run import TrainingRun
from labkit.training.settings import Settings
from labkit.training.stacked import StackedTraining
from labkit.training.threads import Threads
from labkit.training.trainer import Network, Training

HOW = ("auto", "stacked", "in turn")
TRIAL = 4  # number of timed steps of a stack and of one of its members; the fastest step is used
NUMBERS: dict[str, Any] = {"lmbda": 1.0, "lr": 1.0, "clip": 1.0, "ema": None, "seed": 0}  # may differ within a stack
CONDITIONS = "stacks are trained in float32, without compile, and in one process"


@dataclass(repr=False)
class StackRun(TrainingRun):
    """The run of one network among several. All its durations, including those of its steps, are shares of the stack's.

    Attributes:
        how: "stacked", or "in turn" followed by the reason.
        error: The error that ended the run if its loss or gradient was no longer finite. The network and the history
            are then those before the failed step.
    """

    how: str
    error: FloatingPointError | None = None


def train_stack(  # noqa: D417 - Settings describes the other arguments
    nets: Sequence[Network],
    source: data.Source,
    each: Sequence[Mapping[str, Any]],
    *,
    lmbda: float | None = None,
    steps: int | None = None,
    batch_size: int = defaults.BATCH_SIZE,
    crop: int = defaults.CROP,
    permute_colors: bool = defaults.PERMUTE_COLORS,
    lr: float | str | Schedule = defaults.LR,
    clip: float = defaults.CLIP,
    ema: float | None = defaults.EMA,
    seed: int = defaults.SEED,
    device: str | None = defaults.DEVICE,
    precision: str | None = defaults.PRECISION,
    compile: bool = defaults.COMPILE,
    workers: int | None = defaults.WORKERS,
    how: str = "auto",
    threads: int | None = defaults.THREADS,
    progress: bool | None = None,
) -> list[StackRun]:
    """Train several networks in place, as many as possible in one pass. The weights end as after `train`.

    If the loss or the gradient of a network is no longer finite, that network stops and its run carries the error,
    while the others continue. A stack holds the activations of all its members in memory at the same time.

    Args:
        nets: Networks to train, each listed once.
        source: Photographs, or points such as `datasets.Banana()`.
        each: Settings of each network that differ from the common ones, such as
            `[{"lmbda": 1.0}, {"lmbda": 4.0, "seed": 1}]`.
        lmbda: Common setting, as for `labkit.train`; the same is true of the following arguments up to `workers`.
            Values in `each` take precedence.
        precision: None means "float32", because stacks are trained in float32.
        how: "auto" stacks toys, and stacks image codecs if a short timing shows that this is faster. "stacked" and
            "in turn" enforce that choice.
        threads: Number of torch threads on a CPU. None chooses a number by timing steps.
        progress: True shows a progress bar and False hides it. None shows it on a terminal and in a notebook.

    Returns:
        One run per network, in the order of `nets`.

    Raises:
        ValueError: If a setting is out of range, if `nets` and `each` differ in length, or if the networks cannot be
            stacked as requested.

    >>> import labkit as lk
    >>> toys = [lk.networks.toy_2d(seed=seed) for seed in (0, 1)]
    >>> each = [{"lmbda": 1.0}, {"lmbda": 4.0}]
    >>> runs = lk.train_stack(toys, lk.datasets.Banana(), each, steps=3, batch_size=64, threads=1)
    >>> [run.how for run in runs]
    ['stacked', 'stacked']
    """
    check_name("how", how, HOW)
    if len(each) != len(nets):
        raise ValueError(f"each must hold settings for each of the {len(nets)} networks, got {len(each)}")
    if len({id(net) for net in nets}) < len(nets):
        raise ValueError("nets must hold each network once, because it is trained in place")
    common: dict[str, Any] = {
        "lmbda": lmbda, "steps": steps, "batch_size": batch_size, "crop": crop, "permute_colors": permute_colors,
        "lr": lr, "clip": clip, "ema": ema, "seed": seed, "device": device, "precision": precision or "float32",
        "compile": compile, "workers": workers,
    }  # fmt: skip
    settings = [Settings(**{**common, **own}) for own in each]
    groups: dict[Hashable, list[int]] = {}
    for i, (net, s) in enumerate(zip(nets, settings, strict=True)):
        groups.setdefault(_structure(net, s), []).append(i)
    runs: dict[int, StackRun] = {}
    total = sum(s.steps for s in settings)
    with progress_bar(total=total, unit="step", progress=progress, leave=True) as bar, warnings.catch_warnings():
        # vmap runs a few in-place operations member by member, which cost nothing measurable
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        for group in groups.values():
            members, theirs = [nets[i] for i in group], [settings[i] for i in group]
            reason = _reason_in_turn(members, source, theirs, how, threads)
            if reason is None:
                group_runs = _together(members, source, theirs, threads, bar.update)
            else:
                pairs = zip(members, theirs, strict=True)
                group_runs = [_alone(net, source, s, threads, bar.update, f"in turn, {reason}") for net, s in pairs]
            runs |= dict(zip(group, group_runs, strict=True))
    return [runs[i] for i in range(len(nets))]


def _structure(net: Network, settings: Settings) -> Hashable:
    """Return everything that the members of a stack must have in common, that is, all except numbers."""
    scheme = net.scheme
    stages = (scheme.first, scheme.second, scheme.share) if isinstance(scheme, TwoStages) else (scheme,)
    bare = tuple(
        stage.replace(temperature=1.0, scale_lower_bound=1.0) if isinstance(stage, QuantizationScheme) else stage
        for stage in stages
    )
    weights = tuple((name, p.shape, p.requires_grad) for name, p in net.named_parameters())
    return type(net), nn.Module.__repr__(net), weights, bare, dataclasses.replace(settings, **NUMBERS)


def _reason_in_turn(
    nets: Sequence[Network], source: data.Source, settings: Sequence[Settings], how: str, threads: int | None
) -> str | None:
    """Return the reason why these networks of one structure are trained in turn, or None if they are stacked."""
    if how == "in turn":
        return "as requested"
    if settings[0].compile or settings[0].precision != "float32" or processes.ranks()[1] > 1:
        if how == "stacked":
            raise ValueError(f"how is 'stacked', but {CONDITIONS}; use how='auto'")
        return f"because {CONDITIONS}"
    if how == "stacked":
        return None
    if len(nets) == 1:
        return "because no other network has its structure"
    if isinstance(nets[0], ToyTransformCode):
        return None
    copies, trial = copy.deepcopy(list(nets)), [dataclasses.replace(s, steps=TRIAL) for s in settings]
    try:
        stacked = _fastest(_together(copies, source, trial, threads)[0])
    except RuntimeError as error:  # torch.func raises it for operations that it cannot map
        return f"because it cannot be stacked: {str(error).splitlines()[0]}"
    alone = _fastest(_alone(copies[0], source, trial[0], threads))
    return f"because stacked it takes {stacked / alone:.2f} times as long" if stacked > alone else None


def _fastest(run: StackRun) -> float:
    return min((step.seconds for step in run.history), default=math.inf)


def _together(
    nets: Sequence[Network],
    source: data.Source,
    settings: Sequence[Settings],
    threads: int | None,
    made: Callable[[int], Any] = bool,
) -> list[StackRun]:
    """Train a stack."""
    stack = StackedTraining(nets, source, settings)
    stack.run(threads, made)
    return [
        StackRun(t.net, t.settings.to_dict(), stack.seconds, stack.threads, history, "stacked", error)
        for t, history, error in zip(stack.members, stack.histories, stack.errors, strict=True)
    ]


def _alone(
    net: Network,
    source: data.Source,
    settings: Settings,
    threads: int | None,
    made: Callable[[int], Any] = bool,
    how: str = "",
) -> StackRun:
    """Train one network alone."""
    begun, history, error = time.perf_counter(), History(settings.steps), None
    training = Training(net, source, settings)
    with Threads(threads) as chosen, closing(iter(training)) as steps:
        try:
            for step in steps:
                history.extend([list(step.check().row().values())])
                chosen.timed(step.seconds)
                made(1)
        except FloatingPointError as reason:
            error = reason
    seconds = time.perf_counter() - begun
    return StackRun(net, training.settings.to_dict(), seconds, chosen.number, history, how, error)
