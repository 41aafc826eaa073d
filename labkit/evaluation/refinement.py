"""Latents refined for one image, after training: the encoder searches, the decoder stays as it is.

A trained encoder maps an image to latents in one pass, which are seldom the best for that image. With all weights
fixed, the latents themselves descend the rate–distortion loss, through a surrogate that its temperature anneals to
rounding (Yang, Bamler & Mandt, Improving Inference for Neural Image Compression, 2020):

    image ─► g_a ─► y ─► h_a ─► z      once, then      y, z ─► surrogate ─┬─► entropy model ─► bits ─┬─► loss
                                                        ▲                 └─► g_s ─► distortion ─────┘    │
                                                        └───────────────────── Adam ◄─────────────────────┘

The stream is an ordinary one: CompressAI's own `compress` writes it, told other latents, and any decoder reads it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit import entropy, schedules, schemes, surrogates
from labkit.checks import check_at_least, check_positive
from labkit.datasets import PhotoSet
from labkit.evaluation import metrics
from labkit.evaluation.curves import save_table
from labkit.evaluation.evaluator import pad
from labkit.progress import progress_bar
from labkit.schedules import Schedule
from labkit.state_guard import device_of, preserved_state, seed_noise
from labkit.surrogates import Surrogate
from labkit.training import rate_distortion, weights_hash

STEPS = 200
LEARNING_RATE = 0.03
TEMPERATURE = schedules.delayed_exponential(0.5, 0.1, 0.35)
PATIENCE = 10
CHECK_EVERY = 10  # steps from one measurement of the rounded loss to the next

Latents = tuple[Tensor, Tensor | None]  # y, and z where the network has a hyperprior


@dataclass(frozen=True, eq=False)
class Coding:
    """An image as coded: the stream, the 8-bit picture that decoding it gives, and what both come to.

    strings, shape: what `net.decompress` takes; picture: uint8, (3, H, W), without padding; bytes: of all strings; bpp:
    by the image's own pixels; psnr: in dB, of the picture; loss: bpp + λ · 255² · MSE of the picture.
    """

    strings: list[list[bytes]]
    shape: Any
    picture: Tensor
    bytes: int
    bpp: float
    psnr: float
    loss: float


@dataclass(frozen=True, eq=False)
class Refined:
    """What refinement came to, in real bytes.

    before, after: the image coded with the encoder's own latents, and with the refined ones, or once more `before`
    where those are no better in real bytes; y, z: the latents of `after`, as `replaced_latents` takes them; history:
    a pandas table (step, temperature, surrogate_loss, rounded_loss), where step 0 is the encoder's own result and
    rounded_loss is NaN at steps that did not measure it; steps: how many were run; stopped: "steps", "patience" or
    "interrupted".
    """

    before: Coding
    after: Coding
    y: Tensor
    z: Tensor | None
    history: Any
    steps: int
    stopped: str
    surrogate: str
    lmbda: float

    @property
    def improved(self) -> bool:
        """Whether the refined latents are the ones in `after`."""
        return self.after is not self.before

    @property
    def coded(self) -> dict[str, Any]:
        """The stream as `compress` returns one: {"strings", "shape"}."""
        return {"strings": self.after.strings, "shape": self.after.shape}

    def __str__(self) -> str:
        reason = {"steps": "", "patience": ", no better any more", "interrupted": ", interrupted"}[self.stopped]
        lines = [f"{self.steps} steps of {self.surrogate} at λ = {self.lmbda:g}{reason}"]
        for label, one in (("before", self.before), ("after", self.after)):
            lines.append(
                f"{label:<6}  {one.bytes:>8} bytes  {one.bpp:>7.4f} bpp  {one.psnr:>6.2f} dB  loss {one.loss:.4f}"
            )
        if self.improved:
            lines[-1] += f" ({self.after.loss / self.before.loss - 1:+.2%})"
        else:
            lines[-1] += " (the encoder's own latents: the refined ones are no better in real bytes)"
        return "\n".join(lines)


def refine(
    net: nn.Module,
    image: Tensor,
    *,
    lmbda: float | None = None,
    surrogate: str | Surrogate = "sga",
    steps: int = STEPS,
    lr: float = LEARNING_RATE,
    temperature: float | Schedule = TEMPERATURE,
    patience: int = PATIENCE,
    seed: int = 0,
    progress: bool | None = None,
) -> Refined:
    """Search better latents for one image, with the network as it is, and code them in real bytes.

    net: any of labkit's image codecs or an adopted CompressAI model; its weights stay fixed and it is handed back as it
    was. Its transforms are found by their names, g_a and (where there is one) h_a. image: (3, H, W) in [0, 1] of any
    size; sides are padded by their edges to what the network needs, distortion counts over the image's own pixels, bits
    count whole. lmbda: of the loss, bits per pixel + λ · 255² · MSE; None is the one in `net.info`. surrogate: on both
    paths of y and of z, zero-centered as coding is, with one draw for both paths; "sga" (Yang, Bamler & Mandt 2020),
    "ssl" (SGA+, Perugachi-Diaz et al. 2024), "sua" or any other. steps: of Adam, on y and z. lr: its first learning
    rate, which falls to zero along a cosine. temperature: a number or a schedule over the steps. patience: stop after
    so many checks in a row, one every ten steps, whose rounded loss was no better than the best so far. seed: of the
    noise.

    The best latents in rounded loss are kept, the encoder's own among them, and coded at the end; where they need more
    in real bytes the encoder's own stay. The rounded loss is that of the evaluation forward. Autoregressive models
    round y there and y − μ as they code, so for them it is an estimate, and the real bytes decide. Ctrl-C ends the
    search, not the call: what is best so far is coded, and `stopped` says so.

    The default temperatures are the schedule of Yang, Bamler & Mandt (min(½, exp(−0.001 t)) over 2,000 steps, which is
    ½ for 35% of them and then falls exponentially, here to 0.1 in place of 0.14). Their learning rate is 0.005 all the
    way; a tenth of their steps takes a larger one, which falls, since surrogates with integer outputs would jump about
    the best latents to the end.

    Raises ValueError naming the argument, what it got and what it takes.
    """
    if isinstance(surrogate, str):
        try:
            surrogate = surrogates.get(surrogate)
        except ValueError as error:
            raise ValueError(f"surrogate: {error}") from None
    elif not isinstance(surrogate, Surrogate):
        raise ValueError(f"surrogate: takes a surrogate or its name, got {surrogate!r}")
    if not isinstance(net, nn.Module) or not entropy.carriers(net):
        raise ValueError(
            f"net: {type(net).__name__} carries no scheme: take one of labkit's networks, or `labkit.adopt` it"
        )
    if missing := [name for name in ("compress", "decompress", "update") if not hasattr(net, name)]:
        raise ValueError(f"net: {type(net).__name__} has no {missing[0]}: takes an image codec")
    _transforms(net)
    _check_image(image)
    if lmbda is None:
        lmbda = getattr(net, "info", {}).get("lmbda")
        if lmbda is None:
            raise ValueError("lmbda: the network does not say which λ it was trained for, so one is needed")
    check_positive(lmbda=lmbda, lr=lr)
    check_at_least(0, steps=steps, seed=seed)
    check_at_least(1, patience=patience)
    schedule = schemes.as_schedule(temperature)

    with (
        preserved_state(net),
        torch.enable_grad(),
        progress_bar(total=steps, unit="step", progress=progress) as bar,
    ):
        problem = _Problem(net, image, lmbda)
        for parameter in net.parameters():
            parameter.requires_grad_(False)
        net.eval()
        net.update()  # type: ignore[operator]  # CompressAI's, which makes coder tables where there are none
        start = problem.start()
        before = problem.code(start)
        _put_everywhere(net, surrogate)
        seed_noise(net, seed)
        best, history, stopped = _descend(problem, start, steps, lr, schedule, patience, bar)
        after = before
        if best is not start:
            candidate = problem.code(best)
            after = candidate if candidate.loss < before.loss else before
    y, z = start if after is before else best

    import pandas as pd

    columns = ["step", "temperature", "surrogate_loss", "rounded_loss"]
    table = pd.DataFrame(history, columns=columns)
    return Refined(before, after, y, z, table, len(history) - 1, stopped, str(surrogate), float(lmbda))


def refine_all(net: nn.Module, images: PhotoSet, table: str | Path | None = None, **settings: Any):
    """Refine every image of a set; one row an image, as a pandas table, which is written anew to `table` after each.

    Columns: name, height, width, then bytes, bpp, psnr and loss before and after (see `Coding`), saving (the share of
    the loss that went), steps, stopped, seconds, surrogate, lmbda, seed, the weights' hash. settings: as `refine` takes
    them. Ctrl-C ends the image at hand, and the set.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    weights = weights_hash(net)
    with progress_bar(total=len(images), unit="image", progress=settings.get("progress")) as bar:
        for name, image in zip(images.names, images, strict=True):
            start = time.perf_counter()
            refined = refine(net, image, **settings)
            row: dict[str, Any] = {"name": name, "height": image.size(1), "width": image.size(2)}
            for label, one in (("before", refined.before), ("after", refined.after)):
                row |= {f"{key}_{label}": getattr(one, key) for key in ("bytes", "bpp", "psnr", "loss")}
            row |= {"saving": 1 - refined.after.loss / refined.before.loss}
            row |= {"steps": refined.steps, "stopped": refined.stopped, "seconds": time.perf_counter() - start}
            about = {"surrogate": refined.surrogate, "lmbda": refined.lmbda, "seed": settings.get("seed", 0)}
            rows.append(row | about | {"weights": weights})
            bar.update()
            if table:
                save_table(pd.DataFrame(rows), table)
            if refined.stopped == "interrupted":
                break
    return pd.DataFrame(rows)


@contextmanager
def replaced_latents(net: nn.Module, y: Tensor, z: Tensor | None = None) -> Iterator[None]:
    """Inside, whatever the network reads, its analysis transform g_a gives y and its hyper-analysis h_a gives z.

    Neither transform is run. y, z: of the shapes that the transforms give for what the network is called with; with z
    None h_a works on y as usual. `with replaced_latents(net, y, z): coded = net.compress(x)` codes them, and training
    and evaluation forwards take them likewise, gradients included.

    Raises ValueError for a network without one g_a, or given a z without one h_a.
    """
    g_a, h_a = _transforms(net)
    if z is not None and h_a is None:
        raise ValueError(f"z: {type(net).__name__} has no hyper-analysis transform h_a whose output it could replace")
    with ExitStack() as stack:
        stack.enter_context(_giving(g_a, y))
        if h_a is not None and z is not None:
            stack.enter_context(_giving(h_a, z))
        yield


@contextmanager
def _giving(module: nn.Module, output: Tensor) -> Iterator[None]:
    """The module's `forward` gives this output; as an attribute of the instance it comes before the class's own."""
    own = vars(module).get("forward")
    module.forward = lambda *_, **__: output  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own  # type: ignore[method-assign]


def _transforms(net: nn.Module) -> tuple[nn.Module, nn.Module | None]:
    """g_a, and h_a where there is one: in CompressAI's latent codecs it lies further down."""
    found: dict[str, list[nn.Module]] = {"g_a": [], "h_a": []}
    for path, module in net.named_modules():
        found.get(path.rpartition(".")[2], []).append(module)
    for name, modules in found.items():
        if len(modules) > 1 or (name == "g_a" and not modules):
            raise ValueError(f"net: needs one module named {name}, {type(net).__name__} has {len(modules)}")
    return found["g_a"][0], next(iter(found["h_a"]), None)


def _put_everywhere(net: nn.Module, surrogate: Surrogate) -> None:
    """One surrogate everywhere, around what coding rounds around; the bounds on σ, and coder tables, stay."""
    paths: dict[str, Any] = dict.fromkeys(schemes.PATHS, surrogate)
    for carrier in entropy.carriers(net):
        carrier.scheme = dataclasses.replace(
            carrier.scheme, **paths, zero_center=True, stop_gradient=False, shared_noise=True
        )


class _Problem:
    """One image and a network: its latents, their loss under the surrogate and rounded, and their coding."""

    def __init__(self, net: nn.Module, image: Tensor, lmbda: float):
        self.net, self.lmbda = net, lmbda
        self.image = image.detach().to(device_of(net))[None]
        self.padded, self.unpadding = pad(self.image, getattr(net, "downsampling_factor", 64))

    @torch.no_grad()
    def start(self) -> Latents:
        """The encoder's own latents."""
        seen: list[Tensor] = []
        modules = [module for module in _transforms(self.net) if module is not None]
        handles = [m.register_forward_hook(lambda _module, _inputs, y: seen.append(y.clone())) for m in modules]
        try:
            self.net(self.padded)
        finally:
            for handle in handles:
                handle.remove()
        return seen[0], seen[1] if len(seen) > 1 else None

    def surrogate_loss(self, latents: Latents) -> Tensor:
        """The training forward's loss, a 0-d tensor that back-propagates into the latents."""
        self.net.train()
        for module in self.net.modules():
            # what decodes is the network as it evaluates: only quantization is to be as in training
            if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
                module.eval()
        return self._loss(latents)

    @torch.no_grad()
    def rounded_loss(self, latents: Latents) -> float:
        """The evaluation forward's loss."""
        self.net.eval()
        return self._loss(latents).item()

    def _loss(self, latents: Latents) -> Tensor:
        with replaced_latents(self.net, *latents):
            output = self.net(self.padded)
        x_hat = F.pad(output["x_hat"], self.unpadding).clamp(0, 1)  # as `decompress` clamps it
        return rate_distortion({**output, "x_hat": x_hat}, self.image, self.lmbda).total

    @torch.no_grad()
    def code(self, latents: Latents) -> Coding:
        """Real bytes, by CompressAI's own coder, and the 8-bit picture that the network decodes from them."""
        net: Any = self.net.eval()
        with replaced_latents(net, *latents):
            coded = net.compress(self.padded)
        strings, shape = coded["strings"], coded["shape"]
        decoded = F.pad(net.decompress(strings, shape)["x_hat"], self.unpadding)[0]
        picture = (decoded * 255).round().to(torch.uint8)
        size = sum(len(string) for group in strings for string in group)
        bpp = 8 * size / picture[0].numel()
        error = torch.mean((picture.double() - 255 * self.image[0].double()) ** 2).item()
        psnr = metrics.psnr(picture.double() / 255, self.image[0])
        return Coding(strings, shape, picture.cpu(), size, bpp, psnr, bpp + self.lmbda * error)


def _descend(
    problem: _Problem, start: Latents, steps: int, lr: float, schedule: Schedule, patience: int, bar: Any
) -> tuple[Latents, list[tuple[int, float, float, float]], str]:
    """The best latents in rounded loss (`start` itself where none is better), the history, and why it stopped."""
    y, z = (None if latent is None else latent.clone().requires_grad_() for latent in start)
    assert y is not None
    optimizer = torch.optim.Adam([latent for latent in (y, z) if latent is not None], lr=lr)
    best, least, since = start, problem.rounded_loss(start), 0
    history = [(0, math.nan, math.nan, least)]
    first = least
    try:
        for step in range(1, steps + 1):
            temperature = schedule(step - 1, steps)
            entropy.set_temperature(problem.net, temperature)
            loss = problem.surrogate_loss((y, z))
            optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * (step - 1) / steps)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rounded = math.nan
            if step % CHECK_EVERY == 0 or step == steps:
                rounded = problem.rounded_loss((y, z))
                since += 1
                if rounded < least:
                    kept = (y.detach().clone(), None if z is None else z.detach().clone())
                    best, least, since = kept, rounded, 0
                bar.set_postfix_str(f"loss {least / first - 1:+.1%}", refresh=False)
            history.append((step, temperature, loss.item(), rounded))
            bar.update()
            if since == patience:
                return best, history, "patience"
    except KeyboardInterrupt:
        return best, history, "interrupted"
    return best, history, "steps"


def _check_image(image: Any) -> None:
    if not isinstance(image, Tensor) or not image.is_floating_point():
        kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"image: takes a floating-point tensor of shape (3, H, W) in [0, 1], got {kind}")
    if image.dim() != 3 or image.size(0) != 3 or not image.numel():
        raise ValueError(f"image: takes shape (3, H, W), got {tuple(image.shape)}")
    least, most = image.min().item(), image.max().item()
    if not (least >= 0 and most <= 1):
        raise ValueError(f"image: takes values in [0, 1], got some in [{least:g}, {most:g}]")
