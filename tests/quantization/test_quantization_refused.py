"""Files that TensorRT does not take as they are: why, and what to do, carried out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from cases.models.graph import Graph
from harness.cli import main
from harness.judge import Given
from harness.quantization import QuantizationVerdict, ScaleFault, diagnose_quantized, find_subject
from harness.report.quantization.words import remedies

RNG = np.random.default_rng(0)
IMAGES = [{"image": RNG.uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32)} for _ in range(4)]


def quantised_by_onnx_runtime(folder: Path, **options: object) -> tuple[Path, Path]:
    """A float model, and what ONNX Runtime's static quantization makes of it."""

    class Samples(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = list(IMAGES)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    float_model, made = folder / "float.onnx", folder / "made.onnx"
    onnx.save(convolutions(), float_model)
    quantize_static(float_model, made, Samples(), **options)
    return float_model, made


def convolutions() -> onnx.ModelProto:
    graph = Graph("convolutions", seed=0)
    x = graph.input("image", [2, 3, 16, 16])
    for place, channels in enumerate((3, 8)):
        weight = graph.weight(f"w{place}", [8, channels, 3, 3], 0.3)
        bias = graph.weight(f"b{place}", [8], 0.1)
        x = graph.node("Conv", f"conv{place}", x, weight, bias)
    return graph.model({x: [2, 8, 12, 12]})


SYMMETRIC = {
    "activation_type": QuantType.QInt8,
    "weight_type": QuantType.QInt8,
    "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
}


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({}, {ScaleFault.ZERO_POINT, ScaleFault.BIAS}),
        (SYMMETRIC | {"extra_options": {"ActivationSymmetric": True}}, {ScaleFault.BIAS}),
        (SYMMETRIC, set()),
    ],
    ids=["asymmetric", "biases", "symmetric"],
)
def test_a_file_that_tensorrt_does_not_take_is_refused_with_what_to_do(
    tmp_path, monkeypatch, options, faults
):
    """The remedies are carried out: what harness, ONNX Runtime and the rewrite make is sound."""
    monkeypatch.chdir(tmp_path)
    float_model, made = quantised_by_onnx_runtime(tmp_path, **options)
    np.savez("images.npz", image=np.concatenate([each["image"] for each in IMAGES]))
    given = Given(data=("images.npz",), reference=str(float_model))
    found = diagnose_quantized(find_subject(made, given=given))
    assert {each.fault for each in found.refused} == faults
    assert found.verdict is (QuantizationVerdict.REFUSED if faults else QuantizationVerdict.SOUND)
    assert found.exit_code == bool(faults)
    said = remedies(found)
    rewrite = "harness check made.onnx --fix fixed.onnx"
    assert list(said.values())[:1] == [
        "harness quantize float.onnx --data images.npz --out symmetric.onnx"
        if ScaleFault.ZERO_POINT in faults
        else rewrite
    ] * bool(faults)
    assert (rewrite in said.values()) == bool(faults)
    for line in filter(lambda line: line.startswith("harness"), said.values()):
        words = line.split()
        assert main(words[1:]) in (0, 1)
        again = diagnose_quantized(find_subject(words[-1], given=given))
        assert again.verdict is QuantizationVerdict.SOUND
