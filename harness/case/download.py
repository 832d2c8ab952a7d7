"""Downloads of models: once, whole, and with the promised checksum, or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from pathlib import Path
from typing import BinaryIO

from harness.errors import ChecksumError, HarnessError, ModelError
from harness.tensors import atomic_path

_BLOCK = 1 << 20
_SILENCE = 60.0  # seconds without a byte


def cache_folder() -> Path:
    """The folder of downloaded models: `$XDG_CACHE_HOME/harness/models`, by default below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "harness" / "models"


def download(url: str, sha256: str) -> Path:
    """The path of the file at `url`, from the cache if it is there. Processes that want the same file wait.

    Args:
        url: http, https or file.
        sha256: checksum that the file must have, in lower-case hexadecimal digits.

    Raises:
        ChecksumError: the file has another checksum; nothing is kept.
        ModelError: the download failed; nothing is kept.
    """
    from filelock import FileLock

    target = cache_folder() / f"{sha256}.onnx"
    locks = cache_folder().with_name("locks")  # lock files cannot be removed without a race
    try:
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / sha256):
            if not _has_checksum(target, sha256):
                _fetch(url, target, sha256)
    except HarnessError:
        raise
    except OSError as error:  # urllib's errors and timeouts are among them
        raise _failed(url, getattr(error, "reason", None) or error.strerror or error) from error
    except (http.client.HTTPException, ValueError) as error:
        raise _failed(url, f"{type(error).__name__}: {error}") from error
    return target


def _has_checksum(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _fetch(url: str, target: Path, sha256: str) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "harness"})
    with (
        urllib.request.urlopen(request, timeout=_SILENCE) as response,
        atomic_path(target) as temporary,
        temporary.open("wb") as file,
    ):
        actual = _copy(response, file)
        if actual != sha256:
            raise ChecksumError(url, expected=sha256, actual=actual)


def _copy(response: http.client.HTTPResponse, file: BinaryIO) -> str:
    """Copy the response to `file`; its SHA-256."""
    digest = hashlib.sha256()
    while block := response.read(_BLOCK):
        digest.update(block)
        file.write(block)
    return digest.hexdigest()


def _failed(url: str, reason: object) -> ModelError:
    return ModelError(
        f"cannot be downloaded: {reason}",
        where=url,
        hint="check the URL, or download the file and use `path`",
    )
