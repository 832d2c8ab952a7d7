"""The files that commands write: JSON, a page, Markdown, tables, pictures, and a folder of files to act on."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.tensors import atomic_path, is_node, write_text

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

STDOUT = Path("-")
PICTURES = (".png", ".svg")
TABLES = (".csv", ".parquet")
KEEP_SECONDS = 20.0
"""How often a partial JSON document is written while runs go on."""


@dataclass
class Outputs:
    """The files that a command was given to write. None and empty are not written.

    Args:
        json: a JSON file, or `-` for stdout.
        html: a page.
        markdown: a summary or a bug report.
        tables: .csv and .parquet files.
        plot: one picture, or a folder of pictures.
        tensors: a file for the outputs of candidates.
        folder: a folder that gets a page and a bug report, too, beside what others write there.
        models: .onnx files, which others write.
        others: files that others write.
    """

    json: Path | None = None
    html: Path | None = None
    markdown: Path | None = None
    tables: tuple[Path, ...] = ()
    plot: Path | None = None
    tensors: Path | None = None
    folder: Path | None = None
    models: tuple[Path | None, ...] = ()
    others: tuple[Path | None, ...] = ()
    _before: dict[str, int] = field(init=False)
    _kept: float = field(init=False, default_factory=time.monotonic)
    """When a partial JSON document was last written."""
    _ahead: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._before = {} if self.folder is None or not self.folder.is_dir() else _last_changes(self.folder)

    @property
    def pages(self) -> tuple[Path, ...]:
        """Where the page goes."""
        return self._with_folder(self.html, "diagnosis.html")

    @property
    def summaries(self) -> tuple[Path, ...]:
        """Where the Markdown goes."""
        return self._with_folder(self.markdown, "diagnosis.md")

    def _with_folder(self, file: Path | None, name: str) -> tuple[Path, ...]:
        return tuple(each for each in (file, self.folder and self.folder / name) if each is not None)

    @property
    def one_picture(self) -> bool:
        """Whether `plot` names a picture; otherwise it names a folder."""
        return self.plot is not None and self.plot.suffix.lower() in PICTURES and not self.plot.is_dir()

    @property
    def owns_stdout(self) -> bool:
        """Whether stdout belongs to the JSON document."""
        return self.json == STDOUT

    @property
    def console(self) -> Console:
        """Where the report for a person is printed: stdout, or stderr if stdout belongs to the JSON document."""
        import sys

        from harness.cli.progress import make_console

        return make_console(sys.stderr if self.owns_stdout else sys.stdout)

    def check(self) -> None:
        """Find what cannot be written before anything runs.

        Raises:
            UsageError: a file cannot be written, or has a format that is not supported.
        """
        check_folder(self.folder)
        _check_files(self.json, self.tensors, *self.pages, *self.summaries, *self.tables)
        _check_files(*self.models, *self.others)
        for model in self.models:
            if model is not None and is_node(model):  # its weights may go to a file beside it
                raise UsageError("is a device; name a file to write", where=model)
        for table in self.tables:
            if table.suffix not in TABLES:
                raise UsageError("is not a table format", where=table, hint="name a .csv or a .parquet file")
        if self.plot is None:
            return
        if self.one_picture:
            _check_files(self.plot)
        elif self.plot.suffix and not self.plot.is_dir():
            raise UsageError(
                f"cannot draw a {self.plot.suffix} file",
                where=self.plot,
                hint="name a .png, a .svg or a folder",
            )
        else:
            check_folder(self.plot)

    def load_ahead(self) -> None:
        """Load what draws a diagnosis in the background, once and if there will be one, while a worker is busy."""
        if self.pages and not self._ahead:
            self._ahead = True
            threading.Thread(target=_load_page, name="load page", daemon=True).start()

    def check_plot(self, runs: int) -> None:
        """Raise UsageError if one picture is named for several runs."""
        if self.one_picture and runs > 1:
            raise UsageError(
                f"--plot names one picture, but {runs} runs are selected",
                where=self.plot,
                hint="name a folder, or select one run with --precision",
            )

    def keep(self, document: Callable[[], object], *, at_once: bool = False) -> None:
        """Write a partial JSON document now and then, so that it is there whatever ends the command.

        A partial page would look complete, so pages are written only at the end.

        Args:
            document: the document as it would be if the command ended here.
            at_once: do not wait for the time.

        Raises:
            UsageError: the file cannot be written.
        """
        if self.json is None or self.owns_stdout or is_node(self.json):
            return  # what is written through cannot be taken back
        if not at_once and time.monotonic() - self._kept < KEEP_SECONDS:
            return
        with _writing():
            write_json(self.json, document())
        self._kept = time.monotonic()

    def write(
        self,
        *,
        document: Callable[[], object],
        page: Callable[[], str],
        summary: Callable[[], str],
        table: Callable[[], pd.DataFrame] | None = None,
        draw: Callable[[Path], None] | None = None,
        save: Callable[[Path], None] | None = None,
    ) -> None:
        """Write every file, each at once or not at all. An argument is called once, and only if its file was named.

        `document` makes what JSON is made from, `draw` gets the picture or the folder of pictures, `save` the file of
        tensors.

        Raises:
            UsageError: a file cannot be written.
        """
        page, summary, table = cache(page), cache(summary), table and cache(table)
        with _writing():
            if self.json is not None:
                write_json(self.json, document())
            for file in self.pages:
                write_text(file, page())
            for file in self.summaries:
                write_text(file, summary())
            if table is not None:
                for file in self.tables:
                    write_table(table(), file)
            if draw is not None and self.plot is not None:
                draw(self.plot)
            if save is not None and self.tensors is not None:
                save(self.tensors)

    def print_folder(self) -> None:
        """Print what is new or changed in `folder`, which others may use, too."""
        if self.folder is not None:
            changed = _last_changes(self.folder).items() - self._before.items()
            names = ", ".join(sorted(name for name, _ in changed))
            self.console.print(f"  files  {self.folder}: {names}", soft_wrap=True)


def _load_page() -> None:
    from harness.report import load_diagnosis_page

    with suppress(Exception):  # what is wrong with it is said where a page is drawn
        load_diagnosis_page()


def write_json(path: Path, document: object) -> None:
    """Write `document` as JSON to a file or, for `-`, to stdout. Numbers that are not finite must be strings."""
    text = _json_text(document) + "\n"
    if path == STDOUT:
        print(text, end="")
    else:
        write_text(path, text)


def _json_text(value: object, levels: int = 4, indent: str = "\n") -> str:
    """JSON with a line for each layer of a run, or what else is so many levels deep: json indents all or nothing, the
    slow way."""
    if not levels or not value or not isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    inner, (start, end) = indent + " ", "{}" if isinstance(value, dict) else "[]"
    if isinstance(value, dict):
        parts = [
            f"{json.dumps(key, ensure_ascii=False)}: {_json_text(item, levels - 1, inner)}"
            for key, item in value.items()
        ]
    else:
        parts = [_json_text(item, levels - 1, inner) for item in value]
    return f"{start}{inner}{f',{inner}'.join(parts)}{indent}{end}"


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV or Parquet, atomically."""
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # the command line has a status for it
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=error.filename) from error


def _check_files(*files: Path | None) -> None:
    """Raise UsageError if one is a folder, or cannot be written. None and `-` are not files."""
    for file in files:
        if file is None or file == STDOUT:
            continue
        if file.is_dir():
            raise UsageError("is a folder; name a file to write", where=file)
        if is_node(file):
            if not os.access(file, os.W_OK):
                raise UsageError(f"cannot be written: {os.strerror(errno.EACCES)}", where=file)
            continue
        _check_writable(Path(os.path.realpath(file)).parent, file)


def check_folder(folder: Path | None) -> None:
    """Raise UsageError if `folder`, which need not exist yet, is a file or cannot be written to."""
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise UsageError("is a file; name a folder to write to", where=folder)
    _check_writable(folder, folder)


def check_history(folder: Path) -> None:
    """As `check_folder`; a store says itself whether it can be written to, when the run is finished."""
    if isinstance(folder, Path):
        check_folder(folder)


def _check_writable(folder: Path, named: Path) -> None:
    """Create a nameless file in `folder`, or in the nearest folder above it that exists."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=named) from error


def _last_changes(folder: Path) -> dict[str, int]:
    """By name of what is in `folder`: when it last changed, in nanoseconds. A folder counts with its newest file."""

    def newest(path: Path) -> int:
        inside: Iterable[Path] = path.rglob("*") if path.is_dir() else ()
        return max(each.stat().st_mtime_ns for each in (path, *inside))

    return {path.name + ("/" if path.is_dir() else ""): newest(path) for path in folder.iterdir()}
