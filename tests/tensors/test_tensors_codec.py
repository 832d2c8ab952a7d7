"""Tensors survive a file bit by bit; a file that is not one gives one clear message."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

from harness.errors import InputDataError
from harness.tensors import dtype_name, dtype_of, is_float, is_integer, load_tensors, save_tensors
from harness.tensors.dtypes import is_extension

NATIVE = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
NATIVE += ["float16", "float32", "float64"]
EXTENSIONS = ["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"]
EXTENSIONS += ["float8_e8m0fnu", "float4_e2m1fn", "int4", "uint4", "int2", "uint2"]


def bits(array: np.ndarray) -> bytes:
    return np.asarray(array, order="C").tobytes()


def assert_same(found: np.ndarray, array: np.ndarray) -> None:
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.shape == array.shape
    assert bits(found) == bits(array.astype(found.dtype))


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    dtype = dtype_of(draw(st.sampled_from(NATIVE + EXTENSIONS)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    raw = np.random.default_rng(draw(st.integers(0, 2**16))).integers(0, 256, (*shape, dtype.itemsize))
    if dtype == np.bool_:
        raw %= 2
    if dtype.name in ("float4_e2m1fn", "int4", "uint4", "int2", "uint2"):
        raw %= 4 if "2" in dtype.name[-2:] else 16
    array = raw.astype(np.uint8).view(dtype).reshape(shape)
    layout = draw(st.sampled_from(["c", "fortran", "strided", "swapped"]))
    if layout == "fortran":
        return np.asarray(array, order="F")
    if layout == "strided" and array.ndim:
        return np.repeat(array, 2, axis=0)[::2]
    if layout == "swapped" and not is_extension(dtype):
        return array.astype(dtype.newbyteorder())
    return array


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "__metadata__"), arrays(), max_size=4
    ),
    mmap=st.booleans(),
)
def test_round_trip(tmp_path: Path, tensors: dict[str, np.ndarray], mmap: bool) -> None:
    path = tmp_path / "tensors.safetensors"
    save_tensors(path, tensors)
    found = load_tensors(path, mmap=mmap)
    assert list(found) == sorted(tensors)
    for name, array in tensors.items():
        assert_same(found[name], array)


def test_read_tensors_are_writable_and_mapped_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_tensors(path, {"x": np.ones(3)})
    load_tensors(path)["x"][0] = 5
    mapped = load_tensors(path, mmap=True)["x"]
    assert isinstance(mapped.base.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 5


def test_the_file_is_what_other_readers_expect(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_tensors(path, {"plain": np.arange(4.0), "half": np.ones(2, ml_dtypes.bfloat16)})
    found = load_file(path)
    assert found["plain"].tolist() == [0, 1, 2, 3]
    assert found["half"].tolist() == [0x3F80, 0x3F80]


def test_files_of_other_writers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_file({"plain": np.arange(4, dtype=np.int32)}, path, metadata={"format": "pt"})
    assert load_tensors(path)["plain"].tolist() == [0, 1, 2, 3]
    values = np.array([1.5, -2], ml_dtypes.bfloat16)
    write_raw(path, {"b": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, values.tobytes())
    assert_same(load_tensors(path)["b"], values)


def write_raw(path: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def corrupt(path: Path, how: str) -> None:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    whole = {
        "truncated header": data[:20],
        "truncated data": data[:-1],
        "extra data": data + b"\0",
        "empty": b"",
        "foreign": b"PK\x03\x04" + data,
    }
    if how in whole:
        path.write_bytes(whole[how])
        return
    if how == "shape":
        header["x"]["shape"] = [7]
    elif how == "offsets":
        header["x"]["data_offsets"] = [4, 28]
    elif how == "unknown code":
        header["x"]["dtype"] = "F3"
    elif how == "metadata":
        header["__metadata__"]["harness.dtypes"] = "{"
    elif how == "metadata kind":
        header["__metadata__"]["harness.dtypes"] = '{"x": 5}'
    elif how == "other width":
        header["__metadata__"]["harness.dtypes"] = '{"x": "bfloat16"}'
    elif how == "unknown dtype":
        header["__metadata__"]["harness.dtypes"] = '{"x": "object"}'
    write_raw(path, header, data[8 + length :])


@pytest.mark.parametrize(
    "how",
    [
        "truncated header", "truncated data", "extra data", "empty", "foreign", "shape", "offsets",
        "unknown code", "metadata", "metadata kind", "other width", "unknown dtype",
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path: Path, how: str) -> None:
    path = tmp_path / "golden.safetensors"
    save_tensors(path, {"x": np.arange(6, dtype=np.float32)})
    corrupt(path, how)
    with pytest.raises(InputDataError) as caught:
        load_tensors(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_missing_file_or_a_folder_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputDataError, match="not a readable safetensors file"):
        load_tensors(tmp_path / name)


@pytest.mark.parametrize(
    "array", [np.array(["a"]), np.array([None]), np.ones(2, complex), np.zeros(2, "M8[s]")]
)
def test_what_cannot_be_stored_leaves_the_file_as_it_was(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "x"
    save_tensors(path, {"x": np.ones(1)})
    before = path.read_bytes()
    with pytest.raises(InputDataError, match="tensor 'y': tensors of dtype"):
        save_tensors(path, {"x": np.ones(2), "y": array})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x"]


def test_the_one_reserved_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputDataError, match="__metadata__"):
        save_tensors(tmp_path / "x", {"__metadata__": np.ones(1)})


@pytest.mark.parametrize("name", NATIVE + EXTENSIONS)
def test_dtype_names_go_both_ways(name: str) -> None:
    dtype = dtype_of(name)
    assert dtype_name(dtype) == name
    assert is_extension(dtype) == (name in EXTENSIONS)
    assert is_float(dtype) == ("float" in name)
    assert is_integer(dtype) == ("int" in name)


def test_an_unknown_dtype_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputDataError, match="did you mean 'bfloat16'"):
        dtype_of("bfloat61")
