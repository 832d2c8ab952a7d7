"""Damaged files of the history: a cell or a byte that is wrong is one error that names the file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from history_rows import engine_rows, tensor_rows, typed
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

import harness
from harness.cli import main
from harness.errors import HistoryError
from harness.history import report_of, runs_at
from harness.history.store.engines import BuiltLayer, write_layers
from harness.history.store.files import MatrixPlan, RunWriter
from harness.history.store.schema import COLUMNS
from harness.judge import MadeWith

LAYERS = write_layers([BuiltLayer(name="l0", onnx_nodes=("y",), precision="fp16", ops=("MatMul",))])
TEXTS = st.sampled_from(
    [None, "", "zz", "null", "7", "[]", "[1]", "{}", '{"cause":7}', '{"cause":"gate failed"}', "[{}]"]
)
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXTS,
    "time": st.none(),
    "integer": st.sampled_from([None, -5, 10**9]),
    "number": st.sampled_from([None, float("nan"), float("inf"), -1.0]),
    "flag": st.sampled_from([None, True, False]),
    "texts": st.sampled_from([None, [], [None], ["zz"]]),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a run of two releases, one of whose builds failed."""
    folder = tmp_path_factory.mktemp("sound")
    rows = [
        *engine_rows("old", structure=LAYERS, inputs='["x=1x4"]'),
        *tensor_rows("old", [1e-3, 1.01e-3, 0.99e-3]),
        *tensor_rows("old", [1e-3, 1.01e-3, 0.99e-3], kind="layer", tensor="l"),
        *engine_rows("new", structure=LAYERS),
        *tensor_rows("new", [2e-3, 2.01e-3, 1.99e-3]),
        *tensor_rows("new", [1e-3, 1.01e-3, 0.99e-3], kind="layer", tensor="l"),
        *engine_rows("new", builds=1, build=3, verdict="error", reason="no kernel"),
    ]
    plan = MatrixPlan(releases=("old", "new"), repeats=3, cases={"net": "abc"})
    with RunWriter(folder, plan) as writer:
        writer.write("net", typed(rows))
        return writer.finish(MadeWith())


def read(path: Path) -> None:
    """All that is made of one file."""
    harness.load_history(path)
    report_of(runs_at(path)[0]).to_dict()


def message_of(path: Path, reader: Callable[[Path], object]) -> str | None:
    """What is said of a file that cannot be read; None if it can."""
    try:
        reader(path)
    except HistoryError as error:
        return str(error)
    return None


def changed(sound: Path, folder: Path, name: str, row: int, value: object) -> Path:
    """A copy of a file with another value in one cell."""
    table = pq.read_table(sound)
    cells = table[name].to_pylist()
    cells[row] = value
    place = table.schema.get_field_index(name)
    column = pa.array(cells, type=table.schema.field(name).type)
    path = folder / sound.name
    pq.write_table(table.set_column(place, table.schema.field(name), column), path)
    return path


@settings(max_examples=40)
@given(data=st.data())
def test_any_damaged_cell_is_read_or_one_error_that_names_file_row_and_column(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    column = data.draw(st.sampled_from(COLUMNS))
    row = data.draw(st.integers(0, pq.read_metadata(sound).num_rows - 1))
    path = changed(sound, tmp_path_factory.mktemp("d"), column.name, row, data.draw(CELLS[column.kind]))
    said = message_of(path, read)
    named = f"{path}: the column {column.name!r} of row {row + 1} is"
    assert said is None or (said.startswith(named) and "restore the file" in said)


def test_any_damaged_byte_of_a_value_is_found(sound: Path, tmp_path: Path) -> None:
    values, found = harness.load_history(sound), 0
    footer = sound.stat().st_size - 8 - int.from_bytes(sound.read_bytes()[-8:-4], "little")
    path = tmp_path / sound.name
    for place in range(4, footer, 41):
        damaged = bytearray(sound.read_bytes())
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        said = message_of(path, lambda path: assert_frame_equal(harness.load_history(path), values))
        assert said is None or (said.startswith(f"{path}: ") and "\n" not in said)
        found += said is not None
    assert found


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("why", "{", "is damaged: "),
        ("why", '{"cause":"gate failed"}', "gate failed lacks 'output', which it is about"),
        ("structure", "null", "is damaged: "),
        ("precision", "fp17", "'fp17' is not a valid Precision"),
        ("build", None, "is empty"),
    ],
)
def test_the_message_says_which_cell_and_what_to_do(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, value: object, why: str
) -> None:
    path = changed(sound, tmp_path, column, 2, value)
    assert main(["history", "show", str(path)]) == 2
    told = capsys.readouterr().err
    assert f"{path.name}: the column {column!r} of row 3" in told
    assert why in told
    assert "restore the file from a copy" in told
    assert "Traceback" not in told
    with (
        contextlib.suppress(HistoryError),
        pytest.warns(harness.history.HistoryWarning, match=f"{path.name}: "),
    ):
        harness.load_history(tmp_path)
