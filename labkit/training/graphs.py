"""A training step on a GPU as one CUDA graph: launching a small network's many kernels takes longer than they do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # steps made as they are first: they choose algorithms and make the optimizer's state


class Graphed:
    """A step, captured after its first calls and replayed from then on: the same kernels on the same numbers.

    step: takes a batch, always of one shape, changes tensors in place, and gives a tensor; it reads nothing back from
    the GPU. generator: whose draws it makes; a replay draws from where the generator stands, as the step itself would.
    """

    def __init__(self, step: Callable[[Tensor], Tensor], generator: torch.Generator):
        self.step, self.generator, self.calls = step, generator, 0
        self.stream = torch.cuda.Stream(generator.device)  # a capture takes another than the default one

    def __call__(self, batch: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= WARM_UP:
            return self._aside(lambda: self.step(batch))
        if self.calls == WARM_UP + 1:
            self.batch = batch.clone()
            self.graph = torch.cuda.CUDAGraph()
            self.graph.register_generator_state(self.generator)
            # this runs nothing; thread_local: a thread that pins the next batch in memory may go on meanwhile
            with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
                self.given = self.step(self.batch)
        self.batch.copy_(batch)
        self.graph.replay()
        return self.given.clone()

    def _aside(self, make: Callable[[], Tensor]) -> Tensor:
        """On the stream of the capture, between what comes before and what comes after on the present one."""
        present = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(present)
        with torch.cuda.stream(self.stream):
            given = make()
        present.wait_stream(self.stream)
        return given
