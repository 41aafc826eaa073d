"""Many small networks trained as one: their weights are stacked, and torch.func.vmap runs all of them in one go.

A network of a few thousand weights keeps a CPU waiting for Python, not for arithmetic; sixteen of them in one pass wait
once. A member of a stack has its own λ, seed, learning rate, clipping, averaging, temperature and scale bound: numbers,
which are stacked like the weights. Whatever else differs, such as a surrogate, is another stack.

Batches, noise and schedules are those of `Training`, so that a member ends where it ends alone, but for the order in
which float32 sums are made.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from compressai.ops.bound_ops import LowerBound, LowerBoundFunction, lower_bound_fwd
from torch import Tensor
from torch.func import functional_call, vmap
from torch.overrides import TorchFunctionMode

from labkit import entropy
from labkit.networks import ToyTransformCode
from labkit.progress import progress_bar
from labkit.schemes import QuantizationScheme, TwoStages
from labkit.training import data, processes
from labkit.training.losses import rate_distortion
from labkit.training.run import History, TrainingRun
from labkit.training.threads import Threads
from labkit.training.trainer import SOLVE_EVERY, Network, Settings, Step, Training, _is_quantile, _is_table

HOW = ("auto", "stacked", "in turn")
TRIAL = 4  # steps that a stack, and one of its members, are timed for; the quickest counts
NUMBERS: dict[str, Any] = {"lmbda": 1.0, "lr": 1.0, "clip": 1.0, "ema": None, "seed": 0}  # may differ within a stack
BETA, BETA_SQUARE, EPSILON = 0.9, 0.999, 1e-8  # of Adam, as torch has them


@dataclass
class StackRun(TrainingRun):
    """The run of one network among several. Its times, those of its steps too, are its share of its stack's.

    how: "stacked" or "in turn", and in turn why. error: of a run whose loss or gradient was no longer finite; network
    and history are then those before that step.
    """

    how: str
    error: FloatingPointError | None = None


def train_stack(
    nets: Sequence[Network],
    source: data.Source,
    each: Sequence[Mapping[str, Any]],
    *,
    how: str = "auto",
    threads: int | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> list[StackRun]:
    """Train several networks in place, each as `train` would alone, and as many as can be in one go.

    each: of every network its own settings, such as [{"lmbda": 1.0}, {"lmbda": 4.0, "seed": 1}]; settings: of those
    that have none of their own (see `training.Settings`). how: "auto" stacks toys, and image codecs where a stack has
    just been timed to be quicker; "stacked" and "in turn" leave no choice. A stack holds the activations of all its
    members at once. threads, progress: as for `train`.

    A network whose loss or gradient is no longer finite stops there, its run carries the error, and the others go on.
    Raises ValueError for a bad setting, for lists that do not fit each other, and for what cannot be stacked.
    """
    if how not in HOW:
        raise ValueError(f"how: takes {', '.join(HOW)}, got {how!r}")
    if len(each) != len(nets):
        raise ValueError(f"each: takes settings for each of {len(nets)} networks, got {len(each)}")
    if len({id(net) for net in nets}) < len(nets):
        raise ValueError("nets: takes each network once, it is trained in place")
    chosen = [Settings(**{**settings, **own}) for own in each]
    groups: dict[Hashable, list[int]] = {}
    for i, (net, s) in enumerate(zip(nets, chosen, strict=True)):
        groups.setdefault(_structure(net, s), []).append(i)
    runs: dict[int, StackRun] = {}
    total = sum(s.steps for s in chosen)
    with progress_bar(total=total, unit="step", progress=progress, leave=True) as bar, warnings.catch_warnings():
        # a few operations in place are run member by member: a cost that no measurement showed
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        for group in groups.values():
            members, own = [nets[i] for i in group], [chosen[i] for i in group]
            why = _why_in_turn(members, source, own, how, threads)
            if why is None:
                found = _Stack(members, source, own).run(threads, bar.update)
            else:
                pairs = zip(members, own, strict=True)
                found = [_alone(net, source, s, threads, bar.update, f"in turn, {why}") for net, s in pairs]
            runs |= dict(zip(group, found, strict=True))
    return [runs[i] for i in range(len(nets))]


def _structure(net: Network, settings: Settings) -> Hashable:
    """What the members of a stack have in common: everything but numbers."""
    scheme = net.scheme
    stages = (scheme.first, scheme.second, scheme.share) if isinstance(scheme, TwoStages) else (scheme,)
    bare = tuple(
        stage.replace(temperature=1.0, scale_lower_bound=1.0) if isinstance(stage, QuantizationScheme) else stage
        for stage in stages
    )
    weights = tuple((name, p.shape, p.requires_grad) for name, p in net.named_parameters())
    return type(net), repr(net), weights, bare, dataclasses.replace(settings, **NUMBERS)


def _why_in_turn(
    nets: Sequence[Network], source: data.Source, settings: Sequence[Settings], how: str, threads: int | None
) -> str | None:
    """Why these networks of one structure are not to be stacked, if they are not."""
    if how == "in turn":
        return "as asked"
    if settings[0].compile or settings[0].precision != "float32" or processes.ranks()[1] > 1:
        if how == "stacked":
            raise ValueError("how: takes a stack in float32, without compile and in one process only")
        return "since stacks are made in float32, without compile and in one process only"
    if how == "stacked":
        return None
    if len(nets) == 1:
        return "since no other has its structure"
    if isinstance(nets[0], ToyTransformCode):
        return None
    copies, trial = copy.deepcopy(list(nets)), [dataclasses.replace(s, steps=TRIAL) for s in settings]
    try:
        stacked = _quickest(_Stack(copies, source, trial).run(threads)[0])
    except RuntimeError as error:  # of torch.func, for what it cannot map
        return f"since it cannot be stacked: {str(error).splitlines()[0]}"
    alone = _quickest(_alone(copies[0], source, trial[0], threads))
    return f"since stacked it takes {stacked / alone:.2f} times as long" if stacked > alone else None


def _alone(
    net: Network,
    source: data.Source,
    settings: Settings,
    threads: int | None,
    made: Callable[[int], Any] = bool,
    how: str = "",
) -> StackRun:
    """One network by itself."""
    begun, history, error = time.perf_counter(), History(settings.steps), None
    with Threads(threads) as chosen, closing(iter(Training(net, source, settings))) as steps:
        try:
            for step in steps:
                history.extend([list(step.check().row().values())])
                chosen.timed(step.seconds)
                made(1)
        except FloatingPointError as reason:
            error = reason
    seconds = time.perf_counter() - begun
    return StackRun(net, settings.to_dict(), seconds, chosen.number, history, how, error)


def _quickest(run: StackRun) -> float:
    return min((step.seconds for step in run.history), default=math.inf)


class _Stack:
    """Networks of one structure, to be trained in one go.

    theta: all that is trained, (members, weights), so that clipping, Adam and averaging are a few operations each.
    """

    def __init__(self, nets: Sequence[Network], source: data.Source, settings: Sequence[Settings]):
        self.members = [Training(net, source, s) for net, s in zip(nets, settings, strict=True)]
        self.settings, self.steps = settings, settings[0].steps
        self.names = [name for name, p in nets[0].named_parameters() if p.requires_grad and not _is_quantile(name)]
        self.temperatures = [name for name, _ in nets[0].named_buffers() if name.endswith("temperature")]
        self.errors: list[FloatingPointError | None] = [None] * len(nets)
        self.theta = torch.stack([torch.cat([p.detach().flatten() for p in t.parameters]) for t in self.members])
        self.mean, self.square, self.average = self.theta * 0, self.theta * 0, self.theta.clone()
        self.lmbda, self.clip = self._column(s.lmbda for s in settings), self._column(s.clip for s in settings)
        self.decay = self._column(s.ema or 0.0 for s in settings)
        self.seeds = list(dict.fromkeys(s.seed for s in settings))
        self.which = torch.tensor([self.seeds.index(s.seed) for s in settings], device=self.theta.device)
        self.noise = torch.Generator(self.theta.device)
        self.template = copy.deepcopy(nets[0]).train()  # is run with the members' tensors in place of its own
        self.entered: Any = None  # scheme of the template, and which parameters move
        for part in self.template.modules():
            if isinstance(part, LowerBound):
                part.forward = partial(_bounded, part)  # type: ignore[method-assign]

    def run(self, threads: int | None, made: Callable[[int], Any] = bool) -> list[StackRun]:
        """Train to the end; `made` is told how many members made a step."""
        begun, members = time.perf_counter(), self.members
        histories = [History(self.steps) for _ in members]
        with ExitStack() as stack, Threads(threads) as chosen:
            firsts = {t.settings.seed: t for t in reversed(members)}
            batches = [stack.enter_context(closing(firsts[seed]._batches())) for seed in self.seeds]
            for t in members:
                stack.enter_context(t._in_training_mode(self.noise))
            stack.callback(self._write)  # before they leave that mode
            while members[0].step < self.steps and not all(self.errors):
                start = time.perf_counter()
                drawn = [next(each) for each in batches]
                waited = time.perf_counter() - start
                made_by_all = self._step(drawn)
                seconds = time.perf_counter() - start
                chosen.timed(seconds)
                for history, error, row in zip(histories, self.errors, made_by_all, strict=True):
                    if error is None:
                        history.extend([[*row, seconds / len(members), waited / len(members)]])
                made(len(members))
            going = self._column(error is None for error in self.errors) > 0
            self.theta = torch.where(going, self.average, self.theta)  # without averaging they are equal, to the bit
        seconds = (time.perf_counter() - begun) / len(members)
        return [
            StackRun(t.net, t.settings.to_dict(), seconds, chosen.number, history, "stacked", error)
            for t, history, error in zip(members, histories, self.errors, strict=True)
        ]

    def _step(self, batches: Sequence[Tensor]) -> list[list[float]]:
        """One step of all members that have no error yet, given a batch for each seed."""
        members, step = self.members, self.members[0].step
        if step % SOLVE_EVERY == 0:
            self._write()
            self._solve_quantiles()
            self.constants = self._constants()
        stages = [t._stage() for t in members]
        stage = stages[0], [p.requires_grad for p in members[0].parameters]
        if stage != self.entered:
            self._enter(*stage, batches[0])
        temperatures = [stage.temperature(step, self.steps) for stage in stages]
        rates = [t._rate() for t in members]
        self.constants |= dict.fromkeys(self.temperatures, self._column(temperatures)[:, 0])

        given = []
        for seed, batch in zip(self.seeds, batches, strict=True):
            data.reseed(self.noise, seed, step, data.NOISE)
            given.append([batch, *(torch.rand(*args, **rest, generator=self.noise) for args, rest in self.draws)])
        inputs = given[0] if len(given) == 1 else [torch.stack(each)[self.which] for each in zip(*given, strict=True)]
        measured, gradient = self._gradient(inputs, shared=len(given) == 1)
        norm = gradient.norm(dim=1, keepdim=True)
        values = torch.cat([measured, norm], 1).tolist()
        rows = [[step + 1, *row, *rest] for row, *rest in zip(values, temperatures, rates, strict=True)]
        for i, row in enumerate(rows):
            try:
                Step.from_row([*row, 0.0, 0.0], self.steps).check()
            except FloatingPointError as error:
                self.errors[i] = self.errors[i] or error
        going = self._column(error is None for error in self.errors) > 0

        n = step + 1  # what follows is clip_grad_norm_, Adam and the average of `Training`, a row for each member
        gradient.mul_((self.clip / (norm + 1e-6)).clamp_max_(1))
        self.mean.lerp_(gradient, 1 - BETA)
        self.square.mul_(BETA_SQUARE).addcmul_(gradient, gradient, value=1 - BETA_SQUARE)
        scale = self.square.sqrt().div_(math.sqrt(1 - BETA_SQUARE**n)).add_(EPSILON)
        update = (self.mean / scale).mul_(self._column(rates) / (1 - BETA**n))
        self.theta.sub_(torch.where(going & self.moving, update, 0.0))
        self.average.lerp_(self.theta, 1 - self.decay)
        for t in members:
            t.step += 1
        return rows

    def _gradient(self, inputs: list[Tensor], shared: bool) -> tuple[Tensor, Tensor]:
        """Loss, rate and distortion, (members, 3), and the loss's gradient by theta, for a batch and its noise."""

        def measure(weights: dict[str, Tensor], constants: dict[str, Tensor], lmbda: Tensor, inputs: list[Tensor]):
            x, *noise = inputs
            with _Draws(noise):
                output = functional_call(self.template, {**weights, **constants}, (x,))
            return torch.stack(rate_distortion(output, x, lmbda))

        parameters = self.members[0].parameters
        with torch.enable_grad():
            theta = self.theta.detach().requires_grad_()
            parts = theta.split([p.numel() for p in parameters], 1)
            weights = {n: part.view(-1, *p.shape) for n, part, p in zip(self.names, parts, parameters, strict=True)}
            mapped = vmap(measure, in_dims=(0, 0, 0, None if shared else 0))
            measured = mapped(weights, self.constants, self.lmbda[:, 0], inputs)
            (gradient,) = torch.autograd.grad(measured[:, 0].sum(), theta)
        return measured.detach(), torch.where(self.moving, gradient, 0.0)

    def _enter(self, scheme: QuantizationScheme, moving: list[bool], batch: Tensor) -> None:
        """Give the template the scheme of a stage, and note which weights move and what a pass draws."""
        self.entered = scheme, moving
        entropy.set_scheme(self.template, scheme)
        sizes = torch.tensor([p.numel() for p in self.members[0].parameters], device=self.theta.device)
        self.moving = torch.tensor(moving, device=self.theta.device).repeat_interleave(sizes)
        with torch.no_grad(), _Draws() as draws:
            self.template(batch)
        self.draws = draws.asked

    def _constants(self) -> dict[str, Tensor]:
        """What is not trained by gradients and differs between members, stacked."""
        found = {}
        tensors = [dict(chain(t.net.named_parameters(), t.net.named_buffers())) for t in self.members]
        for name in tensors[0].keys() - self.names:
            values = [each[name].detach() for each in tensors]
            if _is_quantile(name) or not (_is_table(name) or all(torch.equal(values[0], v) for v in values)):
                found[name] = torch.stack(values)
        return found

    @torch.no_grad()
    def _solve_quantiles(self) -> None:
        """Those of all members by one search, which alone would take as long for each as some steps of all."""
        for path, part in self.template.named_modules():
            if isinstance(part, entropy.EntropyBottleneck):
                parts = [t.net.get_submodule(path) for t in self.members]
                joined = copy.deepcopy(part)
                joined.channels = len(parts) * part.channels
                joined._search_target = partial(_search, len(parts))  # type: ignore[method-assign]
                for name, p in joined.named_parameters():
                    p.data = torch.cat([each.get_parameter(name).detach() for each in parts])
                joined._update_quantiles()
                for each, solved in zip(parts, joined.quantiles.chunk(len(parts)), strict=True):
                    each.get_parameter("quantiles").copy_(solved)

    @torch.no_grad()
    def _write(self) -> None:
        """Write theta into the networks."""
        for t, row in zip(self.members, self.theta, strict=True):
            for p, part in zip(t.parameters, row.split([p.numel() for p in t.parameters]), strict=True):
                p.copy_(part.view(p.shape))

    def _column(self, values: Iterable[float]) -> Tensor:
        return torch.tensor([[float(value)] for value in values], device=self.theta.device)


class _Draws(TorchFunctionMode):
    """Stands for torch.rand: hands on tensors that were drawn before, or zeros, and notes what was asked for.

    Inside of vmap nothing is known of members, whose generators draw for them outside.
    """

    def __init__(self, drawn: Iterable[Tensor] | None = None):
        super().__init__()
        self.drawn = None if drawn is None else iter(drawn)
        self.asked: list[tuple[tuple, dict[str, Any]]] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.rand:
            return func(*args, **kwargs)
        if self.drawn is not None:
            return next(self.drawn)
        kwargs = {name: value for name, value in kwargs.items() if name != "generator"}
        self.asked.append((args, kwargs))
        return torch.zeros(*args, **kwargs)


def _search(
    members: int, f: Callable[[Tensor], Tensor], target: Tensor, low: Tensor, high: Tensor, rtol: float, atol: float
) -> Tensor:
    """CompressAI's bisection for channels of several members, each of which leaves off where it would alone."""
    low = torch.where(target <= f(high), low, high)
    high = torch.where(f(low) <= target, high, low)
    while not (near := torch.isclose(low, high, rtol=rtol, atol=atol).view(members, -1).all(1)).all():
        going = ~near.repeat_interleave(len(low) // members).view_as(low)
        middle = (low + high) / 2
        value = f(middle)
        low = torch.where(going & (value <= target), middle, low)
        high = torch.where(going & (value >= target), middle, high)
    return (low + high) / 2


class _LowerBound(LowerBoundFunction):
    """CompressAI's function, as torch.func takes it; the rule that torch would generate takes a tenth of a step."""

    @staticmethod
    def forward(x: Tensor, bound: Tensor) -> Tensor:
        return lower_bound_fwd(x, bound)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, int | None], x: Tensor, bound: Tensor) -> tuple[Tensor, int]:
        x = x.movedim(in_dims[0], 0)
        return _LowerBound.apply(x, bound.view(-1, *[1] * (x.dim() - 1))), 0  # one bound, or one for each member


def _bounded(part: LowerBound, x: Tensor) -> Tensor:
    return _LowerBound.apply(x, part.bound)
