# ruff: noqa: N802 - the names are those of libcudart
"""libcudart on host memory: as strict as a GPU about what lies where, and it can run out or break."""

import ctypes
from typing import Any

SUCCESS, OUT_OF_MEMORY, ILLEGAL_ADDRESS = 0, 2, 700
_NAMES = {
    OUT_OF_MEMORY: b"cudaErrorMemoryAllocation",
    ILLEGAL_ADDRESS: b"cudaErrorIllegalAddress",
    35: b"cudaErrorInsufficientDriver",
    100: b"cudaErrorNoDevice",
}


class _Function:
    """A function of a library: callable, with attributes such as `restype`."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.restype: Any = ctypes.c_int

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)


class CudaDouble:
    """What `ctypes.CDLL("libcudart.so")` gives, and the memory behind it.

    Args:
        capacity: bytes of the GPU.
    """

    def __init__(self, capacity: int = 1 << 30) -> None:
        self.capacity = capacity
        self.blocks: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.events: dict[int, float] = {}
        #: A sticky error: from now on every call that waits returns it.
        self.broken = SUCCESS
        #: What the calls that look for a GPU return.
        self.absent = SUCCESS
        self._handles = iter(range(0x1000, 0x100000))
        self._clock = 0.0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        function = _Function(getattr(self, "_" + name))
        setattr(self, name, function)
        return function

    def holds(self, address: int, nbytes: int) -> bool:
        """Whether `nbytes` at `address` lie in one allocation."""
        return any(
            start <= address and address + nbytes <= start + len(block)
            for start, block in self.blocks.items()
        )

    def allocate(self, nbytes: int) -> int:
        """Memory, for who is on the GPU already."""
        block = ctypes.create_string_buffer(max(nbytes, 1))
        address = ctypes.addressof(block)
        self.blocks[address] = block
        return address

    def release(self, address: int) -> None:
        """Free it."""
        del self.blocks[address]

    def _cudaMalloc(self, pointer: Any, size: Any) -> int:
        if self.absent:
            return self.absent
        if sum(len(block) for block in self.blocks.values()) + size.value > self.capacity:
            return OUT_OF_MEMORY
        pointer._obj.value = self.allocate(size.value)
        return self.broken

    def _cudaFree(self, pointer: Any) -> int:
        self.release(pointer.value)
        return self.broken

    def _cudaMemcpyAsync(self, target: Any, source: Any, size: Any, kind: Any, stream: Any) -> int:
        assert stream.value in self.streams
        on_gpu = target if kind.value == 1 else source
        if not self.holds(on_gpu.value, size.value):
            self.broken = ILLEGAL_ADDRESS
        else:
            ctypes.memmove(target.value, source.value, size.value)
        return self.broken

    def _cudaStreamCreate(self, handle: Any) -> int:
        if self.absent:
            return self.absent
        handle._obj.value = next(self._handles)
        self.streams.add(handle._obj.value)
        return self.broken

    def _cudaStreamSynchronize(self, stream: Any) -> int:
        assert stream.value in self.streams
        return self.broken

    def _cudaStreamDestroy(self, stream: Any) -> int:
        self.streams.remove(stream.value)
        return self.broken

    def _cudaEventCreate(self, handle: Any) -> int:
        handle._obj.value = next(self._handles)
        self.events[handle._obj.value] = 0.0
        return self.broken

    def _cudaEventRecord(self, event: Any, stream: Any) -> int:
        assert stream.value in self.streams
        self._clock += 1.5
        self.events[event.value] = self._clock
        return self.broken

    def _cudaEventSynchronize(self, event: Any) -> int:
        return self.broken

    def _cudaEventElapsedTime(self, value: Any, start: Any, stop: Any) -> int:
        value._obj.value = self.events[stop.value] - self.events[start.value]
        return self.broken

    def _cudaEventDestroy(self, event: Any) -> int:
        del self.events[event.value]
        return self.broken

    def _cudaDeviceSynchronize(self) -> int:
        return self.broken

    def _cudaGetLastError(self) -> int:
        return self.broken

    def _cudaGetErrorName(self, status: Any) -> bytes:
        return _NAMES.get(status.value, b"cudaErrorUnknown")

    def _cudaMemGetInfo(self, free: Any, total: Any) -> int:
        used = sum(len(block) for block in self.blocks.values())
        free._obj.value, total._obj.value = self.capacity - used, self.capacity
        return self.absent

    def _cudaRuntimeGetVersion(self, value: Any) -> int:
        value._obj.value = 12020
        return SUCCESS

    def _cudaDriverGetVersion(self, value: Any) -> int:
        value._obj.value = 13000
        return SUCCESS

    def _cudaDeviceGetAttribute(self, value: Any, attribute: Any, device: Any) -> int:
        value._obj.value = {75: 9, 76: 0}[attribute.value]
        return self.absent

    def _cudaGetDeviceProperties(self, properties: Any, device: Any) -> int:
        properties.value = b"NVIDIA Double"
        return self.absent
