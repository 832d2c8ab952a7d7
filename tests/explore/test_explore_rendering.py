"""Answers as a person reads them, in a terminal of 80 columns."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from models import ISLAND
from rich.console import Console

from harness.diagnosis import JudgedEvaluation
from harness.errors import NothingSelectedError
from harness.explore import Session
from harness.explore.answers import TryResult
from harness.explore.commands import COMMANDS, Order
from harness.explore.rendering import brief, render, render_error, render_help
from harness.explore.tables import render_layers
from harness.search import Outcome


def shown(answer: object, width: int = 80) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, highlight=False, emoji=False, markup=False)
    console.print(answer if hasattr(answer, "__rich_console__") else render(answer), crop=False)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def test_everything_fits_80_columns(session: Session) -> None:
    answers = [
        session.welcome(),
        session.layers(),
        session.layers(["*"], Order.MAX),
        session.why("b1_sq"),
    ]
    answers += [
        session.show_kept(),
        session.keep(["*"]),
        session.evaluate(),
        session.undo(),
        session.bisect(),
    ]
    answers += [session.show_kept(), session.results(), render_help(), *map(render_help, COMMANDS)]
    for answer in answers:
        text = shown(answer)
        assert text
        assert max(map(len, text.splitlines())) <= 80


def test_the_first_screen_says_what_fails_and_what_to_type(session: Session) -> None:
    lines = shown(session.welcome()).splitlines()
    assert len(lines) <= 16
    text = "\n".join(lines)
    assert "rmsnorm at fp16 · 33 nodes · 2 samples" in lines[0]
    assert "FAIL b2_add: nrmse" in text
    assert "× the limit" in text
    assert "origin    b1_sq (Pow)" in text
    for command in ("why b1_sq", "keep b1_*", "bisect", "help"):
        assert command in text


def test_try_is_one_line(session: Session) -> None:
    session.keep(ISLAND)
    result = session.evaluate()
    result = replace(result, evaluation=replace(result.evaluation, seconds=0.0032))
    (line,) = shown(result).splitlines()
    assert line.startswith("PASS nrmse ")
    assert line.endswith("(limit 0.01) with 4 of 33 nodes in FP32 · 3 ms")


def test_what_is_not_finite_is_counted(session: Session) -> None:
    assert session.start.evaluation.worst is not None
    output, _ = session.start.evaluation.worst
    output = replace(output, metrics=replace(output.metrics, nonfinite=12, count=64))
    evaluation = replace(session.start.evaluation, outputs=(output,))
    text = shown(replace(session.start, evaluation=evaluation))
    assert text.startswith("FAIL 12 of 64 elements not finite with 0 of 33 nodes in FP32")


def test_an_engine_without_a_verdict_shows_why_and_the_log() -> None:
    evaluation = JudgedEvaluation(
        Outcome.UNRESOLVED, note="no implementation", evidence=("[E] line",), seconds=44.2
    )
    assert shown(TryResult("trt86", ("a",), 9, evaluation)).splitlines() == [
        "ERROR on trt86 no implementation with 1 of 9 nodes in FP32 · 44 s",
        "  | [E] line",
    ]


def test_layers_mark_what_is_remarkable(session: Session) -> None:
    lines = {line.split()[1]: line for line in shown(session.layers(["*"])).splitlines()[1:]}
    assert lines["b1_sq"].endswith("ORIGIN overflow")
    assert lines["b1_mean"].endswith("overflow")
    assert lines["b1_norm"].endswith("diverged")
    session.keep(["b1_sq"])
    lines = {line.split()[1]: line for line in shown(session.layers(["*"])).splitlines()[1:]}
    assert lines["b1_sq"].endswith("FP32")
    assert "out of range" not in lines["b1_sq"], "of the dtype that it is kept out of"


def test_an_underflow_is_shown(open_small) -> None:
    lines = shown(open_small(scale=1e-4).layers(["b1_sq"])).splitlines()
    assert lines[-1].endswith("ORIGIN underflow")


def test_what_is_kept_does_not_underflow(open_small) -> None:
    session = open_small(scale=1e-4)
    session.keep(["b1_sq"])
    (line,) = shown(session.layers(["b1_sq"])).splitlines()[1:]
    assert line.endswith("FP32")
    assert "underflow" not in line


def test_long_names_lose_their_middle_where_there_is_no_room(session: Session) -> None:
    layers = session.layers(["b1_sq"])
    (row,) = layers.rows
    name = "/encoder/layers.3/self_attention/query/MatMul_with_a_long_name"
    named = replace(layers, rows=(replace(row, result=replace(row.result, node=name)),))
    narrow, wide = shown(render_layers(named)), shown(render_layers(named), width=160)
    assert max(map(len, narrow.splitlines())) <= 80
    assert "/encoder" in narrow
    assert "…" in narrow
    assert name in wide


def test_a_very_narrow_terminal_loses_the_operator_first(session: Session) -> None:
    text = shown(session.layers(["b1_*"]), width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert "ReduceMean" not in text
    assert "b1_mean" in text
    assert "ORIGIN overflow" in text


def test_outputs_of_one_node_have_names_of_their_own(session: Session) -> None:
    layers = session.layers(["b1_sq"])
    (row,) = layers.rows
    rows = tuple(replace(row, result=replace(row.result, tensor=tensor)) for tensor in ("Y", "Y_h"))
    text = shown(render_layers(replace(layers, rows=rows, matching=2)))
    assert [line.split()[1] for line in text.splitlines()[1:]] == ["Y", "Y_h"]


def test_why_shows_the_ranges_beside_the_largest_number(session: Session) -> None:
    text = shown(session.why("b1_sq"))
    assert "squares of values up to" in text
    assert "reads   b1_scale" in text
    assert "from b1_scale" in text
    assert "a constant" in text
    assert "overflow" in text.splitlines()[-1]
    assert "×  to b1_mean" in text


def test_commands_of_an_export_can_be_pasted(session: Session, tmp_path) -> None:
    session.keep(["b1_sq"])
    written = session.export(str(tmp_path))
    text = shown(written)
    assert dict(written.commands)["trtexec"] in text.splitlines()
    assert "This does not pass yet" in text


def test_an_error_is_followed_by_what_to_do() -> None:
    text = shown(render_error(NothingSelectedError("no node is named `x`", hint="did you mean `y`?")))
    assert text.splitlines() == ["no node is named `x`", "  did you mean `y`?"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0001, "1 ms"), (0.003, "3 ms"), (0.6, "0.6 s"), (125.0, "2 min 5 s")]
)
def test_short_times_are_milliseconds(seconds: float, text: str) -> None:
    assert brief(seconds) == text


def test_history_says_when_nothing_was_tried(session: Session) -> None:
    assert shown(session.results()) == "Nothing has been tried yet."
