"""Arrays in files: `.npy`, `.npz`, `.safetensors`, `.pb` (an ONNX TensorProto), and the `.json` of polygraphy."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from harness.errors import HarnessError, InputDataError
from harness.tensors import load_tensors
from harness.text import suggestion

T = TypeVar("T")
_ONE_AT_A_TIME = threading.RLock()
"""Who is quiet in one thread would speak again where another thread is done."""


def read_array(path: Path, *, key: str | None, name: str) -> np.ndarray:
    """One array of a file; pickled data are refused.

    Args:
        path: a `.npy`, `.npz`, `.safetensors` or `.pb` (TensorProto) file.
        key: which array of a file that holds several; None takes the one called `name`, or the only one.
        name: the input that the array is for.

    Raises:
        InputDataError: the file is missing, unreadable or of another kind, or has no such array.
    """
    arrays = _read(path, _READERS.get(path.suffix))
    if isinstance(arrays, np.ndarray):
        if key is not None:
            raise InputDataError("`key` is for files of several arrays", where=path)
        return arrays
    return _choose(arrays, path, key, name)


def read_samples(path: Path) -> list[dict[str, np.ndarray]]:
    """Arrays by name, sample by sample: of an `.npz` or `.safetensors` file one sample.

    A `.json` file is one that polygraphy wrote: inputs (`--save-inputs`, `data to-input`), or the results of one runner
    (`--save-outputs`).

    Raises:
        InputDataError: the file is missing, unreadable or of another kind.
    """
    if path.suffix == ".json":
        return _read(path, _read_polygraphy)
    arrays = _read(path, _READERS.get(path.suffix))
    if not isinstance(arrays, dict):
        raise InputDataError(
            "holds one array without a name", where=path, hint="use .npz, .safetensors or polygraphy's .json"
        )
    return [arrays]


@contextlib.contextmanager
def quiet_polygraphy() -> Iterator[None]:
    """What polygraphy logs of files that it reads and writes, and of packages that color it, is nothing to a user."""
    from polygraphy.logger import G_LOGGER

    with _ONE_AT_A_TIME, G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        yield


def _read_polygraphy(path: Path) -> list[dict[str, np.ndarray]]:
    from polygraphy.comparator import RunResults
    from polygraphy.json import load_json

    with quiet_polygraphy():
        found = load_json(str(path))
    if isinstance(found, RunResults):
        runners = list(found.keys())
        if len(runners) != 1:
            raise InputDataError(
                f"holds the results of {len(runners)} runners", hint="save those of one runner alone"
            )
        found = found[0][1]
    samples = found if isinstance(found, list) else [found]
    return [{str(name): _numpy(value) for name, value in sample.items()} for sample in samples]


def _numpy(value: Any) -> np.ndarray:
    """One array of polygraphy's: bfloat16 and float8 it keeps as tensors of PyTorch, which NumPy cannot read."""
    if hasattr(value, "load"):  # its own LazyArray
        value = value.load()
    if isinstance(value, np.ndarray):
        return _plain(value)
    raise InputDataError(f"holds a {type(value).__name__}, not an array")


def _read(path: Path, read: Callable[[Path], T] | None) -> T:
    if not path.is_file():
        siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputDataError("no such file", where=path, hint=suggestion(path.name, siblings))
    if read is None:
        known = ", ".join(_READERS)
        raise InputDataError(f"cannot read {path.suffix or 'such'} files", where=path, hint=f"use {known}")
    try:
        return read(path)
    except HarnessError as error:
        raise InputDataError(error.message, where=path, hint=error.hint) from error
    except Exception as error:  # damaged files make these readers raise nearly anything
        reason = str(error).strip() or type(error).__name__
        raise InputDataError(f"not a readable {path.suffix} file: {reason}", where=path) from error


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
    return _plain(np.load(path, allow_pickle=False))


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
    ".safetensors": load_tensors,
    ".pb": _read_proto,
}
