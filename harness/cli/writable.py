"""Whether files can be written: asked before anything is run, for a result that cannot be kept is lost."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from harness.errors import UsageError
from harness.tensors import is_node

STDOUT = Path("-")


def check_files(*files: Path | None) -> None:
    """See that each file can be written; None and `-` are no files.

    Raises:
        UsageError: one is a folder, or where it is to be nothing can be written.
    """
    for file in files:
        if file is None or file == STDOUT:
            continue
        if file.is_dir():
            raise UsageError("is a folder; name a file to write", where=file)
        if is_node(file):
            if not os.access(file, os.W_OK):
                raise UsageError(f"cannot be written: {os.strerror(errno.EACCES)}", where=file)
            continue
        _try(Path(os.path.realpath(file)).parent, file)


def check_folder(folder: Path | None) -> None:
    """See that files can be written to `folder`, which need not be there yet.

    Raises:
        UsageError: it is a file, or nothing can be written there.
    """
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise UsageError("is a file; name a folder to write to", where=folder)
    _try(folder, folder)


def _try(folder: Path, told: Path) -> None:
    """Make a nameless file in `folder`, or in the nearest folder above it that is there."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=told) from error
