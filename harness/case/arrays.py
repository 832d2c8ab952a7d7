"""Arrays in the files that people keep them in: `.npy`, `.npz`, `.safetensors`, TensorProto `.pb`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from harness.errors import HarnessError, InputDataError
from harness.text import suggestion


def read_array(path: Path, *, key: str | None, name: str) -> np.ndarray:
    """One array of a file; pickled data are refused.

    Args:
        path: a `.npy`, `.npz`, `.safetensors` or `.pb` (TensorProto) file.
        key: which array of a file that holds several; None takes the one called `name`, or the only one.
        name: the input that the array is for.

    Raises:
        InputDataError: the file is missing, unreadable or of another kind, or has no such array.
    """
    if not path.is_file():
        siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputDataError("no such file", where=path, hint=suggestion(path.name, siblings))
    read = _READERS.get(path.suffix)
    if read is None:
        known = ", ".join(_READERS)
        raise InputDataError(f"cannot read {path.suffix or 'such'} files", where=path, hint=f"use {known}")
    try:
        arrays = read(path)
    except HarnessError as error:
        raise InputDataError(error.message, where=path, hint=error.hint) from error
    except Exception as error:  # damaged files make these readers raise nearly anything
        reason = str(error).strip() or type(error).__name__
        raise InputDataError(f"not a readable {path.suffix} file: {reason}", where=path) from error
    if isinstance(arrays, np.ndarray):
        if key is not None:
            raise InputDataError("`key` is for files of several arrays", where=path)
        return arrays
    return _choose(arrays, path, key, name)


def _choose(arrays: dict[str, np.ndarray], path: Path, key: str | None, name: str) -> np.ndarray:
    wanted = name if key is None else key
    if wanted in arrays:
        return arrays[wanted]
    if key is None and len(arrays) == 1:
        return next(iter(arrays.values()))
    held = ", ".join(arrays) or "nothing"
    raise InputDataError(
        f"the file has no array {wanted!r}, it holds {held}",
        where=path,
        hint=suggestion(wanted, arrays) or "name one with `key`",
    )


def _read_npy(path: Path) -> np.ndarray:
    array = np.load(path, allow_pickle=False)
    return _plain(array)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {key: _plain(archive[key]) for key in archive.files}


def _plain(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "V":  # NumPy's files forget what bfloat16 and float8 are
        raise InputDataError(
            f"the dtype is lost: {array.dtype.itemsize} raw bytes a value",
            hint="NumPy's files cannot keep dtypes such as bfloat16; use .safetensors",
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from harness.tensors import load_tensors

    return load_tensors(path)


def _read_proto(path: Path) -> np.ndarray:
    import onnx
    from onnx import numpy_helper

    tensor = onnx.TensorProto.FromString(path.read_bytes())
    if tensor.data_type == onnx.TensorProto.UNDEFINED:
        raise InputDataError("not an ONNX TensorProto")
    return np.asarray(numpy_helper.to_array(tensor, base_dir=str(path.parent)))


_READERS: dict[str, Callable[[Path], np.ndarray | dict[str, np.ndarray]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".pb": _read_proto,
}
