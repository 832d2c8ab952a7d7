"""Tensors in one file, read as memory maps by both sides: what travels beside the messages.

Layout: the magic `HTF1`, the header's length (uint32, little endian), the header (JSON), then each tensor's
bytes, C order, little endian, at an offset that is a multiple of 64. The header is
`{"tensors": [{"name", "dtype", "shape", "offset"}]}`. `dtype` is the tensor's real dtype; one that NumPy does
not have is stored as unsigned integers of its width, so nothing but NumPy is needed to move it:

    bfloat16 → uint16        float8_e4m3fn, float8_e5m2 → uint8

A file to be filled through memory is allocated whole before the first byte is written, so that a full disk is
an `OSError` here, and not a SIGBUS in the middle of a copy.
"""

import contextlib
import json
import mmap
import os
import struct
from dataclasses import asdict, dataclass
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Set, Tuple

import numpy as np

from .codec import from_plain

MAGIC = b"HTF1"
_ALIGNMENT = 64
_PREFIX = struct.Struct("<4sI")

#: dtype name → how it lies in memory here.
STORAGE: Dict[str, "np.dtype[Any]"] = {
    **{
        name: np.dtype(name)
        for name in (
            *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
            *("float16", "float32", "float64"),
        )
    },
    "bfloat16": np.dtype("uint16"),
    "float8_e4m3fn": np.dtype("uint8"),
    "float8_e5m2": np.dtype("uint8"),
}


class TensorFileError(ValueError):
    """A file is not a whole tensor file, or a tensor cannot be put into one."""


class Tensor(NamedTuple):
    """A tensor as it lies in memory: `dtype` names its real dtype, `array` has `STORAGE[dtype]`."""

    array: "np.ndarray[Any, Any]"
    dtype: str


class TensorSpec(NamedTuple):
    """Name, real dtype and shape of a tensor to come."""

    name: str
    dtype: str
    shape: Tuple[int, ...]


@dataclass(frozen=True)
class _Entry:
    """A tensor in the header; `offset` is from where the tensors begin."""

    name: str
    dtype: str
    shape: Tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class _Header:
    tensors: Tuple[_Entry, ...]


def create_tensor_file(path: str, specs: Iterable[TensorSpec]) -> Dict[str, "np.ndarray[Any, Any]"]:
    """Make a file for `specs` and return the arrays to fill, by name, in their storage dtypes.

    What is written into the arrays is in the file at once, for every process that maps it.

    Raises:
        TensorFileError: an unknown dtype, a negative extent, or a name that occurs twice.
        OSError: the file exists, or there is no room for it; nothing is left behind.
    """
    layout = _Layout(list(specs))
    with _new_file(path) as descriptor:
        os.posix_fallocate(descriptor, 0, layout.size)
        _write_all(descriptor, layout.head, 0)
        memory = mmap.mmap(descriptor, layout.size)
    return {entry.name: _view(memory, layout.start, entry) for entry in layout.entries}


def write_tensor_file(path: str, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors`. Half the time of filling the arrays that `create_tensor_file` gives: no page is touched twice.

    Raises:
        TensorFileError: an array that does not have the storage dtype of its tensor.
        OSError: the file exists, or there is no room for it; nothing is left behind.
    """
    for name, tensor in tensors.items():
        if tensor.array.dtype != _storage(tensor.dtype, name):
            raise TensorFileError(
                "{!r}: a {} tensor is stored as {}, not {}".format(
                    name, tensor.dtype, STORAGE[tensor.dtype], tensor.array.dtype
                )
            )
    layout = _Layout([TensorSpec(name, tensor.dtype, tensor.array.shape) for name, tensor in tensors.items()])
    with _new_file(path) as descriptor:
        os.ftruncate(descriptor, layout.size)
        _write_all(descriptor, layout.head, 0)
        for entry in layout.entries:
            data = np.asarray(tensors[entry.name].array, order="C").reshape(-1)
            if data.size:
                _write_all(descriptor, data.view(np.uint8), layout.start + entry.offset)


def read_tensor_file(path: str) -> Dict[str, Tensor]:
    """The tensors of a file: memory maps, writable in memory without changing the file.

    They stay valid when the file is deleted.

    Raises:
        TensorFileError: not a tensor file, or not a whole one.
        OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size or prefix[:4] != MAGIC:
            raise TensorFileError("{}: not a tensor file".format(path))
        length = _PREFIX.unpack(prefix)[1]
        try:
            entries = from_plain(_Header, json.loads(file.read(length).decode())).tensors
            start = _aligned(_PREFIX.size + length)
            ends = [entry.offset + _nbytes(entry.name, entry.dtype, entry.shape) for entry in entries]
            end = start + max(ends, default=0)
        except ValueError as error:
            raise TensorFileError("{}: damaged header: {}".format(path, error)) from None
        if end > size:
            raise TensorFileError("{}: cut short: {} bytes of {}".format(path, size, end))
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return {entry.name: Tensor(_view(memory, start, entry), entry.dtype) for entry in entries}


class _Layout:
    """Where things lie: `head` at the beginning, tensors from `start` on, `size` bytes in all."""

    def __init__(self, specs: List[TensorSpec]) -> None:
        self.entries: List[_Entry] = []
        seen: Set[str] = set()
        end = 0
        for spec in specs:
            if spec.name in seen:
                raise TensorFileError("tensor {!r} is there twice".format(spec.name))
            seen.add(spec.name)
            shape = tuple(int(extent) for extent in spec.shape)
            self.entries.append(_Entry(spec.name, spec.dtype, shape, _aligned(end)))
            end = _aligned(end) + _nbytes(spec.name, spec.dtype, shape)
        header = json.dumps(asdict(_Header(tuple(self.entries)))).encode()
        self.head = _PREFIX.pack(MAGIC, len(header)) + header
        self.start = _aligned(len(self.head))
        self.size = self.start + end


@contextlib.contextmanager
def _new_file(path: str) -> Iterator[int]:
    """The descriptor of a new file, which is removed again if the block raises."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: Any, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)  # at most 2 GiB a call
        view, offset = view[written:], offset + written


def _nbytes(name: str, dtype: str, shape: Tuple[int, ...]) -> int:
    count = 1
    for extent in shape:
        if extent < 0:
            raise TensorFileError("{!r}: shape {} has a negative extent".format(name, shape))
        count *= extent
    return count * _storage(dtype, name).itemsize


def _storage(dtype: str, name: str) -> "np.dtype[Any]":
    if dtype not in STORAGE:
        raise TensorFileError("{!r}: dtype {!r} is not one of {}".format(name, dtype, ", ".join(STORAGE)))
    return STORAGE[dtype]


def _view(memory: mmap.mmap, start: int, entry: _Entry) -> "np.ndarray[Any, Any]":
    return np.ndarray(entry.shape, STORAGE[entry.dtype], memory, start + entry.offset)


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT
