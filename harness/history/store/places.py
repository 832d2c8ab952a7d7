"""Where a history lies: a folder, or a shared or object store that fsspec knows (`s3://bucket/history`).

A store has no locks and no renames to rely on. So a run there is one object under a name of its own, written once and
as a whole when the run is finished; its parts stay on this machine until then, and so does what `--resume` continues.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from harness.environments import cache_folder
from harness.errors import HistoryError, MissingDependencyError
from harness.tensors import atomic_path


def place_of(text: Path | str) -> Path:
    """The folder that `text` names; for a URL, what behaves like one as far as a history needs.

    Raises:
        HistoryError: the URL is of no store that is known here, or the store cannot be reached.
        MissingDependencyError: what speaks with the store is not installed.
    """
    if not isinstance(text, str) or "://" not in text:
        return Path(text) if isinstance(text, str) else text
    try:
        from upath import UPath

        place = UPath(text)
        _ = place.fs
    except ImportError as error:
        raise MissingDependencyError(
            f"a history in a store needs {error.name or error}, which is not installed",
            where=text,
            hint="pip install 'harness[store]', and what fsspec needs for the store, such as s3fs",
        ) from None
    except (ValueError, OSError) as error:
        raise HistoryError(f"is not a store that can be reached: {error}", where=text) from None
    with _reached(text):  # now, and not when a night is over
        place.exists()
    return cast(Path, place)


@contextmanager
def _reached(place: Path | str) -> Iterator[None]:
    """Whatever a plug-in raises, of which many are no OSError, in one message.

    Raises:
        HistoryError: the store does not answer, or refuses.
    """
    try:
        yield
    except Exception as error:
        raise HistoryError(
            f"the store cannot be reached: {_words(error)}",
            where=place,
            hint="check its address, the network and the credentials of its plug-in",
        ) from error


def _words(error: Exception) -> str:
    """The first line of what a plug-in says, or the name of its error."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def found(folder: Path, pattern: str) -> list[Path]:
    """The files of `folder` that match, as they are now: plug-ins keep lists that others write to, too.

    Raises:
        HistoryError: the store cannot be reached.
    """
    if not is_store(folder):
        return list(folder.glob(pattern))
    with _reached(folder):
        folder.fs.invalidate_cache()  # type: ignore[attr-defined]
        return list(folder.glob(pattern))


def exists(path: Path) -> bool:
    """Whether a file of a history is there.

    Raises:
        HistoryError: the store cannot be reached.
    """
    if not is_store(path):
        return path.exists()
    with _reached(path):
        path.fs.invalidate_cache()  # type: ignore[attr-defined]
        return path.exists()


def is_store(folder: Path) -> bool:
    """Whether `folder` is in a store, and not on a file system."""
    return not isinstance(folder, Path)


def parts_folder(folder: Path) -> Path:
    """Where the parts of unfinished runs of the history in `folder` lie on this machine."""
    if not is_store(folder):
        return folder
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return cache_folder() / "histories" / name


@contextmanager
def readable(path: Path) -> Iterator[Any]:
    """What pyarrow reads the file from.

    Raises:
        OSError: it cannot be read.
    """
    if not is_store(path):
        yield path
        return
    try:
        file = path.open("rb")
    except Exception as error:  # plug-ins raise what they like
        raise OSError(_words(error)) from error
    with file:
        yield file


def put(path: Path, data: bytes) -> None:
    """Write an object of a store, once: it appears as a whole or not at all.

    Raises:
        HistoryError: the store takes it not, or has one of this name.
    """
    fs = path.fs  # type: ignore[attr-defined]
    try:
        if exists(path):
            raise HistoryError("is there already, and runs are written once", where=path)
        if "file" in fs.protocol:  # where fsspec writes elsewhere, and copies
            with atomic_path(path.path) as temporary:  # type: ignore[attr-defined]
                temporary.write_bytes(data)
            return
        with fs.transaction, fs.open(path.path, "wb") as file:  # type: ignore[attr-defined]
            file.write(data)
    except HistoryError:
        raise
    except Exception as error:
        raise HistoryError(
            f"the run cannot be written: {_words(error)}",
            where=path,
            hint="its parts are kept: repair the store, and continue with --resume",
        ) from error
