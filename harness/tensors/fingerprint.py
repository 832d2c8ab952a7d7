"""Hashes of arrays and files, and the fingerprint of the machine: what a number was made with."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np

PACKAGES = ("harness", "numpy", "onnx", "onnxruntime")


def hash_array(array: np.ndarray) -> str:
    """SHA-256 of dtype, shape and values (row-major)."""
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def hash_feeds(feeds: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of named arrays, whatever their order."""
    lines = [f"{name} {hash_array(feeds[name])}" for name in sorted(feeds)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def hash_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@lru_cache(maxsize=1)
def host_fingerprint() -> Mapping[str, str]:
    """Versions of what computes the reference, the processor and the operating system."""
    versions = {name: _version(name) for name in PACKAGES}
    return {**versions, "python": platform.python_version(), "cpu": _cpu(), "system": platform.platform()}


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
