"""What counts as a refusal that could have a cure, and how a batch is opened."""

from __future__ import annotations

import pytest
from onnx import parser

from benchmarks.cures import Single, no_rewrite, opened, read_rows


def single(graph: str) -> Single:
    return Single("s", parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {graph}'), {})


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("g (float[3] x) => (float[3] y) { y = Relu(x) }", None),
        ("g (uint16[3] x) => (uint16[3] y) { y = BitwiseNot(x) }", "interface"),
        ("g (float[3] x) => (int64[1,N] y) { y = NonZero(x) }", "sizes"),
        ("g (float[3] x) => (float[3] y) { y = Bernoulli(x) }", "random"),
        ("g (float[3] x) => (int32[3] y) { y = BitCast<to = 6>(x) }", "bits"),
    ],
)
def test_a_model_without_a_rewrite_says_why(graph, reason):
    found = no_rewrite(single(graph), "1.7.1.116")
    assert found is None if reason is None else found is not None and found.startswith(reason)


def test_int8_is_no_interface_of_the_release_that_does_not_read_it():
    graph = single("g (int8[3] x) => (int8[3] y) { y = BitwiseNot(x) }")
    assert no_rewrite(graph, "1.6.1.120") is None
    assert str(no_rewrite(graph, "1.4.0.76")).startswith("int8 at the border")


def test_every_first_axis_of_the_batch_is_opened_and_no_other():
    proto = opened(single("g (float[3,4] x, float[4,3] w) => (float[3,3] y) { y = MatMul(x, w) }").proto)
    x, w = (value.type.tensor_type.shape.dim for value in proto.graph.input)
    (y,) = (value.type.tensor_type.shape.dim for value in proto.graph.output)
    assert [x[0].dim_param, y[0].dim_param] == ["batch", "batch"]
    assert [x[1].dim_value, w[0].dim_value, y[1].dim_value] == [4, 4, 3]


def test_what_was_seen_is_read_back(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert read_rows(path) == []
    path.write_text('{"name": "a", "cured": true}\n')
    assert [row["name"] for row in read_rows(path)] == ["a"]
