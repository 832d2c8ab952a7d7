"""What TensorRT calls back: debug tensors, outputs whose size is not known before, layer times.

An exception in a callback is swallowed or ends the process: each collects its errors instead.
"""

import ctypes
from typing import Any, Dict, List, Tuple

import numpy as np

from ..protocol import STORAGE, Tensor
from . import dtypes
from .cuda import Buffer, Cuda


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
    """A `trt.IProfiler` that keeps the milliseconds of each layer and run in its `times`."""

    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: Dict[str, List[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.setdefault(layer_name, []).append(float(ms))

    return Profiler()
