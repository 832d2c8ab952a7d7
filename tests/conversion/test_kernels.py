"""What became of each node: what was asked and not done, Q/DQ that cost a round trip, what differs."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from harness.compiler import GraphView
from harness.conversion import Change, changes_between, movement
from harness.conversion.kernels import fates_of, kernel_findings
from harness.model import Model, load_model
from harness.tensors import Precision
from harness.worker.protocol import TENSORRT_RTX, Kernel, KernelList, KernelTensor

F = TensorProto.FLOAT


def quantised(*, between: bool) -> Model:
    """A convolution of int8 and a ReLU; `between` puts a Q/DQ pair there, too."""

    def pair(tensor: str, name: str):
        return [
            helper.make_node("QuantizeLinear", [tensor, "s", "z"], [f"{name}_i8"], f"{name}_q"),
            helper.make_node("DequantizeLinear", [f"{name}_i8", "s", "z"], [f"{name}_f"], f"{name}_dq"),
        ]

    nodes = [
        *pair("x", "in"),
        *pair("w", "weight"),
        helper.make_node("Conv", ["in_f", "weight_f"], ["c"], "conv"),
        *(pair("c", "out") if between else []),
        helper.make_node("Relu", ["out_f" if between else "c"], ["y"], "relu"),
    ]
    arrays = {
        "s": np.asarray(0.1, np.float32),
        "z": np.asarray(0, np.int8),
        "w": np.ones((1, 1, 1, 1), np.float32),
    }
    infos = [helper.make_tensor_value_info(name, F, [1, 1, 4, 4]) for name in ("x", "y")]
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], constants)
    return load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def kernel(nodes: str, reads: str, writes: str, kind: str = "kgen", *operations: str) -> Kernel:
    tensors = [(KernelTensor("a", dtype),) for dtype in (reads, writes)]
    return Kernel(nodes, kind, tuple(nodes.split()), *tensors, operations=operations)


def listed(*kernels: Kernel) -> KernelList:
    return KernelList(TENSORRT_RTX, "1.7.1.116", "log", kernels)


def findings(model: Model, made: KernelList, precision: Precision | None = None):
    fates = fates_of(model, made, precision)
    found = kernel_findings(model, GraphView(model), made, fates, "rtx")
    return [(each.code, each.node and each.node.name) for each in found]


ASKED = listed(
    kernel("in_q", "float32", "int8"),
    kernel("conv in_dq weight_dq", "int8", "float32", "correlation"),
    kernel("out_q out_dq relu", "float32", "float32"),
)


def test_int8_that_was_asked_and_built_in_half_is_told() -> None:
    model = quantised(between=False)
    half = listed(
        kernel("in_q in_dq", "float32", "float16"), kernel("conv relu", "float16", "float16", "correlation")
    )
    (fate,) = (each for each in fates_of(model, half, None) if each.node == "conv")
    assert (fate.asked, fate.built, fate.kernels, fate.is_done) == ("int8", ("float16",), (1,), False)
    assert findings(model, half) == [("not-as-asked", "conv"), ("quantized-nothing", None)]
    assert findings(model, ASKED) == []


def test_half_that_was_asked_and_built_in_float_is_told_of_what_can_be_lowered() -> None:
    model = quantised(between=False)
    built = listed(
        kernel("in_q", "float32", "int8"),
        kernel("conv", "int8", "float32", "gemm"),
        kernel("relu", "float32", "float32"),
    )
    assert findings(model, built, Precision.FP16) == [("not-as-asked", "relu")]
    assert findings(model, built, Precision.FP32) == []


def test_a_pair_that_parts_a_convolution_from_its_activation_is_told() -> None:
    assert findings(quantised(between=True), ASKED) == [("qdq-parts", "relu")]
    fused = listed(
        kernel("in_q", "float32", "int8"), kernel("conv out_q out_dq relu", "int8", "float32", "correlation")
    )
    assert findings(quantised(between=True), fused) == []


def test_kernels_that_only_move_or_quantize_are_counted() -> None:
    made = listed(
        kernel("in_q in_dq", "float32", "float32"),
        kernel("", "float32", "float16", "kgen", "Cast"),
        kernel("", "float16", "float16", "copy"),
        kernel("relu", "float16", "float16", "kgen", "Cast", "Relu"),
        Kernel("{ForeignNode[a...b]}", "Myelin", ("conv",)),
    )
    found = movement(made, fates_of(quantised(between=False), made, None))
    assert (found.casts, found.quantizers, found.regions) == (2, 1, 1)


def test_the_difference_of_two_engines_is_told_by_node_what_matters_first() -> None:
    before = listed(
        kernel("a b", "float16", "float16", "kgen", "Mul", "Add"),
        kernel("c", "float16", "float16", "gemm"),
        kernel("d", "float16", "float16"),
        kernel("e", "float16", "float16", "kgen", "Sqrt"),
    )
    after = listed(
        kernel("a", "float16", "float16"),
        kernel("b", "float16", "float16"),
        kernel("c", "float32", "float32", "gemm"),
        kernel("e", "float16", "float16", "kgen", "Cast", "Sqrt"),
    )
    assert [(each.change, each.node, each.before, each.after) for each in changes_between(before, after)] == [
        (Change.DATATYPE, "c", ("float16",), ("float32",)),
        (Change.FUSION, "a", ("b",), ()),
        (Change.FUSION, "b", ("a",), ()),
        (Change.MISSING, "d", (), ()),
        (Change.CODE, "e", ("Sqrt",), ("Cast", "Sqrt")),
    ]
    assert changes_between(before, before) == ()
