"""The files of a session: its journal, pictures of the error's growth, and recipes that keep nodes in FP32."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from harness.diagnosis import ByHand, DiagnosisJournal, Subject
from harness.errors import JournalError, UsageError
from harness.explore.answers import ExportedFiles, TryResult
from harness.judge import RunResult
from harness.tensors import typed_path, write_text

PICTURE = "growth-{}.png"
RECIPES = "recipes.sh"
NO_COMMANDS = ("layer_list", "typed_model")
"""Recipes that are files."""


def open_journal(folder: Path, subject: Subject) -> tuple[DiagnosisJournal, str]:
    """The journal in `folder`, to continue; one of another model or input is replaced, and a note says so."""
    note = ""
    try:
        return DiagnosisJournal(folder, subject, resume=True), note
    except JournalError as error:
        note = f"{error.message}; a new one was begun"
    DiagnosisJournal(folder, subject, resume=False)
    return DiagnosisJournal(folder, subject, resume=True), note


def default_folder(subject: Subject) -> Path:
    """The folder for pictures and exports: the case, the precision and, for an engine, the environment."""
    parts = [subject.bench.case.name, subject.precision.value]
    parts += [] if subject.emulated else [subject.candidate.name]
    return Path(re.sub(r"[^\w.-]+", "_", "-".join(parts)))


def draw(result: RunResult, folder: Path, path: str | None, *, note: str = "") -> Path:
    """Draw how the error of `result` grows.

    Args:
        result: the run.
        folder: where a new picture goes.
        path: the picture, if one was named.
        note: what the title says of the run: `4 nodes in FP32`.

    Raises:
        UsageError: the file is neither a .png nor a .svg, or cannot be written.
    """
    from harness.report import save_error_growth

    fresh = (folder / PICTURE.format(number) for number in count(1))
    target = typed_path(path) if path is not None else next(each for each in fresh if not each.exists())
    with _writing(target):
        return save_error_growth(result, target, note=note)


def export(by_hand: ByHand, result: TryResult, folder: Path) -> ExportedFiles:
    """Write the files that a diagnosis hands over for an island that was evaluated, and all commands in one file.

    Raises:
        UsageError: the folder cannot be written to.
    """
    with _writing(folder):
        handed = by_hand.write_recipes(result.kept, folder, passes=result.passed)
        commands = {tool: text for tool, text in handed.recipes.items() if tool not in NO_COMMANDS}
        write_text(folder / RECIPES, "".join(f"# {tool}\n{text}\n\n" for tool, text in commands.items()))
        files = tuple(sorted(path.name for path in folder.iterdir() if path.is_file()))
    evidence = tuple(each.text for each in handed.evidence)
    return ExportedFiles(folder, files, tuple(commands.items()), evidence, result)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        where = problem.filename or target
        raise UsageError(f"cannot be written: {problem.strerror or problem}", where=where) from problem
