"""Islands that hold an If, a Loop or a Scan: what is inside goes into recipes, and into the reason."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import graph_model
from models import feeds
from onnx import TensorProto, helper, numpy_helper

from harness.diagnosis import Diagnosis, Subject, TensorRange, diagnose_model
from harness.diagnosis.context import make_bench
from harness.diagnosis.explain import MeasuredNode, open_body, why
from harness.diagnosis.handover import own_file
from harness.model import Model, inner_nodes, load_model, repeated_names
from harness.tensors import Precision


def body(
    name: str, nodes: list[onnx.NodeProto], output: str, *, inputs: dict[str, int] | None = None
) -> onnx.GraphProto:
    return helper.make_graph(
        nodes,
        name,
        [
            helper.make_tensor_value_info(each, kind, [] if kind != TensorProto.FLOAT else [4, 16])
            for each, kind in (inputs or {}).items()
        ],
        [
            *([helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])] if inputs else []),
            helper.make_tensor_value_info(output, TensorProto.FLOAT, None),
        ],
    )


def norm_in_a_branch(*, names: bool = True) -> onnx.ModelProto:
    """An RMSNorm of values near 1000 in the branch of an If that is taken."""
    then = [
        helper.make_node("Mul", ["h", "h"], ["sq"], name="sq"),
        helper.make_node("ReduceMean", ["sq"], ["mean"], name="mean", axes=[1]),
        helper.make_node("Sqrt", ["mean"], ["root"], name="root"),
        helper.make_node("Div", ["h", "root"], ["then"], name="quotient"),
    ]
    other = [helper.make_node("Identity", ["h"], ["else"], name="same")]
    nodes = [
        helper.make_node("Mul", ["x", "thousand"], ["h"], name="scale"),
        helper.make_node("ReduceMax", ["x"], ["top"], name="top", keepdims=0),
        helper.make_node("Greater", ["top", "zero"], ["positive"], name="positive"),
        helper.make_node(
            "If",
            ["positive"],
            ["chosen"],
            name="choose",
            then_branch=body("then_graph", then, "then"),
            else_branch=body("else_graph", other, "else"),
        ),
        helper.make_node("Tanh", ["chosen"], ["y"], name="tanh"),
    ]
    if not names:
        for node in (*then, *other):
            node.name = ""
        for attribute in nodes[3].attribute:
            for node in attribute.g.node:
                node.name = ""
    weights = {"thousand": np.float32(1000), "zero": np.float32(0)}
    return graph_model(nodes, inputs={"x": [4, 16]}, outputs={"y": [4, 16]}, weights=weights)


def cancelling_loop() -> onnx.ModelProto:
    """Three times x - 4000 x + 4000 x, with an If inside that takes it as it is."""
    then = [helper.make_node("Identity", ["sum"], ["then"], name="as_it_is")]
    other = [helper.make_node("Neg", ["sum"], ["else"], name="turned")]
    inside = [
        helper.make_node("Sub", ["state", "far"], ["apart"], name="apart"),
        helper.make_node("Add", ["apart", "far"], ["sum"], name="together"),
        helper.make_node(
            "If",
            ["go"],
            ["next"],
            name="inner",
            then_branch=body("then_graph", then, "then"),
            else_branch=body("else_graph", other, "else"),
        ),
        helper.make_node("Identity", ["go"], ["go_on"], name="go_on"),
    ]
    state = {"i": TensorProto.INT64, "go": TensorProto.BOOL, "state": TensorProto.FLOAT}
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["far"], name="far"),
        helper.make_node(
            *("Loop", ["three", "true", "x"], ["looped"]),
            name="loop",
            body=body("body", inside, "next", inputs=state),
        ),
        helper.make_node("Tanh", ["looped"], ["y"], name="tanh"),
    ]
    weights = {"scale": np.float32(4000), "three": np.int64(3), "true": np.bool_(True)}
    return graph_model(nodes, inputs={"x": [4, 16]}, outputs={"y": [4, 16]}, weights=weights)


def diagnosed(proto: onnx.ModelProto, out: Path) -> tuple[Diagnosis, Model]:
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, out / "source.onnx")
    model = load_model(out / "source.onnx")
    return diagnose_model(model, feeds(model), Precision.FP16, out=out / "diagnosis"), model


def test_layers_of_bodies_are_named_where_tools_go_by_layers(tmp_path: Path) -> None:
    diagnosis, _ = diagnosed(norm_in_a_branch(), tmp_path)
    assert diagnosis.culprits == ("choose",)
    inside = ("same", "sq", "mean", "root", "quotient")
    trtexec = shlex.split(diagnosis.recipes["trtexec"])
    names = ",".join(f"{name}:fp32" for name in inside)
    assert f"--layerPrecisions={names}" in trtexec
    assert f"--layerOutputTypes={names}" in trtexec
    polygraphy = shlex.split(diagnosis.recipes["polygraphy"])
    assert polygraphy[-len(inside) :] == [f"{name}:float32" for name in inside]
    script: dict[str, object] = {}
    text = (tmp_path / "diagnosis" / "keep_fp32.py").read_text()
    exec(text.replace("import tensorrt as trt", ""), script)
    assert script["NODES"] == set(inside)
    assert diagnosis.recipes["autocast"].endswith("--nodes_to_exclude '^choose$'")
    rows = json.loads((tmp_path / "diagnosis" / "layers.json").read_text())["fp32"]
    assert [(row["node"], row["inside"]) for row in rows] == [("choose", list(inside))]


def test_nodes_without_names_in_bodies_are_named_in_the_copy_that_the_commands_use(tmp_path: Path) -> None:
    diagnosis, model = diagnosed(norm_in_a_branch(names=False), tmp_path)
    assert own_file(model, ["choose"]) is None
    copy = tmp_path / "diagnosis" / "model.onnx"
    words = shlex.split(diagnosis.recipes["trtexec"])
    assert f"--onnx={copy}" in words
    precisions = next(word for word in words if word.startswith("--layerPrecisions="))
    assert "choose/then_branch/Mul_0:fp32" in precisions
    inside = {node.name for attribute in onnx.load(copy).graph.node[3].attribute for node in attribute.g.node}
    assert "choose/then_branch/Mul_0" in inside


def test_bodies_within_bodies_count_and_what_computes_no_float_does_not() -> None:
    model = load_model(cancelling_loop())
    found = inner_nodes(model, "loop")
    assert [node.name for node in found] == ["apart", "together", "turned", "as_it_is"]
    assert found[0].outputs == ("apart",)
    assert inner_nodes(model, "tanh") == ()


def test_names_that_stand_twice_are_reported_because_no_tool_tells_them_apart(tmp_path: Path) -> None:
    proto = norm_in_a_branch()
    for attribute in proto.graph.node[3].attribute:
        attribute.g.node[0].name = "scale"
    diagnosis, model = diagnosed(proto, tmp_path)
    assert repeated_names(model, ["scale", "mean"]) == ("scale",)
    assert any(
        each.text.startswith("more than one node of the model is named scale:") for each in diagnosis.evidence
    )


def test_the_reason_names_what_goes_wrong_in_the_branch_that_is_taken(tmp_path: Path) -> None:
    diagnosis, _ = diagnosed(norm_in_a_branch(), tmp_path)
    (origin,) = diagnosis.origins
    assert origin.node == "choose"
    assert origin.why.startswith("in its body, at sq (Mul), squares of values up to ")
    assert origin.why.endswith("beyond 65504, the largest FP16 value")


def test_the_reason_names_what_goes_wrong_in_a_loop() -> None:
    model = load_model(cancelling_loop())
    (origin,) = diagnose_model(model, feeds(model), Precision.FP16).origins
    assert origin.node == "loop"
    assert origin.why.startswith("in its body, at together (Add), values of about ")
    assert "cancel down to" in origin.why


def test_the_reason_names_what_goes_wrong_in_a_branch_within_a_loop() -> None:
    proto = cancelling_loop()
    loop = proto.graph.node[1].attribute[0].g
    for node in loop.node[:2]:
        node.op_type = "Mul"
        node.input[1] = "three_times"
    taken = next(each.g for each in loop.node[2].attribute if each.name == "then_branch")
    taken.node[0].op_type = "Exp"
    proto.graph.node[2].op_type = "Log"
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(3), "three_times"))
    proto.graph.node[1].input[0] = "once"
    proto.graph.initializer.append(numpy_helper.from_array(np.int64(1), "once"))
    model = load_model(proto)
    origin, logarithm = diagnose_model(model, feeds(model), Precision.FP16).origins
    assert logarithm.why.startswith("it takes the logarithm of looped, whose values go down to ")
    assert origin.why.startswith("in its body, at as_it_is (Exp), exp of values up to ")


def growing(op: str) -> onnx.ModelProto:
    """x tripled and added to twelve times over, in a Loop or a Scan, and made small again."""
    body_nodes = [
        helper.make_node("Mul", ["state", "three"], ["grown"], name="grow"),
        helper.make_node("Add", ["grown", "each"], ["next"], name="add"),
    ]
    state = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [16]) for name in ("state", "each")]
    end = [helper.make_tensor_value_info("next", TensorProto.FLOAT, [16])]
    graph = helper.make_graph(body_nodes, "body", state, end)
    if op == "Loop":
        graph = helper.make_graph(
            [*body_nodes, helper.make_node("Identity", ["go"], ["go_on"], name="go_on")],
            "body",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("go", TensorProto.BOOL, []),
                state[0],
            ],
            [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []), *end],
        )
        node = helper.make_node("Loop", ["twelve", "", "start"], ["big"], name="loop", body=graph)
    else:
        node = helper.make_node("Scan", ["start", "x"], ["big"], name="loop", body=graph, num_scan_inputs=1)
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["start"], name="start", axes=[0], keepdims=0),
        *([helper.make_node("Abs", ["start"], ["each"], name="each")] if op == "Loop" else []),
        node,
        helper.make_node("Mul", ["big", "tiny"], ["small"], name="small"),
        helper.make_node("Neg", ["small"], ["y"], name="neg"),
    ]
    weights = {"three": np.float32(3), "tiny": np.float32(1e-5), "twelve": np.int64(12)}
    if op == "Scan":
        del weights["twelve"]
    return graph_model(nodes, inputs={"x": [12, 16]}, outputs={"y": [16]}, weights=weights)


@pytest.mark.parametrize("op", ["Loop", "Scan"])
def test_the_first_iteration_in_which_it_goes_wrong_is_reported(op: str) -> None:
    model = load_model(growing(op))
    (origin,) = diagnose_model(model, feeds(model), Precision.FP16).origins
    assert origin.node == "loop"
    # What it reads there still fits: that it reads infinities is what the next iteration says.
    assert re.match(
        r"in its body, at grow \(Mul\), products of values up to [\d.e]+ and 3 reach .*65504", origin.why
    ), origin.why


def test_a_body_that_nothing_stands_out_in_has_what_was_measured() -> None:
    node = MeasuredNode("If", (), TensorRange("y", 1.0, 1.0, 1.0), introduced=3e-4, usual=3e-4)
    assert why(node, Precision.FP16) == (
        "rounding in its body to FP16's 11 bits introduces an error of 3e-4 (nrmse) here"
    )


def test_a_body_is_fed_what_it_is_fed_in_the_model() -> None:
    model = load_model(growing("Scan"))
    bench = make_bench(model, feeds(model))
    body = open_body(Subject(bench, Precision.FP16, bench.emulator), "loop", 0)
    assert body is not None
    x = bench.feeds[0]["x"]
    assert len(body.bench.feeds) == 12
    np.testing.assert_array_equal(body.bench.feeds[3]["each"], x[3])
    last = body.bench.reference.run(body.bench.feeds[-1])["next"]
    np.testing.assert_array_equal(last, bench.reference.run(bench.feeds[0], ["big"])["big"])
    # One that is not run at all has nothing to show.
    model = load_model(cancelling_loop())
    bench = make_bench(model, feeds(model))
    never = np.zeros((), np.int64)
    model.ir.graph.initializers["three"].const_value = ir.Tensor(never, name="three")
    assert open_body(Subject(bench, Precision.FP16, bench.emulator), "loop", 0) is None
