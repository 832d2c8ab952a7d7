"""ONNX Runtime's BatchNormalization in training mode writes into its inputs; evaluations must not show it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import graph_model
from onnx import helper, numpy_helper

from harness.backends import DoubleReference, Emulator, Reference
from harness.model import Model, load_model
from harness.tensors import Precision

CHANNELS = 65  # enough for statistics to be weights that are fed, not initializers of the session
X = np.random.default_rng(0).standard_normal((2, CHANNELS, 2)).astype(np.float32)
STATISTICS = {
    "mean": np.linspace(1, 3, CHANNELS, dtype=np.float32),
    "var": np.linspace(4, 6, CHANNELS, dtype=np.float32),
}
SOURCES = ["inputs", "weights", "constants", "tensors", "body", "old"]


def training_model(source: str) -> Model:
    """BatchNormalization in training mode whose running statistics come from `source` and have other readers.

    Those of `old` are inputs, too; before opset 14 the mode is shown by the outputs.
    """
    old = source == "old"
    written = ["y", "new_m", "new_v", *(["saved_m", "saved_v"] if old else [])]
    mode = {} if old else {"training_mode": 1}
    normalize = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], written, name="bn", **mode)
    nodes = [helper.make_node("Identity", [name], [name[0]], name=f"read_{name}") for name in STATISTICS]
    if source == "constants":
        nodes = [
            helper.make_node("Constant", [], [name[0]], name=name, value=numpy_helper.from_array(value, name))
            for name, value in STATISTICS.items()
        ]
    elif source == "tensors":
        nodes = [helper.make_node("Neg", [name], [name[0]], name=f"neg_{name}") for name in STATISTICS]
    if source == "body":
        body = helper.make_graph(
            [normalize],
            "body",
            [],
            [
                helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
                for name, shape in zip(normalize.output, [X.shape, [CHANNELS], [CHANNELS]], strict=True)
            ],
        )
        condition = numpy_helper.from_array(np.array(True), "condition")
        nodes.append(helper.make_node("Constant", [], ["condition"], name="condition", value=condition))
        nodes.append(
            helper.make_node(
                "If", ["condition"], list(normalize.output), name="if", then_branch=body, else_branch=body
            )
        )
    else:
        nodes.append(normalize)
    nodes += [
        helper.make_node("Add", ["new_m", "m"], ["sum_m"], name="sum_m"),  # reads m after it was overwritten
        helper.make_node("Add", ["new_v", "v"], ["sum_v"], name="sum_v"),
    ]
    fed = {name: [CHANNELS] for name in STATISTICS} if source in ("inputs", "tensors", "body", "old") else {}
    weights = {"s": np.ones(CHANNELS, np.float32), "b": np.zeros(CHANNELS, np.float32)}
    return load_model(
        graph_model(
            nodes,
            inputs={"x": X.shape, **fed},
            outputs={"y": X.shape, "sum_m": [CHANNELS], "sum_v": [CHANNELS]},
            weights=weights | (STATISTICS if source == "weights" else {}),
            opset=9 if old else 17,
        )
    )


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("backend", ["reference", "emulator", "double"])
def test_training_mode_batch_norm_gives_the_same_bits_every_time(source: str, backend: str) -> None:
    model = training_model(source)
    fed = {"x": X, **STATISTICS}
    feeds = {info.name: fed[info.name].copy() for info in model.inputs}
    reference, emulator = Reference(model), Emulator(model)
    double = DoubleReference(model) if backend == "double" else None

    def evaluate() -> dict[str, np.ndarray]:
        if double is not None:
            return dict(double.run(feeds).tensors)
        if backend == "reference":
            return reference.run(feeds)
        return emulator.run(feeds, Precision.FP16)

    first = {name: value.copy() for name, value in evaluate().items()}
    for _ in range(3):
        for name, value in evaluate().items():
            np.testing.assert_array_equal(value, first[name], err_msg=name)
    for name, array in feeds.items():
        np.testing.assert_array_equal(array, fed[name], err_msg=name)
    for name in ("mean", "var"):
        if source == "weights":
            np.testing.assert_array_equal(model.weight(name), STATISTICS[name])
    old = -STATISTICS["mean"] if source == "tensors" else STATISTICS["mean"]
    expected = 0.9 * old + 0.1 * X.mean((0, 2)) + old
    np.testing.assert_allclose(first["sum_m"], expected, rtol=1e-2 if backend == "emulator" else 1e-5)
