"""Why a run has its verdict: a code with its fields, and the sentence that is made from them last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.case import Waived
from harness.judge.losses import OwnRoundings, Selection
from harness.judge.results.scores import Score
from harness.judge.results.shapes import ShapeResult
from harness.judge.results.tensors import OutputResult, Region, describe_failure, worst_of
from harness.judge.results.verdicts import Cause, Judged, RunError
from harness.tensors import UNLESS_DEFAULT, Precision
from harness.text import names
from harness.worker.protocol import CompileReport


@dataclass(frozen=True)
class RunReason:
    """Why a run has its verdict. `str` says it in a sentence, from the fields that its cause is about.

    Args:
        cause: what decided it, before a waiver; None for what is only told in `detail`.
        detail: what decided it in the words of whoever found it, where no other field says so.
        waiver: the waiver of the case that covers a failure, valid or expired.
        output: the worst output that fails.
        finite: outputs of which only finiteness was judged.
        builds: how many builds were judged, where the engine was built several times.
        failing: how many of them fail.
        selections: nodes that choose otherwise for near ties.
        precision: the precision that the steps of those are of.
        scores: what metrics of the user's own say; of a drop, the first that is too large.
        expected: why the case expects a failure.
        starts: the nodes where the error starts, and should not.
        regions: nodes among which it starts.
        origin: the nodes where the case expects it to start.
        own: what the model's own roundings do to it.
        shape: the shape that is wrong.
        compiled: what the compiler refused, or why it built nothing.
        error: the error that the run ended with.
    """

    cause: Cause | None = None
    detail: str = field(default="", metadata=UNLESS_DEFAULT)
    waiver: Waived | None = field(default=None, metadata=UNLESS_DEFAULT)
    output: OutputResult | None = field(default=None, metadata=UNLESS_DEFAULT)
    finite: tuple[str, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    builds: int | None = field(default=None, metadata=UNLESS_DEFAULT)
    failing: int = field(default=0, metadata=UNLESS_DEFAULT)
    selections: tuple[Selection, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    precision: Precision | None = field(default=None, metadata=UNLESS_DEFAULT)
    scores: tuple[Score, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    expected: str = field(default="", metadata=UNLESS_DEFAULT)
    starts: tuple[str, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    regions: tuple[Region, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    origin: tuple[str, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    own: OwnRoundings | None = field(default=None, metadata=UNLESS_DEFAULT)
    shape: ShapeResult | None = field(default=None, metadata=UNLESS_DEFAULT)
    compiled: CompileReport | None = field(default=None, metadata=UNLESS_DEFAULT)
    error: RunError | None = field(default=None, metadata=UNLESS_DEFAULT)

    def __post_init__(self) -> None:
        needed = None if self.cause is None else _NEEDS.get(self.cause)
        if needed is not None and not getattr(self, needed):
            raise ValueError(f"{self.cause} lacks {needed!r}, which it is about")

    @classmethod
    def of_outputs(cls, outputs: Sequence[OutputResult]) -> RunReason:
        """What the gates of `outputs` say."""
        worst = worst_of(outputs)
        if worst is not None and not worst.passed:
            return cls(Cause.GATE_FAILED, output=worst)
        finite = dict.fromkeys(each.tensor for each in outputs if each.judged is Judged.FINITENESS)
        return cls(Cause.GATES_HOLD, finite=tuple(finite))

    @property
    def code(self) -> Cause | None:
        """What decided the verdict in the end: a waiver, where there is one."""
        if self.waiver is None:
            return self.cause
        return Cause.WAIVER_EXPIRED if self.waiver.expired else Cause.WAIVED

    @property
    def headline(self) -> str:
        """The sentence without the further lines that messages of errors may have."""
        return next(iter(str(self).splitlines()), "")

    def __str__(self) -> str:
        """One line for a person, if no message of an error has more; empty where nothing decided a verdict."""
        words = None if self.cause is None else _WORDS.get(self.cause)
        text = self.detail if words is None else words(self)
        return text if self.waiver is None else f"{text}; {self.waiver}"


def _of_builds(words: Callable[[RunReason], str]) -> Callable[[RunReason], str]:
    """`words`, behind how many builds they are of."""

    def told(reason: RunReason) -> str:
        if reason.builds is None:
            return words(reason)
        return f"{f'{reason.failing} of ' if reason.failing else ''}{reason.builds} builds: {words(reason)}"

    return told


def _gates_hold(reason: RunReason) -> str:
    text = "all gates hold"
    if reason.finite:
        text += f"; of {names(reason.finite)} only finiteness was judged, not the values"
    return text


def _and_choices(reason: RunReason) -> str:
    assert reason.precision is not None or not reason.selections
    chosen = [each.describe(reason.precision or Precision.FP32) for each in reason.selections]
    return "; ".join([_of_builds(_gates_hold)(reason), *chosen, *map(str, reason.scores)])


def _gate_failed(reason: RunReason) -> str:
    assert reason.output is not None
    return describe_failure((reason.output,))


def _other_origin(reason: RunReason) -> str:
    around = (f"one of the {len(region.nodes)} nodes up to {region.tensor}" for region in reason.regions)
    starts = ", ".join([*reason.starts, *around]) or "nowhere that was observed"
    return f"fails as expected, but the error starts at {starts}, not {', '.join(reason.origin)}"


def _file(reason: RunReason) -> str:
    return reason.detail or ("" if reason.own is None else reason.own.fault)


def _nothing_to_round(reason: RunReason) -> str:
    price = "" if reason.own is None else reason.own.price
    return "; ".join(filter(None, (reason.detail, price)))


def _not_built(reason: RunReason) -> str:
    report = reason.compiled
    assert report is not None
    if report.failure is not None:
        return report.failure.message
    first, *rest = report.refused
    more = f", and {len(rest)} more" if rest else ""
    return f"{report.product} {report.release} refuses {first.name or 'the model'} ({first.op}): {first.message}{more}"


def _error(reason: RunReason) -> str:
    return str(reason.error or "")


_NEEDS = {
    Cause.GATE_FAILED: "output",
    Cause.SCORE: "scores",
    Cause.SHAPE: "shape",
    Cause.NOT_BUILT: "compiled",
}
"""The field that the words of a cause are of."""
_WORDS: dict[Cause, Callable[[RunReason], str]] = {
    Cause.GATES_HOLD: _and_choices,
    Cause.GATE_FAILED: _of_builds(_gate_failed),
    Cause.EXPECTED: _of_builds(lambda reason: f"fails as expected: {reason.expected}"),
    Cause.OTHER_ORIGIN: _of_builds(_other_origin),
    Cause.UNEXPECTED_PASS: _of_builds(
        lambda reason: f"passes, although the case expects it to fail: {reason.expected}"
    ),
    Cause.FILE: _file,
    Cause.NOTHING_TO_ROUND: _nothing_to_round,
    Cause.SCORE: lambda reason: str(reason.scores[0]),
    Cause.SHAPE: lambda reason: str(reason.shape),
    Cause.NOT_BUILT: _not_built,
    Cause.CASE: _error,
    Cause.RUN: _error,
    Cause.CANDIDATE: _error,
    Cause.INTERNAL: _error,
}
"""The words of causes that fields explain; the others are told in `detail` by whoever found them."""
