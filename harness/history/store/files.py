"""The history on disk: a folder of Parquet files, one for each run, never changed once they are there.

    reports/history/20260131T020304512Z-1f9a3c.parquet   a finished run
    reports/history/20260131T020304512Z-1f9a3c.parts/    a run under way, or interrupted: a file a case and precision

or in a store of fsspec, which has finished runs only (`places`).

Names are unique and files appear at once (written aside, then renamed), so any number of writers may share a
folder. A finished run is its parts in one file; readers that meet both read the file. A file that cannot be read is
skipped with a `HistoryWarning` wherever other files are read too: one stray file must not cost a night.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HistoryError
from harness.history.store.cells import check_cells
from harness.history.store.places import exists, found, is_store, parts_folder, put, readable
from harness.history.store.schema import METADATA_KEY, NAMES, SCHEMA, Row, arrow_schema
from harness.history.types import CacheUse, LayerBuilds
from harness.judge import MadeWith
from harness.tensors import (
    NEVER,
    UNLESS_DEFAULT,
    Precision,
    atomic_path,
    from_json,
    take_lock,
    to_json,
    write_text,
)
from harness.text import names

if TYPE_CHECKING:
    import pyarrow as pa
    from filelock import FileLock

SUFFIX, PARTS = ".parquet", ".parts"
PLAN = "plan.json"
_COMPRESSION, _TIME = "zstd", "%Y%m%dT%H%M%S"


class HistoryWarning(UserWarning):
    """A file in the folder of a history cannot be read, and was skipped."""


@dataclass(frozen=True)
class MatrixPlan:
    """What a run builds. Only the same plan resumes an interrupted run.

    Args:
        releases: the environments and emulated releases, the oldest first.
        repeats: builds of each engine.
        cases: by name, the hash of the whole case.
        precisions: the precisions under test.
        layers: in which builds layers are observed.
        timing_cache: which builds use the timing cache.
        structure: whether models are compiled only.
        command: how the process was started, which may differ.
    """

    releases: tuple[str, ...]
    repeats: int
    cases: Mapping[str, str]
    precisions: tuple[Precision, ...] = ()
    layers: LayerBuilds = LayerBuilds.AUTO
    timing_cache: CacheUse = CacheUse.BOTH
    structure: bool = False
    command: str = ""

    def differences(self, other: MatrixPlan) -> list[str]:
        """The names of what `other` builds differently, sorted."""
        names = sorted(item.name for item in fields(self) if item.name != "command")
        return [name for name in names if getattr(self, name) != getattr(other, name)]


@dataclass(frozen=True)
class CaseHashes:
    """SHA-256 of what a case reads besides its own file: the model and the inputs. None: it cannot be had."""

    model: str | None = None
    inputs: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunInfo(MatrixPlan):
    """One run of the history, as far as its metadata says: its plan, and what came of it.

    Args:
        run: its id, which is the stem of its file.
        path: its file, or the folder of its parts.
        finished: whether it came to its end.
        fingerprint: what it ran on.
        hashes: of a part what it was made from.
        schema: of its files.
    """

    run: str
    path: Path = field(default=Path(), metadata=NEVER)
    finished: bool
    fingerprint: MadeWith = field(default_factory=MadeWith)
    hashes: CaseHashes | None = field(default=None, metadata=UNLESS_DEFAULT)
    schema: str

    @property
    def started(self) -> datetime.datetime:
        """When it began, UTC."""
        return datetime.datetime.strptime(self.run[:15], _TIME).replace(tzinfo=datetime.UTC)

    @property
    def files(self) -> tuple[Path, ...]:
        """The Parquet files that hold it."""
        return (self.path,) if self.finished else tuple(sorted(self.path.glob(f"*{SUFFIX}")))


def _info(
    plan: MatrixPlan, path: Path, fingerprint: MadeWith | None = None, hashes: CaseHashes | None = None
) -> RunInfo:
    """The metadata of a part or of a run that is not finished; with a fingerprint, those of a finished run."""
    return RunInfo(
        **vars(plan),
        schema=SCHEMA,
        run=path.stem,
        path=path,
        finished=fingerprint is not None,
        fingerprint=fingerprint or MadeWith(),
        hashes=hashes,
    )


class RunWriter:
    """Writes one run, part by part; a context manager that holds the run's lock.

    Args:
        folder: the history.
        plan: what is to be run.
        run: id of an interrupted run to continue; None starts one.

    Raises:
        HistoryError: another process writes this run, or the plan is another one.
    """

    def __init__(self, folder: Path, plan: MatrixPlan, *, run: str | None = None) -> None:
        now = datetime.datetime.now(datetime.UTC)
        self.run = run or f"{now:{_TIME}}{now.microsecond // 1000:03d}Z-{secrets.token_hex(3)}"
        self.folder = folder
        self.parts = parts_folder(folder) / f"{self.run}{PARTS}"
        self.plan = plan
        self._lock: FileLock | None = None
        if run is not None:
            self._check_plan()

    def __enter__(self) -> RunWriter:
        hint = "wait, or leave out --resume to start a new run"
        busy = HistoryError("another process is writing this run", where=self.parts, hint=hint)
        self._lock = take_lock(self.parts / "lock", busy)
        if not (self.parts / PLAN).exists():
            write_text(self.parts / PLAN, json.dumps(to_json(self.plan), indent=1) + "\n")
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()
        if self.parts.is_dir() and not any(self.parts.glob(f"*{SUFFIX}")):
            shutil.rmtree(self.parts, ignore_errors=True)  # nothing was kept: leave no trace

    def done(self) -> set[str]:
        """Names of the parts that are there already."""
        return {path.stem for path in self.parts.glob(f"*{SUFFIX}")}

    def write(self, part: str, rows: Sequence[Row], hashes: CaseHashes | None = None) -> None:
        """Add a part, as a whole or not at all; `hashes` are of what it was made from."""
        import pyarrow as pa

        columns = {name: [getattr(row, name) for row in rows] for name in NAMES}
        table = pa.Table.from_pydict(columns, schema=arrow_schema())
        _write(table, self.parts / f"{part}{SUFFIX}", _info(self.plan, self.parts, hashes=hashes))

    def hashes(self, part: str) -> CaseHashes:
        """What a part was made from, as `write` was given it.

        Raises:
            HistoryError: its file is damaged.
        """
        return read_info(self.parts / f"{part}{SUFFIX}").hashes or CaseHashes()

    def finish(self, fingerprint: MadeWith) -> Path:
        """Make one file of the parts, and return it."""
        import pyarrow as pa

        tables = [_read(path) for path in sorted(self.parts.glob(f"*{SUFFIX}"))]
        target = self.folder / f"{self.run}{SUFFIX}"
        info = _info(self.plan, target, fingerprint)
        _write(pa.concat_tables(tables).unify_dictionaries(), target, info)
        shutil.rmtree(self.parts, ignore_errors=True)
        return target

    def _check_plan(self) -> None:
        try:
            old = read_plan(self.parts)
        except (OSError, ValueError) as error:
            raise HistoryError(f"cannot be resumed: {error}", where=self.parts) from error
        if differing := self.plan.differences(old):
            raise HistoryError(
                f"the interrupted run is a different one: {', '.join(differing)} changed",
                where=self.parts,
                hint="give the same cases, releases and options, or leave out --resume",
            )


def check_readable(folder: Path) -> None:
    """Refuse a history of whose files this version of harness reads none; an empty one is none of these.

    Raises:
        HistoryError: names the files, and says what is wrong with the newest.
    """
    paths, newest = sorted(found(folder, f"*{SUFFIX}"), reverse=True), None
    for path in paths:
        try:
            read_info(path)
            return
        except HistoryError as error:
            newest = newest or error
    if newest is not None:
        listed = names((path.name for path in paths), 3)
        raise HistoryError(
            f"holds no run that this version of harness reads: {listed}. The newest {newest.message}",
            where=folder,
            hint="move these files to another folder, or name another one; "
            "`harness history export` of the version that wrote them keeps their rows as a table",
        ) from newest


def list_runs(folder: Path, *, unfinished: bool = True) -> list[RunInfo]:
    """The runs in `folder`, the oldest first; only footers are read. Warns of files that cannot be read."""
    runs = [info for path in found(folder, f"*{SUFFIX}") if (info := _info_if_sound(path)) is not None]
    if unfinished:
        runs += unfinished_runs(folder)
    return sorted(runs, key=lambda info: info.run)


def unfinished_runs(folder: Path) -> list[RunInfo]:
    """The runs in `folder` that are under way or were interrupted, the oldest first; no file of a run is read."""
    found = parts_folder(folder).glob(f"*{PARTS}")
    parts = (path for path in found if not (folder / path.with_suffix(SUFFIX).name).exists())
    return sorted(filter(None, map(_unfinished, parts)), key=lambda info: info.run)


def list_newest(
    folder: Path,
    count: int,
    *,
    release: str | None = None,
    before: RunInfo | None = None,
    accept: Callable[[RunInfo], bool] = lambda info: True,
) -> list[RunInfo]:
    """The newest `count` finished runs of `release`, the oldest of them first; few other footers are read.

    Warns of files that cannot be read.

    Args:
        folder: the history.
        count: how many.
        release: an environment or emulated release; None takes any.
        before: only runs that began before this one and share a case with it.
        accept: whether a run counts; called last.
    """
    chosen: list[RunInfo] = []
    for path in sorted(found(folder, f"*{SUFFIX}"), reverse=True):
        info = _info_if_sound(path)
        if info is None or not (release is None or release in info.releases):
            continue
        if before is None or (info.run < before.run and set(info.cases) & set(before.cases)):
            chosen += [info] if accept(info) else []
        if len(chosen) == count:
            break
    return chosen[::-1]


def interrupted(folder: Path, plan: MatrixPlan | None = None) -> str:
    """The id of the newest interrupted run of `plan`; of the newest of all where none is of it, or none is given.

    Raises:
        HistoryError: no run was interrupted.
    """
    runs = unfinished_runs(folder)
    if not runs:
        raise HistoryError("there is no interrupted run to resume", where=folder, hint="leave out --resume")
    alike = [info for info in runs if plan is not None and _has_plan(info.path, plan)]
    return (alike or runs)[-1].run


def read_plan(parts: Path) -> MatrixPlan:
    """The plan of a run under way, from the folder of its parts.

    Raises:
        OSError: there is none.
        ValueError: it is damaged.
    """
    return from_json(MatrixPlan, json.loads((parts / PLAN).read_text()))


def _has_plan(parts: Path, plan: MatrixPlan) -> bool:
    """Whether a run under way is of `plan`."""
    try:
        return not plan.differences(read_plan(parts))
    except (OSError, ValueError):
        return False  # it ended at this moment


def read_runs(
    runs: Iterable[RunInfo], columns: Sequence[str] = NAMES, *, skip_damaged: bool = False
) -> pa.Table:
    """The rows of `runs` in one table; with `skip_damaged` without the files that cannot be read, but with a warning.

    Raises:
        HistoryError: a file is damaged, or lacks one of `columns`.
    """
    import pyarrow as pa

    tables = []
    for info in runs:
        finished = info.path.with_suffix(SUFFIX)  # it may have been finished meanwhile
        for path in (finished,) if exists(finished) else info.files:
            try:
                tables.append(_read(path, columns))
            except HistoryError as error:
                if not skip_damaged:
                    raise
                _warn(error)
    return pa.concat_tables(tables).unify_dictionaries() if tables else _schema(columns).empty_table()


def _schema(columns: Sequence[str]) -> pa.Schema:
    """The schema of a table of `columns`."""
    import pyarrow as pa

    whole = arrow_schema()
    return pa.schema([whole.field(name) for name in columns])


def read_info(path: Path) -> RunInfo:
    """What the footer of one file of the history says.

    Raises:
        HistoryError: it is damaged, is not a file of the history, or has a schema that this version does not read.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    try:
        with readable(path) as source:
            document = json.loads((read_schema(source).metadata or {})[METADATA_KEY])
        info = replace(from_json(RunInfo, document), path=path)
        info.started  # noqa: B018 - raises ValueError where `run` is not an id
    except (OSError, ArrowException, KeyError, ValueError) as error:
        why, hint = f"is not a file of the history: {error}", "move it to another folder"
        raise HistoryError(why, where=path, hint=hint) from error
    if info.schema != SCHEMA:
        raise HistoryError(
            f"has the schema {info.schema}, and this version of harness reads {SCHEMA}",
            where=path,
            hint="read it with the version that wrote it, or move it to another folder",
        )
    return info


def _info_if_sound(path: Path) -> RunInfo | None:
    """As `read_info`; a file that cannot be read is warned of."""
    try:
        return read_info(path)
    except HistoryError as error:
        _warn(error)
        return None


def _warn(error: HistoryError) -> None:
    """Warn that a file was skipped. In one place: Python shows the same warning of the same line once."""
    warnings.warn(f"{error.where}: {error.message}: skipped", HistoryWarning, stacklevel=1)


def _unfinished(parts: Path) -> RunInfo | None:
    try:
        info = _info(read_plan(parts), parts)
        info.started  # noqa: B018 - raises ValueError where the folder is one of something else
        return info
    except (OSError, ValueError):
        return None  # it starts or ends at this moment; or a folder of something else


def _read(path: Path, columns: Sequence[str] = NAMES) -> pa.Table:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with (
            readable(path) as source,
            ParquetFile(source, memory_map=not is_store(path), page_checksum_verification=True) as file,
        ):
            if lost := [name for name in columns if name not in file.schema_arrow.names]:
                read_info(path)  # a part of another schema says so
                raise HistoryError(f"cannot be read: it lacks the column {lost[0]!r}", where=path)
            table, wanted = file.read(columns=list(columns)).select(list(columns)), _schema(columns)
            table = table if table.schema.types == wanted.types else table.cast(wanted)
            table.validate(full=True)
    except (OSError, ArrowException) as error:
        raise HistoryError(f"cannot be read: {' '.join(str(error).split())}", where=path) from error
    check_cells(table, path)
    return table


def _write(table: pa.Table, path: Path, info: RunInfo) -> None:
    from pyarrow.parquet import write_table

    described = table.replace_schema_metadata({METADATA_KEY: json.dumps(to_json(info), ensure_ascii=False)})
    if is_store(path):
        buffer = io.BytesIO()
        write_table(described, buffer, compression=_COMPRESSION, write_page_checksum=True)
        put(path, buffer.getvalue())
        return
    with atomic_path(path) as temporary:
        write_table(described, temporary, compression=_COMPRESSION, write_page_checksum=True)


@contextlib.contextmanager
def opened(folder: Path, plan: MatrixPlan, *, resume: bool) -> Iterator[RunWriter]:
    """A writer of a new run, or of the newest interrupted one of the same plan."""
    with RunWriter(folder, plan, run=interrupted(folder, plan) if resume else None) as writer:
        yield writer
