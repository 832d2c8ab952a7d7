"""The error-growth picture, from no layer to two thousand."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import report_factories
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.judge import Verdict
from harness.report import save_error_growth
from harness.report.figures.growth import error_growth, error_growth_svg
from harness.report.figures.layout import AXIS, LETTER, origin_labels

SVG = "{http://www.w3.org/2000/svg}"


def lines(figure) -> dict[str, object]:
    return {line.get_label(): line for line in figure.axes[0].get_lines()}


@pytest.mark.parametrize("layers", [1, 10, 40, 2000])
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_any_number_of_layers_is_drawn_in_both_formats(
    make_result, make_layers, tmp_path, layers, suffix
) -> None:
    result = make_result(Verdict.FAIL, layers=make_layers(layers, origin_at=layers // 2, overflow=True))
    path = save_error_growth(result, tmp_path / "deep" / f"growth{suffix}")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    assert len(data) < 400_000
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no temporary file stays"


def test_both_errors_the_gate_and_the_origin_are_drawn(make_result) -> None:
    figure = error_growth(make_result(Verdict.FAIL))
    drawn = lines(figure)
    assert {"accumulated", "introduced", "gate on nrmse", "origin (1)", "a gate fails (8)"} <= set(drawn)
    assert list(drawn["origin (1)"].get_xdata()) == [16]
    assert figure.axes[0].get_yscale() == "log"
    assert "b7_sq (Pow)" in [text.get_text() for text in figure.axes[0].texts]


def test_what_is_not_finite_stands_at_the_top_as_a_triangle(make_result) -> None:
    figure = error_growth(make_result(Verdict.FAIL))
    triangles = lines(figure)["overflow or not finite (1)"]
    assert triangles.get_marker() == "^"
    top = triangles.get_ydata()[0]
    finite = [value for value in lines(figure)["accumulated"].get_ydata() if value < top]
    assert top > 2 * max(finite)
    assert "not finite" in [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_equal_tensors_have_a_place_on_the_logarithmic_axis(make_result, make_layer) -> None:
    layers = (make_layer(0, 0.0), make_layer(1, 1e-6))
    figure = error_growth(make_result(layers=layers))
    heights = list(lines(figure)["accumulated"].get_ydata())
    assert 0 < heights[0] < heights[1] == 1e-6
    assert "equal" in [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_a_mask_of_the_lowest_float_leaves_the_other_errors_their_height(make_result, make_layer) -> None:
    layers = (make_layer(0, 1e-38, headroom=5e33), make_layer(1, 1e-3), make_layer(2, 0.5, headroom=0.1))
    figure = error_growth(make_result(layers=layers))
    main, headroom = figure.axes[:2]
    low, high = main.get_ylim()
    assert 1e-9 < low < high < 10
    assert list(lines(figure)["accumulated"].get_ydata())[1:] == [1e-3, 0.5]
    assert "nearly equal" in [label.get_text() for label in main.get_yticklabels()]
    assert headroom.get_ylim()[1] < 1e5
    assert "beyond 1e4" in [label.get_text() for label in headroom.get_yticklabels()]


def test_headroom_above_one_is_marked(make_result, make_layer) -> None:
    figure = error_growth(make_result(layers=(make_layer(0, 1e-4), make_layer(1, 1e-4, headroom=3.0))))
    assert [list(line.get_xdata()) for line in figure.axes[1].get_lines() if line.get_marker() == "D"] == [
        [1]
    ]


@pytest.mark.parametrize(
    ("overflows", "said"),
    [
        ((0, 0), "beyond 1 in 2 tensors, none of which overflows here"),
        ((7, 0), "beyond 1 in 2 tensors, 1 of which overflows"),
        ((7, 7), "beyond 1 in 2 tensors, which overflow"),
        ((7,), "beyond 1 in 1 tensor, which overflows"),
    ],
)
def test_only_what_overflows_in_this_run_is_called_an_overflow(
    make_result, make_layer, overflows, said
) -> None:
    layers = [make_layer(0, 1e-4)]
    layers += [make_layer(1, 1e-4, headroom=3.0, overflow_count=found) for found in overflows]
    texts = [
        text.get_text()
        for axes in error_growth(make_result(layers=tuple(layers))).axes
        for text in axes.texts
    ]
    assert f"× max: largest reference value over the largest float16; {said}" in texts


def test_headroom_is_left_out_where_nothing_comes_near_the_limit(make_result, make_layer) -> None:
    figure = error_growth(make_result(layers=(make_layer(0, 1e-7, headroom=1e-38),)))
    assert len(figure.axes) == 1


def test_the_title_names_a_perturbed_observation(make_result) -> None:
    (heading,) = error_growth(make_result(faithful=False)).texts
    assert "perturbed" in heading.get_text()


def test_the_title_names_what_is_in_fp32_and_the_ids_differ(make_result) -> None:
    (heading,) = error_growth(make_result(), note="1 node in FP32").texts
    assert heading.get_text() == "Error growth: rmsnorm-overflow at fp16, 1 node in FP32"
    before, after = (
        set(re.findall(r'\bid="([^"]+)"', error_growth_svg(make_result(), note=note)))
        for note in ("", "1 node in FP32")
    )
    assert before
    assert not before & after


def test_hundreds_of_layers_are_numbered_by_node_and_few_are_named(make_result, make_layers) -> None:
    few = error_growth(make_result(layers=make_layers(5))).axes[-1]
    assert [label.get_text() for label in few.get_xticklabels()][:2] == ["b0_layer0", "b0_layer1"]
    many = error_growth(make_result(layers=make_layers(300))).axes[-1]
    assert len(many.get_xticks()) < 20


def test_a_run_without_layers_cannot_be_drawn(make_result) -> None:
    with pytest.raises(UsageError, match="observed no layers"):
        error_growth(make_result(layers=()))


def test_an_unknown_format_is_refused(make_result, tmp_path) -> None:
    with pytest.raises(UsageError, match="kind of file"):
        save_error_growth(make_result(), tmp_path / "growth.jpeg")
    assert list(tmp_path.iterdir()) == []


def test_an_svg_for_a_page_has_ids_of_its_own_and_no_size(make_result, make_layer) -> None:
    one, two = (ElementTree.fromstring(error_growth_svg(make_result(case=case))) for case in ("one", "two"))
    ids = [{element.get("id") for element in svg.iter() if element.get("id")} for svg in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert one.get("width") is None
    assert one.get("viewBox")
    for element in one.iter():
        for name, value in element.attrib.items():
            if name.endswith("href") and value.startswith("#"):
                assert value[1:] in ids[0]
            if "url(#" in value:
                assert value.split("url(#")[1].split(")")[0] in ids[0]


def test_a_name_from_a_model_cannot_break_out_of_the_svg(make_result, make_layer) -> None:
    layer = make_layer(0, 0.5, origin=True, node="</svg><script>alert(1)</script>$x^", op="Conv")
    svg = ElementTree.fromstring(error_growth_svg(make_result(case="<b>", layers=(layer,))))
    assert svg.tag == f"{SVG}svg"
    assert not list(svg.iter(f"{SVG}script"))
    assert any("<script>" in (text.text or "") for text in svg.iter(f"{SVG}text"))


def test_equal_results_give_equal_pictures(make_result, tmp_path) -> None:
    for suffix in (".png", ".svg"):
        first, second = (save_error_growth(make_result(), tmp_path / f"{name}{suffix}") for name in "ab")
        assert first.read_bytes() == second.read_bytes()


def test_drawing_leaves_pyplot_and_the_settings_alone() -> None:
    script = """
import sys, report_factories, matplotlib
keys = [key for key in matplotlib.rcParams if key != "backend"]  # asking for the backend starts pyplot
before = [matplotlib.rcParams[key] for key in keys]
from harness.report.figures.growth import error_growth_svg
error_growth_svg(report_factories.result())
assert "matplotlib.pyplot" not in sys.modules
assert [matplotlib.rcParams[key] for key in keys] == before
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=__file__.rsplit("/", 1)[0])


@given(st.integers(1, 400), st.data())
def test_names_of_origins_never_overlap(layers: int, data: st.DataObject) -> None:
    origins = data.draw(st.sets(st.integers(0, layers - 1), max_size=12))
    lengths = st.integers(1, 60)
    made = tuple(
        report_factories.layer(place, 0.5, origin=place in origins, node="n" * data.draw(lengths))
        if place in origins
        else report_factories.layer(place, 1e-4)
        for place in range(layers)
    )
    inch = AXIS / (layers + 0.2)
    spans = []
    for label in origin_labels(made):
        start, width = (label.place + 0.6) * inch, LETTER * len(label.text)
        spans.append((label.row, *((start - width, start) if label.leftwards else (start, start + width))))
    for number, (row, start, end) in enumerate(spans):
        assert start >= 0
        for other_row, other_start, other_end in spans[:number]:
            assert row != other_row or other_end < start or end < other_start
    assert math.inf not in {row for row, *_ in spans}
