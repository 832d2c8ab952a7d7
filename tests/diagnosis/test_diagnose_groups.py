"""Blocks and repeated structures, by name and by structure."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import graph_model
from models import rmsnorm
from onnx import helper

from harness.diagnosis import find_groups
from harness.diagnosis.context import islands_of, kernel_groups
from harness.model import Model, load_model
from harness.search import Problem


def renamed(model: Model, name) -> Model:  # type: ignore[no-untyped-def]
    import onnx_ir as ir

    proto: onnx.ModelProto = ir.to_proto(model.ir)
    for place, node in enumerate(proto.graph.node):
        node.name = name(place, node)
    return load_model(proto, name="renamed")


def units(model: Model) -> tuple[str, ...]:
    return tuple(node.name for node in model.lowerable)


def test_kernels_are_groups_and_those_of_the_same_operators_of_one_kind() -> None:
    model = rmsnorm(blocks=3)
    fused = [[f"b{block}_{part}" for part in ("sq", "mean", "addeps", "sqrt", "norm")] for block in range(3)]
    kernels = [["b0_up"], *fused, ["b2_norm", "b2_gain", "no_node"]]
    groups = kernel_groups(model, kernels, units(model))
    assert [group.units for group in groups] == [
        ("b0_sq", "b0_mean", "b0_addeps", "b0_sqrt", "b0_norm"),
        ("b1_sq", "b1_mean", "b1_addeps", "b1_sqrt", "b1_norm"),
        ("b2_sq", "b2_mean", "b2_addeps", "b2_sqrt"),
        ("b2_norm", "b2_gain"),  # what is in two kernels is written by the last
    ]
    assert groups[0].kind == groups[1].kind != groups[2].kind
    Problem(units(model), groups=groups)  # disjoint, and of known units
    assert kernel_groups(model, [], units(model)) == ()


@pytest.mark.parametrize(
    "pattern",
    ["b{block}_{part}", "layers.{block}.mlp.{part}", "/model/layers.{block}/{part}", "block{block}/{part}"],
)
def test_numbered_blocks_are_groups_of_one_kind(pattern: str) -> None:
    parts = [node.name.split("_", 1)[1] for node in rmsnorm(blocks=4).nodes[:11]]
    model = renamed(
        rmsnorm(blocks=4), lambda place, node: pattern.format(block=place // 11, part=parts[place % 11])
    )
    groups = find_groups(model, units(model))
    assert [len(group.units) for group in groups] == [11, 11, 11, 11]
    assert len({group.kind for group in groups}) == 1
    Problem(units=units(model), groups=groups)  # disjoint, known, in order


@pytest.mark.parametrize("pattern", ["{op}_{place}", "node_{place}", "n{place}"])
def test_numbered_nodes_are_no_blocks_but_the_graph_repeats_itself(pattern: str) -> None:
    model = renamed(rmsnorm(blocks=4), lambda place, node: pattern.format(op=node.op_type, place=place))
    groups = find_groups(model, units(model))
    assert [len(group.units) for group in groups] == [11, 11, 11, 11]
    assert len({group.kind for group in groups}) == 1
    assert groups[1].units[0] == units(model)[11]


def test_parts_of_a_block_are_groups_within_it() -> None:
    def name(place: int, node: onnx.NodeProto) -> str:
        part = "norm" if place % 11 < 6 else "mlp"
        return f"/layers.{place // 11}/{part}/{node.op_type}{place}"

    model = renamed(rmsnorm(blocks=3), name)
    groups = find_groups(model, units(model))
    assert [[(part.name, len(part.units)) for part in group.groups] for group in groups] == [
        [(f"/layers.{block}/norm", 6), (f"/layers.{block}/mlp", 5)] for block in range(3)
    ]
    Problem(units=units(model), groups=groups)


def test_the_same_operators_wired_in_another_way_are_no_repetition() -> None:
    nodes = []
    for block in range(4):
        before = "x" if not block else f"y{block - 1}"
        other = before if block % 2 else f"a{block}"
        nodes.append(helper.make_node("Relu", [before], [f"a{block}"]))
        nodes.append(helper.make_node("Sigmoid", [f"a{block}"], [f"b{block}"]))
        nodes.append(helper.make_node("Add", [f"b{block}", other], [f"y{block}"]))
    model = load_model(graph_model(nodes, inputs={"x": [2, 2]}, outputs={"y3": [2, 2]}))
    assert find_groups(model, units(model)) == ()


def test_a_model_without_repetition_has_no_groups() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Exp", ["a"], ["y"])]
    model = load_model(graph_model(nodes, inputs={"x": [2]}, outputs={"y": [2]}))
    assert find_groups(model, units(model)) == ()


def test_large_models_are_grouped_in_little_time() -> None:
    nodes = []
    for place in range(3000):
        op = ("Relu", "Sigmoid", "Tanh", "Neg", "Abs")[place % 5]
        nodes.append(helper.make_node(op, [f"t{place}"], [f"t{place + 1}"]))
    proto = graph_model(nodes, inputs={"t0": [2]}, outputs={"t3000": [2]})
    model = load_model(proto)
    groups = find_groups(model, units(model))
    assert sum(len(group.units) for group in groups) == 3000
    assert np.unique([len(group.units) for group in groups]).tolist() == [5]


def test_culprits_are_reported_by_connected_islands() -> None:
    model = rmsnorm()
    assert islands_of(model, ["b2_up", "b1_sqrt", "b1_sq", "b1_mean", "b1_addeps", "b0_scale"]) == (
        ("b0_scale",),
        ("b1_sq", "b1_mean", "b1_addeps", "b1_sqrt"),
        ("b2_up",),
    )
    assert islands_of(model, []) == ()
