"""Hashes depend on what is stored, and on nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from harness.errors import InputDataError
from harness.tensors import hash_array, hash_feeds, host_fingerprint
from harness.tensors.fingerprint import hash_file

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_layout_and_byte_order_do_not_matter() -> None:
    assert hash_array(np.asfortranarray(VALUES)) == hash_array(VALUES)
    assert hash_array(VALUES.astype(">f4")) == hash_array(VALUES)
    assert hash_array(np.repeat(VALUES, 2, axis=1)[:, ::2]) == hash_array(VALUES)


@pytest.mark.parametrize(
    "other",
    [
        VALUES + np.float32(1e-6),
        VALUES.reshape(3, 2),
        VALUES.astype(np.float64),
        VALUES.view(np.int32),
        VALUES.astype(ml_dtypes.bfloat16),
        VALUES.astype(np.float16),
        np.float32(0),
        np.zeros((0, 3), np.float32),
    ],
)
def test_values_shape_and_dtype_matter(other: np.ndarray) -> None:
    assert hash_array(np.asarray(other)) != hash_array(VALUES)


def test_the_hash_never_changes() -> None:
    """Golden references on disk hold these hashes."""
    expected = hashlib.sha256(b"float32(2, 3)" + VALUES.tobytes()).hexdigest()
    assert hash_array(VALUES) == expected
    assert (
        hash_feeds({"x": VALUES, "a": np.array(3)})
        == "c3e4e2de0482190dbc4c4a0afadac742767f4bcb1a323f85ebbfb5ad21c984db"
    )


def test_feeds_are_a_set_of_named_arrays() -> None:
    assert hash_feeds({"a": VALUES, "b": VALUES[:1]}) == hash_feeds({"b": VALUES[:1], "a": VALUES})
    assert hash_feeds({"a": VALUES, "b": VALUES[:1]}) != hash_feeds({"b": VALUES, "a": VALUES[:1]})


def test_objects_have_no_hash() -> None:
    with pytest.raises(InputDataError, match="object"):
        hash_array(np.array([None]))


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert hash_file(path) == hashlib.sha256(b"abc").hexdigest()


def test_the_host_is_described_by_text_that_nobody_can_change() -> None:
    found = host_fingerprint()
    assert {"harness", "python", "numpy", "onnx", "onnxruntime", "cpu", "system"} == set(vars(found))
    assert all(isinstance(value, str) and value for value in vars(found).values())
    with pytest.raises(AttributeError):
        found.cpu = "another"
