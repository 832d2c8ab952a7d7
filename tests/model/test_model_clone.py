"""Copies of a graph: whatever is written to one, the original stays as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import pytest
from graphs import branch_and_loop, norm_chain
from onnx import TensorProto, helper

from harness.model import Model, load_model, with_given, with_islands
from harness.tensors import Precision

PACKAGE = Path(__file__).parents[2] / "harness"


def values_of(model: ir.Model) -> list[ir.Value]:
    written = (value for graph in model.graphs() for node in graph for value in node.outputs)
    given = ((*graph.inputs, *graph.initializers.values()) for graph in model.graphs())
    return [*written, *chain.from_iterable(given)]


@pytest.mark.parametrize("proto", [norm_chain(), branch_and_loop()], ids=["chain", "bodies"])
def test_no_two_values_of_a_copy_and_its_original_share_a_type(proto: onnx.ModelProto) -> None:
    model = load_model(proto)
    original, copied = values_of(model.ir), values_of(model.clone())
    assert len(original) == len(copied) > 5
    types = [id(value.type) for value in (*original, *copied) if value.type is not None]
    own = [id(value.type) for value in copied if value.type is not None]
    assert len(set(own)) == len(own)
    assert len(set(types)) == len({id(value.type) for value in original if value.type is not None}) + len(own)


def test_what_a_pass_infers_of_a_copy_is_not_written_to_the_original() -> None:
    node = helper.make_node("Shape", ["x"], ["s"], "shape")
    float_, int_ = TensorProto.FLOAT, TensorProto.INT32
    graph = helper.make_graph(
        [node, helper.make_node("Identity", ["s"], ["y"], "y")],
        "g",
        [helper.make_tensor_value_info("x", float_, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [2])],
        value_info=[helper.make_tensor_value_info("s", int_, [2])],  # an exporter that declares it wrongly
    )
    ours = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    model = Model(ours, name="m", sha256="0")
    copied = model.clone()
    for value in values_of(copied):
        if value.name == "s":
            value.dtype = ir.DataType.INT64  # as onnx_ir's own inference does
    common_passes.ShapeInferencePass(strict_mode=False)(copied)
    assert {str(value.dtype) for value in values_of(copied) if value.name in "sy"} == {"INT64"}
    assert [str(value.dtype) for value in values_of(model.ir) if value.name == "s"] == ["INT32"]


@pytest.mark.parametrize(
    "change",
    [
        lambda model: with_islands(model, Precision.FP16),
        lambda model: with_islands(model, Precision.BF16, ["norm"]),
        lambda model: with_given(model, ["norm"]),
    ],
    ids=["fp16", "bf16 with an island", "given"],
)
def test_the_original_stays_as_it_was(change: Callable[[Model], Model]) -> None:
    model = load_model(norm_chain())
    before = [(value.name, str(value.type), str(value.shape)) for value in values_of(model.ir)]
    assert change(model).sha256 != model.sha256
    assert [(value.name, str(value.type), str(value.shape)) for value in values_of(model.ir)] == before


def test_nobody_else_copies_a_graph_to_change_it() -> None:
    """A copy that is only written to a file may share types."""
    calls = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(r"\.ir\.clone\(", line) and "save(" not in line and "embedded(" not in line
    ]
    assert calls == ["model/model.py: clone = self.ir.clone()"], "call Model.clone"
