"""Strong typing (10.0 and later, the only kind from 11 on): the types in the graph decide, no flag does.

The host hands over a graph with Casts, islands included. What is left to do here is to make sure of it.
"""

from typing import Any, Dict, Tuple

from ..protocol import BuildRequest, Fault
from . import dtypes
from .network import Graph
from .nodemap import NodeMap

#: precision → the type that some tensor of the graph must have.
_CARRIED = {"fp16": "HALF", "bf16": "BF16"}


class Strong:
    """The checks of strong typing."""

    name = "strong"

    def check(self, graph: Graph, request: BuildRequest) -> None:
        """Refuse a graph that does not carry the precision asked for: its engine would be FP32, and say nothing.

        Raises:
            Fault: `unsupported` or `bad_request`.
        """
        found = {tensor.dtype.name for tensor in graph.tensors.values()}
        wanted = _CARRIED.get(request.precision)
        if wanted is not None and wanted not in found:
            raise Fault(
                "bad_request",
                "a strongly typed network takes its precision from the graph, and this one has no {} tensor: "
                "give the model as a typed graph".format(wanted),
            )
        quantized = any(layer.kind in ("QUANTIZE", "DEQUANTIZE") for layer in graph.layers)
        if request.precision in ("fp8", "int8") and not quantized:
            raise Fault(
                "unsupported",
                "{} under strong typing needs a model with Q/DQ nodes, this one has none".format(
                    request.precision
                ),
            )
        if request.calibration:
            raise Fault(
                "unsupported", "strong typing takes no calibration data: quantize the model with Q/DQ nodes"
            )

    def configure(self, config: Any, request: BuildRequest, graph: Graph) -> None:
        """Nothing: precision flags are errors here."""

    def keep_islands(self, graph: Graph, nodes: NodeMap, request: BuildRequest) -> Dict[str, Tuple[str, ...]]:
        """Check that the graph carries the islands: what their layers write is FP32.

        Raises:
            Fault: `bad_request`: a node of them writes something lower.
        """
        kept: Dict[str, Tuple[str, ...]] = {}
        for node in request.islands:
            layers = [graph.layers[index] for index in nodes.layers_of.get(node, ())]
            for layer in layers:
                for name in layer.outputs:
                    dtype = graph.tensors[name].dtype
                    if dtypes.is_float(dtype) and dtype.name != "FLOAT":
                        raise Fault(
                            "bad_request",
                            "node {!r} is to stay in FP32, but the graph has {} for its tensor {!r}: put Casts "
                            "around it".format(node, dtype.name, name),
                        )
            kept[node] = tuple(layer.name for layer in layers)
        return kept

    def type_mark(self, tensor: Any, dtype: str) -> None:
        """Nothing: a marked tensor has its type by construction."""
