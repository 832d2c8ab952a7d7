"""Opening a session: the case, its candidate, and the journals that it goes on with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.case import Case
from harness.diagnosis import (
    JOURNAL,
    Lab,
    Notebook,
    Progress,
    Subject,
    journal_folder,
    one_case,
    precision_of,
)
from harness.errors import JournalError, NothingSelectedError
from harness.explore.session import Session
from harness.judge import EMULATOR, Judge, check_names
from harness.tensors import Precision


@contextmanager
def open_session(
    target: Case | Path | str,
    *,
    precision: Precision | str | None = None,
    environment: str | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
) -> Iterator[Session]:
    """A session on one case; leaving it frees the workers.

    Args:
        target: a case, a case file, or an .onnx file.
        precision: the precision under test; by default the only one of the case beside fp32, or fp16.
        environment: where `try --engine` builds: a name of harness.toml; None is nowhere.
        inputs: shapes for the inputs of an .onnx file.
        out: folder for pictures and exports, and its `journal` for journals. By default a folder that is called like
            the case and the precision, and the journals where `harness diagnose` keeps them.
        progress: told of what takes time.

    Raises:
        UsageError: the target is not one case, or the precision lowers nothing.
        ModelError, InputDataError, CaseFileError: the case cannot be run.
        CandidateError: the environment's worker does not start.
        JournalError: a journal is damaged or in use.
    """
    wanted = None if precision is None else Precision(precision)
    case = one_case(target, inputs, wanted, purpose="a session")
    with Judge() as judge:
        bench = judge.bench(case)
        if missing := bench.missing_packages():
            raise NothingSelectedError(f"needs {', '.join(missing)}, which is not installed", where=case.name)
        check_names(case, bench.model)
        candidate = judge.candidates.get(environment or EMULATOR, bench)
        subject = Subject(bench, precision_of(case, wanted), candidate)
        folder = journal_folder(subject) if out is None else Path(out) / JOURNAL
        notebook, note = _notebook(folder, subject)
        lab = Lab(subject, notebook=notebook, progress=progress)
        yield Session(lab, notebook, _out(subject) if out is None else Path(out), note=note)


def _notebook(folder: Path, subject: Subject) -> tuple[Notebook, str]:
    """The notebook in `folder`, gone on with; one of another model or input is of no use and is replaced."""
    note = ""
    try:
        return Notebook(folder, subject, resume=True), note
    except JournalError as error:
        note = f"{error.message}; a new one was begun"
    Notebook(folder, subject, resume=False)
    return Notebook(folder, subject, resume=True), note


def _out(subject: Subject) -> Path:
    parts = [subject.bench.case.name, subject.precision.value]
    parts += [] if subject.emulated else [subject.candidate.name]
    return Path(re.sub(r"[^\w.-]+", "_", "-".join(parts)))
