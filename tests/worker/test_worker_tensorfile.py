"""Tensors in files: every dtype comes back bit for bit, and no damaged file is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.worker.protocol import (
    STORAGE,
    Tensor,
    TensorFileError,
    TensorSpec,
    create_tensor_file,
    read_tensor_file,
    write_tensor_file,
)

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def tensors(draw: Any) -> Tensor:
    dtype = draw(st.sampled_from(sorted(STORAGE)))
    shape = draw(SHAPES)
    size = int(np.prod(shape)) * STORAGE[dtype].itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    array = np.frombuffer(data, np.uint8).copy()
    if dtype == "bool":
        array &= 1
    array = array.view(STORAGE[dtype]).reshape(shape)
    return Tensor(array.T.copy().T if draw(st.booleans()) else array, dtype)


@given(given_tensors=st.dictionaries(st.text(max_size=5), tensors(), max_size=4))
def test_every_tensor_comes_back_bit_for_bit_after_the_file_is_gone(
    tmp_path_factory: pytest.TempPathFactory, given_tensors: dict[str, Tensor]
) -> None:
    path = tmp_path_factory.mktemp("t") / "tensors"
    write_tensor_file(str(path), given_tensors)
    found = read_tensor_file(str(path))
    path.unlink()

    assert list(found) == list(given_tensors)
    for name, tensor in given_tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].array.shape == tensor.array.shape
        assert found[name].array.tobytes() == tensor.array.tobytes()
        assert found[name].array.ctypes.data % 64 == 0 or not found[name].array.size


def test_what_is_read_may_be_changed_without_changing_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    write_tensor_file(path, {"x": Tensor(np.arange(3.0), "float64")})
    read_tensor_file(path)["x"].array[0] = 9
    assert read_tensor_file(path)["x"].array.tolist() == [0, 1, 2]


def test_what_is_written_into_a_created_file_is_seen_by_others_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    arrays = create_tensor_file(
        path, [TensorSpec("x", "bfloat16", (2, 3)), TensorSpec("empty", "int8", (0,))]
    )
    other = read_tensor_file(path)
    arrays["x"][...] = 7
    assert read_tensor_file(path)["x"].array.tolist() == [[7] * 3] * 2
    assert other["empty"].array.shape == (0,)


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        ([TensorSpec("x", "complex64", (1,))], "dtype 'complex64' is not one of"),
        ([TensorSpec("x", "int8", (2, -1))], "negative extent"),
        ([TensorSpec("x", "int8", (1,)), TensorSpec("x", "int8", (1,))], "there twice"),
    ],
)
def test_what_cannot_be_stored_leaves_no_file(tmp_path: Path, specs: list[TensorSpec], said: str) -> None:
    with pytest.raises(TensorFileError, match=said):
        create_tensor_file(str(tmp_path / "t"), specs)
    assert list(tmp_path.iterdir()) == []


def test_an_array_of_another_storage_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TensorFileError, match="a bfloat16 tensor is stored as uint16, not float32"):
        write_tensor_file(str(tmp_path / "t"), {"x": Tensor(np.zeros(3, np.float32), "bfloat16")})


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_full_disk_is_an_error_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        create_tensor_file(str(tmp_path / "t"), [TensorSpec("x", "int8", (1,))])
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        write_tensor_file(str(tmp_path / "t"), {"x": Tensor(np.zeros(3), "float64")})
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_is_cut_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: whole(file, data[:7], offset))
    write_tensor_file(str(tmp_path / "t"), {"x": Tensor(np.arange(50), "int64")})
    assert read_tensor_file(str(tmp_path / "t"))["x"].array.tolist() == list(range(50))


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("mine")
    with pytest.raises(FileExistsError):
        write_tensor_file(str(tmp_path / "t"), {})
    assert (tmp_path / "t").read_text() == "mine"


@given(data=st.data())
def test_no_part_of_a_file_is_taken_for_a_whole_one(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    path = tmp_path_factory.mktemp("t") / "t"
    write_tensor_file(str(path), {"x": Tensor(np.arange(40, dtype=np.int64), "int64")})
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(TensorFileError):
        read_tensor_file(str(path))


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b'{"tensors": [{"name": "x"}]}',
        b'{"tensors": [{"name": "x", "dtype": "int8", "shape": [-1], "offset": 0}]}',
    ],
)
def test_a_damaged_header_is_reported(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"HTF1" + len(header).to_bytes(4, "little") + header)
    with pytest.raises(TensorFileError, match=r"damaged header"):
        read_tensor_file(str(path))
