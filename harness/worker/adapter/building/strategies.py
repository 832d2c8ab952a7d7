"""The two typing strategies, and what to ask for less of where a weakly typed network cannot be built.

Weak (8.5 to 10.16): the graph is FP32, and flags allow the builder to compute in something lower. An island is layers
whose precision and output types are FP32, and the flag that makes the builder obey. Which of the other layers use the
precision is the builder's choice, unless `pin_precision` asks for it at each of them.

Strong (10.0 and later, the only kind from 11 on): the types in the graph decide, no flag does. The host hands over a
graph with Casts, islands included. What is left to do here is to make sure of it.

An island in FP32 between layers that are all pinned to FP16, and a builder that must obey, leave no implementation
for what TensorRT fuses across the border. Measured on an H200 with TensorRT 8.6.0: `No supported formats for
b0_up + b0_relu`, where the island has b0_up and the ReLU that is fused into it is pinned to FP16. Such builds fail
within two seconds, so trying again costs little; a build that succeeds is never touched.
"""

from typing import Any, Dict, FrozenSet, Iterable, Iterator, List, NamedTuple, Set, Tuple

from ...protocol import BuildRequest, Fault
from .. import dtypes
from ..network import Graph, Layer, NodeMap

#: No precision is set on these: they compute nothing in floating point, or TensorRT refuses it. A Cast's output
#: type is its meaning; Q/DQ layers have theirs.
_UNTOUCHED = frozenset(
    (
        *("SHAPE", "CAST", "QUANTIZE", "DEQUANTIZE", "ASSERTION", "CONSTANT"),
        *("TRIP_LIMIT", "RECURRENCE", "ITERATOR", "LOOP_OUTPUT"),
        *("CONDITION", "CONDITIONAL_INPUT", "CONDITIONAL_OUTPUT"),
    )
)


_LOW = {"fp16": "float16", "bf16": "bfloat16"}


class Weak:
    """The calls of weak typing."""

    name = "weak"

    def __init__(self, trt: Any) -> None:
        self._trt = trt
        self._islands: Set[int] = set()
        self._lowered: Set[int] = set()

    def check(self, graph: Graph, request: BuildRequest) -> None:
        """Refuse what weak typing cannot do.

        Raises:
            Fault: `unsupported`.
        """
        quantized = _is_quantized(graph)
        if request.precision == "fp8" and not quantized:
            raise Fault(
                "unsupported",
                "fp8 needs a model with Q/DQ nodes, this one has none: quantize it, or use fp16",
            )
        if request.precision == "int8" and not quantized and not request.calibration:
            raise Fault(
                "unsupported", "int8 needs a model with Q/DQ nodes or calibration data, and there is neither"
            )
        if request.precision == "tf32" and request.islands:
            raise Fault(
                "unsupported",
                "TensorRT has no TF32 by layer, so an island cannot leave it: compare with fp32 instead",
            )

    def configure(self, config: Any, request: BuildRequest, graph: Graph) -> None:
        """Set the flags of the precision, of what the graph is quantized to, and the one that makes islands hold."""
        trt = self._trt
        if request.precision not in ("fp8", "int8") and _is_quantized(graph):
            # Whatever is asked for between Q/DQ pairs, TensorRT must know that there are some.
            quantized_to = {
                graph.tensors[name].dtype.name for layer in graph.layers for name in layer.outputs
            }
            config.set_flag(trt.BuilderFlag.FP8 if "FP8" in quantized_to else trt.BuilderFlag.INT8)
        if request.precision == "fp16":
            config.set_flag(trt.BuilderFlag.FP16)
        elif request.precision == "bf16":
            config.set_flag(trt.BuilderFlag.BF16)
        elif request.precision == "fp8":
            config.set_flag(trt.BuilderFlag.FP8)
        elif request.precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)
        if request.islands:
            config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        elif request.options.pin_precision:
            # A layer without an implementation at the precision is no reason to fail.
            config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)

    def keep_islands(self, graph: Graph, nodes: NodeMap, request: BuildRequest) -> Dict[str, Tuple[str, ...]]:
        """Pin the layers of the islands to FP32, and all others to the precision if `pin_precision` asks for it.

        Returns:
            node of an island → names of its layers pinned; empty for a node without a floating-point layer.
        """
        trt = self._trt
        pinned: Dict[str, Tuple[str, ...]] = {}
        indices: Set[int] = set()
        for node in request.islands:
            layers = [graph.layers[index] for index in nodes.layers_of.get(node, ())]
            layers = [layer for layer in layers if _is_float_layer(layer, graph)]
            for layer in layers:
                layer.handle.precision = trt.DataType.FLOAT
                self._type_outputs(layer, graph)
            indices.update(layer.index for layer in layers)
            pinned[node] = tuple(layer.name for layer in layers)
        for layer in _constants_of(graph, indices):
            layer.handle.precision = trt.DataType.FLOAT
            self._type_outputs(layer, graph)
        self._islands = indices
        if self.is_pinning(request):
            self._pin_rest(graph, indices, dtypes.of_name(trt, _LOW[request.precision]))
        return pinned

    @staticmethod
    def is_pinning(request: BuildRequest) -> bool:
        """Whether the layers outside of the islands are pinned to the precision."""
        return request.options.pin_precision and request.precision in _LOW

    def free_neighbours(self, graph: Graph) -> Tuple[str, ...]:
        """Leave to the builder what writes the tensors that an island reads, and what reads those that it writes.

        Returns:
            names of the layers whose precision and output types were reset.
        """
        around: Set[int] = set()
        for layer in (graph.layers[index] for index in self._islands):
            around.update(graph.producers[name] for name in layer.inputs if name in graph.producers)
            around.update(index for name in layer.outputs for index in graph.consumers.get(name, ()))
        freed = [graph.layers[index] for index in sorted(around & self._lowered)]
        for layer in freed:
            layer.handle.reset_precision()
            for index, name in enumerate(layer.outputs):
                # A mark has the dtype under test whoever computes it: without, it is FP32, and may cure.
                if layer.handle.output_type_is_set(index) and not graph.tensors[name].is_network_output:
                    layer.handle.reset_output_type(index)
        self._lowered.difference_update(layer.index for layer in freed)
        return tuple(layer.name for layer in freed)

    def prefer(self, config: Any) -> None:
        """Let precisions be wishes. The two flags exclude each other."""
        flags = self._trt.BuilderFlag
        config.clear_flag(flags.OBEY_PRECISION_CONSTRAINTS)
        config.set_flag(flags.PREFER_PRECISION_CONSTRAINTS)

    def _pin_rest(self, graph: Graph, islands: Set[int], dtype: Any) -> None:
        for layer in graph.layers:
            shaped = any(graph.tensors[name].is_shape_tensor for name in layer.inputs)
            if layer.index in islands or shaped or not _is_float_layer(layer, graph):
                continue
            layer.handle.precision = dtype
            self._lowered.add(layer.index)
            for index, name in enumerate(layer.outputs):
                tensor = graph.tensors[name]
                if dtypes.is_float(tensor.dtype) and not tensor.is_network_output:
                    layer.handle.set_output_type(index, dtype)

    def _type_outputs(self, layer: Layer, graph: Graph) -> None:
        for index, name in enumerate(layer.outputs):
            if dtypes.is_float(graph.tensors[name].dtype):
                layer.handle.set_output_type(index, self._trt.DataType.FLOAT)

    def type_mark(self, tensor: Any, dtype: str) -> None:
        """Give a marked output its dtype. Left as it is, it is FP32, and the layer that writes it too."""
        tensor.dtype = dtypes.of_name(self._trt, dtype)


def _is_quantized(graph: Graph) -> bool:
    return any(layer.kind in ("QUANTIZE", "DEQUANTIZE") for layer in graph.layers)


def island_tensors(graph: Graph, nodes: NodeMap, islands: Iterable[str]) -> FrozenSet[str]:
    """The tensors that the layers of `islands` write."""
    return frozenset(
        name
        for node in islands
        for index in nodes.layers_of.get(node, ())
        for name in graph.layers[index].outputs
    )


def _is_float_layer(layer: Layer, graph: Graph) -> bool:
    """Whether a precision may be set: setting one on integer or shape arithmetic fails the build of 8.x."""
    if layer.kind in _UNTOUCHED:
        return False
    floats = [
        [graph.tensors[name] for name in names if dtypes.is_float(graph.tensors[name].dtype)]
        for names in (layer.inputs, layer.outputs)
    ]
    reads, writes = floats
    # An Identity from integers to floats is a cast; a Select reads its condition beside its floats.
    if not writes or (layer.inputs and not reads):
        return False
    return not any(tensor.is_shape_tensor for tensor in (*reads, *writes))


def _constants_of(graph: Graph, pinned: Set[int]) -> List[Layer]:
    """Float constants that only pinned layers read: weights that would be rounded on their way in."""
    found: List[Layer] = []
    for layer in graph.layers:
        if layer.kind != "CONSTANT":
            continue
        readers = {index for name in layer.outputs for index in graph.consumers.get(name, ())}
        tensors = [graph.tensors[name] for name in layer.outputs]
        if readers and readers <= pinned and all(dtypes.is_float(tensor.dtype) for tensor in tensors):
            found.append(layer)
    return [
        layer for layer in found if not any(graph.tensors[name].is_shape_tensor for name in layer.outputs)
    ]


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
        if request.precision in ("fp8", "int8") and not _is_quantized(graph):
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


class Relaxed(NamedTuple):
    """What was given up: its name in `RealisedPrecision`, and what it means, for a person."""

    name: str
    warning: str


def relaxation_steps(typing: Weak, graph: Graph, config: Any, request: BuildRequest) -> Iterator[Relaxed]:
    """Ask for less, step by step: each is in force on the network and its configuration once it is drawn.

    Nothing is relaxed without islands in a pinned network; nor where tactics are recorded or ordered, for these belong
    to the network that was asked for.
    """
    if not request.islands or not request.options.pin_precision or request.tactics is not None:
        return
    freed = typing.free_neighbours(graph)
    if freed:
        shown = ", ".join(freed[:5]) + (" and {} more".format(len(freed) - 5) if len(freed) > 5 else "")
        yield Relaxed(
            "neighbours_free",
            "the layers around the island are not pinned to {} ({})".format(request.precision, shown),
        )
    if typing.is_pinning(request):
        typing.prefer(config)
        text = "the precisions are preferred, not obeyed: TensorRT may compute in another one"
        if freed:
            text = "the layers around the island are not pinned to {}, and {}".format(request.precision, text)
        yield Relaxed("preferred", text)
