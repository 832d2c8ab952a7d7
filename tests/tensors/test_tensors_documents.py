"""Frozen dataclasses as JSON documents, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnosis.context.engine import Relaxed
from harness.diagnosis.context.evaluator import JudgedEvaluation
from harness.diagnosis.context.seen import EngineObservation
from harness.diagnosis.results import Price
from harness.history.store.engines import BuiltLayer
from harness.history.store.files import MatrixPlan
from harness.tactics.samples import Sample
from harness.tensors import NEVER, UNLESS_DEFAULT, Precision, from_json, to_json


class Kind(StrEnum):
    ONE = "the first"


@dataclass(frozen=True)
class Part:
    value: float
    shape: tuple[int, ...] | None = field(default=None, metadata=UNLESS_DEFAULT)
    ALSO_IN_JSON: ClassVar = ("positive",)

    @property
    def positive(self) -> bool:
        return self.value > 0


@dataclass(frozen=True)
class Whole:
    kind: Kind
    precision: Precision
    parts: tuple[Part, ...] = ()
    secret: str = field(default="", metadata=NEVER)


SHAPES = st.none() | st.lists(st.integers(0, 9), max_size=3).map(tuple)
WHOLES = st.builds(
    Whole,
    st.sampled_from(Kind),
    st.sampled_from(Precision),
    st.lists(st.builds(Part, st.floats(allow_nan=False), SHAPES), max_size=3).map(tuple),
)


@given(WHOLES)
def test_what_is_written_is_read_again(whole: Whole) -> None:
    text = json.dumps(to_json(whole), allow_nan=False)
    assert from_json(Whole, json.loads(text)) == whole


def alike(one: object, other: object) -> bool:
    """Whether two values are equal; NaN equals NaN, and what no document has does not count."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if type(one) is not type(other):
        return False
    if is_dataclass(one):
        kept = [each.name for each in fields(one) if each.metadata != NEVER]
        return all(alike(getattr(one, name), getattr(other, name)) for name in kept)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


KEPT = [BuiltLayer, EngineObservation, JudgedEvaluation, MatrixPlan, Price, Relaxed, Sample]


@pytest.mark.parametrize("kind", KEPT, ids=lambda kind: kind.__name__)
@settings(max_examples=30)
@given(data=st.data())
def test_what_journals_and_histories_keep_is_read_again(kind: type, data: st.DataObject) -> None:
    """With infinities, NaN, None, empty tuples and enums wherever the types allow them."""
    value = data.draw(st.from_type(kind))
    read = from_json(kind, json.loads(json.dumps(to_json(value), allow_nan=False)))
    assert alike(read, value), read


def test_a_document_has_fields_and_named_properties() -> None:
    whole = Whole(Kind.ONE, Precision.FP16, (Part(math.inf), Part(-1.0, ())), secret="never written")
    assert to_json(whole) == {
        "kind": "the first",
        "precision": "fp16",
        "parts": [{"value": "inf", "positive": True}, {"value": -1.0, "shape": [], "positive": False}],
    }


def test_numbers_of_numpy_paths_and_numbers_that_json_lacks_become_plain() -> None:
    values = {"a": np.float32(0.5), "b": np.int64(3), "c": [math.nan, -math.inf], "d": Path("x/y")}
    assert to_json(values) == {"a": 0.5, "b": 3, "c": ["nan", "-inf"], "d": "x/y"}
    assert type(to_json(np.float64(0.5))) is float


WHOLE = {"kind": "the first", "precision": "fp16"}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"kind": "the first"}, "precision: field required"),
        (
            WHOLE | {"parts": [{"value": 1}, {"value": "much"}]},
            "parts[1].value: input should be a valid number",
        ),
        (
            WHOLE | {"parts": [{"value": 1, "shape": [2, None]}]},
            "parts[0].shape[1]: input should be a valid integer",
        ),
        (WHOLE | {"parts": "much"}, "parts: input should be a valid tuple"),
        (WHOLE | {"precision": "fp61"}, "precision: input should be 'fp32'"),
        ([], "input should be a dictionary"),
    ],
)
def test_a_damaged_document_is_one_line_that_says_where(broken: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        from_json(Whole, broken)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_unknown_fields_are_ignored() -> None:
    assert from_json(Whole, WHOLE | {"later": 1}) == Whole(Kind.ONE, Precision.FP16)


@pytest.mark.parametrize("broken", [{}, {"value": "much"}, {"value": 1.0, "shape": ["a"]}, [], None])
def test_a_document_of_another_form_is_refused(broken: object) -> None:
    with pytest.raises(ValueError):
        from_json(Part, broken)
