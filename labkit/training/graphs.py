"""A training step as a CUDA graph, because launching a small network's kernels takes longer than running them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # normal steps before the capture, in which algorithms are chosen and the optimizer's state is created


class Graphed:
    """A step that is captured after its first calls and then replayed, with the same kernels and the same numbers.

    Args:
        step: Function from a batch to a tensor. It changes tensors in place and reads nothing back from the GPU. All
            batches have the same shape.
        generator: Generator of the step's random numbers. A replay draws the same numbers as the step would.
    """

    def __init__(self, step: Callable[[Tensor], Tensor], generator: torch.Generator):
        self.step, self.generator, self.calls = step, generator, 0
        self.stream = torch.cuda.Stream(generator.device)  # the default stream cannot be captured

    def __repr__(self) -> str:
        return f"Graphed({'captured' if self.calls > WARM_UP else f'warm-up step {self.calls} of {WARM_UP}'})"

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the step's result for a batch."""
        self.calls += 1
        if self.calls <= WARM_UP:
            return self._on_stream(lambda: self.step(batch))
        if self.calls == WARM_UP + 1:
            self.batch = batch.clone()
            self.graph = torch.cuda.CUDAGraph()
            self.graph.register_generator_state(self.generator)
            # Capturing does not run the kernels. thread_local lets another thread pin the next batch in memory
            # meanwhile.
            with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
                self.result = self.step(self.batch)
        self.batch.copy_(batch)
        self.graph.replay()
        return self.result.clone()

    def _on_stream(self, function: Callable[[], Tensor]) -> Tensor:
        """Call a function on the capture stream, in order with the current stream."""
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = function()
        current.wait_stream(self.stream)
        return result
