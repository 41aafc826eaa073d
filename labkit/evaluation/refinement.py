"""Refinement of latents for one image after training: the encoder searches, and the decoder does not change.

A trained encoder maps an image to latents in one pass, and these are seldom the best ones for the image. Refinement
keeps all weights fixed and optimizes the latents by gradient descent on the rate–distortion loss, through a surrogate
that is annealed to rounding (Yang, Bamler & Mandt 2020, https://arxiv.org/abs/2006.04240):

    image ─► g_a ─► y ─► h_a ─► z      once, then      y, z ─► surrogate ─┬─► entropy model ─► bits ─┬─► loss
                                                        ▲                 └─► g_s ─► distortion ─────┘    │
                                                        └───────────────────── Adam ◄─────────────────────┘

The network's own `compress` writes the bitstream with the refined latents, and every decoder can read it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit import defaults, entropy, fixed_point, schedules, schemes, surrogates
from labkit.checks import check_at_least, check_positive
from labkit.datasets import PhotoSet
from labkit.evaluation import bitstream, metrics
from labkit.evaluation.evaluator import pad
from labkit.evaluation.latents import Latents, replaced_latents, transforms_of
from labkit.evaluation.tables import save_table
from labkit.networks import weights_hash
from labkit.progress import progress_bar
from labkit.schedules import Schedule
from labkit.state_guard import device_of, preserved_state, seed_noise
from labkit.surrogates import Surrogate
from labkit.training import rate_distortion

if TYPE_CHECKING:
    import pandas as pd

TEMPERATURE = schedules.delayed_exponential(0.5, 0.1, 0.35)
PATIENCE = 10
CHECK_EVERY = 10  # number of steps between measurements of the rounded loss


@dataclass(frozen=True, eq=False, repr=False)
class Coding:
    """A coded image: the bitstream, the decoded image, and their rate and distortion.

    Attributes:
        coded: The bitstream as returned by `net.compress`, for `net.decompress`.
        image: Decoded image without padding, uint8 of shape (3, H, W).
        bytes: Total length of the strings.
        bpp: Bits per pixel of the original image.
        psnr: PSNR of the decoded image in dB.
        loss: bpp + λ · 255² · MSE of the decoded image.
    """

    coded: dict[str, Any]
    image: Tensor
    bytes: int
    bpp: float
    psnr: float
    loss: float

    @property
    def strings(self) -> Any:
        """The strings of the bitstream, a list of lists."""
        return self.coded["strings"]

    def __repr__(self) -> str:
        return f"Coding({self})"

    def __str__(self) -> str:
        return f"{self.bytes} bytes, {self.bpp:.4f} bpp, {self.psnr:.2f} dB, loss {self.loss:.4f}"


@dataclass(frozen=True, eq=False, repr=False)
class Refined:
    """Result of a refinement, measured in real bytes.

    Attributes:
        before: The image coded with the latents of the encoder.
        after: The image coded with the refined latents, or `before` if their loss in real bytes is not lower.
        y: Latent y of `after`.
        z: Latent z of `after`, or None if the network has no hyperprior.
        history: Table with the columns step, temperature, surrogate_loss and rounded_loss. Step 0 is the result of the
            encoder. rounded_loss is NaN at steps where it was not measured.
        steps: Number of steps.
        stopped: Reason for the end of the search: "steps", "patience" or "interrupted".
        surrogate: Name of the surrogate.
        lmbda: Weight of the distortion in the loss.
    """

    before: Coding
    after: Coding
    y: Tensor
    z: Tensor | None
    history: pd.DataFrame
    steps: int
    stopped: str
    surrogate: str
    lmbda: float

    @property
    def improved(self) -> bool:
        """True if `after` uses the refined latents."""
        return self.after is not self.before

    @property
    def coded(self) -> dict[str, Any]:
        """The bitstream as returned by `net.compress`: "strings", "shape" and "arithmetic"."""
        return self.after.coded

    def __repr__(self) -> str:
        saving = 1 - self.after.loss / self.before.loss
        return f"Refined({self.before.bytes} → {self.after.bytes} bytes, loss reduced by {saving:.2%})"

    def __str__(self) -> str:
        reasons = {"steps": "", "patience": ", then no further improvement", "interrupted": ", then interrupted"}
        reason = reasons[self.stopped]
        lines = [f"{self.steps} steps of {self.surrogate} at λ = {self.lmbda:g}{reason}"]
        for label, coding in (("before", self.before), ("after", self.after)):
            size, quality = f"{coding.bytes:>8} bytes  {coding.bpp:>7.4f} bpp", f"{coding.psnr:>6.2f} dB"
            lines.append(f"{label:<6}  {size}  {quality}  loss {coding.loss:.4f}")
        if self.improved:
            lines[-1] += f" ({self.after.loss / self.before.loss - 1:+.2%})"
        else:
            lines[-1] += " (latents of the encoder, since the refined ones are not better in real bytes)"
        return "\n".join(lines)


def refine(
    net: nn.Module,
    image: Tensor,
    *,
    lmbda: float | None = None,
    surrogate: str | Surrogate = defaults.REFINE_SURROGATE,
    steps: int = defaults.REFINE_STEPS,
    lr: float = defaults.REFINE_LR,
    temperature: float | Schedule = TEMPERATURE,
    patience: int = PATIENCE,
    seed: int = 0,
    progress: bool | None = None,
) -> Refined:
    """Search for better latents of one image without changing the network, and code them in real bytes.

    The search keeps the latents with the lowest rounded loss, starting with those of the encoder, and codes them at the
    end. If they are not better in real bytes, the latents of the encoder are used. The rounded loss is the loss of a
    forward pass in evaluation mode. Autoregressive models round y in that pass but y − μ in coding, so their rounded
    loss is an estimate, and the real bytes decide. Ctrl-C ends the search but not the call: the best latents so far are
    coded.

    The default temperatures follow Yang, Bamler & Mandt (2020, https://arxiv.org/abs/2006.04240), who use
    min(½, exp(−0.001 t)) over 2,000 steps. This is ½ for 35% of the steps and then falls exponentially, here to 0.1
    instead of 0.14. Their learning rate is constant at 0.005. With a tenth of their steps, a higher learning rate is
    needed. It must also fall, because surrogates with integer outputs would otherwise jump around the best latents
    until the end.

    Args:
        net: An image codec of labkit or an adopted CompressAI model; it is restored afterwards. Its transforms must be
            named g_a and, if it has a hyperprior, h_a.
        image: Image of shape (3, H, W) in [0, 1] of any size. It is padded to the multiple that the network needs. The
            distortion counts only the original pixels, and the rate counts all bits.
        lmbda: Weight of the distortion in bits per pixel + λ · 255² · MSE. The default is the λ in `net.info`.
        surrogate: Surrogate or its name, used on both paths of y and z around the same centers as in coding, with one
            draw for both paths. "sga" is stochastic Gumbel annealing (Yang, Bamler & Mandt 2020), "ssl" is SGA+
            (Perugachi-Diaz et al. 2024, https://arxiv.org/abs/2401.17789).
        steps: Number of Adam steps on y and z.
        lr: Initial learning rate, which falls to zero along a cosine.
        temperature: A number, or a schedule over the steps.
        patience: Number of measurements without improvement after which the search stops. The rounded loss is measured
            every ten steps.
        seed: Seed of the noise.
        progress: Whether to show a progress bar; by default, only on a terminal.

    Returns:
        The image coded before and after the search, the latents, and the history of the search.

    Raises:
        ValueError: If an argument is invalid, or if the network is not an image codec with a scheme.
    """
    if isinstance(surrogate, str):
        try:
            surrogate = surrogates.get(surrogate)
        except ValueError as error:
            raise ValueError(f"surrogate: {error}") from None
    elif not isinstance(surrogate, Surrogate):
        raise ValueError(f"surrogate must be a surrogate or its name, got {surrogate!r}")
    if not isinstance(net, nn.Module) or not entropy.carriers(net):
        raise ValueError(
            f"net: {type(net).__name__} carries no scheme; use a network of labkit, or call `labkit.adopt` first"
        )
    if missing := [name for name in ("compress", "decompress", "update") if not hasattr(net, name)]:
        raise ValueError(f"net must be an image codec, but {type(net).__name__} has no method {missing[0]}")
    transforms_of(net)
    _check_image(image)
    if lmbda is None:
        lmbda = getattr(net, "info", {}).get("lmbda")
        if lmbda is None:
            raise ValueError("lmbda is required, because net.info does not contain the λ of the training")
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
        bitstream.build_missing_tables(net)
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


def refine_all(net: nn.Module, images: PhotoSet, table: str | Path | None = None, **settings: Any) -> pd.DataFrame:
    """Refine every image of a set.

    Ctrl-C ends the search for the current image and then the call.

    Args:
        net: An image codec of labkit or an adopted CompressAI model.
        images: Photographs of any size.
        table: File that is rewritten after each image, .csv or .parquet.
        **settings: Further arguments of `refine`.

    Returns:
        A table with one row per image: name, height and width; bytes, bpp, psnr and loss before and after (see
        `Coding`); saving, the fraction by which the loss fell; steps, stopped, seconds, surrogate, lmbda, seed, and the
        hash of the weights.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    weights = weights_hash(net)
    with progress_bar(total=len(images), unit="image", progress=settings.get("progress")) as bar:
        for name, image in zip(images.names, images, strict=True):
            start = time.perf_counter()
            refined = refine(net, image, **settings)
            row: dict[str, Any] = {"name": name, "height": image.size(1), "width": image.size(2)}
            for label, coding in (("before", refined.before), ("after", refined.after)):
                row |= {f"{key}_{label}": getattr(coding, key) for key in ("bytes", "bpp", "psnr", "loss")}
            row |= {"saving": 1 - refined.after.loss / refined.before.loss}
            row |= {"steps": refined.steps, "stopped": refined.stopped, "seconds": time.perf_counter() - start}
            search = {"surrogate": refined.surrogate, "lmbda": refined.lmbda, "seed": settings.get("seed", 0)}
            rows.append(row | search | {"weights": weights})
            bar.update()
            if table:
                save_table(pd.DataFrame(rows), table)
            if refined.stopped == "interrupted":
                break
    return pd.DataFrame(rows)


def _put_everywhere(net: nn.Module, surrogate: Surrogate) -> None:
    """Use one surrogate on all paths, around the same centers as in coding; keep bounds on σ and coder tables."""
    paths: dict[str, Any] = dict.fromkeys(schemes.PATHS, surrogate)
    for carrier in entropy.carriers(net):
        carrier.scheme = dataclasses.replace(
            carrier.scheme, **paths, zero_center=True, stop_gradient=False, shared_noise=True
        )


class _Problem:
    """The latents of one image: their loss with the surrogate, their loss with rounding, and their coding."""

    def __init__(self, net: nn.Module, image: Tensor, lmbda: float):
        self.net, self.lmbda = net, lmbda
        self.image = image.detach().to(device_of(net))[None]
        self.padded, self.unpadding = pad(self.image, getattr(net, "downsampling_factor", 64))

    @torch.no_grad()
    def start(self) -> Latents:
        """Return the latents of the encoder."""
        outputs: list[Tensor] = []
        modules = [module for module in transforms_of(self.net) if module is not None]
        handles = [m.register_forward_hook(lambda _module, _inputs, y: outputs.append(y.clone())) for m in modules]
        try:
            self.net(self.padded)
        finally:
            for handle in handles:
                handle.remove()
        return outputs[0], outputs[1] if len(outputs) > 1 else None

    def surrogate_loss(self, latents: Latents) -> Tensor:
        """Return the loss of a forward pass in training mode, a 0-d tensor with gradients for the latents."""
        self.net.train()
        for module in self.net.modules():
            # The decoder runs all layers in evaluation mode, so only quantization may be in training mode.
            if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
                module.eval()
        return self._loss(latents)

    @torch.no_grad()
    def rounded_loss(self, latents: Latents) -> float:
        """Return the loss of a forward pass in evaluation mode."""
        self.net.eval()
        return self._loss(latents).item()

    def _loss(self, latents: Latents) -> Tensor:
        with replaced_latents(self.net, *latents):
            output = self.net(self.padded)
        x_hat = F.pad(output["x_hat"], self.unpadding).clamp(0, 1)  # like `decompress`
        return rate_distortion({**output, "x_hat": x_hat}, self.image, self.lmbda).total

    @torch.no_grad()
    def code(self, latents: Latents) -> Coding:
        """Code latents with the network's coder and decode the 8-bit image again."""
        net: Any = self.net.eval()
        with replaced_latents(net, *latents):
            output = fixed_point.compress(net, self.padded)
        coded: dict[str, Any] = {key: output[key] for key in ("strings", "shape", "arithmetic") if key in output}
        decoded = F.pad(fixed_point.decompress(net, coded), self.unpadding)[0]
        decoded_image = (decoded * 255).round().to(torch.uint8)
        size = sum(len(string) for group in coded["strings"] for string in group)
        bpp = 8 * size / decoded_image[0].numel()
        error = torch.mean((decoded_image.double() - 255 * self.image[0].double()) ** 2).item()
        psnr = metrics.psnr(decoded_image.double() / 255, self.image[0])
        return Coding(coded, decoded_image.cpu(), size, bpp, psnr, bpp + self.lmbda * error)


def _descend(
    problem: _Problem, start: Latents, steps: int, lr: float, schedule: Schedule, patience: int, bar: Any
) -> tuple[Latents, list[tuple[int, float, float, float]], str]:
    """Return the latents with the lowest rounded loss, the history, and the reason for the end.

    If no better latents were found, the result is the same object as `start`.
    """
    y, z = (None if latent is None else latent.clone().requires_grad_() for latent in start)
    assert y is not None
    optimizer = torch.optim.Adam([latent for latent in (y, z) if latent is not None], lr=lr)
    best, least, checks_since_best = start, problem.rounded_loss(start), 0
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
                checks_since_best += 1
                if rounded < least:
                    best = (y.detach().clone(), None if z is None else z.detach().clone())
                    least, checks_since_best = rounded, 0
                bar.set_postfix_str(f"loss {least / first - 1:+.1%}", refresh=False)
            history.append((step, temperature, loss.item(), rounded))
            bar.update()
            if checks_since_best == patience:
                return best, history, "patience"
    except KeyboardInterrupt:
        return best, history, "interrupted"
    return best, history, "steps"


def _check_image(image: Any) -> None:
    if not isinstance(image, Tensor) or not image.is_floating_point():
        kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"image must be a floating-point tensor of shape (3, H, W) in [0, 1], got {kind}")
    if image.dim() != 3 or image.size(0) != 3 or not image.numel():
        raise ValueError(f"image must have the shape (3, H, W), got {tuple(image.shape)}")
    least, most = image.min().item(), image.max().item()
    if not (least >= 0 and most <= 1):
        raise ValueError(f"image must have values in [0, 1], got values in [{least:g}, {most:g}]")
