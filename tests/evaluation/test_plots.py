"""Plots show every point, and curves differ in more than their color."""

import numpy as np
import pytest

from labkit import evaluation, theme
from tests.evaluation.test_curves import population, reports


def test_the_plot_of_a_report_or_a_curve_shows_every_image_and_the_means():
    anchor, _ = population(np.random.default_rng(10), 4)
    for curve, points in ((anchor[2], anchor[2:3]), (anchor[::-1], anchor)):
        figure = evaluation.plot(curve)
        dots, line = figure.data[:-1], figure.data[-1]
        assert len(dots) == len(points) and all(dot.mode == "markers" and dot.opacity < 0.5 for dot in dots)
        drawn = {tuple(dot.x): tuple(dot.y) for dot in dots}
        for report in points:
            rows = report.rows
            assert drawn[tuple(row["bpp"] for row in rows)] == tuple(row["psnr"] for row in rows)
        assert sum(bool(dot.showlegend) for dot in dots) == 1
        frame = evaluation.curve(points)
        assert np.allclose(line.x, frame["bpp"]) and np.allclose(line.y, frame["quality"])
        assert [list(data) for data in line.customdata] == [["jpeg", setting] for setting in frame["setting"]]


def test_curves_differ_without_color():
    anchor, test = population(np.random.default_rng(11), 4)
    group = {f"codec {i}": (anchor, test)[i % 2] for i in range(15)}
    figure = evaluation.plot(group)
    assert [line.name for line in figure.data] == list(group)  # no dots for single images
    assert all(line.mode == "lines+markers" for line in figure.data)
    styles = {(line.line.color, line.line.dash, line.marker.symbol) for line in figure.data}
    assert len(styles) == len(group)
    assert len({line.line.color for line in figure.data[: len(theme.COLORS)]}) == len(theme.COLORS)
    first = figure.data[: len(theme.DASHES)]
    assert len({line.line.dash for line in first}) == len({line.marker.symbol for line in first}) == len(first)
    assert "bits per pixel" in figure.layout.xaxis.title.text and figure.layout.yaxis.title.text == "PSNR (dB)"
    for shown in ("customdata[0]", "customdata[1]", "bpp", "dB"):
        assert shown in figure.data[0].hovertemplate


def test_ms_ssim_is_plotted_in_decibels():
    curve = reports([[0.5, 0.7]], [[30, 31]], ms_ssim=[[0.9, 0.99]])
    curve[0].info = {"network": "elic", "lmbda": 0.0035}
    for metric in ("ms_ssim", "ms_ssim_db"):
        dots, line = evaluation.plot(curve, metric).data
        assert np.allclose(dots.y, [10, 20]) and np.allclose(line.y, -10 * np.log10(0.055))
    assert list(line.customdata[0]) == ["elic", "λ = 0.0035"]
    assert evaluation.plot(curve, "ms_ssim").layout.yaxis.title.text == "MS-SSIM (dB)"
    for nothing in ([], {}, {"a": []}):
        with pytest.raises(ValueError, match="at least one"):
            evaluation.plot(nothing)
