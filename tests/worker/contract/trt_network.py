"""How the doubles behave: networks, their layers and tensors, and the ONNX parser."""

import weakref
from typing import Any

import onnx
from trt_importer import Importer, Unsupported


class ITensor:
    @property
    def name(self: Any) -> str:
        return str(self._name)

    @property
    def dtype(self: Any) -> Any:
        return self._world.trt.DataType.__members__[self._dtype]

    @dtype.setter
    def dtype(self: Any, value: Any) -> None:
        wanted = self._world.member("DataType", value)
        assert self._io != "", f"the dtype of {self._name!r} is set, but it is no input or output: no effect"
        self._dtype = wanted

    @property
    def shape(self: Any) -> tuple[int, ...]:
        return tuple(self._shape)

    @property
    def is_network_input(self: Any) -> bool:
        return bool(self._io == "input")

    @property
    def is_network_output(self: Any) -> bool:
        return bool(self._io == "output")

    @property
    def is_shape_tensor(self: Any) -> bool:
        return bool(self._shape_tensor)


class ILayer:
    @property
    def name(self: Any) -> str:
        return str(self._name)

    @property
    def type(self: Any) -> Any:
        return self._world.trt.LayerType.__members__[self._kind]

    @property
    def metadata(self: Any) -> str:
        return str(self._metadata)

    @property
    def num_inputs(self: Any) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self: Any) -> int:
        return len(self._outputs)

    def get_input(self: Any, index: int) -> Any:
        return self._inputs[index]

    def get_output(self: Any, index: int) -> Any:
        return self._outputs[index]

    @property
    def precision(self: Any) -> Any:
        return self._world.trt.DataType.__members__[self._precision or "FLOAT"]

    @precision.setter
    def precision(self: Any, value: Any) -> None:
        self._precision = self._world.member("DataType", value)

    def reset_precision(self: Any) -> None:
        self._precision = None

    def reset_output_type(self: Any, index: int) -> None:
        assert 0 <= index < len(self._outputs), f"{self._name!r} has no output {index}"
        self._types.pop(index, None)

    @property
    def precision_is_set(self: Any) -> bool:
        return self._precision is not None

    def output_type_is_set(self: Any, index: int) -> bool:
        return index in self._types

    def get_output_type(self: Any, index: int) -> Any:
        name = self._types.get(index, self._outputs[index]._dtype)
        return self._world.trt.DataType.__members__[name]

    def set_output_type(self: Any, index: int, dtype: Any) -> None:
        assert self._kind != "CAST", "the output type of a Cast is its meaning"
        self._types[index] = self._world.member("DataType", dtype)


class INetworkDefinition:
    @property
    def num_inputs(self: Any) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self: Any) -> int:
        return len(self._outputs)

    @property
    def num_layers(self: Any) -> int:
        return len(self._layers)

    def get_input(self: Any, index: int) -> Any:
        return self._inputs[index]

    def get_output(self: Any, index: int) -> Any:
        return self._outputs[index]

    def get_layer(self: Any, index: int) -> Any:
        return self._layers[index]

    def add_input(self: Any, name: str, dtype: Any, shape: Any) -> Any:
        made = self._tensor(name, self._world.member("DataType", dtype), tuple(shape), "input")
        self._inputs.append(made)
        return made

    def add_identity(self: Any, input: Any) -> Any:
        output = self._tensor("identity_output", input._dtype, input._shape, "")
        state = {"precision": None, "types": {}, "metadata": ""}
        made = self._world.make(
            "ILayer", name="identity", kind="IDENTITY", inputs=[input], outputs=[output], **state
        )
        self._layers.append(made)
        return made

    def _tensor(self: Any, name: str, dtype: str, shape: tuple[int, ...], io: str) -> Any:
        state = {"io": io, "shape_tensor": False, "network": self}
        self._tensors[name] = self._world.make("ITensor", name=name, dtype=dtype, shape=shape, **state)
        return self._tensors[name]

    def mark_output(self: Any, tensor: Any) -> None:
        assert tensor._io == "", f"{tensor._name!r} is an {tensor._io} already"
        tensor._io = "output"
        self._outputs.append(tensor)

    def mark_debug(self: Any, tensor: Any) -> bool:
        self._debug.append(tensor._name)
        return True

    def mark_unfused_tensors_as_debug_tensors(self: Any) -> bool:
        self._unfused = True
        return True


class ParserError:
    def code(self: Any) -> Any:
        return self._world.trt.ErrorCode.__members__[self._code]

    def desc(self: Any) -> str:
        return str(self._desc)

    def node(self: Any) -> int:
        return int(self._node)

    def node_name(self: Any) -> str:
        return str(self._node_name)

    def node_operator(self: Any) -> str:
        return str(self._op)


class OnnxParser:
    def __init__(self: Any, network: Any, logger: Any) -> None:
        self._world.callback(logger, "ILogger")
        self._network, self._errors = network, []
        network._parser = weakref.ref(self)  # the weights are the parser's

    def parse_from_file(self: Any, model: str) -> bool:
        try:
            loaded = onnx.load(model)
        except Exception as error:
            self._fail("MODEL_DESERIALIZE_FAILED", str(error), -1, "", "")
            return False
        try:
            Importer(self._network, self._world, loaded).run()
        except Unsupported as error:
            self._fail(error.code, error.reason, error.index, error.name, error.op)
            return False
        return True

    def _fail(self: Any, code: str, desc: str, node: int, name: str, op: str) -> None:
        made = self._world.make("ParserError", code=code, desc=desc, node=node, node_name=name, op=op)
        self._errors.append(made)

    @property
    def num_errors(self: Any) -> int:
        return len(self._errors)

    def get_error(self: Any, index: int) -> Any:
        return self._errors[index]
