"""Cases so small that every test can judge them for real."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

MODELS = """
import numpy as np
from onnx import TensorProto, helper, numpy_helper


def squares(scale=1.0):
    # |x|, by way of (scale * x) ** 2, which passes 65504 when the scale is large
    constants = [numpy_helper.from_array(np.float32(scale), "scale")]
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"], "scaled"),
        helper.make_node("Mul", ["scaled", "scaled"], ["square"], "square"),
        helper.make_node("Sqrt", ["square"], ["root"], "root"),
        helper.make_node("Div", ["root", "scale"], ["y"], "y"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 8]) for name in "xy")
    graph = helper.make_graph(nodes, "squares", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
"""

CASES = {
    "clean": """
        model: {builder: models:squares}
        runs: [fp32, fp16, bf16]
        tags: [tiny, sound]
        """,
    "expected": """
        model: {builder: models:squares, args: {scale: 1000.0}}
        runs:
          - fp32
          - {precision: fp16, expect: fail, reason: squares overflow, origin: square}
        tags: [tiny]
        """,
    "failing": """
        model: {builder: models:squares, args: {scale: 1000.0}}
        runs: [fp32, fp16]
        """,
    "cured": """
        model: {builder: models:squares}
        runs:
          - {precision: fp16, expect: fail, reason: squares overflow}
        """,
    "skipped": """
        model: {builder: models:squares}
        requires: [a_package_that_is_nowhere]
        runs: [fp16]
        """,
    "mistaken": """
        model: {builder: models:squares, args: {skale: 1.0}}
        runs: [fp32, fp16]
        """,
}


def write_cases(folder: Path, *names: str) -> Path:
    """Write the cases `names` and their models to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "models.py").write_text(MODELS)
    for name in names:
        (folder / f"{name}.case.yaml").write_text(dedent(CASES[name]))
    return folder
