"""Training many small networks at once: their weights are stacked, and `torch.func.vmap` runs all of them in one pass.

If a network has a few thousand weights, Python takes more of a step's time than arithmetic. Sixteen such networks in
one pass pay for Python only once. Each member of a stack has its own λ, seed, learning rate, clipping, averaging,
temperature and scale bound. These are numbers, so they are stacked like the weights. Networks that differ in anything
else, such as the surrogate, go into different stacks.

Batches, noise and schedules are the same as in `Training`, so each member ends with the numbers that it would reach
alone, up to the order of floating-point sums.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from labkit import entropy
from labkit.denormals import denormals_are_zero
from labkit.schemes import QuantizationScheme
from labkit.training import data, trainer
from labkit.training.logs import History
from labkit.training.losses import rate_distortion
from labkit.training.settings import Settings
from labkit.training.steps import Step
from labkit.training.threads import Threads
from labkit.training.vmapping import Draws, bisect, make_bounds_mappable

BETA, BETA_SQUARE, EPSILON = 0.9, 0.999, 1e-8  # Adam's parameters, with torch's default values


class StackedTraining:
    """Training of several networks with the same structure in one pass.

    All trained weights are rows of one tensor `theta` of shape (members, weights), so clipping, Adam and averaging take
    only a few operations each.

    Args:
        nets: Networks to train in place.
        source: Photographs or points, the same for all members.
        settings: Settings of each network, which may differ only in numbers.

    Attributes:
        histories: The steps of each member, up to the error that ended it, if any.
        errors: The error that ended each member, or None.
        seconds: Each member's share of the duration.
        threads: Number of torch threads at the end.
    """

    def __init__(self, nets: Sequence[trainer.Network], source: data.Source, settings: Sequence[Settings]):
        self.members = [trainer.Training(net, source, s) for net, s in zip(nets, settings, strict=True)]
        self.steps = settings[0].steps
        self.histories = [History(self.steps) for _ in nets]
        self.errors: list[FloatingPointError | None] = [None] * len(nets)
        self.seconds, self.threads = 0.0, 0
        named = list(nets[0].named_parameters())
        self.names = [name for name, p in named if p.requires_grad and not trainer.is_quantile(name)]
        self.temperatures = [name for name, _ in nets[0].named_buffers() if name.endswith("temperature")]
        self.seeds = list(dict.fromkeys(s.seed for s in settings))
        seeded = {s.seed: t for s, t in zip(settings, self.members, strict=True)}
        self.batches = [seeded[seed].batches() for seed in self.seeds]
        self.firsts = [next(each) for each in self.batches]
        for s, t in zip(settings, self.members, strict=True):
            for _ in t.starting(self.firsts[self.seeds.index(s.seed)]):
                pass
        self.theta = torch.stack([torch.cat([p.detach().flatten() for p in t.parameters]) for t in self.members])
        sizes = torch.tensor([p.numel() for p in self.members[0].parameters], device=self.theta.device)
        self.factors = torch.tensor(self.members[0].factors, device=self.theta.device).repeat_interleave(sizes)
        self.mean, self.square, self.average = self.theta * 0, self.theta * 0, self.theta.clone()
        self.lmbda, self.clip = self._column(s.lmbda for s in settings), self._column(s.clip for s in settings)
        self.decay = self._column(s.ema or 0.0 for s in settings)
        self.seed_of_member = torch.tensor([self.seeds.index(s.seed) for s in settings], device=self.theta.device)
        self.noise = torch.Generator(self.theta.device)
        self.template = copy.deepcopy(nets[0]).train()  # runs with the members' tensors instead of its own
        self.entered: Any = None  # the template's scheme, and flags that mark the parameters to train
        make_bounds_mappable(self.template)

    def __repr__(self) -> str:
        return f"StackedTraining({len(self.members)} × {type(self.template).__name__}, {self.steps} steps)"

    def run(self, threads: int | None, made: Callable[[int], Any] = bool) -> None:
        """Train all members to the end.

        Args:
            threads: Number of torch threads. None chooses a number by timing steps.
            made: Function that is called after each step with the number of members.
        """
        begun, members = time.perf_counter(), self.members
        with ExitStack() as stack, Threads(threads) as chosen:
            for each in self.batches:
                stack.enter_context(closing(each))
            for t in members:
                stack.enter_context(t.training_mode(self.noise))
            stack.callback(self._write)  # before they leave that mode
            while members[0].step < self.steps and not all(self.errors):
                start = time.perf_counter()
                drawn = [next(each) for each in self.batches] if members[0].step else self.firsts
                waited = time.perf_counter() - start
                with denormals_are_zero():
                    rows = self._step(drawn)
                seconds = time.perf_counter() - start
                chosen.timed(seconds)
                for history, error, row in zip(self.histories, self.errors, rows, strict=True):
                    if error is None:
                        history.extend([[*row, seconds / len(members), waited / len(members)]])
                made(len(members))
            active = self._column(error is None for error in self.errors) > 0
            self.theta = torch.where(active, self.average, self.theta)  # equal bit for bit without averaging
        self.seconds, self.threads = (time.perf_counter() - begun) / len(members), chosen.number

    def _step(self, batches: Sequence[Tensor]) -> list[list[float]]:
        """Make one step of all members that have no error yet, from one batch per seed; return `Step` rows."""
        members, step = self.members, self.members[0].step
        if step % trainer.SOLVE_EVERY == 0:
            self._write()
            self.solve_quantiles()
            self.constants = self._constants()
        stages = [t.enter_stage() for t in members]
        stage = stages[0], [p.requires_grad for p in members[0].parameters]
        if stage != self.entered:
            self._enter(*stage, batches[0])
        temperatures = [stage.temperature(step, self.steps) for stage in stages]
        rates = [t.learning_rate() for t in members]
        self.constants |= dict.fromkeys(self.temperatures, self._column(temperatures)[:, 0])

        inputs_by_seed = []
        for seed, batch in zip(self.seeds, batches, strict=True):
            data.reseed(self.noise, seed, step, data.NOISE)
            noise = (torch.rand(*args, **kwargs, generator=self.noise) for args, kwargs in self.draws)
            inputs_by_seed.append([batch, *noise])
        shared = len(inputs_by_seed) == 1
        inputs = (
            inputs_by_seed[0]
            if shared
            else [torch.stack(each)[self.seed_of_member] for each in zip(*inputs_by_seed, strict=True)]
        )
        measured, gradient = self._gradient(inputs, shared)
        norm = gradient.norm(dim=1, keepdim=True)
        values = torch.cat([measured, norm], 1).tolist()
        rows = [[step + 1, *row, *rest] for row, *rest in zip(values, temperatures, rates, strict=True)]
        for i, row in enumerate(rows):
            try:
                Step.from_row([*row, 0.0, 0.0], self.steps).check()
            except FloatingPointError as error:
                self.errors[i] = self.errors[i] or error
        active = self._column(error is None for error in self.errors) > 0

        n = step + 1  # the rest repeats `Training`'s clip_grad_norm_, Adam and averaging, with one row per member
        gradient.mul_((self.clip / (norm + 1e-6)).clamp_max_(1))
        self.mean.lerp_(gradient, 1 - BETA)
        self.square.mul_(BETA_SQUARE).addcmul_(gradient, gradient, value=1 - BETA_SQUARE)
        scale = self.square.sqrt().div_(math.sqrt(1 - BETA_SQUARE**n)).add_(EPSILON)
        update = (self.mean / scale).mul_(self._column(rates) / (1 - BETA**n)).mul_(self.factors)
        self.theta.sub_(torch.where(active & self.moving, update, 0.0))
        self.average.lerp_(self.theta, 1 - self.decay)
        for t in members:
            t.step += 1
        return rows

    def _gradient(self, inputs: list[Tensor], shared: bool) -> tuple[Tensor, Tensor]:
        """Return loss, rate and distortion, (members, 3), and the gradient of the loss with respect to theta."""

        def measure(
            weights: dict[str, Tensor], constants: dict[str, Tensor], lmbda: Tensor, inputs: list[Tensor]
        ) -> Tensor:
            x, *noise = inputs
            with Draws(noise):
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
        """Set the template's scheme for a stage; record which weights are trained and which noise a pass draws."""
        self.entered = scheme, moving
        entropy.set_scheme(self.template, scheme)
        sizes = torch.tensor([p.numel() for p in self.members[0].parameters], device=self.theta.device)
        self.moving = torch.tensor(moving, device=self.theta.device).repeat_interleave(sizes)
        with torch.no_grad(), Draws() as draws:
            self.template(batch)
        self.draws = draws.calls

    def _constants(self) -> dict[str, Tensor]:
        """Stack the tensors that differ between members but are not trained by gradients."""
        constants = {}
        tensors = [dict(chain(t.net.named_parameters(), t.net.named_buffers())) for t in self.members]
        for name in tensors[0].keys() - self.names:
            values = [each[name].detach() for each in tensors]
            differ = not (trainer.is_table(name) or all(torch.equal(values[0], value) for value in values))
            if trainer.is_quantile(name) or differ:
                constants[name] = torch.stack(values)
        return constants

    @torch.no_grad()
    def solve_quantiles(self) -> None:
        """Solve for the quantiles of all members in one search; separate searches would take longer than a step."""
        for path, part in self.template.named_modules():
            if isinstance(part, entropy.EntropyBottleneck):
                parts = [t.net.get_submodule(path) for t in self.members]
                joined = copy.deepcopy(part)
                joined.channels = len(parts) * part.channels
                joined._search_target = partial(bisect, len(parts))
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
