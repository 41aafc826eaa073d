"""Findings about the coder's tables: missing or outdated tables, wrong quantiles, and symbols outside the tables."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel
from torch import nn

from labkit import rans
from labkit.diagnosis.findings import Finding, judged
from labkit.diagnosis.passes import ImagePass
from labkit.evaluation import bitstream

_UPDATE = "Call model.update(force=True) after training, then save the model with its tables."
_TAIL = 1e-3  # largest acceptable probability outside a table
_ROUNDING = 2  # counts by which tables of the same weights may differ, because another machine rounds differently


def entropy_models(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the entropy models of a model with their names."""
    for name, module in model.named_modules():
        if isinstance(module, EntropyModel):
            yield name, module


def missing_tables(model: nn.Module) -> list[Finding]:
    """Find entropy models without coder tables."""
    names = [name for name, module in entropy_models(model) if not module._quantized_cdf.numel()]
    return judged(
        "missing_tables",
        len(names),
        f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'} no coder tables, so compress fails.",
        _UPDATE,
    )


def diverged(model: nn.Module) -> list[Finding]:
    """Find quantiles so far from their medians that tables would not fit into memory.

    Args:
        model: A model with CompressAI's entropy models.
    """
    try:
        rans.check_quantiles(model)
    except ValueError as error:
        message, _, remedy = str(error).partition(": ")
        return judged("quantiles", math.inf, f"{_upper(message)}.", f"{_upper(remedy)}. {_DIVERGED}")
    return []


_DIVERGED = "Use a lower learning rate for the auxiliary loss."


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def stale_tables(model: nn.Module, passes: list[ImagePass]) -> list[Finding]:
    """Find coder tables that do not match the current weights, and measure what they cost.

    Args:
        model: A model with tables.
        passes: Images that this model coded.
    """
    stored = {name: module for name, module in entropy_models(model) if module._quantized_cdf.numel()}
    rebuilt = {name: _rebuilt(module) for name, module in stored.items()}
    names = [name for name in stored if _differ(stored[name], rebuilt[name])]
    if not names:
        return []
    fresh = {stored[name]: rebuilt[name] for name in stored}
    own, other = 0.0, 0.0
    for coding in (each.coding for each in passes if each.coding):
        for call in coding.symbols:
            own += bitstream.table_bits(call.model, call.symbols, call.indexes)
            other += bitstream.table_bits(fresh[call.model], call.symbols, call.indexes)
    figure = 100 * (own / other - 1) if other else 0.0
    message = f"The tables of {' and '.join(names)} do not match the current weights and cost {figure:.1f}% more bits."
    return judged("stale_tables", max(figure, 0.0), message, _UPDATE)


def _rebuilt(module: Any) -> Any:
    fresh = copy.deepcopy(module)
    if isinstance(fresh, EntropyBottleneck):
        fresh.update(force=True)
    else:
        fresh.update()
    return fresh


def _differ(one: Any, other: Any) -> bool:
    """Return whether the tables of two entropy models differ by more than another machine's rounding could explain."""
    for name in ("_offset", "_cdf_length", "_quantized_cdf"):
        a, b = getattr(one, name), getattr(other, name)
        if a.shape != b.shape or (a - b).abs().max() > (_ROUNDING if name == "_quantized_cdf" else 0):
            return True
    return False


@torch.no_grad()
def quantiles(model: nn.Module) -> list[Finding]:
    """Find quantiles of entropy bottlenecks that do not match the learned densities.

    A median is judged by its distance. A tail is reported if its table ends before the density has only `_TAIL` left.
    """
    figure, what = 0.0, ""
    for name, module in entropy_models(model):
        if isinstance(module, EntropyBottleneck):
            solved: Any = copy.deepcopy(module)
            target = math.log(2 / _TAIL - 1)
            solved.target.copy_(torch.tensor([-target, 0, target]))
            solved._update_quantiles()
            low, median, high = (solved.quantiles - module.quantiles)[:, 0].unbind(1)
            short = torch.maximum(-low, high)
            for place, distance in (("median", median.abs()), ("tail", short)):
                if float(distance.max()) > figure:
                    figure, what = float(distance.max()), f"{place} of {name}"
    message = f"A {what} is {figure:.2g} quantization steps away from that of its learned density."
    return judged(
        "quantiles",
        figure,
        message,
        "Train longer with the auxiliary loss, or call model.update(force=True, update_quantiles=True).",
    )


def overflow(passes: list[ImagePass]) -> list[Finding]:
    """Measure what symbols outside the coder's tables cost beyond the model's estimate."""
    extra, real, count, symbols = 0.0, 0, 0, 0
    for coding in (each.coding for each in passes if each.coding):
        real += 8 * coding.bytes
        for call in coding.symbols:
            outside = bitstream.outside_tables(call.model, call.symbols, call.indexes)
            count, symbols = count + int(outside.sum()), symbols + outside.numel()
            paid = bitstream.table_bits(call.model, call.symbols[outside], call.indexes[outside])
            extra += paid - float(call.bits[outside].sum())
    if not real:
        return []
    figure = 100 * extra / real
    message = (
        f"{count:,} of {symbols:,} symbols are outside the coder's tables and cost {figure:.1f}% of the bits "
        "more than estimated."
    )
    remedy = "Train longer on similar images; if the quantiles did not converge, solve for them and update the tables."
    return judged("overflow", figure, message, remedy)
