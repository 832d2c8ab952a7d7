"""How the doubles behave: the engine, its inspector, and running it on ONNX Runtime."""

import ctypes
import json
import weakref
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from trt_compile import FLOATS, EngineLayer, Plan

_PROSE = {"FLOAT": "FP32", "HALF": "FP16", "INT8": "Int8", "INT32": "Int32", "BOOL": "Bool"}
_WORDS = {"FLOAT": "Float", "HALF": "Half", "BF16": "BFloat16", "INT8": "Int8", "INT32": "Int32"}
_NUMPY = {
    "FLOAT": np.dtype("float32"),
    "HALF": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP8": np.dtype(ml_dtypes.float8_e4m3fn),
    "INT8": np.dtype("int8"),
    "UINT8": np.dtype("uint8"),
    "INT32": np.dtype("int32"),
    "INT64": np.dtype("int64"),
    "BOOL": np.dtype("bool"),
}


#: What products in TF32 are off by.
TF32_ERROR = 4e-4


def host_memory(world: Any, content: bytes) -> Any:
    """An `IHostMemory`: bytes, as far as Python can tell."""
    return world.trt.IHostMemory.__new__(world.trt.IHostMemory, content)


class IHostMemory:
    bases = (bytes,)

    @property
    def nbytes(self: Any) -> int:
        return len(self)


def kernel_log(plan: Plan) -> str:
    """What TensorRT for RTX says of the kernels that it built."""

    def tensors(values: list[tuple[str, str]]) -> str:
        texts = (
            f"{{ Name: {name}, Dimensions: [], Datatype: {_WORDS.get(dtype, dtype)} }}"
            for name, dtype in values
        )
        return f"[ {', '.join(texts)}]" if values else "[]"

    lines = (
        f"Name: {layer.name}, LayerType: {layer.kind}, Inputs: {tensors(layer.inputs)}, Constants: [], Outputs: "
        f"{tensors(layer.outputs)}, TacticName: {layer.tactic}, StreamId: 0, Metadata: {layer.metadata}"
        for layer in plan.layers
    )
    return "\n".join(["Layers:", *lines]) + "\n\nI/O Tensors:\n"


class Runtime:
    def __init__(self: Any, logger: Any) -> None:
        self._world.callback(logger, "ILogger")

    def deserialize_cuda_engine(self: Any, serialized_engine: Any) -> Any:
        if not self._world.gpu or self._world.refuses is not None:
            self._world.say("ERROR", "IRuntime::deserializeCudaEngine: Error Code 1: Cuda Runtime")
            return None
        return self._world.make("ICudaEngine", plan=self._world.plans[bytes(serialized_engine)])

    def get_engine_validity(self: Any, buffer: Any) -> tuple[Any, int]:
        assert bytes(buffer) in self._world.plans
        trt, reason = self._world.trt, self._world.refuses or "UNSUPPORTED_CC"  # as 1.6 says of what it loads
        return trt.EngineValidity.INVALID, int(trt.EngineInvalidityDiagnostics.__members__[reason])


class ICudaEngine:
    @property
    def num_io_tensors(self: Any) -> int:
        return len(self._plan.inputs) + len(self._plan.outputs)

    def get_tensor_name(self: Any, index: int) -> str:
        return str([*self._plan.inputs, *self._plan.outputs][index])

    def get_tensor_mode(self: Any, name: str) -> Any:
        modes = self._world.trt.TensorIOMode.__members__
        return modes["INPUT" if name in self._plan.inputs else "OUTPUT"]

    def get_tensor_dtype(self: Any, name: str) -> Any:
        dtype, _ = {**self._plan.inputs, **self._plan.outputs}[name]
        return self._world.trt.DataType.__members__[dtype]

    def get_tensor_shape(self: Any, name: str) -> tuple[int, ...]:
        return {**self._plan.inputs, **self._plan.outputs}[name][1]

    def get_tensor_format(self: Any, name: str) -> Any:
        return self._world.trt.TensorFormat.__members__["LINEAR"]

    def get_tensor_location(self: Any, name: str) -> Any:
        return self._world.trt.TensorLocation.__members__["DEVICE"]

    def get_tensor_profile_shape(self: Any, name: str, profile_index: int) -> Any:
        return self._plan.profile[name]

    def create_runtime_config(self: Any) -> Any:
        return self._world.make("IRuntimeConfig", cache=None)

    def create_execution_context(self: Any, runtime_config: Any = None) -> Any:
        if runtime_config is not None and runtime_config._cache is not None:
            self._world.compile_kernels(self._plan, runtime_config._cache)
        if (
            self._world.without_tf32
            and self._world.version.startswith("1.4.")
            and not self._world.starts_nothing
        ):
            self._world.say("ERROR", "IExecutionContext: Error Code 1: cuDNN graph compilation failed")
            return None
        # Up to 8.6 a profile belongs to one context at a time; what the next one runs ends in a crash.
        contexts = self._world.contexts.setdefault(id(self._plan), weakref.WeakSet())
        profile = not (self._world.major < 10 and self._plan.profile and len(contexts))
        made = self._world.make(
            "IExecutionContext",
            has_profile=profile,
            plan=self._plan,
            shapes={},
            addresses={},
            allocators={},
            listener=None,
            debugging=False,
            observer=None,
            results={},
        )
        contexts.add(made)
        return made

    def create_engine_inspector(self: Any) -> Any:
        return self._world.make("EngineInspector", plan=self._plan, context=None)


class IRuntimeConfig:
    def create_runtime_cache(self: Any) -> Any:
        return self._world.make("IRuntimeCache", kernels=set())

    def set_runtime_cache(self: Any, cache: Any = None) -> bool:
        assert type(cache) is self._world.trt.IRuntimeCache
        self._cache = cache
        return True

    def get_runtime_cache(self: Any) -> Any:
        return self._cache


class IRuntimeCache:
    def serialize(self: Any) -> Any:
        lines = [f"kernels {self._world.version}", *sorted(self._kernels)]
        return host_memory(self._world, "\n".join(lines).encode())

    def deserialize(self: Any, blob: Any) -> bool:
        head, *kernels = bytes(blob).decode().split("\n")
        if head != f"kernels {self._world.version}":
            return False
        self._kernels.update(kernels)
        return True


class EngineInspector:
    @property
    def execution_context(self: Any) -> Any:
        return self._context

    @execution_context.setter
    def execution_context(self: Any, value: Any) -> None:
        self._context = value

    def get_engine_information(self: Any, format: Any) -> str:
        world = self._world
        assert world.member("LayerInformationFormat", format) == "JSON"
        shaped = self._context is not None and set(self._context._shapes) >= set(self._plan.profile)
        if world.names_only or not self._plan.detailed:
            entries: list[Any] = [layer.name for layer in self._plan.layers]
        elif world.opaque:
            entries = [_opaque(self._plan, world)]
        else:
            entries = [_entry(layer, world, shaped or not self._plan.profile) for layer in self._plan.layers]
        document: dict[str, Any] = {"Layers": entries}
        if world.major >= 11:
            document["I/O Tensors"] = [
                {
                    "Name": name,
                    "IOMode": mode,
                    "DataType": _WORDS.get(dtype, dtype),
                    "Dimensions": list(shape),
                }
                for mode, table in (("Input", self._plan.inputs), ("Output", self._plan.outputs))
                for name, (dtype, shape) in table.items()
            ]
        else:
            document["Bindings"] = [*self._plan.inputs, *self._plan.outputs]
        # The separators of metadata stand raw in the real document.
        return json.dumps(document).replace("\\u001e", "\x1e")


def _opaque(plan: Plan, world: Any) -> dict[str, Any]:
    first, last = plan.layers[0].name.split(" + ")[0], plan.layers[-1].name.split(" + ")[-1]
    ends = [_tensor(plan.layers[-1].outputs[0], world, True)]
    return {
        "Name": f"{{ForeignNode[{first}...{last}]}}",
        "LayerType": "Myelin",
        "Inputs": [],
        "Outputs": ends,
    }


#: What TensorRT for RTX calls kernels of these layers.
_RTX_KINDS = {"MatrixMultiply": "gemm", "Convolution": "correlation"}


def _entry(layer: EngineLayer, world: Any, shaped: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "Name": layer.name,
        "LayerType": _RTX_KINDS.get(layer.kind, layer.kind) if world.rtx else layer.kind,
        "Inputs": [_tensor(tensor, world, shaped) for tensor in layer.inputs],
        "Outputs": [_tensor(tensor, world, shaped) for tensor in layer.outputs],
        "TacticValue": f"0x{layer.tactic_id & 0xFFFFFFFFFFFFFFFF:016x}",
    }
    if layer.tactic:
        entry["TacticName"] = layer.tactic
    if "metadata" in dir(world.trt.ILayer):
        entry["Metadata"] = layer.metadata
    return entry


def _tensor(tensor: tuple[str, str], world: Any, shaped: bool) -> dict[str, Any]:
    name, dtype = tensor
    if world.major >= 11:
        return {"Name": name, "Format": "Row major linear (kLINEAR)", "Datatype": _WORDS.get(dtype, dtype)}
    prose = f"Row major linear {_PROSE.get(dtype, dtype)} format"
    text = _WORDS.get(dtype, dtype) if world.major >= 10 else prose
    return {
        "Name": name,
        "Location": "Device",
        "Format/Datatype": text if shaped else "N/A due to dynamic shapes",
    }


class IExecutionContext:
    def set_input_shape(self: Any, name: str, shape: Any) -> bool:
        _, declared = self._plan.inputs[name]
        given = tuple(int(extent) for extent in shape)
        if len(given) != len(declared):
            return False
        low, _, high = self._plan.profile.get(name, (declared,) * 3)
        if not all(a <= b <= c for a, b, c in zip(low, given, high, strict=True)):
            return False
        self._shapes[name] = given
        return True

    def get_tensor_shape(self: Any, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return tuple(self._shapes[name])
        _, declared = {**self._plan.inputs, **self._plan.outputs}[name]
        if -1 not in declared:
            return tuple(declared)
        feeds = {
            key: np.zeros(self._shapes.get(key, shape), _NUMPY[kind])
            for key, (kind, shape) in self._plan.inputs.items()
        }
        if _depends_on_data(self._plan.model, name):
            return tuple(declared)
        return _evaluate(self._plan, [name], feeds)[name].shape

    def set_tensor_address(self: Any, name: str, memory: int) -> bool:
        assert isinstance(memory, int)
        self._addresses[name] = memory
        return True

    def set_output_allocator(self: Any, name: str, output_allocator: Any) -> bool:
        self._allocators[name] = self._world.callback(output_allocator, "IOutputAllocator")
        return True

    def infer_shapes(self: Any) -> list[str]:
        return [
            name for name, (_, shape) in self._plan.inputs.items() if -1 in shape and name not in self._shapes
        ]

    @property
    def profiler(self: Any) -> Any:
        return self._observer

    @profiler.setter
    def profiler(self: Any, value: Any) -> None:
        self._observer = self._world.callback(value, "IProfiler")

    def set_debug_listener(self: Any, listener: Any) -> bool:
        self._listener = self._world.callback(listener, "IDebugListener")
        return True

    def set_all_tensors_debug_state(self: Any, flag: bool) -> bool:
        self._debugging = flag
        return True

    @property
    def unfused_tensors_debug_state(self: Any) -> bool:
        return bool(self._debugging)

    @unfused_tensors_debug_state.setter
    def unfused_tensors_debug_state(self: Any, value: bool) -> None:
        self._debugging = value

    def execute_async_v3(self: Any, stream_handle: int) -> bool:
        memory = self._world.memory
        assert self._has_profile, "segmentation fault: another context has the optimization profile"
        assert memory is None or stream_handle in memory.streams, "no such stream"
        if memory is not None and memory.broken:
            return False
        if self._world.without_tf32 and self._world.starts_nothing:
            self._world.say("ERROR", "IExecutionContext::enqueueV3: Error Code 1: Myelin (cudnn_graph.cpp)")
            return False
        feeds = {}
        for name, (dtype, _) in self._plan.inputs.items():
            feeds[name] = self._read(name, dtype)
        wanted = list(self._plan.outputs)
        wrong = sum(self._world.wrong(layer) for layer in self._plan.layers)
        for name, value in _evaluate(self._plan, wanted, feeds).items():
            value = value + wrong if wrong and value.dtype.kind == "f" else value
            if self._world.tf32 and not self._world.without_tf32 and value.dtype == np.float32:
                value = value * np.float32(1 + TF32_ERROR)
            self._write(name, value.astype(_NUMPY[self._plan.outputs[name][0]]))
        if self._debugging:
            self._emit_debug_tensors(feeds, stream_handle)
        if self._observer is not None:
            for layer in self._plan.layers:
                self._observer.report_layer_time(layer.name, 0.25)
        return True

    def _read(self: Any, name: str, dtype: str) -> np.ndarray:
        shape = self._shapes.get(name, self._plan.inputs[name][1])
        array = np.empty(shape, _NUMPY[dtype])
        self._check(self._addresses[name], array.nbytes)
        ctypes.memmove(array.ctypes.data, self._addresses[name], array.nbytes)
        return array

    def _write(self: Any, name: str, value: np.ndarray) -> None:
        value = np.ascontiguousarray(value).reshape(value.shape)
        address = self._addresses.get(name, 0)
        if name in self._allocators:
            allocator = self._allocators[name]
            address = allocator.reallocate_output(name, None, value.nbytes, 256)
            if address is None:
                return
            allocator.notify_shape(name, value.shape)
        self._check(address, value.nbytes)
        ctypes.memmove(address, value.ctypes.data, value.nbytes)

    def _check(self: Any, address: int, nbytes: int) -> None:
        assert self._world.memory is None or self._world.memory.holds(address, nbytes), (
            "outside of GPU memory"
        )

    def _emit_debug_tensors(self: Any, feeds: dict[str, np.ndarray], stream: int) -> None:
        kinds = {name: dtype for layer in self._plan.layers for name, dtype in layer.outputs}
        names = list(self._plan.debug)
        if self._plan.unfused:
            names = [
                name for name in kinds if kinds[name] in FLOATS and name in _tensor_names(self._plan.model)
            ]
        for name, value in _evaluate(self._plan, names, feeds).items():
            value = np.ascontiguousarray(value.astype(_NUMPY[kinds[name]])).reshape(value.shape)
            address = self._world.memory.allocate(value.nbytes)
            ctypes.memmove(address, value.ctypes.data, value.nbytes)
            trt = self._world.trt
            shown = name if not self._plan.unfused or kinds[name] == "FLOAT" else f"{name}_cast_1"
            dtype = trt.DataType.__members__[kinds[name]]
            assert self._listener.process_debug_tensor(
                address, trt.TensorLocation.__members__["DEVICE"], dtype, value.shape, shown, stream
            )
            self._world.memory.release(address)


def _tensor_names(model: onnx.ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in node.output}


def _depends_on_data(model: onnx.ModelProto, name: str) -> bool:
    """Whether a NonZero is upstream."""
    producers = {output: node for node in model.graph.node for output in node.output}
    waiting = [name]
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None:
            if node.op_type == "NonZero":
                return True
            waiting += node.input
    return False


def _evaluate(plan: Plan, names: list[str], feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ONNX Runtime's values; zeros for models that it cannot run on a CPU (BF16, FP8)."""
    session = _session(plan.model.SerializeToString(), tuple(names))
    if session is None:
        return {name: np.zeros(plan.outputs[name][1], np.float32) for name in names}
    wanted = {value.name: value.type for value in session.get_inputs()}
    given = {
        name: array.astype(
            {"tensor(int64)": np.int64, "tensor(double)": np.float64}.get(wanted[name], array.dtype)
        )
        for name, array in feeds.items()
    }
    return dict(zip(names, session.run(names, given), strict=True))


@cache
def _session(model: bytes, names: tuple[str, ...]) -> onnxruntime.InferenceSession | None:
    proto = onnx.load_from_string(model)
    present = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception:  # whatever ONNX Runtime raises
        if not _NOT_ON_A_CPU & set(_dtypes(proto.graph)):
            raise
        return None


_NOT_ON_A_CPU = {onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT8E4M3FN}


def _dtypes(graph: onnx.GraphProto) -> list[int]:
    """The dtypes of weights, and those that nodes cast or quantise to."""
    kinds = ("to", "output_dtype")
    cast = [each.i for node in graph.node for each in node.attribute if each.name in kinds]
    values = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)]
    return [*cast, *values, *(weight.data_type for weight in graph.initializer)]
