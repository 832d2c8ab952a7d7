"""Tensors on disk: safetensors files that keep every dtype, shape and bit.

NumPy's side of safetensors cannot load bfloat16 and corrupts arrays that are not contiguous. So arrays are made
contiguous, dtypes that NumPy lacks are stored as unsigned integers of the same width, and their real dtypes stand
in the file's metadata. Any safetensors reader can open the files; files of other writers are read, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from harness.errors import InputDataError
from harness.tensors.dtypes import dtype_name, dtype_of, is_extension
from harness.tensors.files import atomic_path

_DTYPES_KEY = "harness.dtypes"
# The names of dtypes in the format: https://github.com/huggingface/safetensors#format
_DTYPE_OF_CODE = {
    "BOOL": "bool",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}


def save_tensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write named tensors to `path`, atomically.

    Args:
        path: the file; its folder is made if it is missing.
        tensors: arrays of any dtype that `dtype_of` knows, of any shape, memory layout and byte order.

    Raises:
        InputDataError: a tensor cannot be stored; `path` is as it was.
    """
    stored: dict[str, np.ndarray] = {}
    dtypes: dict[str, str] = {}
    for name, array in tensors.items():
        if name == "__metadata__":
            raise InputDataError("a tensor must not be called '__metadata__'", where=path)
        stored[name], dtype = _storable(np.asarray(array), name, path)
        if dtype is not None:
            dtypes[name] = dtype
    with atomic_path(path) as temporary:
        save_file(stored, temporary, metadata={_DTYPES_KEY: json.dumps(dtypes, sort_keys=True)})


def load_tensors(path: str | Path, *, mmap: bool = False) -> dict[str, np.ndarray]:
    """Read every tensor of a safetensors file, in the order of their names.

    Args:
        path: a file of `save_tensors`, or of another safetensors writer.
        mmap: map the file instead of reading it; the arrays then are read-only views of a numpy.memmap.

    Raises:
        InputDataError: the file is missing, truncated, damaged, not a safetensors file, or holds a dtype that is
            unknown here.
    """
    header, start = _read_header(path)
    dtypes = _stored_dtypes(header, path)
    return {
        name: _load(path, name, header[name], start, dtypes.get(name), mmap=mmap)
        for name in sorted(header.keys() - {"__metadata__"})
    }


def _storable(array: np.ndarray, name: str, path: str | Path) -> tuple[np.ndarray, str | None]:
    """The array as safetensors can write it, and its dtype if that is lost by it."""
    try:
        dtype = dtype_name(array.dtype)
    except InputDataError as error:
        raise InputDataError(f"tensor {name!r}: {error.message}", where=path) from None
    contiguous = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
    if is_extension(array.dtype):
        return contiguous.view(f"uint{8 * array.dtype.itemsize}"), dtype
    return contiguous, None


def _load(
    path: str | Path, name: str, entry: dict[str, Any], start: int, stored_dtype: str | None, *, mmap: bool
) -> np.ndarray:
    begin, end = entry["data_offsets"]
    code = entry["dtype"]
    try:
        dtype = dtype_of(stored_dtype or _DTYPE_OF_CODE.get(code, code))
    except InputDataError as error:
        raise InputDataError(f"tensor {name!r}: {error.message}", where=path) from None
    shape = tuple(entry["shape"])
    if int(np.prod(shape, dtype=object)) * dtype.itemsize != end - begin:
        raise InputDataError(
            f"tensor {name!r}: {end - begin} bytes are no {dtype.name}{list(shape)}", where=path
        )
    if begin == end:  # nothing can be mapped
        raw = np.empty(0, np.uint8)
    elif mmap:
        raw = np.memmap(path, np.uint8, "r", offset=start + begin, shape=(end - begin,)).view(np.ndarray)
    else:
        raw = np.fromfile(path, np.uint8, end - begin, offset=start + begin)
    return raw.view(dtype).reshape(shape)


def _read_header(path: str | Path) -> tuple[dict[str, Any], int]:
    """The header of a file that safetensors finds valid, and the byte at which its data begin."""
    try:
        with safe_open(path, framework="np"):  # checks sizes, offsets and shapes against each other
            pass
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return json.loads(file.read(length)), 8 + length
    except (OSError, SafetensorError, ValueError) as error:
        raise InputDataError(f"not a readable safetensors file: {error}", where=path) from error


def _stored_dtypes(header: dict[str, Any], path: str | Path) -> dict[str, str]:
    try:
        dtypes = json.loads(header.get("__metadata__", {}).get(_DTYPES_KEY, "{}"))
    except ValueError:
        dtypes = None
    if not isinstance(dtypes, dict) or not all(isinstance(value, str) for value in dtypes.values()):
        raise InputDataError("the dtypes in its metadata are damaged", where=path)
    return dtypes
