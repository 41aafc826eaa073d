"""Diagnosis of a codec: run it on images in every mode, and judge the differences."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from labkit import adoption, entropy, fixed_point, schemes
from labkit.analysis.trained.images import network_input
from labkit.checks import check_at_least, check_positive
from labkit.datasets import PhotoSet
from labkit.diagnosis import rates, tables
from labkit.diagnosis.findings import SEVERITIES, Finding, judged
from labkit.diagnosis.passes import ImagePass, code, forward
from labkit.diagnosis.report import Diagnosis, bits_table, channels_of
from labkit.diagnosis.reproducibility import not_reproducible
from labkit.evaluation import bitstream
from labkit.fixed_point import NotCodable
from labkit.networks import CheckpointKeys
from labkit.progress import progress_bar
from labkit.schemes import Scheme
from labkit.seeds import mix_seeds
from labkit.state_guard import device_of


def diagnose(
    model: nn.Module,
    images: PhotoSet | Sequence[Tensor],
    *,
    scheme: Scheme | str | None = None,
    lmbda: float | None = None,
    draws: int = 2,
    seed: int = 0,
    old_processor: bool = False,
    progress: bool | None = None,
) -> Diagnosis:
    """Explain why the real bits of a codec differ from its estimate, and where the bits are.

    The model runs on every image in training mode, in evaluation mode, and in the coder. The model is not changed.

    Args:
        model: Any model with CompressAI's entropy models that returns "x_hat" and "likelihoods", adopted or not, with
            or without coder tables. If it lacks `compress` or `decompress`, nothing is coded.
        images: A PhotoSet, or tensors of shape (C, H, W) in [0, 1] of any size. For a model of vectors, tensors of
            shape (n, d); rates are then bits per vector.
        scheme: Training scheme to examine, or the name of a preset. None examines the model's own training forward
            pass.
        lmbda: Weight of the distortion. If it is given, losses are reported, too.
        draws: Number of noise draws per image.
        seed: Seed of the noise.
        old_processor: Whether to also decode in a process with the instruction set of an old processor. This takes a
            few seconds, and needs a network of labkit or CompressAI that can be rebuilt from its name.
        progress: Whether to show a progress bar; by default, only on a terminal.

    Returns:
        The findings, each with a figure, a cause and a remedy, and the bits of each latent; `print` shows them.

    Raises:
        ValueError: If an argument is invalid, or if the model cannot use the scheme.

    Example:
        >>> import labkit as lk
        >>> photo = lk.datasets.photos("test")[0][:, :128, :128]
        >>> lk.diagnose(lk.networks.pretrained("mean_scale_hyperprior", 0.0035), [photo])
        Diagnosis(mean_scale_hyperprior: 0 errors, 0 warnings, 1 notes)
    """
    names = images.names if isinstance(images, PhotoSet) else [str(i) for i in range(len(images))]
    if not names:
        raise ValueError("images must have at least one image, got none")
    check_at_least(1, draws=draws)
    if lmbda is not None:
        check_positive(lmbda=lmbda)
    coder = copy.deepcopy(model).eval()
    trained = _trained(model, scheme)
    network = str(getattr(model, "kind", fixed_point.plain_class(type(model)).__name__))
    codes = hasattr(model, "compress") and hasattr(model, "decompress")
    findings = _checkpoint_keys(model) + (tables.missing_tables(model) if codes else [])
    broken = _not_finite(coder, network_input(coder, images[0]).to(device_of(coder))) or tables.diverged(coder)
    if broken:
        return Diagnosis(network, [*broken, *findings], {}, {}, len(names))
    bitstream.build_missing_tables(coder)
    passes = []
    with torch.random.fork_rng():
        for index in progress_bar(range(len(names)), unit="image", progress=progress):
            x = network_input(coder, images[index]).to(device_of(coder))
            pixels = x[0, 0].numel() if x.dim() > 2 else len(x)
            one = ImagePass(names[index], pixels, forward(coder, x))
            for draw in range(draws):
                torch.manual_seed(mix_seeds(seed, index, draw))
                one.training.append(forward(trained, x))
            try:
                one.coding = code(coder, x) if codes else None
            except NotCodable as error:
                findings += judged("nonfinite", 1, f"Image {one.name} cannot be coded: {error}.", _TRAIN)
            passes.append(one)
    findings += tables.stale_tables(coder, passes) + tables.quantiles(coder) + tables.overflow(passes)
    findings += rates.mismatch(passes) + rates.scale_bound(passes) + rates.center(passes) + rates.dead_channels(passes)
    findings += rates.dominant_channel(passes)
    findings += not_reproducible(coder, passes, old_processor)
    findings.sort(key=lambda each: SEVERITIES.index(each.severity))
    losses = _losses(passes, lmbda) if lmbda is not None else None
    return Diagnosis(
        network, findings, bits_table(passes), channels_of(passes), len(names), lmbda, losses, coder, images[0]
    )


_TRAIN = "Train again with a lower learning rate or with gradient clipping, starting from finite weights."


def _trained(model: nn.Module, scheme: Scheme | str | None) -> nn.Module:
    """Return a copy of the model in training mode that carries the scheme."""
    trained = copy.deepcopy(model)
    if isinstance(scheme, str):
        bounds: list[Any] = [module for module in model.modules() if hasattr(module, "lower_bound_scale")]
        own = {"scale_lower_bound": float(bounds[0].lower_bound_scale.bound)} if bounds else {}
        scheme = schemes.get(scheme, **own)
    if scheme is not None:
        adoption.adopt(trained, scheme)
        entropy.set_temperature(trained, schemes.last_stage(scheme).temperature.end)
    entropy.set_generator(trained, None)
    return trained.train()


def _checkpoint_keys(model: nn.Module) -> list[Finding]:
    """Report the keys that `load_weights` could not match exactly in the model's checkpoint."""
    keys = getattr(model, "checkpoint_keys", None)
    if not isinstance(keys, CheckpointKeys):
        return []
    count = len(keys.renamed) + len(keys.missing) + len(keys.unexpected)
    remedy = "Save the weights with the network's own keys, as `labkit convert` does. Unexpected keys have no effect."
    return judged("checkpoint_keys", count, f"{keys}.", remedy)


@torch.no_grad()
def _not_finite(model: nn.Module, x: Tensor) -> list[Finding]:
    """Find weights and module outputs that are not finite, and name the first."""
    weights = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    places = [f"the weights {name}" for name in weights]
    places += [f"the outputs of {name}" for name in fixed_point.modules_not_finite(model, lambda: model(x))]
    return judged("nonfinite", len(places), f"{places[0]} hold values that are not finite." if places else "", _TRAIN)


def _losses(passes: list[ImagePass], lmbda: float) -> dict[str, float]:
    """Return the mean over images of rate + λ · distortion, in training and with rounding."""
    rounded = [each.rounded.rate / each.pixels + lmbda * each.rounded.mse for each in passes]
    training = [draw.rate / each.pixels + lmbda * draw.mse for each in passes for draw in each.training]
    return {"training": statistics.mean(training), "rounded": statistics.mean(rounded)}
