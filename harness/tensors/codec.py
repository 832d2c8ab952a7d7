"""Tensors on disk: safetensors files that keep every dtype, shape and bit.

NumPy's side of safetensors cannot load bfloat16 and corrupts arrays that are not contiguous. So arrays are made
contiguous, dtypes that NumPy or safetensors lack are stored as unsigned integers of the same width, and the real
dtype stands in the file's metadata. Any safetensors reader can open the files; files of other writers are read too.
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
from harness.tensors.dtypes import dtype_name, dtype_of
from harness.tensors.files import atomic_path

_DTYPES_KEY = "harness.dtypes"
# What safetensors calls the dtypes: https://github.com/huggingface/safetensors#format
_BY_CODE = {
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
_STORED_AS_THEMSELVES = frozenset(_BY_CODE.values()) - {
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e8m0fnu",
}


def save_tensors(
    path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors to `path`, atomically.

    Args:
        path: the file; its folder is made if it is missing.
        tensors: arrays of any numeric or bool dtype, ml_dtypes included; any shape, order and byte order.
        metadata: text to keep beside them; keys must not start with `harness.`.

    Raises:
        InputDataError: a tensor or the metadata cannot be stored.
    """
    texts = dict(metadata or {})
    for key, value in texts.items():
        if not isinstance(value, str) or key.startswith("harness."):
            raise InputDataError(f"metadata {key!r} must be text under a key of its own", where=path)
    stored = {}
    dtypes = {}
    for name, array in tensors.items():
        stored[name], dtypes[name] = _encode(np.asarray(array), name, path)
    texts[_DTYPES_KEY] = json.dumps(dtypes, sort_keys=True)
    with atomic_path(path) as temporary:
        save_file(stored, temporary, metadata=texts)


def load_tensors(path: str | Path, *, mmap: bool = False) -> dict[str, np.ndarray]:
    """Read every tensor of a safetensors file, in the order of their names.

    Args:
        path: a file of `save_tensors`, or of any other safetensors writer.
        mmap: map the file instead of reading it; the arrays are then read-only.

    Raises:
        InputDataError: the file is missing, truncated, corrupt, or not a safetensors file.
    """
    header, start = _read_header(path)
    dtypes = _stored_dtypes(header, path)
    tensors = {}
    for name in sorted(key for key in header if key != "__metadata__"):
        entry = header[name]
        begin, end = entry["data_offsets"]
        dtype = dtype_of(dtypes.get(name, _BY_CODE.get(entry["dtype"], entry["dtype"])))
        if begin == end:  # nothing can be mapped
            raw = np.empty(0, np.uint8)
        elif mmap:
            raw = np.memmap(path, np.uint8, "r", offset=start + begin, shape=(end - begin,)).view(np.ndarray)
        else:
            raw = np.fromfile(path, np.uint8, end - begin, offset=start + begin)
        tensors[name] = raw.view(dtype).reshape(entry["shape"])
    return tensors


def load_metadata(path: str | Path) -> dict[str, str]:
    """The metadata given to `save_tensors`; the tensors are not read.

    Raises:
        InputDataError: as `load_tensors`.
    """
    header, _ = _read_header(path)
    texts = header.get("__metadata__", {})
    return {key: value for key, value in texts.items() if not key.startswith("harness.")}


def _encode(array: np.ndarray, name: str, path: str | Path) -> tuple[np.ndarray, str]:
    try:
        dtype = dtype_name(array.dtype)
    except InputDataError as error:
        raise InputDataError(f"tensor {name!r}: {error.message}", where=path) from None
    contiguous = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
    if dtype in _STORED_AS_THEMSELVES:
        return contiguous, dtype
    return contiguous.view(f"uint{8 * array.dtype.itemsize}"), dtype


def _read_header(path: str | Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a file that safetensors found valid, and where its data begin."""
    try:
        with safe_open(path, framework="np"):
            pass
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return json.loads(file.read(length)), 8 + length
    except (OSError, SafetensorError, ValueError) as error:
        raise InputDataError(f"not a readable tensor file: {error}", where=path) from error


def _stored_dtypes(header: dict[str, Any], path: str | Path) -> dict[str, str]:
    try:
        return dict(json.loads(header.get("__metadata__", {}).get(_DTYPES_KEY, "{}")))
    except ValueError as error:
        raise InputDataError(f"the dtypes in its metadata are damaged: {error}", where=path) from error
