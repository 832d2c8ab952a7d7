"""How engines round what convolutions read in TF32: to nearest, or toward zero. Needs environments on a GPU.

    python -m benchmarks.tf32_convolutions --env rtx-1.4 --env rtx-1.6

Convolutions of random values, by input channels and kernel, each an engine of its own in FP32 with TF32: how far its
output is from convolutions in FP64 of operands that are exact, rounded to nearest, and cut off.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from benchmarks.record import record
from benchmarks.spread import no_scheduler
from harness.backends import DoubleReference, Plan, TensorRTCandidate
from harness.case import BuildOptions
from harness.environments import load, select
from harness.model import Model, load_model, round_array
from harness.tensors import Precision

CHANNELS = (3, 8, 15, 16, 17, 20, 24, 32, 48, 64, 128)
KERNELS = (1, 3, 5)
IMAGE, FILTERS = 16, 16


def convolution(weight: np.ndarray) -> Model:
    """One convolution without a bias that keeps the size of its input."""
    filters, channels, kernel, _ = weight.shape
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[kernel // 2] * 4)
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, size, IMAGE, IMAGE])
        for name, size in (("x", channels), ("y", filters))
    )
    graph = helper.make_graph([node], "convolution", [x], [y], [numpy_helper.from_array(weight, "w")])
    return load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def measure(environment: str, channels: int, kernel: int) -> dict[str, Any]:
    """The errors of one engine, relative to the size of the output."""
    rng = np.random.default_rng([channels, kernel])
    x = rng.standard_normal((2, channels, IMAGE, IMAGE)).astype(np.float32)
    weight = rng.standard_normal((FILTERS, channels, kernel, kernel)).astype(np.float32)
    candidate = TensorRTCandidate(select(environment, load()), convolution(weight))
    try:
        plan = Plan(Precision.FP32, build=BuildOptions(tf32=True))
        y = candidate.evaluate(plan, {"x": x}).tensors["y"].astype(np.float64)
    finally:
        candidate.close()
    found: dict[str, Any] = {"environment": environment, "channels": channels, "kernel": kernel}
    for name, cut in (("exact", None), ("nearest", False), ("toward_zero", True)):
        read, by = (
            value if cut is None else round_array(value, Precision.TF32, toward_zero=cut)
            for value in (x, weight)
        )
        exact = DoubleReference(convolution(by)).run({"x": read}).tensors["y"]
        found[name] = float(np.linalg.norm(y - exact) / np.linalg.norm(exact))
    found["rounds"] = min(("nearest", "toward_zero"), key=lambda name: float(found[name]))
    return found


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    no_scheduler(parser, "it asks the engines of this machine's GPU")
    parser.add_argument("--env", action="append", required=True, help="may be repeated")
    parser.add_argument("--out", type=Path, help="by default in benchmarks/results")
    asked = parser.parse_args()
    rows = [measure(name, size, kernel) for name in asked.env for size in CHANNELS for kernel in KERNELS]
    for row in rows:
        print({key: value if isinstance(value, (int, str)) else f"{value:.1e}" for key, value in row.items()})
    record("tf32_convolutions", {"convolutions": rows}, out=asked.out)


if __name__ == "__main__":
    main()
