"""Hashes of arrays and files, and the fingerprint of the machine: what a number was made with."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np

from harness.tensors.documents import UNLESS_DEFAULT
from harness.tensors.dtypes import dtype_name


@dataclass(frozen=True)
class HostFingerprint:
    """What computes the reference; empty where it is not known.

    Args:
        harness: version of harness; likewise `numpy`, `onnx`, `onnxruntime` and `python`.
        cpu: name of the processor.
        system: the operating system.
    """

    harness: str = field(default="", metadata=UNLESS_DEFAULT)
    numpy: str = field(default="", metadata=UNLESS_DEFAULT)
    onnx: str = field(default="", metadata=UNLESS_DEFAULT)
    onnxruntime: str = field(default="", metadata=UNLESS_DEFAULT)
    python: str = field(default="", metadata=UNLESS_DEFAULT)
    cpu: str = field(default="", metadata=UNLESS_DEFAULT)
    system: str = field(default="", metadata=UNLESS_DEFAULT)


def hash_array(array: np.ndarray) -> str:
    """SHA-256 of dtype, shape and values, whatever the memory layout and byte order.

    Raises:
        InputDataError: the array holds something other than numbers or bools.
    """
    digest = hashlib.sha256(f"{dtype_name(array.dtype)}{array.shape}".encode())
    native = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
    digest.update(native.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def hash_feeds(feeds: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of named arrays, whatever their order.

    Raises:
        InputDataError: as `hash_array`.
    """
    pairs = [(name, hash_array(feeds[name])) for name in sorted(feeds)]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def hash_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@cache
def host_fingerprint() -> HostFingerprint:
    """That of this machine and this process."""
    versions = {name: _version(name) for name in ("harness", "numpy", "onnx", "onnxruntime")}
    return HostFingerprint(
        **versions, python=platform.python_version(), cpu=_cpu(), system=platform.platform()
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
