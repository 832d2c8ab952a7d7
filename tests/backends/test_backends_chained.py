"""A large graph as a chain of sessions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from harness.backends import DoubleReference, Emulator, Reference, chained
from harness.backends.chained import ChainedSession
from harness.backends.session import create_session
from harness.case import load_case
from harness.judge import Workbench
from harness.model import load_model
from harness.tensors import Precision

CASES = sorted(Path(__file__).parents[2].glob("cases/*.case.yaml"))
X = {"x": np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)}


def model_of(*nodes: onnx.NodeProto, shape: list[int | str | None], outputs: list[str]) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def three_nodes(monkeypatch: pytest.MonkeyPatch) -> list[ChainedSession]:
    """Chains have three nodes a session; which were made."""
    made: list[ChainedSession] = []
    init = ChainedSession.__init__

    def remember(self: ChainedSession, *given: object) -> None:
        init(self, *given)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(ChainedSession, "__init__", remember)
    monkeypatch.setattr(chained, "NODES", 3)
    return made


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name.partition(".")[0])
def test_a_chain_computes_the_bits_of_one_session(
    path: Path, three_nodes: list[ChainedSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Workbench(load_case(path), memory_budget=1 << 30)
    if bench.missing_packages():
        pytest.skip("a package is missing")
    model, feeds = bench.model, bench.feeds[0]
    tensors = [*model.float_tensors, *(info.name for info in model.outputs)]

    def computed() -> list[dict[str, np.ndarray]]:
        exact = Reference(model).run(feeds, tensors)
        low = Emulator(model).run(feeds, Precision.FP16, tensors=tensors)
        units = Emulator(model).units(Precision.FP16)
        _, alone = Emulator(model).introduced(feeds, Precision.FP16, units)
        return [exact, low, alone, dict(DoubleReference(model).run(feeds).tensors)]

    parts = computed()
    assert len(three_nodes) >= 3
    monkeypatch.setattr(chained, "is_large", lambda proto: False)
    monkeypatch.setattr("harness.backends.session.is_large", lambda proto: False)
    for chain, whole in zip(parts, computed(), strict=True):
        assert chain.keys() == whole.keys()
        for name, value in whole.items():
            np.testing.assert_array_equal(chain[name], value, err_msg=name)


def test_what_no_later_session_reads_is_freed(three_nodes: list[ChainedSession]) -> None:
    nodes = [helper.make_node("Neg", ["x" if i == 0 else f"t{i - 1}"], [f"t{i}"], f"n{i}") for i in range(12)]
    session = create_session(model_of(*nodes, shape=[2, 3], outputs=["t4", "t11"]), where="m")
    assert isinstance(session, ChainedSession)
    assert [(part.reads, part.writes, part.frees) for part in session._parts] == [
        (("x",), ("t2",), ("x",)),
        (("t2",), ("t4", "t5"), ("t2",)),
        (("t5",), ("t8",), ("t5",)),
        (("t8",), ("t11",), ("t8",)),
    ]
    found = session.run(["t11", "t4", "t11"], X)
    for array, sign in zip(found, (1, -1, 1), strict=True):
        np.testing.assert_array_equal(array, sign * X["x"])


def test_sizes_that_no_one_names_have_names_between_sessions(three_nodes: list[ChainedSession]) -> None:
    """Without, ONNX Runtime takes 40 times as long to load 1,000 nodes."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["t0"], "n0"),
        *(helper.make_node("Neg", [f"t{i - 1}"], [f"t{i}"], f"n{i}") for i in range(1, 9)),
    ]
    session = create_session(model_of(*nodes, shape=[2, 3], outputs=["t8"]), where="m")
    assert isinstance(session, ChainedSession)
    assert session._parts[1].session.get_inputs()[0].shape == [2, "t2::1"]


def test_sequences_that_cross_leave_the_graph_whole(three_nodes: list[ChainedSession]) -> None:
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["s"], "s"),
        *(helper.make_node("Neg", ["x" if i == 0 else f"t{i - 1}"], [f"t{i}"], f"n{i}") for i in range(8)),
        helper.make_node("ConcatFromSequence", ["s"], ["y"], "y", axis=0),
    ]
    session = create_session(model_of(*nodes, shape=[2, 3], outputs=["y", "t7"]), where="m")
    assert three_nodes == []
    np.testing.assert_array_equal(session.run(["y"], X)[0], np.concatenate([X["x"]] * 2))


def test_a_failing_node_is_named_as_in_one_session(three_nodes: list[ChainedSession]) -> None:
    from harness.errors import NodeFailedError

    nodes = [
        *(helper.make_node("Neg", ["x" if i == 0 else f"t{i - 1}"], [f"t{i}"], f"n{i}") for i in range(8)),
        helper.make_node("Cast", ["t7"], ["index"], "index", to=TensorProto.INT64),
        helper.make_node("Mul", ["index", "index"], ["square"], "square"),
        helper.make_node("Gather", ["x", "square"], ["y"], "read"),
    ]
    model = model_of(*nodes, shape=[2, 3], outputs=["y"])
    with pytest.raises(NodeFailedError, match=r"read \(Gather\): .*out of data bounds"):
        Reference(load_model(model)).run(X)
    assert three_nodes
