"""The parts of the adapter that read what TensorRT says, on what it is known to say."""

import json
from typing import Any

import numpy as np
import pytest

from harness.worker.adapter import dtypes
from harness.worker.adapter.inspection import inspector, realised
from harness.worker.adapter.log import Log, severity_name
from harness.worker.adapter.network import NodeMap, names_in_metadata
from harness.worker.adapter.runtime import cuda as cuda_module
from harness.worker.adapter.runtime import load_cudart
from harness.worker.protocol import BuilderOptions, BuildRequest, Fault, LayerInfo, Tensor

NODES = NodeMap(
    dict.fromkeys(("a", "b", "c", "/x/Conv", "/x/Relu"), ()),
    {"a": ("a",), "b": ("b",), "c": ("c",), "(Unnamed Layer* 3) [Shuffle]": ("c",), "/x/Conv": ("/x/Conv",)},
)


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("a", ("a",)),
        ("a + b", ("a", "b")),
        ("PWN(PWN(a), b)", ("a", "b")),
        ("PWN(a, PWN(b + c))", ("a", "b", "c")),
        ("(Unnamed Layer* 3) [Shuffle] + a", ("(Unnamed Layer* 3) [Shuffle]", "a")),
        ("{ForeignNode[a...c]}", ("a", "c")),
        ("{ForeignNode[a + (Unnamed Layer* 3) [Shuffle]...b]}", ("a", "(Unnamed Layer* 3) [Shuffle]", "b")),
        ("Reformatting CopyNode for Input Tensor 0 to a", ()),
        ("__myl_MulAdd_myl0_3", ()),
    ],
)
def test_fused_members_are_read_off_a_name(name: str, members: tuple[str, ...]) -> None:
    assert inspector.members_of(name, NODES.nodes_of) == members


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [
        ({"Format/Datatype": "Row major linear FP16 format"}, "float16"),
        ({"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}, "int8"),
        ({"Format/Datatype": "Channel major FP32 format where channel % 4 == 0"}, "float32"),
        ({"Format/Datatype": "Half"}, "float16"),
        ({"Format/Datatype": "BFloat16"}, "bfloat16"),
        ({"Format/Datatype": "E4M3"}, "float8_e4m3fn"),
        ({"Format": "Row major linear (kLINEAR)", "Datatype": "Float"}, "float32"),
        ({"Format": "LINEAR", "DataType": "UInt8"}, "uint8"),
        ({"Format/Datatype": "N/A due to dynamic shapes"}, None),
    ],
)
def test_types_are_read_in_the_words_of_every_release(tensor: dict[str, str], dtype: str | None) -> None:
    document = {"Layers": [{"Name": "a", "LayerType": "CaskConvolution", "Inputs": [tensor]}]}
    (layer,) = inspector.layers_of(document, NODES, {})
    assert layer.input_dtypes == (() if dtype is None else (dtype,))


def test_raw_control_characters_do_not_spoil_a_document() -> None:
    text = (
        '{"Layers": [{"Name": "a + b", "Metadata": "[ONNX Layer: a]\x1e[ONNX Layer: b]"}], "Bindings": ["x"]}'
    )
    with pytest.raises(ValueError, match="control character"):
        json.loads(text)
    document = inspector.parse_inspector(text)
    assert inspector.layers_of(document, NODES, {})[0].onnx_nodes == ("a", "b")
    assert inspector.parse_inspector("no JSON") == {}


def test_nodes_come_from_metadata_first_then_members_then_tensors() -> None:
    entries: list[dict[str, Any]] = [
        {"Name": "__myl_0", "Metadata": "[ONNX Layer: /x/Conv]\x1f[ONNX Layer: /x/Relu]"},
        {"Name": "/x/Conv + a", "Metadata": ""},
        {"Name": "__myl_1", "Outputs": [{"Name": "t"}]},
        {"Name": "__myl_2", "Outputs": [{"Name": "internal"}]},
    ]
    found = inspector.layers_of({"Layers": entries}, NODES, {"t": "b"})
    assert [layer.onnx_nodes for layer in found] == [("/x/Conv", "/x/Relu"), ("/x/Conv", "a"), ("b",), ()]


def test_names_with_brackets_survive_metadata() -> None:
    assert names_in_metadata("[ONNX Layer: a[0]]\x1e[ONNX Layer: b]") == ("a[0]", "b")
    assert names_in_metadata("") == ()


def test_weights_decide_the_precision_and_a_tactic_may_show_tf32() -> None:
    half, single = {"Format/Datatype": "Half"}, {"Format/Datatype": "Float"}
    entries: list[dict[str, Any]] = [
        {"Name": "a", "LayerType": "CaskConvolution", "Inputs": [single], "Weights": {"Type": "Half"}},
        {"Name": "b", "LayerType": "gemm", "Inputs": [single, half], "Outputs": [single]},
        {
            "Name": "c",
            "LayerType": "gemm",
            "Inputs": [single],
            "TacticName": "sm80_xmma_gemm_f32f32_tf32f32_f32",
        },
        {"Name": "d", "LayerType": "Myelin", "Inputs": [single], "Outputs": [half]},
        {
            "Name": "e",
            "LayerType": "Shape",
            "Outputs": [{"Format/Datatype": "Int32"}],
            "TacticValue": "0x000f",
        },
    ]
    found = inspector.layers_of({"Layers": entries}, NODES, {})
    assert [layer.precision for layer in found] == ["fp16", "fp16", "tf32", None, None]
    assert [layer.tactic for layer in found] == [
        None,
        None,
        "sm80_xmma_gemm_f32f32_tf32f32_f32",
        None,
        "0x000f",
    ]


def test_tf32_kernels_in_an_fp32_engine_are_warned_of() -> None:
    layers = [LayerInfo("c", "gemm", ("c",), "tf32")]
    _, warnings = realised.check_realised(layers, BuildRequest("m", "fp32"), "weak", "8.6.0")
    assert warnings == ("TF32 is off, yet TensorRT chose TF32 kernels for c",)
    allowed = BuildRequest("m", "fp32", options=BuilderOptions(tf32=True))
    assert realised.check_realised(layers, allowed, "weak", "8.6.0")[1] == ()


def test_a_compiled_kernel_may_hold_the_cast_out_of_an_island() -> None:
    layer = LayerInfo("__myl_Sqrt_myl0_1", "kgen", ("a",), "fp32", ("float32",), ("float16",))
    found, warnings = realised.check_realised(
        [layer], BuildRequest("m", "tf32", islands=("a",)), "weak", "10.3.0"
    )
    assert found.islands_ok is False
    assert warnings == ("a may not have stayed in FP32",)


@pytest.mark.parametrize(
    ("given", "dtype", "wanted"),
    [
        (np.array([1, 2]), "int64", "int32"),
        (np.array([1, 2], np.int32), "int32", "int64"),
        (np.array([1.5]), "float64", "float32"),
        (np.array([[1, 2], [3, 4]], np.uint16).T, "bfloat16", "bfloat16"),
        (np.array(True), "bool", "bool"),
    ],
)
def test_inputs_are_made_to_fit_without_changing_a_value(given: np.ndarray, dtype: str, wanted: str) -> None:
    array = dtypes.fit(Tensor(given, dtype), wanted, "x")
    assert array.flags.c_contiguous
    assert array.shape == given.shape
    np.testing.assert_array_equal(array, given)


def test_floats_are_not_taken_for_other_floats() -> None:
    with pytest.raises(Fault, match="is float16, the engine takes float32"):
        dtypes.fit(Tensor(np.zeros(2, np.float16), "float16"), "float32", "x")


class TestLog:
    def test_keeps_errors_apart_and_drops_what_is_verbose(self) -> None:
        written: list[str] = []
        heard: list[str] = []
        log = Log(written.append)
        log.verbose_listeners.append(heard.append)
        log.add("ERROR", "before")
        mark = log.mark()
        log.add("VERBOSE", "Autotuning op conv1")
        log.add("INTERNAL_ERROR", "broken")
        log.add("INFO", "done")
        assert log.errors(mark) == ("broken",)
        assert log.tail(mark) == ("INTERNAL_ERROR: broken", "INFO: done")
        assert written == [
            "[TensorRT error] before",
            "[TensorRT internal_error] broken",
            "[TensorRT info] done",
        ]
        assert heard == ["before", "Autotuning op conv1", "broken", "done"]

    def test_severities_of_both_kinds_have_names(self) -> None:
        class Named:
            name = "WARNING"

        class Plain:
            def __str__(self) -> str:
                return "Severity.WARNING"

        assert severity_name(Named()) == severity_name(Plain()) == "WARNING"


def test_a_missing_cuda_runtime_is_reported_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_module, "_candidates", lambda: iter(["libcudart.so.nowhere"]))
    with pytest.raises(Fault, match="install nvidia-cuda-runtime") as caught:
        load_cudart()
    assert caught.value.kind == "environment"
    assert "libcudart.so.nowhere" in caught.value.evidence[0]


def test_low_types_of_the_file_itself_are_no_fallback() -> None:
    request = BuildRequest("m.onnx", "bf16")
    own = [LayerInfo("a", "gemm", ("a",), "fp16"), LayerInfo("b", "kgen", ("b",), "fp32")]
    found, warnings = realised.check_realised(own, request, "strong", "1.6.1.120")
    assert (found.asserted, warnings) == (False, ())
    with pytest.raises(Fault, match="silent fallback: bf16 was asked for"):
        realised.check_realised(own[1:], request, "strong", "1.6.1.120")


def test_one_kernel_between_fp32_tensors_may_hold_the_casts_and_is_no_fallback() -> None:
    kernel = LayerInfo("__myl_CastMulDivCast_myl0_0", "kgen", ("a",), "fp32", ("float32",), ("float32",))
    found, warnings = realised.check_realised([kernel], BuildRequest("m.onnx", "fp16"), "strong", "1.6.1.120")
    assert (found.asserted, warnings) == (False, ())
