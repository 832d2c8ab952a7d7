"""Files that tools made of a float model, compared with it: pairs, and a weight that was changed in them.

`converted/` holds what the tools wrote of a small PyTorch net (`float.onnx`: stem, norm, up, down, head; opset 17):

    python -m modelopt.onnx.autocast --onnx_path float.onnx --low_precision_type fp16 --keep_io_types
    python -m modelopt.onnx.quantization --onnx_path float.onnx --quantize_mode int8 --calibration_data_path x.npy
    onnxslim float.onnx slim.onnx

and `torch_fp8.onnx`, what `modelopt.torch.quantization.quantize(net, FP8_DEFAULT_CFG, …)` and `torch.onnx.export`
wrote, with Q/DQ nodes of TensorRT's own domain. ModelOpt 0.47.0, onnxslim 0.1.98, PyTorch 2.13.0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from harness.judge import Given, Verdict, compare, run
from harness.model import load_model
from harness.tensors import Precision

FILES = Path(__file__).parent / "converted"
JUDGED = {
    "autocast": Precision.FP16,
    "int8": Precision.INT8,
    "torch_fp8": Precision.FP8,
    "slim": Precision.FP32,
}


def changed(name: str, folder: Path) -> Path:
    """The file with the rows of one weight in another order, three times as large."""
    model = onnx.load(FILES / f"{name}.onnx")
    (weight,) = (each for each in model.graph.initializer if each.name == "up.weight")
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array((3 * np.roll(values, 1, 0)).astype(values.dtype), weight.name))
    onnx.save(model, folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


@pytest.mark.parametrize("name", JUDGED)
def test_what_a_tool_made_of_a_model_is_paired_with_it_and_passes(name: str) -> None:
    (result,) = compare(FILES / "float.onnx", FILES / f"{name}.onnx").results
    assert (result.verdict, result.precision) == (Verdict.PASS, JUDGED[name])
    assert result.compared_with is not None
    assert result.compared_with.by_name == 7
    assert not result.compared_with.unpaired
    assert {layer.node for layer in result.layers} >= {"/up/Gemm", "/norm/LayerNormalization", "/head/Gemm"}


@pytest.mark.parametrize("name", JUDGED)
def test_a_weight_that_was_changed_is_found_by_its_node(name: str, tmp_path: Path) -> None:
    (result,) = compare(FILES / "float.onnx", changed(name, tmp_path)).results
    assert result.verdict is Verdict.FAIL
    assert [layer.node for layer in result.origins] == ["/up/Gemm"]
    assert result.compared_with is not None
    assert list(result.compared_with.weights) == ["up.weight"]


def test_a_quantised_file_is_judged_by_its_float_model_where_the_emulator_rounds_nothing(
    tmp_path: Path,
) -> None:
    given = Given(reference=str(FILES / "float.onnx"))
    for path, verdict in ((FILES / "int8.onnx", Verdict.PASS), (changed("int8", tmp_path), Verdict.FAIL)):
        (result,) = run(path, precisions=Precision.INT8, given=given).results
        assert result.verdict is verdict


def test_pairs_of_tensorrts_own_domain_are_those_of_onnx() -> None:
    model = load_model(FILES / "torch_fp8.onnx")
    kinds = {node.op for node in model.nodes if not node.domain}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert not any(node.domain for node in model.nodes)
    assert model.quantized
