"""How the doubles behave: from an ONNX graph to the layers and tensors of a network.

Layers are named as TensorRT's parser names them: a node's main layer after the node, helpers
`(Unnamed Layer* 3) [Shuffle]`, further layers of a node with a number; from 8.6 on with metadata.
"""

from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto

_KINDS = {
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh"), "ACTIVATION"),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Greater"), "ELEMENTWISE"),
    **dict.fromkeys(("Sqrt", "Exp", "Abs"), "UNARY"),
    **dict.fromkeys(("Reshape", "Transpose", "Unsqueeze", "Flatten"), "SHUFFLE"),
    "Conv": "CONVOLUTION",
    "MatMul": "MATRIX_MULTIPLY",
    "ReduceMean": "REDUCE",
    "Softmax": "SOFTMAX",
    "Shape": "SHAPE",
    "Gather": "GATHER",
    "Concat": "CONCATENATION",
    "Identity": "IDENTITY",
    "Where": "SELECT",
    "NonZero": "NON_ZERO",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
}
_DTYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.DOUBLE: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}


@dataclass
class Unsupported(Exception):
    code: str
    reason: str
    index: int
    name: str
    op: str


class Importer:
    """Fills a network from an ONNX graph."""

    def __init__(self, network: Any, world: Any, model: onnx.ModelProto) -> None:
        self._network, self._world = network, world
        self._model = onnx.shape_inference.infer_shapes(model)
        self._initializers = {item.name: item for item in model.graph.initializer}
        self._types: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._suffix = 0
        self._metadata = ""
        network._model = model

    def run(self) -> None:
        graph = self._model.graph
        self._learn_types(graph)
        for value in graph.input:
            if value.name not in self._initializers:
                self._network._inputs.append(self._tensor(value.name, io="input"))
        for index, node in enumerate(graph.node):
            self._add(index, node)
        for value in graph.output:
            tensor = self._network._tensors[value.name]
            tensor._io = "output"
            self._network._outputs.append(tensor)

    def _learn_types(self, graph: onnx.GraphProto) -> None:
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
            self._types[value.name] = (kind.elem_type, shape)
        for name, item in self._initializers.items():
            self._types[name] = (item.data_type, tuple(item.dims))

    def _tensor(self, name: str, *, io: str = "", like: str | None = None) -> Any:
        elem, shape = self._types[like or name]
        dtype = _DTYPES[elem]
        if dtype == "INT64" and self._world.major < 10:
            dtype = "INT32"
        if dtype not in self._world.trt.DataType.__members__:
            raise Unsupported("UNSUPPORTED_NODE", f"{dtype} is not supported", 0, name, "")
        made = self._world.make(
            "ITensor", name=name, dtype=dtype, shape=shape, io=io, shape_tensor=False, network=self._network
        )
        self._network._tensors[name] = made
        return made

    def _layer(self, kind: str, name: str | None, inputs: list[Any], outputs: list[Any]) -> None:
        names = {layer._name for layer in self._network._layers}
        if name is None:
            name = self._unnamed(kind)
        while name in names:
            self._suffix += 1
            name = f"{name}_{self._suffix}"
        made = self._world.make(
            "ILayer",
            name=name,
            kind=kind,
            inputs=inputs,
            outputs=outputs,
            precision=None,
            types={},
            metadata="" if name.startswith("(Unnamed") else self._metadata,
        )
        self._network._layers.append(made)

    def _unnamed(self, kind: str) -> str:
        return f"(Unnamed Layer* {len(self._network._layers)}) [{kind.title()}]"

    def _helper(self, kind: str, inputs: list[Any], like: str) -> Any:
        output = self._tensor(f"{self._unnamed(kind)}_output", like=like)
        self._layer(kind, None, inputs, [output])
        return output

    def _read(self, name: str) -> Any:
        if name == "":
            return None
        if name in self._initializers:
            output = self._tensor(f"{self._unnamed('Constant')}_output", like=name)
            self._layer("CONSTANT", name, [], [output])
            return output
        return self._network._tensors[name]

    def _add(self, index: int, node: onnx.NodeProto) -> None:
        self._metadata = f"[ONNX Layer: {node.name}]"
        special = getattr(self, f"_add_{node.op_type.lower()}", None)
        if special is not None:
            special(node)
            return
        if node.domain or node.op_type not in _KINDS:
            raise Unsupported(
                "UNSUPPORTED_NODE", f"no importer for {node.op_type}", index, node.name, node.op_type
            )
        inputs = [
            self._read(name)
            for name in node.input
            if node.op_type != "Conv" or name not in self._initializers
        ]
        if node.op_type in ("Add", "Mul", "Div", "Pow") and "CONSTANT" in self._producers(inputs):
            broadcast = self._helper("SHUFFLE", [inputs[-1]], node.input[-1])
            inputs[-1] = broadcast
        outputs = [self._tensor(name) for name in node.output if name]
        self._layer(_KINDS[node.op_type], node.name, inputs, outputs)
        if node.op_type == "Reshape" and inputs[1] is not None:
            inputs[1]._shape_tensor = True

    def _producers(self, tensors: list[Any]) -> list[str]:
        return [
            layer._kind
            for layer in self._network._layers
            if any(output is tensor for output in layer._outputs for tensor in tensors)
        ]

    def _add_cast(self, node: onnx.NodeProto) -> None:
        kind = "CAST" if "CAST" in self._world.trt.LayerType.__members__ else "IDENTITY"
        self._layer(kind, node.name, [self._read(node.input[0])], [self._tensor(node.output[0])])

    def _add_constant(self, node: onnx.NodeProto) -> None:
        self._layer("CONSTANT", node.name, [], [self._tensor(node.output[0])])

    def _add_gemm(self, node: onnx.NodeProto) -> None:
        """A product, a bias made as wide as it, and a sum that has the node's name and a number."""
        product = self._tensor(f"{node.output[0]}__product", like=node.output[0])
        self._layer("MATRIX_MULTIPLY", node.name, [self._read(name) for name in node.input[:2]], [product])
        bias = self._helper("SHUFFLE", [self._read(node.input[2])], node.input[2])
        self._layer("ELEMENTWISE", node.name, [product, bias], [self._tensor(node.output[0])])

    def _add_layernormalization(self, node: onnx.NodeProto) -> None:
        """One layer from 8.6 on, and a chain of layers without names before."""
        reads = [self._read(name) for name in node.input]
        if "NORMALIZATION" in self._world.trt.LayerType.__members__:
            self._layer("NORMALIZATION", node.name, reads, [self._tensor(node.output[0])])
            return
        mean = self._helper("REDUCE", reads[:1], node.output[0])
        centred = self._helper("ELEMENTWISE", [reads[0], mean], node.output[0])
        scaled = self._helper("UNARY", [centred], node.output[0])
        self._layer("ELEMENTWISE", None, [scaled, *reads[1:2]], [self._tensor(node.output[0])])

    def _add_if(self, node: onnx.NodeProto) -> None:
        self._layer("CONDITION", None, [self._read(node.input[0])], [])
        ends = []
        for attribute in node.attribute:
            ends.append(self._add_body(attribute.g, "CONDITIONAL_INPUT"))
        self._metadata = f"[ONNX Layer: {node.name}]"
        outputs = [self._tensor(name) for name in node.output]
        self._layer("CONDITIONAL_OUTPUT", f"{node.name}_OutputLayer", [end[0] for end in ends], outputs)

    def _add_loop(self, node: onnx.NodeProto) -> None:
        self._layer("TRIP_LIMIT", None, [self._read(node.input[0])], [])
        body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
        state = self._tensor(body.input[2].name, like=node.input[2])
        recurrence = [self._read(node.input[2])]
        self._layer("RECURRENCE", None, recurrence, [state])
        ends = self._add_body(body, None)
        self._metadata = f"[ONNX Layer: {node.name}]"
        recurrence.append(ends[1])
        self._layer("LOOP_OUTPUT", f"{node.name}_LoopOutput", [ends[1]], [self._tensor(node.output[0])])

    def _add_body(self, graph: onnx.GraphProto, entry: str | None) -> list[Any]:
        self._learn_types(graph)
        for item in graph.initializer:
            self._initializers[item.name] = item
            self._types[item.name] = (item.data_type, tuple(item.dims))
        own = {name for node in graph.node for name in node.output}
        for node in graph.node:
            for position, name in enumerate(node.input if entry is not None else ()):
                outer = self._network._tensors.get(name)
                if outer is not None and name not in own:
                    inner = self._tensor(f"inside {graph.name} {name}", like=name)
                    self._layer(str(entry), None, [outer], [inner])
                    node.input[position] = inner._name
            if all(name in self._network._tensors or name in self._initializers for name in node.input):
                self._add(0, node)
        return [self._network._tensors.get(value.name) for value in graph.output]
