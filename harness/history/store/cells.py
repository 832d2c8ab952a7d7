"""The cells of a file of the history, looked at when it is read: a damaged one is named with its row and column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HistoryError
from harness.history.store.engines import read_inputs, read_layers, read_reason
from harness.history.types import RowKind
from harness.tensors import Precision

if TYPE_CHECKING:
    import pyarrow as pa

_NEVER_NULL = frozenset({"run", "case", "precision", "release", "build", "kind", "sample"})
_READERS: dict[str, Callable[[str], object]] = {
    "precision": Precision,
    "kind": RowKind,
    "inputs": read_inputs,
    "why": read_reason,
    "structure": read_layers,
}


def check_cells(table: pa.Table, path: Path) -> None:
    """Look at the cells of columns that hold more than a plain value, and at those that no row may lack.

    Args:
        table: rows of the file, some columns or all.
        path: the file.

    Raises:
        HistoryError: a cell is damaged; says which.
    """
    for name in table.column_names:
        column = table[name]
        if name in _NEVER_NULL and column.null_count:
            raise _damaged(path, name, column, None, "is empty")
        reader = _READERS.get(name)
        for text in column.unify_dictionaries().unique().drop_null().to_pylist() if reader else ():
            try:
                _READERS[name](text)
            except ValueError as error:
                raise _damaged(path, name, column, text, f"is damaged: {error}") from error


def _damaged(path: Path, name: str, column: pa.ChunkedArray, value: str | None, why: str) -> HistoryError:
    row = column.to_pylist().index(value) + 1
    hint = "restore the file from a copy, or move it to another folder: the other runs can be read without it"
    return HistoryError(f"the column {name!r} of row {row} {why}", where=path, hint=hint)
