"""Which nodes a compiler does not take, all of them: what it names is cut out, and it is asked about the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from harness.conversion.findings import CompileOutcome
from harness.conversion.parts import Parts
from harness.model import Model
from harness.worker.protocol import CompileFailure, CompileReport

Ask = Callable[[Model], CompileReport]
MOST_QUESTIONS = 64
NOT_ASKED = ("unsupported", "no_gpu")
"""Failures that say nothing of the model: the compiler could not be asked."""
_HOPELESS = ("timed_out", "out_of_memory", *NOT_ASKED)
"""Failures that are not looked into: each question costs as much again, or leads nowhere."""


@dataclass(frozen=True)
class Blamed:
    """A node that stands in the way.

    Args:
        node: its name in the main graph; None: the model as a whole.
        inner: the name of the node in its bodies that is meant; None: the node itself.
        outcome: refused by the parser, or not built.
        said: in the compiler's words.
        failure: why it was not built; None if the parser refuses it.
        alone: whether it fails by itself, too; None if it could not be asked about alone.
    """

    node: str | None
    inner: str | None
    outcome: CompileOutcome
    said: str
    failure: CompileFailure | None = None
    alone: bool | None = None


class Examination:
    """Asks a compiler until what is left builds.

    Args:
        parts: cuts the model.
        ask: what the compiler says of a model.
        suspects: nodes that rules say it does not take, for what it refuses without a name.
    """

    def __init__(self, parts: Parts, ask: Ask, suspects: Collection[str] = ()) -> None:
        self._parts, self._compiler, self._suspects = parts, ask, tuple(suspects)
        self._questions = 0
        self.blamed: list[Blamed] = []
        self.complete = True
        """Whether everything that is not blamed was seen to build."""

    @property
    def bad(self) -> frozenset[str]:
        """The nodes that are blamed."""
        return frozenset(each.node for each in self.blamed if each.node is not None)

    @property
    def owners(self) -> Mapping[str, str]:
        """The node of the main graph in which each node is, by name."""
        return self._parts.owners

    @property
    def leaves_a_rest(self) -> bool:
        """Whether nodes are blamed, and what is left was not seen to build."""
        return bool(self.bad) and not self.complete

    def run(self, report: CompileReport) -> None:
        """Find all nodes, beginning with what was said of the whole model."""
        part: Model | None = self._parts.model
        while not report.built:
            before = self.bad
            if report.refused:
                self._take_refused(report)
            if self.bad == before and not self._search(part, report):
                self.complete = False
                return
            part = self._parts.without(self.bad)
            if part is None:  # nothing is left, or what is left cannot be asked about
                self.complete = self._parts.all_in(self.bad)
                return
            if self._questions >= MOST_QUESTIONS:
                self.complete = False
                return
            report = self._ask(part)

    def _take_refused(self, report: CompileReport) -> None:
        for refused in report.refused:
            owner = self._parts.owners.get(refused.name)
            if owner is not None and owner not in self.bad:
                inner = None if refused.name == owner else refused.name
                self.blamed.append(Blamed(owner, inner, CompileOutcome.REFUSED, refused.message))

    def _search(self, part: Model | None, report: CompileReport) -> bool:
        """Find a node that is to blame for what no node was named for; False if there is none to be found."""
        nameless = next((refused.message for refused in report.refused), None)
        failure = report.failure
        if failure is not None and failure.kind in _HOPELESS:
            self.blamed.append(Blamed(None, None, outcome_of(report), failure.message, failure))
            return False
        if nameless is not None and (known := [name for name in self._suspects if name not in self.bad]):
            self.blamed += [Blamed(name, None, CompileOutcome.REFUSED, nameless) for name in known]
            return True
        assert part is not None
        named = [] if failure is None else self._owners_of(failure.nodes)
        for name in named:
            if self._fails(alone := self._parts.alone(name)):
                self._blame(name, self._ask(alone), alone=True)
                return True
        found = self._bisect([node.name for node in part.nodes])
        if found is None:
            if named:
                self._blame(named[0], report, alone=None)
                return True
            self.blamed.append(
                Blamed(
                    None, None, outcome_of(report), nameless or (failure.message if failure else ""), failure
                )
            )
            return False
        name, smallest = found
        alone = self._parts.alone(name)
        self._blame(name, smallest, alone=None if alone is None else not self._ask(alone).built)
        return True

    def _owners_of(self, names: Iterable[str]) -> list[str]:
        owners = (self._parts.owners.get(name) for name in names)
        return [name for name in dict.fromkeys(owners) if name is not None and name not in self.bad]

    def _blame(self, name: str, report: CompileReport, *, alone: bool | None) -> None:
        failure = report.failure
        said = failure.message if failure is not None else report.refused[0].message
        self.blamed.append(Blamed(name, None, outcome_of(report), said, failure, alone))

    def _bisect(self, names: list[str]) -> tuple[str, CompileReport] | None:
        """The node with which the first nodes of `names` cease to build, and what is said of these."""
        good, bad = 0, len(names)
        said: CompileReport | None = None
        while bad - good > 1 and self._questions < MOST_QUESTIONS:
            middle = (good + bad) // 2
            part = self._parts.of(names[:middle], "prefix")
            report = None if part is None else self._ask(part)
            if report is None or report.built or _cannot_tell(report):
                good = middle
            else:
                bad, said = middle, report
        if bad - good > 1:
            return None
        if said is None:
            part = self._parts.of(names[:bad], "prefix")
            said = None if part is None else self._ask(part)
        return None if said is None or said.built else (names[bad - 1], said)

    def _fails(self, part: Model | None) -> bool:
        if part is None:
            return False
        report = self._ask(part)
        return not report.built and not _cannot_tell(report)

    def _ask(self, part: Model | None) -> CompileReport:
        assert part is not None
        self._questions += 1
        return self._compiler(part)


def outcome_of(report: CompileReport) -> CompileOutcome:
    """What a report says of a model."""
    if report.built:
        return CompileOutcome.BUILT
    if report.refused:
        return CompileOutcome.REFUSED
    return CompileOutcome.UNKNOWN if _cannot_tell(report) else CompileOutcome.NOT_BUILT


def _cannot_tell(report: CompileReport) -> bool:
    return report.failure is not None and report.failure.kind in NOT_ASKED
