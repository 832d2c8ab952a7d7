"""What `check` finds: findings by environment. Plain data; the report makes the words."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from harness.case import ExpectedFinding
from harness.compiler import FindingKind, NodeFacts, Releases
from harness.conversion.cures import AppliedCure, LeftOut
from harness.conversion.timing import KernelTimes
from harness.errors import CandidateError, HarnessError, InternalError
from harness.judge import RunError
from harness.tensors import NEVER, HostFingerprint, Precision, to_json
from harness.worker.protocol import PACKAGE_OF, CompileReport

SCHEMA = "harness.check/1"


class FoundBy(StrEnum):
    """Who says so."""

    RULE = "rule"
    PARSER = "parser"
    BUILDER = "builder"
    KERNELS = "kernels"
    EXPORTER = "exporter"


class CompileOutcome(StrEnum):
    """What an environment makes of a model."""

    BUILT = "built"
    REFUSED = "refused"
    NOT_BUILT = "not built"
    UNKNOWN = "not known"
    """The compiler could not be asked: it did not start, needs a GPU, or values of inputs that decide shapes."""


@dataclass(frozen=True)
class Finding:
    """One thing to know about a model, or about one node of it.

    Args:
        code: stable, of the rule that explains it (`topk-limit`), or `refused`, `not-built`, `crashed`,
            `timed-out` or `out-of-memory` where none does.
        kind: what becomes of the node.
        found_by: who says so.
        node: None: the model as a whole.
        environment: whose parser or builder says so; None of a rule alone.
        said: the parser's or the builder's own words; empty of a rule alone.
        evidence: the builder's errors, or the last lines of its log.
        explanation: ours; empty where nothing is known beyond what was said.
        advice: what to do; empty where nothing is known.
        releases: of which it holds; empty: of that environment's, as far as is known.
        source: where the rule is from.
        alone: whether the builder fails on the node by itself, too; None: it was not, or could not be, asked.
    """

    code: str
    kind: FindingKind
    found_by: FoundBy
    node: NodeFacts | None = None
    environment: str | None = None
    said: str = ""
    evidence: tuple[str, ...] = ()
    explanation: str = ""
    advice: str = ""
    releases: tuple[Releases, ...] = ()
    source: str = ""
    alone: bool | None = None

    @property
    def is_not_asked(self) -> bool:
        """Whether rules say that it stands in the way of an environment whose compiler was not asked about it."""
        stops = self.kind in (FindingKind.REFUSED, FindingKind.NOT_BUILT)
        return stops and self.found_by is FoundBy.RULE and self.environment is not None

    def explained_by(self, rule: Finding) -> Finding:
        """The finding with what a rule, whose own finding is given, knows of it."""
        known = ("code", "explanation", "advice", "releases", "source")
        return replace(self, **{name: getattr(rule, name) for name in known})


_WIDTHS = {
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
    "int8": 8,
    "float8_e4m3fn": 8,
    "int4": 4,
    "float4_e2m1fn": 4,
}
"""Bits of the datatypes that arithmetic is done in."""


@dataclass(frozen=True)
class NodeFate:
    """What became of one node.

    Args:
        node: its name.
        op: operator type.
        kernels: positions of its kernels in the list; empty if it was folded, or left nothing.
        asked: the datatype that it was to be computed in, as far as the graph says.
        built: the datatypes that its kernels read, or write if they read none; sorted.
    """

    node: str
    op: str
    kernels: tuple[int, ...]
    asked: str | None
    built: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        """Whether it is computed in what was asked for, or in less; true where nothing was, or nothing is known."""
        widths = [_WIDTHS[dtype] for dtype in self.built if dtype in _WIDTHS]
        return self.asked is None or not widths or min(widths) <= _WIDTHS.get(self.asked, 64)


@dataclass(frozen=True)
class SplitPart:
    """A part of a model in a file of its own.

    Args:
        file: the ONNX file.
        is_taken: whether the compiler takes it; None: it could not be asked about it.
        nodes: names of its nodes.
        reads: names of its inputs.
        writes: names of its outputs.
    """

    file: Path
    is_taken: bool | None
    nodes: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class EnvironmentOutcome:
    """Whether one environment builds a model.

    Args:
        environment: its name.
        product: `TensorRT` or `TensorRT for RTX`; empty if its compiler did not start.
        release: its version; likewise.
        outcome: whether it builds.
    """

    environment: str
    product: str
    release: str
    outcome: CompileOutcome


@dataclass(frozen=True)
class EnvironmentResult(EnvironmentOutcome):
    """What one environment makes of the model.

    Args:
        findings: what stands in the way, and what is silently different there, the worst first.
        report: what the compiler said.
        complete: whether all that no finding is about was seen to build.
        fates: what became of each node; empty if it was not built, or its kernels are not known.
        parts: the files that the model was split into, if that was asked for.
        times: of the kernels, if that was asked for and there is a GPU.
        not_timed: why they were not timed, if that was asked for; empty if they were.
    """

    findings: tuple[Finding, ...]
    report: CompileReport
    complete: bool = True
    fates: tuple[NodeFate, ...] = ()
    parts: tuple[SplitPart, ...] = ()
    times: KernelTimes | None = None
    not_timed: str = ""

    @property
    def started(self) -> bool:
        """Whether its compiler did."""
        return bool(self.product)


@dataclass(frozen=True)
class CheckResult:
    """What was found of one model at one precision.

    Args:
        target: what was asked for, as it was given.
        case: the name of the case, or of the file.
        precision: the precision of the typed graph; None: the file as it is written.
        sha256: hash of the model.
        nodes: how many it has.
        findings: what the rules alone say, of every release; the worst first.
        environments: what each environment that was asked makes of it.
        expected: what the case expects to be found.
        error: why it could not be checked, or not in every environment; None if it was.
        evidence: of a fault of harness, its traceback.
    """

    target: str
    case: str
    precision: Precision | None
    sha256: str
    nodes: int
    findings: tuple[Finding, ...] = ()
    environments: tuple[EnvironmentResult, ...] = ()
    expected: tuple[ExpectedFinding, ...] = field(default=(), metadata=NEVER)
    error: RunError | None = None
    evidence: tuple[str, ...] = ()

    ALSO_IN_JSON: ClassVar[tuple[str, ...]] = ("fails",)

    @property
    def exported(self) -> tuple[Finding, ...]:
        """What is wrong with the export from PyTorch, whichever environment is asked."""
        return tuple(each for each in self.findings if each.found_by is FoundBy.EXPORTER)

    @property
    def has_model(self) -> bool:
        """Whether there is a model: no export from PyTorch failed."""
        return not any(each.kind is FindingKind.REFUSED for each in self.exported)

    @property
    def fails(self) -> bool:
        """Whether an environment that was asked refuses or silently differs; without one, whether a rule says so.

        What the case expects is no failure, and what it expects and is not there is one. A model that could not be
        checked fails.
        """
        if self.error is not None:
            return True
        asked: tuple[EnvironmentResult | None, ...] = self.environments or (None,)
        return any(self.unexpected(each) or self.gone(each) for each in asked)

    def unexpected(self, environment: EnvironmentResult | None = None) -> tuple[Finding, ...]:
        """What stands in the way in an environment, or by the rules, and is not expected."""
        expected = self.expected_in(environment)
        return tuple(
            finding
            for finding in self.findings_in(environment)
            if finding.kind.is_failure and not any(is_of(each, finding) for each in expected)
        )

    def gone(self, environment: EnvironmentResult | None = None) -> tuple[ExpectedFinding, ...]:
        """What is expected in an environment, or of the rules, and is not there."""
        found = self.findings_in(environment)
        return tuple(
            each
            for each in self.expected_in(environment)
            if not any(is_of(each, finding) for finding in found)
        )

    def findings_in(self, environment: EnvironmentResult | None) -> tuple[Finding, ...]:
        """What is found in an environment, the export included, or by the rules."""
        return self.findings if environment is None else (*self.exported, *environment.findings)

    def expected_in(self, environment: EnvironmentResult | None = None) -> tuple[ExpectedFinding, ...]:
        """What the case expects in an environment, or by the rules."""
        if environment is None:
            return self.expected
        if not environment.started:
            return ()
        product = PACKAGE_OF[environment.product]
        return tuple(each for each in self.expected if each.holds_of(product, environment.release))


def is_of(expected: ExpectedFinding, finding: Finding) -> bool:
    """Whether a finding is the one that is expected."""
    node = None if finding.node is None else finding.node.name
    return expected.code == finding.code and expected.node in (None, node)


@dataclass(frozen=True)
class FixResult:
    """What cures made of a model.

    Args:
        case: the name of the case, or of the file.
        file: what was written; None if no cure stays.
        applied: the cures that stay, in the order in which they were applied.
        left_out: those that applied, and could not be proved or are not taken.
        environments: what each environment makes of the new model.
    """

    case: str
    file: str | None
    applied: tuple[AppliedCure, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    environments: tuple[EnvironmentOutcome, ...] = ()

    @property
    def fails(self) -> bool:
        """Whether nothing was written, or an environment does not build what was."""
        return self.file is None or any(
            each.outcome is not CompileOutcome.BUILT for each in self.environments
        )


@dataclass(frozen=True)
class CheckReport:
    """What was found of all models.

    Args:
        fingerprint: this host.
        results: one a model.
        fix: what cures made of the model, if that was asked for.
    """

    fingerprint: HostFingerprint
    results: tuple[CheckResult, ...]
    fix: FixResult | None = None

    @property
    def exit_code(self) -> int:
        """2 for a model that could not be checked, 3 if a compiler did not start; 1 if a model (each export of it)
        fails, or no cure helps; else 0. 70 for a fault of harness itself.
        """
        errors = {result.error.kind for result in self.results if result.error is not None}
        if errors:
            internal = InternalError.__name__ in errors
            return InternalError.exit_code if internal else HarnessError.exit_code
        if not all(each.started for result in self.results for each in result.environments):
            return CandidateError.exit_code
        if self.fix is not None:
            return int(self.fix.fails)
        targets = {result.target for result in self.results}
        alike = ([each for each in self.results if each.target == target] for target in targets)
        return int(any(all(each.fails for each in results) for results in alike))

    def to_dict(self) -> dict[str, Any]:
        """The JSON document; `check.schema.json` beside this module is its schema, and docs/json.md describes it."""
        return {"schema": SCHEMA, **to_json(self)}
