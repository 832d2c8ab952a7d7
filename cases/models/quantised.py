"""A conv net with Q/DQ pairs, as ONNX Runtime's static quantisation writes them for TensorRT."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from .convolutional import classifier
from .graph import Graph, seeded_uniform
from .layers import conv

_QUANTISED_OPS = ["Conv"]
_LARGEST = 127


def quantised_conv(
    *, seed: int = 0, channels: int = 16, image: int = 16, calibration_samples: int = 8
) -> onnx.ModelProto:
    """Three int8 convolutions and a classifier: symmetric, per channel, calibrated with seeded images.

    Scales of activations are powers of two: they are exact in every float format, and do not depend on the
    last bits of the calibration run, which differ between CPUs.
    """
    shape = (2, 3, image, image)
    graph = Graph("quantised_conv", seed=seed)
    x = graph.input("image", shape)
    width = 3
    for index in range(3):
        x = graph.node("Relu", f"relu{index}", conv(graph, x, f"conv{index}", width, channels, gain=2**0.5))
        width = channels
        if index == 0:
            x = graph.node("MaxPool", "pool0", x, kernel_shape=[2, 2], strides=[2, 2])
    model = graph.model({classifier(graph, x, channels, 10): [2, 10]})
    images = [
        seeded_uniform(seed, f"calibration{sample}", shape, 1.0) for sample in range(calibration_samples)
    ]
    return _quantise(model, "image", images)


def _quantise(model: onnx.ModelProto, name: str, samples: list[np.ndarray]) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    ranges = _calibrate(model, name, samples)
    snapped = TensorsData(ranges.calibration_method, {t: _power_of_two(r) for t, r in ranges.items()})
    options = {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        # What TensorRT's parser wants: float weights behind a pair of their own, and float biases.
        "AddQDQPairToWeight": True,
        "DedicatedQDQPair": True,
        "QuantizeBias": False,
    }
    quantizer = QDQQuantizer(
        model, True, False, QuantType.QInt8, QuantType.QInt8, snapped, [], [], _QUANTISED_OPS, options
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model


def _calibrate(model: onnx.ModelProto, name: str, samples: list[np.ndarray]):
    from onnxruntime.quantization import CalibrationDataReader, create_calibrator

    class Samples(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds: Iterator[dict[str, np.ndarray]] = ({name: sample} for sample in samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory(prefix="harness-calibration-") as folder:
        path = Path(folder, "float.onnx")
        onnx.save(model, path)
        calibrator = create_calibrator(
            path, _QUANTISED_OPS, augmented_model_path=str(Path(folder, "augmented.onnx"))
        )
        calibrator.collect_data(Samples())
        return calibrator.compute_data()


def _power_of_two(data) -> tuple[np.ndarray, np.ndarray]:
    """The smallest range ±127 · 2**k that holds a calibrated range."""
    largest = max(float(np.abs(bound).max()) for bound in data.range_value)
    bound = np.array(_LARGEST * 2.0 ** np.ceil(np.log2(largest / _LARGEST)), dtype=np.float32)
    return -bound, bound
