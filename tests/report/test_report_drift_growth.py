"""The picture of a drift: the errors of both releases, the heatmap under them, and what its colours mean."""

from __future__ import annotations

import math
import re

import pytest
from drift_reports import drift_report, run_rows
from matplotlib.figure import Figure

from harness.history.report import DriftReport
from harness.report.drift_growth import growth_figure, layer_table

RELEASES = ("trt-8.5", "trt-8.6")


def drifted(factor: float, case: str = "net") -> DriftReport:
    return drift_report(run_rows(case, "fp16", RELEASES, factor=factor), releases=RELEASES)


def picture(factor: float, case: str = "net") -> Figure:
    report = drifted(factor, case)
    return growth_figure(report, report.runs[0])


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_the_colours_of_the_heatmap_have_keys_with_numbers() -> None:
    report = drifted(30.0)
    figure = growth_figure(report, report.runs[0])
    table = layer_table(report, report.runs[0]).to_numpy()
    told = [re.fullmatch(r"error (.+)", text) for text in texts(figure)]
    (low,) = [float(found[1]) for found in told if found]
    assert low == pytest.approx(table.min(), rel=0.05)
    high = texts(figure)[
        texts(figure).index(next(text for text in texts(figure) if text.startswith("error"))) - 1
    ]
    assert float(high) == pytest.approx(table.max(), rel=0.05)
    assert {"change ÷10", "×10"} <= set(texts(figure))
    assert sum(axes.get_label().startswith("key ") for axes in figure.axes) == 2


def test_what_is_not_finite_is_told_apart() -> None:
    shown = texts(picture(math.inf))
    assert any(text.endswith("(red: not finite)") for text in shown)
    assert not any(text.endswith("(red: not finite)") for text in texts(picture(2.0)))


def test_keys_and_title_do_not_meet() -> None:
    figure = picture(30.0, "a-network-with-a-name-that-takes-a-whole-line-of-its-own")
    figure.canvas.draw()
    title, *others = sorted(figure.texts, key=lambda text: -text.get_size())
    edge = title.get_window_extent().x1
    line = [text for text in others if "error" in text.get_text() or "change" in text.get_text()]
    assert line
    assert all(text.get_window_extent().x0 > edge for text in line)
