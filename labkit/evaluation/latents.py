"""Replacing the latents of a network with given ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

Latents = tuple[Tensor, Tensor | None]  # y, and z if the network has a hyperprior


@contextmanager
def replaced_latents(net: nn.Module, y: Tensor, z: Tensor | None = None) -> Iterator[None]:
    """Replace the latents of a network inside the block: g_a outputs y, and h_a outputs z, for every input.

    Neither transform runs. Forward passes in training and in evaluation mode use the given latents and send gradients
    to them. `with replaced_latents(net, y, z): coded = net.compress(x)` codes the given latents.

    Args:
        net: Network with one analysis transform g_a and at most one hyper-analysis transform h_a.
        y: Output of g_a, with the shape that g_a returns for the network's inputs.
        z: Output of h_a. If None, h_a processes y as usual.

    Raises:
        ValueError: If the network has no g_a, or if z is given and it has no h_a.
    """
    g_a, h_a = transforms_of(net)
    if z is not None and h_a is None:
        raise ValueError(f"z: {type(net).__name__} has no hyper-analysis transform h_a whose output could be replaced")
    with ExitStack() as stack:
        stack.enter_context(replaced_output(g_a, lambda *_: y))
        if h_a is not None and z is not None:
            stack.enter_context(replaced_output(h_a, lambda *_: z))
        yield


@contextmanager
def replaced_output(module: nn.Module, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the function of a module; an attribute of the instance takes precedence over the method of the class."""
    forward = vars(module).get("forward")
    module.forward = function
    try:
        yield
    finally:
        del module.forward
        if forward is not None:
            module.forward = forward


def transforms_of(net: nn.Module) -> tuple[nn.Module, nn.Module | None]:
    """Return the analysis transform g_a of a network, and its hyper-analysis transform h_a or None.

    In CompressAI's latent codecs, h_a is in a submodule.

    Raises:
        ValueError: If the network has no g_a, or several modules named g_a or h_a.
    """
    transforms: dict[str, list[nn.Module]] = {"g_a": [], "h_a": []}
    for path, module in net.named_modules():
        transforms.get(path.rpartition(".")[2], []).append(module)
    for name, modules in transforms.items():
        if len(modules) > 1 or (name == "g_a" and not modules):
            raise ValueError(f"net must have one module named {name}, but {type(net).__name__} has {len(modules)}")
    return transforms["g_a"][0], next(iter(transforms["h_a"]), None)
