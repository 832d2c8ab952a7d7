"""The history on disk: what is written can be read, files appear at once, runs are kept apart and resumed."""

from __future__ import annotations

import contextlib
import datetime
import json
import multiprocessing
import os
import shutil
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import harness
from harness.cli import main
from harness.errors import HistoryError
from harness.history import HistoryWarning
from harness.history.store.files import (
    CaseHashes,
    MatrixPlan,
    RunWriter,
    interrupted,
    list_newest,
    list_runs,
    opened,
)
from harness.history.store.schema import COLUMNS, METADATA_KEY, NAMES, NEEDED, Column, Row, arrow_schema
from harness.history.types import RowKind
from harness.judge import MadeWith
from harness.tensors import to_json

PLAN = MatrixPlan(releases=("old", "new"), repeats=3, cases={"net": "abc"}, command="harness drift")
TIME = datetime.datetime(2026, 1, 31, 2, 3, 4, tzinfo=datetime.UTC)


PLACE: dict[str, Any] = {
    "run": "r",
    "case": "net",
    "precision": "fp16",
    "release": "old",
    "build": 0,
    "kind": RowKind.LAYER,
    "sample": -1,
}
"""What no row may lack."""


def row(case: str = "net") -> Row:
    return Row(time=TIME, error=1.5e-3, **PLACE | {"case": case})


def write_run(folder: Path, *cases: str, plan: MatrixPlan = PLAN) -> str:
    with RunWriter(folder, plan) as writer:
        for case in cases:
            writer.write(case, [row(case)])
        writer.finish(MadeWith(onnxruntime="1.20"))
    return writer.run


def interrupt(folder: Path) -> str:
    """Leave a run that ended after its first part, and return its id."""
    with contextlib.suppress(KeyboardInterrupt), RunWriter(folder, PLAN) as writer:
        writer.write("a", [row("a")])
        raise KeyboardInterrupt
    return writer.run


def test_a_run_is_one_file_with_its_fingerprint(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", "b")
    assert [path.name for path in tmp_path.iterdir()] == [f"{run}.parquet"]
    (info,) = list_runs(tmp_path)
    assert (info.run, info.releases, info.repeats, info.finished) == (run, ("old", "new"), 3, True)
    assert info.fingerprint == MadeWith(onnxruntime="1.20")
    assert info.command == "harness drift"
    frame = harness.load_history(tmp_path)
    assert list(frame.columns) == list(NAMES)
    assert list(frame["case"]) == ["a", "b"]
    assert frame["error"].tolist() == pytest.approx([1.5e-3] * 2)
    assert frame["time"][0] == TIME


def test_every_value_survives(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "text": "β/layer:0", "time": TIME, "integer": 2**40, "number": 0.25, "flag": True, "texts": ["t1", "t2"]
    }  # fmt: skip
    read = {"inputs": '["x=4"]', "why": '{"cause":null,"detail":"β"}', "structure": "[]"}

    def value(column: Column) -> Any:
        return {**PLACE, **read}.get(column.name, values[column.kind])

    with RunWriter(tmp_path, PLAN) as writer:
        writer.write("one", [Row(**{column.name: value(column) for column in COLUMNS}), Row(**PLACE)])
        writer.finish(MadeWith())
    frame = harness.load_history(tmp_path)
    for column in COLUMNS:
        found = frame[column.name][0]
        assert (list(found) if column.kind == "texts" else found) == value(column), column.name
        assert frame[column.name].isna()[1] == (column.name not in PLACE)


def test_columns_are_documented_and_the_schema_is_theirs() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(column.meaning and not column.meaning.endswith(".") for column in COLUMNS)
    assert arrow_schema().names == list(NAMES)
    assert set(NEEDED) <= set(NAMES)


def test_a_misspelled_column_is_refused(tmp_path: Path) -> None:
    with RunWriter(tmp_path, PLAN) as writer, pytest.raises(TypeError, match="'eror'"):
        writer.write("a", [Row(eror=1.0)])  # type: ignore[call-arg]
    assert list(tmp_path.iterdir()) == []


def test_only_chosen_columns_and_the_newest_runs_are_read(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_run(tmp_path, name)
    frame = harness.load_history(tmp_path, columns=["case", "error"], last=2)
    assert list(frame.columns) == ["case", "error"]
    assert len(frame) == 2
    with pytest.raises(HistoryError, match="no column 'eror'"):
        harness.load_history(tmp_path, columns=["eror"])


def test_a_file_alone_can_be_loaded(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, name) for name in ("a", "b")]
    file = next(path for path in tmp_path.iterdir() if runs[0] in path.name)
    assert list(harness.load_history(file)["case"]) == ["a"]


def test_a_missing_history_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="holds no history"):
        harness.load_history(tmp_path / "nowhere")


def test_a_history_that_this_version_cannot_read_is_not_called_empty(tmp_path: Path) -> None:
    damage(tmp_path, "older")
    with (
        pytest.warns(HistoryWarning, match="skipped"),
        pytest.raises(HistoryError, match="holds no run that this version of harness reads"),
    ):
        harness.load_history(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ["drift", "cases/clean.case.yaml", "--env", "emulator:fp16", "--against", "history"],
        ["history", "show", "--last", "3"],
        ["history", "show"],
        ["history", "list"],
        ["history", "export", "rows.csv"],
    ],
    ids=" ".join,
)
def test_commands_name_the_files_of_a_history_that_they_cannot_read(
    tiny_cases,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_cases("clean")
    (tmp_path / "old").mkdir()
    files = {damage(tmp_path / "old", "older").name for _ in range(2)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HistoryWarning)
        assert main([*words, "--history", "old"]) == 2
    told = capsys.readouterr().err
    assert "error: old: holds no run that this version of harness reads: " in told
    assert all(file in told for file in files)
    assert "has the schema harness.history/1" in told
    assert "move these files to another folder" in told
    assert {path.name for path in (tmp_path / "old").iterdir()} == files


def test_an_empty_history_has_a_first_night(
    tiny_cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_cases("clean")
    words = ["drift", "cases/clean.case.yaml", "--env", "emulator:fp16", "--repeats", "1"]
    assert main([*words, "--against", "history", "--history", "new"]) == 0


def test_a_part_of_an_older_schema_says_so(tmp_path: Path) -> None:
    run = interrupt(tmp_path)
    path = tmp_path / f"{run}.parts" / "a.parquet"
    table = pq.read_table(path).drop_columns(["cause"])
    described = json.loads(table.schema.metadata[METADATA_KEY]) | {"schema": "harness.history/1"}
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(described)}), path)
    with pytest.warns(HistoryWarning, match="has the schema harness.history/1.*: skipped"):
        harness.load_history(tmp_path)


def test_an_interrupted_run_keeps_what_it_had(tmp_path: Path) -> None:
    run = interrupt(tmp_path)
    (info,) = list_runs(tmp_path)
    assert not info.finished
    assert list(harness.load_history(tmp_path)["case"]) == ["a"]
    assert interrupted(tmp_path, PLAN) == run


def test_a_resumed_run_goes_on_and_becomes_one_file(tmp_path: Path) -> None:
    run = interrupt(tmp_path)
    with opened(tmp_path, replace(PLAN, command="another"), resume=True) as again:
        assert again.run == run
        assert again.done() == {"a"}
        again.write("b", [row("b")])
        again.finish(MadeWith())
    assert [info.finished for info in list_runs(tmp_path)] == [True]
    assert list(harness.load_history(tmp_path)["case"]) == ["a", "b"]
    with pytest.raises(HistoryError, match="no interrupted run"):
        interrupted(tmp_path, PLAN)


def test_another_matrix_is_not_resumed(tmp_path: Path) -> None:
    run = interrupt(tmp_path)
    changed = replace(PLAN, repeats=5, cases={"net": "xyz"})
    with pytest.raises(HistoryError, match="is a different one: cases, repeats changed"):
        RunWriter(tmp_path, changed, run=run)
    plan = tmp_path / f"{run}.parts" / "plan.json"
    plan.write_text(json.dumps({key: value for key, value in to_json(PLAN).items() if key != "repeats"}))
    with pytest.raises(HistoryError, match="cannot be resumed"):
        RunWriter(tmp_path, PLAN, run=run)


def test_of_several_interrupted_runs_the_newest_is_resumed(tmp_path: Path) -> None:
    for day in (2, 3, 1):
        parts = tmp_path / f"2026010{day}T000000000Z-000000.parts"
        parts.mkdir()
        (parts / "plan.json").write_text(json.dumps(to_json(PLAN)))
    assert interrupted(tmp_path, PLAN) == "20260103T000000000Z-000000"


def test_of_several_interrupted_jobs_the_newest_of_the_same_plan_is_resumed(tmp_path: Path) -> None:
    first, others = interrupt(tmp_path), replace(PLAN, releases=("a", "b"))
    with contextlib.suppress(KeyboardInterrupt), RunWriter(tmp_path, others) as writer:
        writer.write("a", [row("a")])
        raise KeyboardInterrupt
    assert interrupted(tmp_path) == writer.run
    with opened(tmp_path, PLAN, resume=True) as again:
        assert again.run == first
    with opened(tmp_path, others, resume=True) as again:
        assert again.run == writer.run
    with (
        pytest.raises(HistoryError, match="is a different one: repeats changed"),
        opened(tmp_path, replace(others, repeats=1), resume=True),
    ):
        pass


def test_a_part_keeps_the_hashes_of_what_it_was_made_from(tmp_path: Path) -> None:
    with RunWriter(tmp_path, PLAN) as writer:
        writer.write("a", [row("a")], CaseHashes(model="abc"))
        writer.write("b", [row("b")])
        assert [writer.hashes(part) for part in ("a", "b")] == [CaseHashes("abc", None), CaseHashes()]


def test_a_finished_run_whose_parts_are_still_there_is_read_once(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a")
    parts = tmp_path / f"{run}.parts"
    parts.mkdir()
    (parts / "plan.json").write_text(json.dumps(to_json(PLAN)))
    shutil.copy(tmp_path / f"{run}.parquet", parts / "a.parquet")
    assert [info.finished for info in list_runs(tmp_path)] == [True]
    assert list(harness.load_history(tmp_path)["case"]) == ["a"]


def test_a_run_that_is_being_written_is_not_resumed(tmp_path: Path) -> None:
    with RunWriter(tmp_path, PLAN) as writer:
        writer.write("a", [row()])
        with pytest.raises(HistoryError, match="another process"), RunWriter(tmp_path, PLAN, run=writer.run):
            pass


def damage(folder: Path, how: str) -> Path:
    """Write a run with the case `lost` and damage its file."""
    path = folder / f"{write_run(folder, 'lost')}.parquet"
    table = pq.read_table(path)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "foreign":
        pq.write_table(table.replace_schema_metadata({}), path)
    elif how in ("older", "newer"):
        schema = {"older": "harness.history/1", "newer": "harness.history/3"}[how]
        described = json.loads(table.schema.metadata[METADATA_KEY]) | {"schema": schema}
        pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(described)}), path)
    else:
        pq.write_table(table.drop_columns(["p99_ulp"]), path)
    return path


DAMAGES = {
    "cut": "is not a file of the history",
    "empty": "is not a file of the history",
    "foreign": "is not a file of the history",
    "older": "has the schema harness.history/1, and this version of harness reads harness.history/2",
    "newer": "has the schema harness.history/3, and this version of harness reads harness.history/2",
    "lacking": "lacks the column 'p99_ulp'",
}


@pytest.mark.parametrize(("how", "message"), DAMAGES.items())
def test_a_damaged_file_is_an_error_by_itself_and_skipped_among_others(
    tmp_path: Path, how: str, message: str
) -> None:
    write_run(tmp_path, "kept")
    path = damage(tmp_path, how)
    with pytest.raises(HistoryError, match=f"{path.name}: .*{message}"):
        harness.load_history(path)
    with pytest.warns(HistoryWarning, match=f"{path.name}: .*{message}.*: skipped") as warned:
        assert list(harness.load_history(tmp_path)["case"]) == ["kept"]
    assert len(warned) == 1


def test_a_file_that_another_tool_wrote_again_has_the_types_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / f"{write_run(tmp_path, 'a')}.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("case")
    pq.write_table(table.set_column(place, "case", table["case"].cast("string")), path)
    write_run(tmp_path, "b")
    assert list(harness.load_history(tmp_path)["case"]) == ["a", "b"]


def test_a_file_is_read_without_a_look_at_its_neighbours(tmp_path: Path) -> None:
    path = tmp_path / f"{write_run(tmp_path, 'kept')}.parquet"
    damage(tmp_path, "empty")
    assert list(harness.load_history(path)["case"]) == ["kept"]
    assert interrupt(tmp_path) == interrupted(tmp_path, PLAN)


def test_another_folder_is_not_taken_for_an_interrupted_run(tmp_path: Path) -> None:
    (tmp_path / "spare.parts").mkdir()
    (tmp_path / "spare.parts" / "plan.json").write_text("[]")
    assert list_runs(tmp_path) == []


def test_the_newest_runs_of_a_release_are_found_from_the_end(tmp_path: Path) -> None:
    for number, releases in enumerate((("a",), ("b",), ("a", "b"), ("c",))):
        with RunWriter(tmp_path, replace(PLAN, releases=releases)) as writer:
            writer.run = f"2026010{number + 1}T000000Z-000000"
            writer.parts = tmp_path / f"{writer.run}.parts"
            writer.parts.mkdir()
            writer.write("one", [row()])
            writer.finish(MadeWith())
    assert [info.run[7] for info in list_newest(tmp_path, 2, release="a")] == ["1", "3"]
    assert [info.run[7] for info in list_newest(tmp_path, 1)] == ["4"]


def _write_many(folder: Path, name: str, count: int) -> None:
    for number in range(count):
        write_run(folder, f"{name}{number}")


def _write_until_killed(folder: Path) -> None:
    with RunWriter(folder, PLAN) as writer:
        for number in range(100_000):
            writer.write(f"p{number % 7}", [row(f"k{number}")] * 50)


def test_parallel_writers_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(tmp_path, name, 6)) for name in "xyz"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    frame = harness.load_history(tmp_path)
    assert sorted(frame["case"].astype(str)) == sorted(
        f"{name}{number}" for name in "xyz" for number in range(6)
    )
    assert frame["run"].notna().all()
    assert len(list_runs(tmp_path)) == 18


def test_a_killed_writer_leaves_whole_parts_that_can_be_resumed(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_write_until_killed, args=(tmp_path,))
    process.start()
    while len(list(tmp_path.glob("*.parts/*.parquet"))) < 3:
        assert process.is_alive()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    frame = harness.load_history(tmp_path)
    assert (frame.groupby(frame["case"].astype(str)).size() == 50).all()
    with opened(tmp_path, PLAN, resume=True) as writer:
        assert len(writer.done()) >= 3


def test_any_parquet_reader_finds_the_fingerprint(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a")
    metadata = pq.read_schema(tmp_path / f"{run}.parquet").metadata
    document = json.loads(metadata[METADATA_KEY])
    assert document["schema"] == "harness.history/2"
    assert document["fingerprint"] == {"onnxruntime": "1.20"}
