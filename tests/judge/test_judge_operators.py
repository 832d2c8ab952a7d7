"""Operators that ONNX Runtime lacks: the user's own, and kernels that it does not have; what goes wrong in them."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.judge import Given, Verdict, compare, run

OPERATORS = """
import numpy as np
from onnx.reference.op_run import OpRun


class Power(OpRun):
    op_domain = "our.ops"

    def _run(self, x, scale, power=None):
        return (np.sign(x) * np.abs(x) ** power * scale,)


class Raises(Power):
    def _run(self, x, scale, power=None):
        table = {}
        return table["missing"]


class Widens(Power):
    def _run(self, x, scale, power=None):
        return (x.astype(np.float64),)


class Forgets(Power):
    def _run(self, x, scale, power=None):
        return x


class Hangs(Power):
    def _run(self, x, scale, power=None):
        number = 0
        while True:
            number += 1


def power():
    return Power


def raises():
    return [renamed(Raises)]


def widens():
    return [renamed(Widens)]


def forgets():
    return [renamed(Forgets)]


def hangs():
    return [renamed(Hangs)]


def renamed(operator):
    operator.__name__ = "Power"
    return operator


def nothing():
    return []


def number():
    return 7


def no_library():
    return "m.onnx"


def no_file():
    return "gone.so"
"""


def power_chain(power: float = 1.5, scale: float = 0.5) -> onnx.ModelProto:
    """x → mm → power (of our own) → tanh → mm2 → y."""
    weight = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32) / 4
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "mm"),
        helper.make_node("Power", ["a", "s"], ["b"], "power", domain="our.ops", power=power),
        helper.make_node("Tanh", ["b"], ["c"], "after")
        if scale < 1
        else helper.make_node("Div", ["b", "s"], ["c"], "after"),
        helper.make_node("MatMul", ["c", "w"], ["y"], "mm2"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 16])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32([scale]), "s")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("our.ops", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def quantized(kind: str, *, inside: bool = False) -> tuple[onnx.ModelProto, np.ndarray]:
    """y = x · dequantised weight, and that weight; `inside`, the DequantizeLinear is in a branch."""
    weight = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    block = 32 if kind == "mxfp8" else 16
    largest = np.abs(weight.reshape(-1, block, 16)).max(1)
    if kind == "int4":
        scale = (largest / 7).astype(np.float32)
        stored = np.clip(np.round(weight / np.repeat(scale, block, 0)), -8, 7).astype(ml_dtypes.int4)
    elif kind == "nvfp4":
        scale = (largest / 6).astype(np.float32)
        stored = (weight / np.repeat(scale, block, 0)).astype(ml_dtypes.float4_e2m1fn)
    else:
        scale = (2.0 ** np.ceil(np.log2(largest / 448))).astype(ml_dtypes.float8_e8m0fnu)
        stored = (weight / np.repeat(scale.astype(np.float32), block, 0)).astype(ml_dtypes.float8_e4m3fn)
    dequantize = helper.make_node(
        "DequantizeLinear",
        ["stored", "scale"],
        ["w"],
        "dq",
        axis=0,
        block_size=block,
        **({"output_dtype": TensorProto.FLOAT} if kind == "mxfp8" else {}),
    )
    nodes = [dequantize, helper.make_node("MatMul", ["x", "w"], ["y"], "mm")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 64])]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 16])
    if inside:
        body = helper.make_graph(nodes, "then", [], [y])
        other = helper.make_graph([helper.make_node("Identity", ["zero"], ["y"], "none")], "else", [], [y])
        nodes = [
            helper.make_node("ReduceSum", ["x"], ["sum"], "sum", keepdims=0),
            helper.make_node("Less", ["sum", "large"], ["small"], "small"),
            helper.make_node("If", ["small"], ["y"], "choose", then_branch=body, else_branch=other),
        ]
    constants = [
        numpy_helper.from_array(stored, "stored"),
        numpy_helper.from_array(scale, "scale"),
        numpy_helper.from_array(np.zeros((4, 16), np.float32), "zero"),
        numpy_helper.from_array(np.float32(1e30), "large"),
    ]
    graph = helper.make_graph(nodes, "g", inputs, [y], constants if inside else constants[:2])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    return model, stored.astype(np.float32) * np.repeat(scale.astype(np.float32), block, 0)


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(power_chain(), "m.onnx")
    Path("operators.py").write_text(OPERATORS)


def judge(ops: str, precision: str = "fp16"):
    Path("m.case.yaml").write_text(f"model: {{path: m.onnx}}\nruns: [{precision}]\nops: {ops}\n")
    (result,) = run("m.case.yaml").results
    return result


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_an_operator_in_python_is_computed_by_it_and_judged_like_any_other(precision: str) -> None:
    result = judge("operators:power", precision)
    assert result.verdict is Verdict.PASS
    if precision != "fp32":
        assert [layer.node for layer in result.layers] == ["mm", "power", "after", "mm2"]
        assert all(layer.metrics.nrmse > 0 for layer in result.layers)


def test_the_values_are_those_of_the_function(monkeypatch) -> None:
    np.savez("x.npz", x=(x := np.random.default_rng(3).standard_normal((4, 16)).astype(np.float32)))
    weight = numpy_helper.to_array(power_chain().graph.initializer[0])
    a = x @ weight
    np.savez("y.npz", y=np.tanh(np.sign(a) * np.abs(a) ** 1.5 * 0.5) @ weight)
    given = Given(data=("x.npz",), ops="operators:power")
    (result,) = compare("m.onnx", "y.npz", given=given).results
    assert result.verdict is Verdict.PASS
    assert result.worst.metrics.nrmse < 1e-6


def test_an_overflow_in_an_operator_of_the_users_own_is_found_there() -> None:
    onnx.save(power_chain(power=2.0, scale=1e6), "m.onnx")
    result = judge("operators:power")
    assert result.verdict is Verdict.FAIL
    assert [layer.node for layer in result.layers if layer.origin] == ["power"]


def test_a_command_names_them_for_an_onnx_file() -> None:
    (result,) = run("m.onnx", precisions="fp16", given=Given(ops="operators:power")).results
    assert result.verdict is Verdict.PASS
    assert result.given == ("--ops", "operators:power")


def test_without_them_the_error_says_what_to_do() -> None:
    (result,) = run("m.onnx", precisions="fp16").results
    assert result.verdict is Verdict.ERROR
    assert "our.ops:Power(-1) is not a registered function/op" in result.reason
    assert "--ops" in result.reason


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("raises", 16, "ops operators:raises raised at node 'power': KeyError: 'missing'"),
        ("widens", 20, "returned float64 for 'b' at node 'power', where the model has float32"),
        (
            "forgets",
            25,
            "ops operators:forgets raised at node 'power': TypeError: Method '_run' of class 'Power'",
        ),
        ("nothing", 61, "ops operators:nothing returned no operator"),
        ("number", 65, "ops operators:number returned 7, which is not an operator"),
        ("no_library", 69, "and ONNX Runtime does not register it"),
        ("no_file", 73, "returned 'gone.so', and there is no such file"),
        ("nowhere", None, "module 'operators' has no function 'nowhere'"),
    ],
)
def test_what_goes_wrong_in_operators_is_an_error_of_that_run(
    name: str, line: int | None, message: str
) -> None:
    result = judge(f"operators:{name}")
    assert result.verdict is Verdict.ERROR
    assert message in result.reason
    assert result.error.where == ("operators.py" if line is None else f"operators.py:{line}")


def test_an_operator_that_does_not_return_is_ended_where_it_was(monkeypatch) -> None:
    Path("harness.toml").write_text("[functions]\nseconds = 0.5\n")
    monkeypatch.setenv("HARNESS_CONFIG", str(Path("harness.toml").absolute()))
    result = judge("operators:hangs")
    assert result.verdict is Verdict.ERROR
    assert "ops operators:hangs did not return within 0.5 s" in result.reason
    assert result.error.where in ("operators.py:32", "operators.py:33")


def test_the_standard_library_has_no_operators() -> None:
    result = judge("os:listdir")
    assert result.verdict is Verdict.ERROR
    assert result.error.where == "m.case.yaml:3"


@pytest.mark.parametrize("kind", ["int4", "nvfp4", "mxfp8"])
@pytest.mark.parametrize("inside", [False, True])
def test_weights_in_blocks_are_computed_as_they_are_stored(kind: str, inside: bool) -> None:
    model, weight = quantized(kind, inside=inside)
    onnx.save(model, "q.onnx")
    np.savez("x.npz", x=(x := np.random.default_rng(3).standard_normal((4, 64)).astype(np.float32)))
    np.savez("y.npz", y=x @ weight)
    (result,) = compare("q.onnx", "y.npz", given=Given(data=("x.npz",))).results
    assert result.verdict is Verdict.PASS
    assert result.worst.metrics.nrmse < 1e-6
    (result,) = run("q.onnx", precisions="fp16").results
    assert result.verdict is Verdict.PASS


def test_what_numpy_computes_for_want_of_a_kernel_is_said() -> None:
    onnx.save(quantized("mxfp8")[0], "q.onnx")
    (result,) = run("q.onnx", precisions="fp16").results
    assert (
        "dq (DequantizeLinear) runs on onnx.reference, slowly, as ONNX Runtime has no kernel for it"
        in result.warnings
    )
    onnx.save(quantized("int4")[0], "q.onnx")
    (result,) = run("q.onnx", precisions="fp16").results
    assert not any("onnx.reference" in warning for warning in result.warnings)


def test_activations_in_four_bits_are_rounded_as_the_file_says() -> None:
    scale = numpy_helper.from_array(np.float32(0.5), "scale")
    zero = numpy_helper.from_array(np.zeros((), ml_dtypes.float4_e2m1fn), "zero")
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"], "tanh"),
        helper.make_node("QuantizeLinear", ["t", "scale", "zero"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], "dequantize"),
        helper.make_node("Mul", ["d", "scale"], ["y"], "half"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 64])],
        [scale, zero],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11), "q.onnx")
    np.savez("x.npz", x=(x := np.random.default_rng(3).standard_normal((4, 64)).astype(np.float32)))
    stored = (np.tanh(x) / 0.5).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.savez("y.npz", y=stored * 0.5 * 0.5)
    (result,) = compare("q.onnx", "y.npz", given=Given(data=("x.npz",))).results
    assert result.worst.metrics.nrmse < 1e-6
    assert any("quantize (QuantizeLinear), dequantize" in warning for warning in result.warnings)


def microscaled(weight: np.ndarray, *, as_bits: bool) -> tuple[np.ndarray, np.ndarray]:
    """A matrix in blocks of 32 along its rows: numbers in FP8, and powers of two."""
    blocks = weight.reshape(len(weight), -1, 32)
    scale = (2.0 ** np.ceil(np.log2(np.abs(blocks).max(-1) / 448))).astype(ml_dtypes.float8_e8m0fnu)
    stored = (blocks / scale.astype(np.float32)[..., None]).reshape(weight.shape)
    return stored.astype(ml_dtypes.float8_e4m3fn), scale.view(np.uint8) if as_bits else scale


def decoded(stored: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """What such a matrix says."""
    scales = scale.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    return stored.astype(np.float32) * np.repeat(scales, 32, -1)


def of_modelopt(weight: np.ndarray) -> tuple[onnx.ModelProto, np.ndarray]:
    """A layer as ModelOpt exports it in MXFP8, and its weight: all in FP16, with operators of TensorRT's domain."""
    stored, scale = microscaled(weight, as_bits=True)
    blocks = {"axis": -1, "block_size": 32, "domain": "trt"}
    half = {**blocks, "output_dtype": TensorProto.FLOAT16}
    fp8 = {**blocks, "output_dtype": TensorProto.FLOAT8E4M3FN}
    nodes = [
        helper.make_node("TRT_MXFP8DynamicQuantize", ["x"], ["q", "s"], "quantize", **fp8),
        helper.make_node("TRT_MXFP8DequantizeLinear", ["q", "s"], ["d"], "dequantize", **half),
        helper.make_node("TRT_MXFP8DequantizeLinear", ["w", "ws"], ["dw"], "weight", **half),
        helper.make_node("Gemm", ["d", "dw", "b"], ["y"], "gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [4, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [4, 16])],
        [
            numpy_helper.from_array(stored, "w"),
            numpy_helper.from_array(scale, "ws"),
            numpy_helper.from_array(np.zeros(16, np.float16), "b"),
        ],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("trt", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), decoded(stored, scale)


def test_blocks_in_mxfp8_of_modelopts_exports_are_computed_and_it_is_said() -> None:
    rng = np.random.default_rng(0)
    model, weight = of_modelopt(rng.standard_normal((16, 64)).astype(np.float32))
    onnx.save(model, "q.onnx")
    x = rng.standard_normal((4, 64)).astype(np.float16)
    x[2] = 0  # blocks of nothing
    stored, scale = microscaled(np.where(x == 0, 1, x).astype(np.float32), as_bits=False)
    rounded = np.where(x == 0, 0, decoded(stored, scale))
    np.savez("x.npz", x=x)
    np.savez("y.npz", y=(rounded @ weight.T).astype(np.float16))
    (result,) = compare("q.onnx", "y.npz", given=Given(data=("x.npz",))).results
    assert result.worst.metrics.nrmse < 1e-3  # FP16 sums in another order
    assert any("dequantize (TRT_MXFP8DequantizeLinear)" in text for text in result.warnings)
    assert any("run on onnx.reference, slowly" in text for text in result.warnings)
    assert not any("can build this model" in text for text in result.warnings)  # all parsers take it


def test_a_model_in_mxfp8_is_judged_by_its_float_model() -> None:
    exact = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    onnx.save(of_modelopt(exact)[0], "q.onnx")
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], "gemm", transB=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 16])],
        [numpy_helper.from_array(exact, "w")],
    )
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), "float.onnx")
    (result,) = compare("float.onnx", "q.onnx").results
    assert 0.01 < result.worst.metrics.nrmse < 0.1  # three bits of fraction, twice


@pytest.mark.parametrize(("opset", "ir_version", "half"), [(24, 11, False), (25, 12, False), (25, 12, True)])
def test_weights_in_mxfp8_run_in_the_operator_sets_that_have_them(
    opset: int, ir_version: int, half: bool
) -> None:
    weight = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    stored, scale = microscaled(weight, as_bits=False)
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    blocks = {"axis": -1, "block_size": 32, "output_dtype": kind}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "ws"], ["dw"], "dq", **blocks),
        helper.make_node("Transpose", ["dw"], ["t"], "turn", perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"], "mm"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, [4, 64])],
        [helper.make_tensor_value_info("y", kind, [4, 16])],
        [numpy_helper.from_array(stored, "w"), numpy_helper.from_array(scale, "ws")],
    )
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=ir_version), "q.onnx")
    x = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float16 if half else np.float32)
    np.savez("x.npz", x=x)
    np.savez("y.npz", y=(x.astype(np.float32) @ decoded(stored, scale).T).astype(x.dtype))
    (result,) = compare("q.onnx", "y.npz", given=Given(data=("x.npz",))).results
    assert result.worst.metrics.nrmse < (1e-3 if half else 1e-6)
    assert any("dq (DequantizeLinear) runs on onnx.reference, slowly" in text for text in result.warnings)
