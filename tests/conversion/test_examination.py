"""Every node that stands in the way is named, whatever the compiler names, and what is left is seen to build."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from harness.conversion.examination import Examination
from harness.conversion.findings import CompileOutcome
from harness.conversion.parts import Parts
from harness.model import Model, load_model, save_model
from harness.worker.protocol import CompileFailure, CompileReport, RefusedNode

REPORT = CompileReport("TensorRT for RTX", "1.7.1.116", "strong")


def chain(*ops: str) -> Model:
    """Nodes `n0`, `n1`, … one after the other."""
    names = ["x", *(f"t{number}" for number in range(len(ops) - 1)), "y"]
    nodes = [
        helper.make_node(op, [names[number]], [names[number + 1]], f"n{number}")
        for number, op in enumerate(ops)
    ]
    return model_of(nodes)


def model_of(nodes: list[onnx.NodeProto], *constants: onnx.TensorProto) -> Model:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], constants)
    return load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


class Compiler:
    """Pretends: what it says of a model is what `judge` says of its operators by name of node."""

    def __init__(self, judge: Callable[[dict[str, str]], CompileReport]) -> None:
        self.asked: list[Model] = []
        self._judge = judge

    def __call__(self, model: Model) -> CompileReport:
        self.asked.append(model)
        return self._judge({node.name: node.op for node in model.nodes})


def examine(model: Model, judge: Callable[[dict[str, str]], CompileReport], *suspects: str):
    compiler = Compiler(judge)
    found = Examination(Parts(model, {}), compiler, suspects)
    found.run(compiler(model))
    return found, compiler


def refuse(name: str, op: str) -> CompileReport:
    refused = RefusedNode(0, name, op, "UNSUPPORTED_NODE", f"no {op}")
    return CompileReport("TensorRT for RTX", "1.7.1.116", "strong", (refused,))


def fail(kind: str = "build_failed", *nodes: str) -> CompileReport:
    failure = CompileFailure(kind, "it failed", ("the last line",), nodes)
    return CompileReport("TensorRT for RTX", "1.7.1.116", "strong", failure=failure)


def test_a_parser_that_stops_at_the_first_node_is_asked_about_the_rest() -> None:
    def judge(nodes: dict[str, str]) -> CompileReport:
        return next((refuse(name, op) for name, op in nodes.items() if op == "Erf"), REPORT)

    found, _ = examine(chain("Relu", "Erf", "Exp", "Erf", "Abs", "Erf"), judge)
    assert [(each.node, each.outcome, each.said) for each in found.blamed] == [
        (name, CompileOutcome.REFUSED, "no Erf") for name in ("n1", "n3", "n5")
    ]
    assert found.complete


def test_a_build_that_names_nothing_is_halved_until_one_node_is_left() -> None:
    ops = ["Relu"] * 40
    ops[13] = ops[29] = "Erf"

    found, compiler = examine(chain(*ops), lambda nodes: fail() if "Erf" in nodes.values() else REPORT)
    assert [(each.node, each.outcome, each.alone) for each in found.blamed] == [
        ("n13", CompileOutcome.NOT_BUILT, True),
        ("n29", CompileOutcome.NOT_BUILT, True),
    ]
    assert found.complete
    assert len(compiler.asked) <= 24


def test_a_node_that_fails_only_behind_another_is_said_to() -> None:
    def judge(nodes: dict[str, str]) -> CompileReport:
        return fail() if {"Exp", "Erf"} <= set(nodes.values()) else REPORT

    found, _ = examine(chain("Relu", "Exp", "Abs", "Erf", "Neg"), judge)
    assert [(each.node, each.alone) for each in found.blamed] == [("n3", False)]


def test_a_node_that_the_builder_names_is_asked_about_alone() -> None:
    judge = lambda nodes: fail("build_failed", "n2") if "Erf" in nodes.values() else REPORT  # noqa: E731
    found, compiler = examine(chain("Relu", "Exp", "Erf", "Neg"), judge)
    assert [(each.node, each.alone) for each in found.blamed] == [("n2", True)]
    assert [len(model.nodes) for model in compiler.asked] == [4, 1, 1, 3]


def test_a_crash_is_looked_into_and_a_hang_is_not() -> None:
    crashed, _ = examine(
        chain("Relu", "Erf", "Abs"), lambda nodes: fail("crashed") if "Erf" in nodes.values() else REPORT
    )
    assert [(each.node, each.failure and each.failure.evidence) for each in crashed.blamed] == [
        ("n1", ("the last line",))
    ]
    hung, compiler = examine(chain("Relu", "Erf", "Abs"), lambda _: fail("timed_out"))
    assert [(each.node, each.failure and each.failure.kind) for each in hung.blamed] == [(None, "timed_out")]
    assert (len(compiler.asked), hung.complete) == (1, False)


def test_what_is_refused_without_a_name_is_what_rules_suspect() -> None:
    def judge(nodes: dict[str, str]) -> CompileReport:
        return refuse("", "") if "Erf" in nodes.values() else REPORT

    found, _ = examine(chain("Relu", "Erf", "Abs"), judge, "n1")
    assert [(each.node, each.outcome) for each in found.blamed] == [("n1", CompileOutcome.REFUSED)]
    assert found.complete


def test_a_compiler_that_takes_nothing_is_asked_a_bounded_number_of_times() -> None:
    found, compiler = examine(chain(*["Relu"] * 300), lambda _: fail())
    assert len(compiler.asked) <= 80
    assert not found.complete


def test_a_quantizer_is_never_parted_from_its_dequantizer(tmp_path) -> None:
    constants = [
        numpy_helper.from_array(np.asarray(0.1, np.float32), "s"),
        numpy_helper.from_array(np.asarray(0, np.int8), "z"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "dq"),
        helper.make_node("Erf", ["d"], ["y"], "erf"),
    ]
    parts = Parts(model_of(nodes, *constants), {})
    for part in (parts.alone("q"), parts.of(["dq"]), parts.without(["erf"])):
        assert part is not None
        assert [node.name for node in part.nodes] == ["q", "dq"]
        onnx.checker.check_model(str(save_model(part, tmp_path / "part.onnx")))
    rest = parts.without(["q"])
    assert rest is not None
    assert [node.name for node in rest.nodes] == ["erf"]
    assert parts.all_in(["q", "erf"])
    assert not parts.all_in(["q"])
