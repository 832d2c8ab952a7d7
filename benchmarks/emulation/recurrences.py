"""Recurrent layers that give each of their states, and functions of one number over a wide range of values."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import onnx

from benchmarks.emulation.models import Entry, Feeds
from benchmarks.emulation.probes import gaussian
from cases.models.graph import Graph

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FUNCTIONS = ("Tanh", "Sigmoid", "Exp", "Erf", "Sqrt", "Reciprocal", "Log", "Softplus", "Sin")
ROWS = ((16, 16), (32, 64), (128, 256), (256, 256), (256, 512), (512, 128), (144, 96), (192, 160))
"""How wide the state and the input are of layers of one row, whose products may be generated code."""


def recurrences() -> Iterator[Entry]:
    """The models; they are no part of the score."""
    for op in GATES:
        for steps, hidden in ((5, 32), (12, 64)):
            for batch in (1, 4):
                name = f"{op.lower()}-states-{steps}x{batch}x{hidden}"
                yield Entry(name, "probe", False, partial(_recurrence, op, steps, batch, hidden))
    yield Entry(
        "gru-states-after", "probe", False, partial(_recurrence, "GRU", 5, 4, 32, linear_before_reset=1)
    )
    for op, after in (("GRU", 0), ("GRU", 1), ("RNN", 0), ("LSTM", 0)):
        more = {"linear_before_reset": 1} if after else {}
        for both in (False, True):
            for hidden, width in ROWS:
                name = f"{op.lower()}{'-after' * after}-row-{1 + both}x{hidden}x{width}"
                source = partial(_recurrence, op, 4, 1, hidden, width=width, both=both, **more)
                yield Entry(name, "probe", False, source)
    yield Entry("functions", "probe", False, _functions)


def _recurrence(
    op: str,
    steps: int,
    batch: int,
    hidden: int,
    *,
    width: int | None = None,
    both: bool = True,
    **attributes: int,
) -> tuple[onnx.ModelProto, Feeds]:
    graph, width, rows = Graph(op.lower(), seed=hidden), width or 2 * hidden, GATES[op] * hidden
    directions, direction = (2, "bidirectional") if both else (1, "forward")
    given = [
        graph.input("x", [steps, batch, width]),
        graph.weight("w", (directions, rows, width), width**-0.5),
        graph.weight("r", (directions, rows, hidden), hidden**-0.5),
        graph.weight("b", (directions, 2 * rows), 0.1),
    ]
    shapes = {"states": [steps, directions, batch, hidden], "last": [directions, batch, hidden]}
    if op == "LSTM":
        shapes["cell"] = [directions, batch, hidden]
    graph.node_with_outputs(
        op, "layer", given, list(shapes), hidden_size=hidden, direction=direction, **attributes
    )
    return graph.model(shapes), {"x": gaussian("x", steps, batch, width)}


def _functions() -> tuple[onnx.ModelProto, Feeds]:
    """Each of them over values that FP16 and BF16 both hold."""
    graph = Graph("functions", opset=17)
    values = np.arange(1, 1 << 14, dtype=np.uint32) << 17  # bits that both types have
    values = values[(values > 0x38000000) & (values < 0x43000000)].view(np.float32)
    values = np.concatenate([-values, values])
    x = graph.input("x", [len(values)])
    shapes: dict[str, list[int]] = {}
    for op in FUNCTIONS:
        positive = op in ("Sqrt", "Reciprocal", "Log")
        shapes[graph.node(op, op.lower(), graph.node("Abs", f"{op.lower()}_abs", x) if positive else x)] = [
            len(values)
        ]
    return graph.model(shapes), {"x": values}
