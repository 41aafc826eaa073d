"""The report of a diagnosis: findings, and where the bits are."""

from __future__ import annotations

import html
import statistics
import textwrap
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from labkit.diagnosis.findings import KINDS, SEVERITIES, Finding
from labkit.diagnosis.passes import ImagePass
from labkit.diagnosis.pictures import densities, latent_maps
from labkit.diagnosis.rates import bits_per_channel

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """The findings about a codec, and where its bits are. `print` shows both.

    Attributes:
        network: Name of the network or of its class.
        findings: Findings, the most severe first.
        bits: Bits per pixel of each latent in training, with rounding, and as coded; and of the real bytes ("all").
        channels: Bits per position of each channel of each latent, with rounding.
        images: Number of images.
        lmbda: Weight of the distortion in the losses, or None.
        losses: Rate plus λ · distortion in training and with rounding; None without λ.
        codec: Copy of the codec with coder tables, for the pictures; None if it cannot run.
        image: The first image, for the pictures.
    """

    network: str
    findings: list[Finding]
    bits: dict[str, dict[str, float]]
    channels: dict[str, list[float]]
    images: int
    lmbda: float | None = None
    losses: dict[str, float] | None = None
    codec: nn.Module | None = None
    image: Tensor | None = None

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.count(each)} {each}s" for each in SEVERITIES)
        return f"Diagnosis({self.network}: {counts})"

    def count(self, severity: str) -> int:
        """Return the number of findings with a given severity."""
        return sum(each.severity == severity for each in self.findings)

    def of(self, kind: str) -> Finding | None:
        """Return the finding of a kind, or None if there is none.

        Args:
            kind: One of `KINDS`.
        """
        return next((each for each in self.findings if each.kind == kind), None)

    def __str__(self) -> str:
        lines = [f"{self.network}, {self.images} image{'s' * (self.images != 1)}"]
        lines += [str(each) for each in self.findings] or ["nothing found"]
        lines += ["", f"{'bits per pixel':<20}{'training':>10}{'rounded':>10}{'coded':>10}{'real':>10}"]
        for name, row in self.bits.items():
            cells = (f"{row[key]:>10.4f}" if key in row else f"{'':>10}" for key in _COLUMNS)
            lines.append(f"{name:<20}{''.join(cells)}")
        if self.losses:
            loss = f"loss at λ = {self.lmbda:g}"
            lines.append(f"{loss:<20}{self.losses['training']:>10.4f}{self.losses['rounded']:>10.4f}")
        return "\n".join([*lines, "", *textwrap.wrap(_thresholds(), 118)])

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the pictures as a JSON-compatible dictionary, including the thresholds."""
        kinds = {name: kind._asdict() for name, kind in KINDS.items()}
        values = asdict(replace(self, codec=None, image=None))
        del values["codec"], values["image"]
        return {**values, "kinds": kinds}

    def figures(self) -> list[Figure]:
        """Return pictures of the codec: bits per channel, learned densities, and maps of one image."""
        from labkit.diagnosis import plots

        if self.codec is None or self.image is None:
            return []
        channels, maps = densities(self.codec, [self.image]), latent_maps(self.codec, self.image)
        figures = [plots.channel_bits(self.channels)]
        figures += [plots.densities(channels)] if channels else []
        return figures + ([plots.latent_maps(maps)] if maps else [])

    def to_html(self) -> str:
        """Return a page with the findings, the bits and the figures, which works offline."""
        figures = (each.to_html(full_html=False, include_plotlyjs=not i) for i, each in enumerate(self.figures()))
        body = f"{self._repr_html_()}{''.join(figures)}"
        return f"<!doctype html><meta charset='utf-8'><title>{html.escape(self.network)}</title>{body}"

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        display(HTML(self._repr_html_()), *self.figures())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{each.severity}</td><td>{each.kind}</td><td>{each.figure:.3g} {html.escape(each.unit)}</td>"
            f"<td style='text-align:left'>{html.escape(each.message)} <em>{html.escape(each.remedy)}</em></td></tr>"
            for each in self.findings
        )
        head = "".join(f"<th>{key}</th>" for key in ("bits per pixel", *_COLUMNS))
        bits = "".join(
            f"<tr><th>{html.escape(name)}</th>"
            + "".join(f"<td>{row[key]:.4f}</td>" if key in row else "<td></td>" for key in _COLUMNS)
            + "</tr>"
            for name, row in self.bits.items()
        )
        found = f"<table>{rows}</table>" if rows else "<p>nothing found</p>"
        limits = f"<details><summary>thresholds</summary>{html.escape(_thresholds())}</details>"
        return f"<p><b>{html.escape(self.network)}</b></p>{found}<table><tr>{head}</tr>{bits}</table>{limits}"


def _thresholds() -> str:
    """Return the thresholds for a note, a warning and an error of each kind."""
    kinds = (
        f"{name} {'/'.join('–' if least is None else f'{least:g}' for least in kind[2:])} {kind.unit}"
        for name, kind in KINDS.items()
    )
    return f"Least figures of a note/warning/error: {'; '.join(kinds)}."


_COLUMNS = ("training", "rounded", "coded", "real")


def bits_table(passes: list[ImagePass]) -> dict[str, dict[str, float]]:
    """Return the bits per pixel of each latent and of all, in the form of `Diagnosis.bits`."""
    pixels = sum(each.pixels for each in passes)
    table: dict[str, dict[str, float]] = {}
    for name in passes[0].rounded.bits:
        rounded = sum(float(each.rounded.bits[name].sum()) for each in passes)
        training = sum(statistics.mean(float(draw.bits[name].sum()) for draw in each.training) for each in passes)
        table[name] = {"training": training / pixels, "rounded": rounded / pixels}
    total = {key: sum(row[key] for row in table.values()) for key in ("training", "rounded")}
    codings = [each.coding for each in passes]
    if all(codings):
        total["coded"] = sum(each.estimate for each in codings if each) / pixels
        total["real"] = 8 * sum(each.bytes for each in codings if each) / pixels
    return {**table, "all": total}


def channels_of(passes: list[ImagePass]) -> dict[str, list[float]]:
    """Return the bits per position of each channel as lists."""
    return {name: bits.tolist() for name, bits in bits_per_channel(passes).items()}
