"""The CUDA runtime through ctypes: memory, streams, events, and errors by name."""

import ctypes
import glob
import os
import sys
from typing import Any, Iterator, List, Optional, Tuple

from ...protocol import Fault

_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_OUT_OF_MEMORY = 2
_NO_GPU = {
    35: "there is no GPU driver, or it is too old for this CUDA runtime: update it, or install a release for its CUDA",
    100: "there is no GPU: is CUDA_VISIBLE_DEVICES right?",
}
_COMPUTE_MAJOR, _COMPUTE_MINOR = 75, 76
_SMALLEST = 256


def load_cudart() -> Any:
    """The CUDA runtime library: the one that is loaded already if there is one, so that TensorRT's is shared.

    Raises:
        Fault: `environment`: there is none.
    """
    tried: List[str] = []
    for name in _candidates():
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            tried.append(str(error))
    raise Fault(
        "environment",
        "no CUDA runtime: install nvidia-cuda-runtime into the environment, or put libcudart on LD_LIBRARY_PATH",
        evidence=tried,
    )


def _candidates() -> Iterator[str]:
    try:
        with open("/proc/self/maps") as file:
            for line in file:
                path = line.rstrip("\n").partition("/")[2]
                if os.path.basename(path).startswith("libcudart.so"):
                    yield "/" + path
    except OSError:
        pass
    folders = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    folders += ["/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"]
    for folder in sys.path:
        folders += glob.glob(os.path.join(glob.escape(folder), "nvidia", "*", "lib"))
    for folder in folders:
        if folder:
            yield from sorted(glob.glob(os.path.join(glob.escape(folder), "libcudart.so*")), reverse=True)
    yield from ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")


class Buffer:
    """Memory of the GPU that grows and never shrinks."""

    def __init__(self, cuda: "Cuda") -> None:
        self._cuda = cuda
        self.address = 0
        self.nbytes = 0

    def reserve(self, nbytes: int) -> int:
        """Make it at least `nbytes` long and return its address; the content may be lost."""
        if nbytes > self.nbytes or not self.address:
            self.free()
            self.address = self._cuda.malloc(max(nbytes, _SMALLEST))
            self.nbytes = max(nbytes, _SMALLEST)
        return self.address

    def free(self) -> None:
        """Give the memory back."""
        if self.address:
            self._cuda.free(self.address)
        self.address = self.nbytes = 0


class Cuda:
    """The calls that are needed, on one GPU and one stream."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._stream: Optional[int] = None

    @property
    def stream(self) -> int:
        """The stream that all work runs on, as an address."""
        if self._stream is None:
            self._stream = int(self._given(ctypes.c_void_p, "cudaStreamCreate") or 0)
        return self._stream

    def malloc(self, nbytes: int) -> int:
        """Allocate memory of the GPU."""
        return int(self._given(ctypes.c_void_p, "cudaMalloc", ctypes.c_size_t(nbytes)) or 0)

    def free(self, address: int) -> None:
        """Free memory of the GPU."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def upload(self, address: int, array: Any) -> None:
        """Copy a contiguous array to the GPU, and wait."""
        self._copy(address, array.ctypes.data, array.nbytes, _HOST_TO_DEVICE, self.stream)

    def download(self, array: Any, address: int, stream: Optional[int] = None) -> None:
        """Fill a contiguous array from the GPU, after the work that `stream` holds, and wait."""
        stream = self.stream if stream is None else stream
        self._copy(array.ctypes.data, address, array.nbytes, _DEVICE_TO_HOST, stream)

    def _copy(self, target: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        if nbytes:
            self._call(
                "cudaMemcpyAsync",
                ctypes.c_void_p(target),
                ctypes.c_void_p(source),
                ctypes.c_size_t(nbytes),
                ctypes.c_int(kind),
                ctypes.c_void_p(stream),
            )
            self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def synchronize(self) -> None:
        """Wait for the stream; what failed on the GPU is raised here."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(self.stream))

    def event(self) -> int:
        """A new event."""
        return int(self._given(ctypes.c_void_p, "cudaEventCreate") or 0)

    def record(self, event: int) -> None:
        """Record an event on the stream."""
        self._call("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(self.stream))

    def elapsed_ms(self, start: int, stop: int) -> float:
        """Milliseconds between two recorded events."""
        self._call("cudaEventSynchronize", ctypes.c_void_p(stop))
        events = ctypes.c_void_p(start), ctypes.c_void_p(stop)
        return float(self._given(ctypes.c_float, "cudaEventElapsedTime", *events))

    def destroy_event(self, event: int) -> None:
        """Free an event."""
        self._call("cudaEventDestroy", ctypes.c_void_p(event))

    def check_health(self) -> None:
        """Raise what a failed build or run has left on the GPU."""
        self._library.cudaGetLastError()  # an error that is not sticky ends here
        self._call("cudaDeviceSynchronize")

    def memory(self) -> Tuple[int, int]:
        """Free and total bytes of the GPU."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def runtime_version(self) -> str:
        """Of the CUDA runtime, such as `12.2`."""
        return self._version("cudaRuntimeGetVersion")

    def driver_version(self) -> str:
        """The latest CUDA that the driver supports, such as `13.0`."""
        return self._version("cudaDriverGetVersion")

    def _version(self, function: str) -> str:
        value = self._given(ctypes.c_int, function)
        return "{}.{}".format(value // 1000, value % 1000 // 10)

    def compute_capability(self) -> str:
        """Of the first GPU, such as `9.0`."""
        return ".".join(
            str(self._given(ctypes.c_int, "cudaDeviceGetAttribute", ctypes.c_int(attribute), ctypes.c_int(0)))
            for attribute in (_COMPUTE_MAJOR, _COMPUTE_MINOR)
        )

    def gpu_name(self) -> str:
        """Of the first GPU, such as `NVIDIA H200`."""
        # The properties grow with every CUDA; their first 256 bytes have always been the name.
        properties = ctypes.create_string_buffer(16384)
        # CUDA 12 has both symbols, 11 and 13 the plain one.
        later = getattr(self._library, "cudaGetDeviceProperties_v2", None)
        function = "cudaGetDeviceProperties" if later is None else "cudaGetDeviceProperties_v2"
        self._call(function, properties, ctypes.c_int(0))
        return properties.raw[:256].partition(b"\0")[0].decode(errors="replace")

    def close(self) -> None:
        """Free the stream."""
        if self._stream is not None:
            self._call("cudaStreamDestroy", ctypes.c_void_p(self._stream))
            self._stream = None

    def _given(self, kind: Any, function: str, *arguments: Any) -> Any:
        """What a function writes to its first argument, which points to a `kind`."""
        value = kind()
        self._call(function, ctypes.byref(value), *arguments)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise self._fault(function, int(status))

    def _fault(self, function: str, status: int) -> Fault:
        describe = self._library.cudaGetErrorName
        describe.restype = ctypes.c_char_p
        name = (describe(ctypes.c_int(status)) or b"unknown error").decode()
        self._library.cudaGetLastError()
        if status == _OUT_OF_MEMORY:
            return Fault("out_of_memory", "the GPU is out of memory: {} in {}".format(name, function))
        if status in _NO_GPU:
            return Fault("environment", "{} ({})".format(_NO_GPU[status], name))
        return Fault("cuda_error", "{} in {} ({})".format(name, function, status))
