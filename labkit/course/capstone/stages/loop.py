"""Stage 4: a codec with a factorized prior, and its training."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import torch

from .prior import masses
from .verdicts import Array, Result, Wrong, array, close, require
from .work import LMBDA, Jpeg, as_tensor, estimated, outputs, picture

STEPS = 600


class Reader:
    """Records the inputs of a module.

    Args:
        module: The module.
    """

    def __init__(self, module: Any):
        self.read: Any = None
        self._hook = module.register_forward_pre_hook(self._see)

    def _see(self, module: Any, inputs: tuple[Any, ...]) -> None:
        self.read = inputs[0]

    def remove(self) -> None:
        """Stop recording."""
        self._hook.remove()


def check(codec: Any, work: Any) -> Result:
    """Check what training and evaluation read, train the codec, and compare its loss with the threshold."""
    net = codec.Factorized(LMBDA)
    for name in ("g_a", "g_s", "prior"):
        require(hasattr(net, name), f"Factorized must have an attribute {name}.")
    x = as_tensor(work.test_photos[0][:128, :160])
    check_evaluation(net, x)
    check_training(net, x)
    check_crops(codec, work.train_photos)
    net = codec.Factorized(LMBDA)
    before = estimated(net, work.test_photos[:3], LMBDA)[0]
    work.train(net, codec.train, STEPS)
    check_loss(net, codec, x)
    loss, points, images = estimated(net, work.test_photos, LMBDA)
    point = points.mean(0)
    require(
        estimated(net, work.test_photos[:3], LMBDA)[0] < before,
        "Training did not lower the loss on test photographs. Does `train` change the codec that it receives?",
    )
    work.save(net, "factorized")
    work.limit(
        "stage 4: loss",
        loss,
        "Compare with the recipe in the text: learning rates per group, the cosine to 0, the start of the prior and of "
        "W₁, and crops half of which have permuted colors.",
    )
    jpeg = Jpeg(work.test_photos)
    sizes = [bpp * photo[..., 0].size / 8 for bpp, photo in zip(points[:, 0], work.test_photos, strict=True)]
    return Result(
        f"After {STEPS} steps: loss {loss:.4f}, {point[0]:.3f} bpp (estimated), {point[1]:.2f} dB. JPEG has "
        f"{jpeg.psnr_at(point[0]):.2f} dB with as many bits.",
        {"stage 4: loss": loss, "bpp": point[0], "psnr": point[1]},
        picture(work.test_photos, images, sizes, point, jpeg),
    )


def check_evaluation(net: Any, x: torch.Tensor) -> None:
    """Compare an evaluation pass with NumPy's rounding and SciPy's masses."""
    net.eval()
    reader = Reader(net.g_s)
    _, likelihoods = outputs(net, x)
    y = array(net.g_a(x), "g_a(x)")
    require(reader.read is not None, "Factorized.forward does not call self.g_s.")
    read = array(reader.read, "what g_s reads", y.shape)
    reader.remove()
    if not close(read, np.rint(y), 1e-5):
        if close(read, y):
            raise Wrong("In evaluation g_s reads y itself. A file can only hold integers: round.")
        raise Wrong(
            "In evaluation g_s must read integers, ⌊y⌉. Is the noise of training still there? Look at self.training."
        )
    if not close(likelihoods[0], masses(net.prior, np.rint(y)), 1e-3):
        if close(likelihoods[0], masses(net.prior, y), 1e-3):
            raise Wrong("In evaluation the prior scores y itself. It must score what is coded, ⌊y⌉.")
        raise Wrong("In evaluation the prior must score the integers ⌊y⌉.")


def check_training(net: Any, x: torch.Tensor) -> None:
    """Check that training scores noise, reads integers, and sends gradients along both paths."""
    net.train()
    reader = Reader(net.g_s)
    x_hat, likelihoods = net(x, torch.Generator().manual_seed(0))
    _, again = net(x, torch.Generator().manual_seed(1))
    read, y = array(reader.read, "what g_s reads"), array(net.g_a(x), "g_a(x)")
    reader.remove()
    if not close(read, np.rint(y), 1e-4):
        raise Wrong(
            "In training g_s must read rounded latents (straight-through), as the decoder does. With noise there it "
            "learns to blur errors that the decoder never sees."
        )
    if close(array(likelihoods[0], "the likelihood"), array(again[0], "the likelihood"), 1e-6):
        raise Wrong(
            "In training the likelihoods do not depend on the generator. Score y + u: with rounded latents the rate is "
            "a staircase, and its straight-through slope misleads the encoder."
        )
    parameters = list(net.g_a.parameters())
    for name, loss in (("reconstruction", x_hat.square().mean()), ("rate", -likelihoods[0].log2().sum())):
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        require(
            any(gradient is not None and bool((gradient != 0).any()) for gradient in gradients),
            f"No gradient of the {name} reaches g_a.",
        )


def check_crops(codec: Any, photos: list[Array]) -> None:
    """Look at the batches that `train` passes to a codec, and train twice with one seed."""
    photos = [photo // 3 + np.array([0, 85, 170], np.uint8) for photo in photos]  # every pixel value shows its color
    batches: list[torch.Tensor] = []

    class Recording(codec.Factorized):
        def forward(self, x: torch.Tensor, generator: Any = None) -> Any:
            if self.training:
                batches.append(x.detach().clone())
            return super().forward(x, generator)

    net = Recording(LMBDA, 12, 8)
    twin = deepcopy(net)
    first = {name: value.clone() for name, value in net.state_dict().items()}
    losses = codec.train(net, photos, 3, 0)
    require(
        isinstance(losses, list) and len(losses) == 3, "train must return the list of the losses, one for each step."
    )
    require(
        any(not torch.equal(value, first[name]) for name, value in net.state_dict().items() if name.startswith("g_a")),
        "train must train the codec in place; the weights of g_a did not change.",
    )
    shape = tuple(batches[0].shape)
    require(shape == (8, 3, 128, 128), f"train must feed batches of shape (8, 3, 128, 128), got {shape}.")
    require(
        float(batches[0].max()) <= 1 and float(batches[0].max()) > 0.1,
        "train must feed crops in [0, 1]: divide the pixels by 255.",
    )
    require(not torch.equal(batches[0], batches[1]), "train feeds the same crops at every step.")
    moved = [bool((crop[0] > crop[1]).any() or (crop[1] > crop[2]).any()) for batch in batches for crop in batch]
    require(
        0 < sum(moved) <= 2 * len(moved) // 3,
        f"train reorders the colors of {sum(moved)} in {len(moved)} crops. Do this with every second crop.",
    )
    again = codec.train(twin, photos, 3, 0)
    require(
        np.allclose([float(each) for each in losses], [float(each) for each in again], rtol=1e-4),
        "train gives different losses with the same seed. Seed the crops, and pass a seeded generator to the codec.",
    )


def check_loss(net: Any, codec: Any, x: torch.Tensor) -> None:
    """Compare the learner's loss on a fixed image with the one from NumPy."""
    x_hat, likelihoods = outputs(net, x)
    bits = sum(-np.log2(each).sum() for each in likelihoods) / (x.shape[2] * x.shape[3])
    expected = bits + LMBDA * 255**2 * np.mean((x_hat - x.double().numpy()) ** 2)
    with torch.no_grad():
        got = float(codec.rate_distortion(*_pair(net(x), x), LMBDA))
    require(abs(got / expected - 1) < 1e-3, f"On a fixed image your loss is {got:.4f}; NumPy has {expected:.4f}.")


def _pair(answer: Any, x: torch.Tensor) -> tuple[Any, torch.Tensor, Any]:
    return answer[0], x, answer[1]
