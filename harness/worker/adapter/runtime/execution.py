"""Running an engine: inputs in, tensors out, all of them linear in memory and on one stream; and how long that takes.

TensorRT calls back with debug tensors, with outputs whose size is not known before, and with the times of layers. An
exception in a callback is swallowed or ends the process: each collects its errors instead.
"""

import ctypes
import math
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from ...protocol import STORAGE, Fault, Latency, Tensor, TensorSpec, create_tensor_file
from .. import dtypes
from .cuda import Buffer, Cuda


class Execution:
    """An execution context of an engine, with the memory that its tensors need. It is made when it is first needed.

    Args:
        trt: the `tensorrt` module.
        engine: a `trt.ICudaEngine`.
        cuda: the GPU.
        debug: None, `marked` or `unfused`: which debug tensors the engine has.
        config: the `trt.IRuntimeConfig` of its contexts, if they have one.

    Whatever needs the context raises a Fault of `no_context`, `cuda_error` or `out_of_memory` if none can be made.
    """

    def __init__(
        self,
        trt: Any,
        engine: Any,
        cuda: Cuda,
        debug: Optional[str] = None,
        config: Optional[Any] = None,
    ) -> None:
        self._trt, self._engine, self._cuda, self._debug, self._config = trt, engine, cuda, debug, config
        self.inputs, self.outputs = _io(trt, engine)
        self._buffers = {name: Buffer(cuda) for name in (*self.inputs, *self.outputs)}
        self._host: Dict[str, Any] = {}
        self._allocators: Dict[str, Any] = {}
        self._listener: Optional[Any] = None
        if debug is not None:
            self._listener = make_debug_listener(trt, cuda)
        self._context: Optional[Any] = None

    @property
    def context(self) -> Any:
        """The `trt.IExecutionContext`."""
        if self._context is None:
            self._context = self._new_context()
        return self._context

    def prepare(self) -> None:
        """Make the context now."""
        _ = self.context

    @property
    def is_ready(self) -> bool:
        """Whether there is a context."""
        return self._context is not None

    def _new_context(self) -> Any:
        given = {} if self._config is None else {"runtime_config": self._config}
        context = self._engine.create_execution_context(**given)
        if context is None:
            self._cuda.check_health()
            raise Fault(
                "no_context",
                "TensorRT made no execution context: its log says why, often too little GPU memory",
            )
        if self._listener is not None and not context.set_debug_listener(self._listener):
            raise Fault("internal", "TensorRT rejected the debug listener")
        return context

    def renew(self) -> None:
        """Replace the context, with the same shapes and tensors: a profiler cannot be taken off again.

        The old one goes first. Up to 8.6 an optimization profile serves one context at a time, and what runs in a
        second one of an engine with dynamic shapes ends in a segmentation fault.
        """
        shapes = {name: tuple(self.context.get_tensor_shape(name)) for name in self.inputs}
        self._context = None
        self.set_shapes(shapes)
        self.bind()

    def set_shapes(self, shapes: Mapping[str, Tuple[int, ...]]) -> None:
        """Give the inputs their shapes.

        Raises:
            Fault: `bad_request`: a shape that the engine was not built for.
        """
        for name, shape in shapes.items():
            if not self.context.set_input_shape(name, shape):
                raise Fault(
                    "bad_request",
                    "input {!r} cannot have the shape {}: the engine was built for {}".format(
                        name, shape, self._range(name)
                    ),
                )

    def _range(self, name: str) -> str:
        shape = tuple(self._engine.get_tensor_shape(name))
        if all(extent >= 0 for extent in shape):
            return str(shape)
        return " … ".join(str(tuple(dims)) for dims in self._engine.get_tensor_profile_shape(name, 0)[::2])

    def feed(self, tensors: Mapping[str, Tensor]) -> None:
        """Bring the inputs to where the engine reads them.

        Raises:
            Fault: `bad_request`: an input that is missing, unknown, or does not fit.
        """
        missing = [name for name in self.inputs if name not in tensors]
        unknown = [name for name in tensors if name not in self.inputs]
        if missing or unknown:
            raise Fault(
                "bad_request",
                "the engine takes inputs {}, and was given {}".format(
                    ", ".join(map(repr, self.inputs)), ", ".join(map(repr, tensors))
                ),
            )
        arrays = {}
        for name in self.inputs:
            wanted = dtypes.name_of(self._engine.get_tensor_dtype(name), name)
            arrays[name] = dtypes.fit(tensors[name], wanted, name)
        self.set_shapes({name: array.shape for name, array in arrays.items()})
        for name, array in arrays.items():
            if self._on_host(name):
                self._host[name] = array
            else:
                self._cuda.upload(self._buffers[name].reserve(array.nbytes), array)

    def bind(self) -> None:
        """Give the context the addresses of all tensors, outputs made large enough.

        Raises:
            Fault: `bad_request`: shapes are missing; `out_of_memory`; `unsupported`: a format that is not linear.
        """
        for name in self.inputs:
            self._set_address(name, self._address(name))
        lacking = self.context.infer_shapes()
        if lacking:
            raise Fault("bad_request", "the shapes of {} are not determined".format(", ".join(lacking)))
        for name in self.outputs:
            self._bind_output(name)

    def _bind_output(self, name: str) -> None:
        if self._engine.get_tensor_format(name) != self._trt.TensorFormat.LINEAR:
            raise Fault("unsupported", "output {!r} is not laid out linearly".format(name))
        storage = STORAGE[dtypes.name_of(self._engine.get_tensor_dtype(name), name)]
        shape = tuple(self.context.get_tensor_shape(name))
        if any(extent < 0 for extent in shape):
            # How large it is depends on the data: TensorRT asks for memory when it knows.
            if name not in self._allocators:
                self._allocators[name] = make_output_allocator(self._trt, self._buffers[name])
            self._buffers[name].reserve(0)
            if not self.context.set_output_allocator(name, self._allocators[name]):
                raise Fault("internal", "TensorRT rejected an allocator for {!r}".format(name))
            return
        self._allocators.pop(name, None)
        if self._on_host(name):
            self._host[name] = np.empty(shape, storage)
        else:
            self._buffers[name].reserve(math.prod(shape) * storage.itemsize)
        self._set_address(name, self._address(name))

    def _set_address(self, name: str, address: int) -> None:
        if not self.context.set_tensor_address(name, address):
            raise Fault("internal", "TensorRT rejected the address of {!r}".format(name))

    def _address(self, name: str) -> int:
        if name in self._host:
            return int(self._host[name].ctypes.data)
        return self._buffers[name].reserve(0)

    def _on_host(self, name: str) -> bool:
        return bool(self._engine.get_tensor_location(name) == self._trt.TensorLocation.HOST)

    def enqueue(self) -> None:
        """Start one inference.

        Raises:
            Fault: `cuda_error` or `out_of_memory`, or `not_started` where CUDA has nothing to say.
        """
        if not self.context.execute_async_v3(self._cuda.stream):
            self._cuda.check_health()
            raise Fault("not_started", "TensorRT could not start the inference")

    def run(self, debug: bool = False) -> Tuple[str, ...]:
        """One inference that fills the outputs, and with `debug` the debug tensors; what went wrong with these.

        Raises:
            Fault: `cuda_error`, `out_of_memory`.
        """
        if self._listener is not None:
            self._listener.tensors.clear()
            self._listener.errors.clear()
        self._set_debugging(debug)
        self.enqueue()
        self._cuda.synchronize()
        self._set_debugging(False)
        failed = [error for allocator in self._allocators.values() for error in allocator.errors]
        if failed:
            raise Fault("out_of_memory", failed[0])
        return tuple(self._listener.errors) if self._listener is not None else ()

    def _set_debugging(self, on: bool) -> None:
        if self._listener is None:
            return
        if self._debug == "unfused":
            self.context.unfused_tensors_debug_state = on
        else:
            self.context.set_all_tensors_debug_state(on)

    def write_outputs(self, path: str) -> None:
        """Write the outputs of the last run, and the debug tensors, to a tensor file."""
        specs: List[TensorSpec] = []
        for name in self.outputs:
            dtype = dtypes.name_of(self._engine.get_tensor_dtype(name), name)
            allocator = self._allocators.get(name)
            shape = tuple(self.context.get_tensor_shape(name)) if allocator is None else allocator.shape
            specs.append(TensorSpec(name, dtype, shape))
        debugged = self._listener.tensors if self._listener is not None else {}
        debugged = {name: tensor for name, tensor in debugged.items() if name not in self.outputs}
        specs += [TensorSpec(name, tensor.dtype, tensor.array.shape) for name, tensor in debugged.items()]
        targets = create_tensor_file(path, specs)
        for name in self.outputs:
            if name in self._host:
                targets[name][...] = self._host[name]
            else:
                self._cuda.download(targets[name], self._buffers[name].address)
        for name, tensor in debugged.items():
            targets[name][...] = tensor.array

    def close(self) -> None:
        """Free the context, then its memory."""
        self._context = None
        self._config = None
        self._listener = None
        self._allocators.clear()
        for buffer in self._buffers.values():
            buffer.free()


def _io(trt: Any, engine: Any) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    """Names of the inputs and outputs of an engine."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = tuple(name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
    return inputs, tuple(name for name in names if name not in inputs)


def make_debug_listener(trt: Any, cuda: Cuda) -> Any:
    """A `trt.IDebugListener` that copies each debug tensor into its `tensors`."""

    class DebugListener(trt.IDebugListener):
        def __init__(self) -> None:
            trt.IDebugListener.__init__(self)
            self.tensors: Dict[str, Tensor] = {}
            self.errors: List[str] = []

        def process_debug_tensor(
            self, addr: int, location: Any, dtype: Any, shape: Any, name: str, stream: int
        ) -> bool:
            try:
                self.tensors[name] = self._copy(int(addr), location, dtype, tuple(shape), name, int(stream))
            except Exception as error:
                self.errors.append("debug tensor {!r}: {}".format(name, error))
            return True

        def _copy(
            self, address: int, location: Any, dtype: Any, shape: Tuple[int, ...], name: str, stream: int
        ) -> Tensor:
            ours = dtypes.name_of(dtype, name)
            array = np.empty(shape, STORAGE[ours])
            if location == trt.TensorLocation.HOST:
                ctypes.memmove(array.ctypes.data, address, array.nbytes)
            else:
                cuda.download(array, address, stream)
            return Tensor(array, ours)

    return DebugListener()


def make_output_allocator(trt: Any, buffer: Buffer) -> Any:
    """A `trt.IOutputAllocator` for one output whose shape depends on data; `shape` is known after a run."""

    class OutputAllocator(trt.IOutputAllocator):
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.shape: Tuple[int, ...] = ()
            self.errors: List[str] = []

        def reallocate_output(self, tensor_name: str, memory: Any, size: int, alignment: int) -> Any:
            try:
                return buffer.reserve(int(size))
            except Exception as error:
                self.errors.append("output {!r}: {}".format(tensor_name, error))
                return None

        def reallocate_output_async(
            self, tensor_name: str, memory: Any, size: int, alignment: int, stream: int
        ) -> Any:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shape = tuple(shape)

    return OutputAllocator()


def make_profiler(trt: Any) -> Any:
    """A `trt.IProfiler` that keeps the milliseconds of each layer in its `times`: those of one name added up."""

    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: Dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times[layer_name] = self.times.get(layer_name, 0.0) + float(ms)

    return Profiler()


_PROFILED_RUNS = 5


def measure_latency(execution: Execution, cuda: Cuda, *, warmup: int, repeats: int) -> Latency:
    """Median and 99th percentile of `repeats` inferences on the GPU, without copies, in milliseconds.

    The tensors must be bound. The host waits for each one, so that no inference queues behind another.
    """
    for _ in range(warmup):
        execution.enqueue()
    cuda.synchronize()
    start, stop = cuda.event(), cuda.event()
    times = np.empty(repeats)
    try:
        for index in range(repeats):
            cuda.record(start)
            execution.enqueue()
            cuda.record(stop)
            times[index] = cuda.elapsed_ms(start, stop)
    finally:
        cuda.destroy_event(start)
        cuda.destroy_event(stop)
    return Latency(float(np.median(times)), float(np.percentile(times, 99)), repeats)


def time_layers(trt: Any, execution: Execution, cuda: Cuda) -> Dict[str, float]:
    """Median milliseconds of each engine layer, in a context of its own: a profiler slows what it watches.

    Layers of one name count as one.

    Raises:
        Fault: `no_context`, `out_of_memory`, `cuda_error`.
    """
    profiler = make_profiler(trt)
    execution.renew()
    execution.context.profiler = profiler
    runs: Dict[str, List[float]] = {}
    try:
        for _ in range(_PROFILED_RUNS):
            execution.enqueue()
            cuda.synchronize()
            for name, ms in profiler.times.items():
                runs.setdefault(name, []).append(ms)
            profiler.times = {}
    finally:
        execution.renew()
    return {name: float(np.median(times)) for name, times in runs.items()}
