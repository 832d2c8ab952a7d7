"""The picture of a drift: the errors of both releases, the heatmap under them, and what its colours mean."""

from __future__ import annotations

import math
import re

import pytest
from drift_reports import drift_report, run_rows
from history_rows import engine_rows, tensor_rows
from matplotlib.figure import Figure

from harness.history import DriftReport
from harness.report.figures import outputs_figure
from harness.report.figures.releases import growth_figure, layer_table

RELEASES = ("trt-8.5", "trt-8.6")
THREE = ("old", "mid", "new")


def drifted(factor: float, case: str = "net") -> DriftReport:
    return drift_report(run_rows(case, "fp16", RELEASES, factor=factor), releases=RELEASES)


def picture(factor: float, case: str = "net") -> Figure:
    report = drifted(factor, case)
    return growth_figure(report, report.runs[0])


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_the_colours_of_the_heatmap_have_keys_with_numbers() -> None:
    report = drifted(300.0)
    figure = growth_figure(report, report.runs[0])
    table = layer_table(report, report.runs[0]).to_numpy()
    ends = [re.fullmatch(r"error (.+)", text) for text in texts(figure)]
    (low,) = [float(found[1]) for found in ends if found]
    assert low == pytest.approx(table.min(), rel=0.05)
    high = texts(figure)[
        texts(figure).index(next(text for text in texts(figure) if text.startswith("error"))) - 1
    ]
    assert float(high) == pytest.approx(table.max(), rel=0.05)
    assert {"change ÷10", "×10"} <= set(texts(figure))
    assert sum(axes.get_label().startswith("key ") for axes in figure.axes) == 2


def test_what_is_not_finite_is_distinguished() -> None:
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


def test_errors_that_are_alike_look_alike() -> None:
    (strip,) = [
        axes for axes in picture(1.2).axes if "older" in [t.get_text() for t in axes.get_yticklabels()]
    ]
    errors, _ = strip.images
    low, high = errors.get_clim()
    assert high - low == pytest.approx(2.0), "decades"
    inside = errors.get_array()
    assert low < inside.min() < inside.max() < high


def test_one_overflow_of_three_builds_does_not_paint_a_release_red() -> None:
    def levels(*errors: float) -> list[float]:
        rows = [tensor_rows(name, list(errors), kind="layer", tensor="t") for name in RELEASES]
        outputs = [tensor_rows(name, [1e-3] * 3) + engine_rows(name) for name in RELEASES]
        report = drift_report(*rows, *outputs, releases=RELEASES)
        return list(layer_table(report, report.runs[0]).loc["t"])

    assert levels(1e-3, math.inf, 3e-3) == pytest.approx([2e-3, 2e-3])
    assert levels(1e-3, math.inf, math.inf) == [math.inf, math.inf]


def test_with_three_releases_each_change_names_its_own() -> None:
    report = drift_report(run_rows("net", "fp16", THREE, factor=3.0), releases=THREE)
    strips = [
        [label.get_text() for label in axes.get_yticklabels()]
        for axes in growth_figure(report, report.runs[0]).axes
    ]
    assert ["older", "mid", "new", "Δ mid", "Δ new"] in strips


def test_an_output_of_three_releases_is_one_row_with_the_dots_of_all() -> None:
    report = drift_report(
        run_rows("a", "fp16", THREE, factor=3.0), run_rows("b", "fp16", THREE), releases=THREE
    )
    (axes,) = outputs_figure(report, report.worst_first()).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a fp16: y [0]", "b fp16: y [0]"]
    assert [len(line.get_ydata()) for line in axes.get_lines()] == [6, 6, 6]
