"""Results of one codec at one operating point: a row for each image, means, and tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.evaluation import metrics
from labkit.evaluation.tables import save_table

if TYPE_CHECKING:
    import pandas as pd

AVERAGED = ("bpp", "estimated_bpp", "table_bpp", "coder_bpp", "flush_bpp", "psnr", "ms_ssim")

# Heading, key, width and format of the columns of a printed report.
_COLUMNS = (
    ("bytes", "bytes", 8, "d"),
    ("bpp", "bpp", 7, ".4f"),
    ("estimate", "estimated_bpp", 8, ".4f"),
    ("table", "table_bpp", 7, ".4f"),
    ("flush", "flush_bpp", 6, ".4f"),
    ("PSNR", "psnr", 6, ".2f"),
    ("MS-SSIM", "ms_ssim", 7, ".4f"),
)


@dataclass(repr=False)
class Report:
    """Bits and quality of each image, with the information needed to repeat the measurement.

    `print` shows a table with one row per image and the means.

    Attributes:
        rows: One dictionary per image. name, height and width describe the image. bytes and strings count the
            bitstream. bpp is the sum of estimated_bpp, table_bpp, coder_bpp and flush_bpp (see
            `labkit.evaluation.bitstream`). psnr in dB, ms_ssim and ms_ssim_db are measured on the decoded 8-bit image.
            encode_seconds and decode_seconds are durations.
        info: Description of the network or codec, software versions, hash of the weights, arithmetic of the coder,
            device and threads.
    """

    rows: list[dict[str, Any]]
    info: dict[str, Any]

    @property
    def mean(self) -> dict[str, float]:
        """Means over the images.

        Images with a side below 161 pixels have no MS-SSIM and are left out of its mean. ms_ssim_db is the mean MS-SSIM
        in dB.
        """
        means = {}
        for name in AVERAGED:
            values = [row[name] for row in self.rows if not math.isnan(row[name])]
            means[name] = sum(values) / len(values) if values else math.nan
        return means | {"ms_ssim_db": metrics.decibels(means["ms_ssim"])}

    @property
    def codec(self) -> str:
        """Name of the classical codec or of the network."""
        return str(self.info.get("codec") or self.info.get("network") or "codec")

    @property
    def setting(self) -> str:
        """Operating point as text, such as "λ = 0.0035" or "quality 50"; empty if it is unknown."""
        if "lmbda" in self.info:
            return f"λ = {self.info['lmbda']:g}"
        return f"quality {self.info['quality']:g}" if "quality" in self.info else ""

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per image; see `evaluation.to_frame`."""
        return to_frame(self)

    def save(self, path: str | Path) -> None:
        """Write the table to a file.

        Args:
            path: File name that ends in .csv or .parquet.

        Raises:
            ValueError: If the suffix is different or the file cannot be written.
        """
        save_table(self.to_frame(), path)

    def __repr__(self) -> str:
        mean = self.mean
        return f"Report({len(self.rows)} images, mean {mean['bpp']:.4f} bpp, {mean['psnr']:.2f} dB)"

    def __str__(self) -> str:
        mean = self.mean
        rows = [*self.rows, {"name": "mean", **mean}]
        width = max(len(row["name"]) for row in rows)
        heads = "  ".join(f"{head:>{cell_width}}" for head, _, cell_width, _ in _COLUMNS)
        lines = [f"{'image':<{width}}  {'size':>9}  {heads}"]
        for row in rows:
            size = f"{row['width']}×{row['height']}" if "width" in row else ""
            cells = [_format(row.get(key), spec, cell_width) for _, key, cell_width, spec in _COLUMNS]
            lines.append(f"{row['name']:<{width}}  {size:>9}  " + "  ".join(cells))
        encoding, decoding = (sum(row[f"{step}_seconds"] for row in self.rows) for step in ("encode", "decode"))
        decibels = "" if math.isnan(mean["ms_ssim_db"]) else f"; mean MS-SSIM {mean['ms_ssim_db']:.2f} dB"
        arithmetic = f" in {self.info['arithmetic']} arithmetic" if "arithmetic" in self.info else ""
        lines.append(f"encoding took {encoding:.2f} s, decoding {decoding:.2f} s{arithmetic}{decibels}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        import pandas as pd

        return str(pd.DataFrame(self.rows).to_html(index=False, float_format="{:.4g}".format))


def _format(value: Any, spec: str, width: int) -> str:
    if value is None:
        return " " * width
    return f"{'–':>{width}}" if math.isnan(value) else f"{value:>{width}{spec}}"


def group_by_name(curves: Report | Sequence[Report] | Mapping[str, Sequence[Report]]) -> Mapping[str, Sequence[Report]]:
    """Return one or several curves as a dictionary from names to reports.

    Args:
        curves: A report, the reports of one curve, or a dictionary of curves.

    Raises:
        ValueError: If there is no curve, or if a curve has no report.
    """
    if isinstance(curves, Report):
        curves = [curves]
    if not isinstance(curves, Mapping):
        curves = {curves[0].codec if curves else "": curves}
    for name, reports in curves.items():
        if not reports:
            raise ValueError(
                f"reports must hold at least one report per curve, got none for {name or 'the only curve'}"
            )
    if not curves:
        raise ValueError("curves must hold at least one curve, got none")
    return curves


def to_frame(reports: Report | Sequence[Report] | Mapping[str, Sequence[Report]]) -> pd.DataFrame:
    """Return all measurements as one tidy table with one row per image and operating point.

    Further columns hold the info of the reports, with nested values as JSON text. A key of info that is also a key of
    the rows gets the prefix info_.

    Args:
        reports: A report, the reports of one curve, or a dictionary of curves. The names of a dictionary become the
            first column, curve.

    Returns:
        A pandas table in which each column has one type.

    Raises:
        ValueError: If there is no report.
    """
    import pandas as pd

    rows = []
    for name, curve in group_by_name(reports).items():
        for report in curve:
            measured = {key for row in report.rows for key in row} | {"curve"}
            info = {
                f"info_{key}" if key in measured else key: value
                if isinstance(value, str | int | float)
                else json.dumps(value, default=str)
                for key, value in report.info.items()
                if value is not None
            }
            first = {"curve": name} if isinstance(reports, Mapping) else {}
            rows += [first | row | info for row in report.rows]
    frame = pd.DataFrame(rows)
    for column in frame:
        values = frame[column].dropna()
        if len({isinstance(value, str) for value in values}) > 1:
            frame[column] = frame[column].map(lambda value: str(value), na_action="ignore")
    return frame
