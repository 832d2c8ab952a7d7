"""The loop: a line in, an answer out; at a terminal with completion and history, from a pipe as a script."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.text import Text

from harness.diagnosis import DiagnosisEvent, DiagnosisProgress
from harness.errors import BudgetExhaustedError, CandidateError, HarnessError
from harness.explore.answers import Answer, BisectResult, TryResult
from harness.explore.commands import Command, parse
from harness.explore.rendering import render, render_error, render_help
from harness.explore.session import Session
from harness.search import Outcome

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.formatted_text import StyleAndTextTuples

HISTORY = Path(".harness") / "explore.history"


class Shell:
    """Runs commands of one session and prints their answers.

    Args:
        session: what they are about.
        console: where answers go.
        progress: makes the display for one command; its progress is called with everything that takes time.
    """

    def __init__(
        self,
        session: Session,
        console: Console,
        progress: Callable[[], AbstractContextManager[DiagnosisProgress]],
    ) -> None:
        self.session = session
        self.console = console
        self._progress = progress

    # --- one line ---------------------------------------------------------------------------------------------------

    def do(self, line: str) -> Answer | None:
        """Carry out one line and print its answer.

        Raises:
            EOFError: it asks to leave.
            HarnessError: the line is not a command, or the command failed.
            KeyboardInterrupt: it was cancelled; what is kept is as it was.
        """
        command = parse(line)
        if command is None:
            return None
        if command.name == "quit":
            raise EOFError
        if command.name == "help":
            self.console.print(render_help(*command.words))
            return None
        with _OnDemand(self._progress) as progress:
            self.session.context.progress = progress
            try:
                answer = _ANSWERS[command.name](self.session, command)
            finally:
                self.session.context.progress = None
        self.show(answer)
        return answer

    def show(self, answer: Answer) -> None:
        """Print an answer."""
        self.console.print(render(answer), crop=False)

    def say(self, text: str) -> None:
        """Print a line beside the answers; it is not wrapped, it may hold a command."""
        self.console.print(Text(text, style="dim"), soft_wrap=True)

    # --- a script ---------------------------------------------------------------------------------------------------

    def run_script(self, lines: Iterable[str]) -> int:
        """Carry out every line, each printed before its answer, and end at the first mistake.

        Returns:
            The exit status: 0 if what was evaluated last passes, 1 if it fails.

        Raises:
            HarnessError: a line is not a command, an engine could not be judged, or a search found no answer.
        """
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            self.console.print(Text(f"{self.prompt}{line.strip()}", style="bold"), soft_wrap=True)
            try:
                answer = self.do(line)
            except EOFError:
                break
            except HarnessError as error:
                error.where = f"line {number}" if error.where is None else f"line {number}: {error.where}"
                raise
            _check(answer, number)
        return 0 if self.session.passes else 1

    # --- a terminal -------------------------------------------------------------------------------------------------

    def run_prompt(self) -> None:
        """Ask for commands until the person leaves. Ctrl-C cancels a command, never the session."""
        prompt = self._make_prompt()
        while True:
            try:
                line = prompt.prompt()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            try:
                self.do(line)
            except EOFError:
                return
            except KeyboardInterrupt:
                self.console.print(Text("cancelled; what is kept is as it was", style="yellow"))
            except HarnessError as error:
                self.console.print(render_error(error))
                if isinstance(error, CandidateError):
                    for text in error.lines:
                        self.console.print(Text(f"  | {text}", style="dim"))

    @property
    def prompt(self) -> str:
        """What stands before a command."""
        try:
            "›".encode(self.console.encoding)
        except (UnicodeEncodeError, LookupError):
            return f"{self.session.subject.precision}> "
        return f"{self.session.subject.precision} › "

    def status(self) -> str:
        """The line below the prompt: what is kept, and what is known of it."""
        session = self.session
        outcome = session.known()
        known = (
            "not tried"
            if outcome is None
            else {Outcome.PASS: "PASS", Outcome.FAIL: "FAIL"}.get(outcome, "ERROR")
        )
        return f" {len(session.kept)} of {session.start.nodes} nodes in FP32: {known}"

    def _make_prompt(self) -> PromptSession[str]:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
        from prompt_toolkit.history import FileHistory, History, InMemoryHistory
        from prompt_toolkit.styles import Style

        from harness.explore.completion import make_completer

        history: History = InMemoryHistory()
        with suppress(OSError):  # where nothing can be written, nothing is remembered
            HISTORY.parent.mkdir(parents=True, exist_ok=True)
            history = FileHistory(str(HISTORY))
        plain = bool(os.environ.get("NO_COLOR"))
        message: StyleAndTextTuples = [("class:prompt", self.prompt)]
        return PromptSession(
            message,
            completer=make_completer(self.session.names, lambda: self.session.kept),
            complete_while_typing=False,
            history=history,
            auto_suggest=AutoSuggestFromHistory(),
            bottom_toolbar=self.status,
            style=Style.from_dict(
                {"prompt": "bold" if plain else "bold ansicyan", "bottom-toolbar": "noreverse"}
            ),
        )


_ANSWERS: dict[str, Callable[[Session, Command], Answer]] = {
    "layers": lambda session, given: session.layers(given.words, given.order),
    "why": lambda session, given: session.why(*given.words),
    "keep": lambda session, given: session.keep(given.words) if given.words else session.show_kept(),
    "lower": lambda session, given: session.lower(given.words),
    "try": lambda session, given: session.evaluate(engine=bool(given.words)),
    "bisect": lambda session, given: session.bisect(given.words),
    "plot": lambda session, given: session.plot(*given.words),
    "undo": lambda session, given: session.undo(),
    "history": lambda session, given: session.results(),
    "export": lambda session, given: session.export(*given.words),
}
"""What each command does, but for `help` and `quit`."""


class _OnDemand:
    """A progress display that is made at the first event: most commands are done before there is any."""

    def __init__(self, make: Callable[[], AbstractContextManager[DiagnosisProgress]]) -> None:
        self._make = make
        self._stack = ExitStack()
        self._display: DiagnosisProgress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, event: DiagnosisEvent) -> None:
        if self._display is None:
            self._display = self._stack.enter_context(self._make())
        self._display(event)


def _check(answer: Answer | None, number: int) -> None:
    """End a script at a command without an answer.

    Raises:
        CandidateError: there was no engine to judge.
        BudgetExhaustedError: a search found no answer.
    """
    if isinstance(answer, TryResult) and answer.evaluation.outcome is Outcome.UNRESOLVED:
        evaluation = answer.evaluation
        raise CandidateError(evaluation.note, where=f"line {number}", evidence=evaluation.evidence)
    if isinstance(answer, BisectResult) and not answer.answered:
        raise BudgetExhaustedError("the search found no nodes that pass", where=f"line {number}")
