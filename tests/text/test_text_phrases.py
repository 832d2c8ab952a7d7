"""Lists of names, shortened names, commands, gates and sentences."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.text import command, gate, names, sentence, shorten, suggestion, target_words


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b"], "a, b"),
        (["a", "b", "c"], "a, b, c"),
        (["a", "b", "c", "d"], "a, b and 2 more"),
    ],
)
def test_a_list_names_the_first_and_counts_the_rest_unless_it_is_one(items: list[str], text: str) -> None:
    assert names(items, most=2) == text


def test_a_list_can_be_joined_by_other_signs() -> None:
    assert names("abcd", 2, separator=" + ", last=" + ") == "a + b + 2 more"


@given(st.text(min_size=1), st.integers(min_value=3, max_value=60))
def test_a_shortened_name_fits_and_keeps_both_ends(text: str, width: int) -> None:
    short = shorten(text, width)
    assert len(short) <= width
    assert short[0] == text[0]
    assert short[-1] == text[-1]
    assert short == text or "…" in short


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("/model/layers.0/self_attn/q_proj/MatMul", 30, "/model/layers.0…/q_proj/MatMul"),
        ("/model/layers.0/self_attn/q_proj/MatMul", 24, "/model/…/q_proj/MatMul"),
        ("/model/layers.0/self_attn/q_proj/MatMul", 20, "/model/…/MatMul"),
        ("/model/layers.0/self_attn/q_proj/MatMul_quantized", 20, "/model/…_quantized"),
        ("encoder-with-long-name", 16, "encoder-…-name"),
        ("node_linear_of_encoder", 16, "node_…of_encoder"),
        ("short", 10, "short"),
        ("averyveryverylongnameofone", 9, "aver…fone"),
    ],
)
def test_words_of_a_shortened_name_stay_whole(text: str, width: int, short: str) -> None:
    assert shorten(text, width) == short


def test_a_command_can_be_pasted_into_a_shell() -> None:
    words = ["harness", "run", Path("my cases/ü.case.yaml"), "--input", "x:[4,8]"]
    assert shlex.split(command(*words)) == [str(word) for word in words]
    assert command("harness", "run", "yolo dynamo ü.case.yaml") == "harness run 'yolo dynamo ü.case.yaml'"


def test_a_sentence_has_a_capital_letter_and_a_full_stop() -> None:
    assert sentence("all gates hold") == "All gates hold."
    assert sentence("") == "."


def test_a_suggestion_is_the_nearest_name_whatever_its_case_and_dashes() -> None:
    assert suggestion("Opt-Level", ["op_level", "opt_level"]) == "did you mean `opt_level`?"
    assert suggestion("OPT_LEVEL", ["opt_level"]) == "did you mean `opt_level`?"
    assert suggestion("a-b-c-d", ["a_b_c_d"]) == "did you mean `a_b_c_d`?"
    assert suggestion("zzz", ["opt_level"]) is None


def test_shapes_follow_their_target() -> None:
    words = target_words("m.onnx", ["x:[1,3]", "y:[2]"])
    assert words == ["m.onnx", "--input", "x:[1,3]", "--input", "y:[2]"]


@pytest.mark.parametrize(
    ("metric", "limit", "value", "at_least", "text"),
    [
        ("rmse", 2e-4, None, False, "rmse ≤ 2e-4"),
        ("cosine", 0.99, None, True, "cosine ≥ 0.99"),
        ("nrmse", 0.01, 0.6, False, "nrmse 0.6 > 0.01"),
        ("nrmse", 0.01, 0.01, False, "nrmse 0.01 ≤ 0.01"),
        ("nrmse", 0.01, math.nan, False, "nrmse nan > 0.01"),
        ("cosine", 0.99, 0.5, True, "cosine 0.5 < 0.99"),
        ("cosine", 0.99, 0.995, True, "cosine 0.995 ≥ 0.99"),
    ],
)
def test_a_gate_is_metric_sign_and_limit(
    metric: str, limit: float, value: float | None, at_least: bool, text: str
) -> None:
    assert gate(metric, limit, value, at_least=at_least) == text
