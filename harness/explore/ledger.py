"""What is known of configurations: the trials of a journal, and those that are added."""

from __future__ import annotations

from functools import cached_property

from harness.diagnosis import Notebook, Subject, island_problem
from harness.explore.answers import Earlier
from harness.search import Outcome, Problem, Trial

OF_CANDIDATE, OF_EMULATOR = "islands", "emulator"
"""The journals of a diagnosis: of the islands of its candidate, and beside an engine of those of the emulator."""


class Ledger:
    """The journal of one subject, as `harness.diagnose` keeps it.

    It is open only while something is evaluated, so that a diagnosis may go on with it in between.

    Args:
        notebook: whose journal it is.
        subject: the model on the candidate whose trials these are.
        name: name of the journal.

    Raises:
        JournalError: it belongs to another problem, is damaged, or another process is writing to it.
    """

    def __init__(self, notebook: Notebook, subject: Subject, name: str) -> None:
        self.notebook = notebook
        self.subject = subject
        self.name = name
        self.known: dict[frozenset[str], Trial] = {}
        self.refresh()
        self.earlier = self._earlier()

    @cached_property
    def problem(self) -> Problem:
        """The question that the journal is about, as a diagnosis puts it."""
        return island_problem(self.subject)

    def refresh(self) -> None:
        """Read what others have written."""
        with self.notebook.journal(self.name, self.problem) as journal:
            self.known |= {record.treated: record.trial for record in journal.records}

    def record(self, kept: frozenset[str], trial: Trial) -> None:
        """Write a trial down, on disk when this returns; one with the outcome that is known is not repeated.

        What could not be judged is not written: it may be another time, and a resumed search would not ask again.

        Raises:
            JournalError: another process is writing.
        """
        if trial.outcome is Outcome.UNRESOLVED:
            return
        known = self.known.get(kept)
        if known is None or known.outcome is not trial.outcome:
            with self.notebook.journal(self.name, self.problem) as journal:
                journal.append(kept, trial)
        self.known[kept] = trial

    def _earlier(self) -> Earlier:
        passing = [kept for kept, trial in self.known.items() if trial.outcome is Outcome.PASS]
        best = min(passing, key=len, default=None)
        return Earlier(
            self.subject.candidate.name,
            len(self.known),
            None if best is None else self.problem.ordered(best),
        )
