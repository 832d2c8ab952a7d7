"""Units of a check: one model and one environment, carried out here or by a worker of a scheduler."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.case import Case
from harness.cluster import CaseUnit, OnStage
from harness.compiler import FindingKind, ReportCache
from harness.conversion.codes import NOT_STARTED
from harness.conversion.examination import outcome_of
from harness.conversion.exports import exported
from harness.conversion.findings import CheckResult, CompileOutcome, EnvironmentResult, Finding, FoundBy
from harness.conversion.masks import mask_findings
from harness.conversion.scales import scale_findings
from harness.conversion.subject import CheckedModel, of_rule, worst_first
from harness.environments import close_shared, select
from harness.errors import CandidateError, InternalError, UnitLostError, explained
from harness.judge import RunError
from harness.model import load_model_of
from harness.tensors import Precision
from harness.worker.protocol import CompileFailure, CompileReport


class CheckDesk:
    """Keeps the model at hand: the other environments are asked about it, too."""

    def __init__(self, cache: ReportCache | None = None) -> None:
        self.cache = cache
        self._known: tuple[Case, CheckedModel | None, CheckResult] | None = None

    def look_at(self, unit: CheckUnit) -> tuple[CheckedModel | None, CheckResult]:
        """The model of a unit, and what rules say of it; None where it cannot be exported or read."""
        if self._known is None or self._known[0] != unit.case:
            try:
                self._known = (unit.case, *unit.look())
            except Exception as error:  # the other models must not be lost
                self._known = (unit.case, None, unit.failed(error))
        return self._known[1:]

    def close(self) -> None:
        """End the workers that were asked."""
        close_shared()


@dataclass(frozen=True)
class CheckUnit(CaseUnit[CheckDesk, CheckResult]):
    """One model and one environment, or rules alone.

    Args:
        case: with the model.
        precision: of the typed graph; None: the file as it is written.
        environment: whose compiler is asked; None: nobody.
        split: where the parts go; None: nowhere.
        times: whether kernels are timed, where there is a GPU.
    """

    case: Case
    precision: Precision | None
    environment: str | None
    split: Path | None
    times: bool = False

    @property
    def title(self) -> str:
        """See Unit."""
        return self.case.name if self.environment is None else f"{self.case.name} on {self.environment}"

    @property
    def environments(self) -> tuple[str, ...]:
        """See Unit."""
        return () if self.environment is None else (self.environment,)

    @property
    def on_gpu(self) -> bool:
        """See Unit."""
        return self.times

    @property
    def desk(self) -> Hashable:
        """See Unit."""
        return (self.precision, self.environment is None)

    @property
    def target(self) -> str:
        """What was asked for."""
        case = self.case
        return str(case.path or case.model.path or case.model.torch or case.name)

    def open(self) -> CheckDesk:
        """See Unit."""
        return CheckDesk()

    def look(self) -> tuple[CheckedModel | None, CheckResult]:
        """The model, and what rules say of it; None where it cannot be exported.

        Raises:
            HarnessError: it cannot be had, or its inputs do not fit.
        """
        case = self.case
        case, model, faults = exported(case) if case.model.torch else (case, load_model_of(case), ())
        if model is None:
            return None, CheckResult(self.target, case.name, self.precision, "", 0, faults)
        subject = CheckedModel.of(case, model, self.precision, is_asked=self.environment is not None)
        found = [*faults, *map(of_rule, subject.matches), *scale_findings(model, subject.graph)]
        found += mask_findings(model, subject.graph, self.precision)
        return subject, CheckResult(
            self.target,
            case.name,
            self.precision,
            model.sha256,
            len(model.nodes),
            worst_first(found),
            expected=case.findings,
        )

    def carry_out(self, desk: CheckDesk, stage: OnStage) -> CheckResult:
        """See Unit."""
        subject, result = desk.look_at(self)
        if subject is None or self.environment is None:
            return result
        try:
            found = subject.in_environment(select(self.environment), desk.cache, self.split, times=self.times)
        except CandidateError:  # its worker does not start
            raise
        except Exception as error:  # the other models must not be lost
            return self.failed(error, result)
        return replace(result, environments=(found,))

    def failed(self, error: Exception, known: CheckResult | None = None) -> CheckResult:
        """What is found of a model that cannot be checked: why, beside what is known of it."""
        told = explained(error, self.target)
        return replace(
            known or self._unknown,
            error=RunError.of(told),
            evidence=told.evidence if isinstance(told, InternalError) else (),
        )

    @property
    def _unknown(self) -> CheckResult:
        return CheckResult(self.target, self.case.name, self.precision, "", 0, expected=self.case.findings)

    def not_started(self, error: CandidateError, desk: CheckDesk) -> CheckResult:
        """What is found where the compiler does not start: what rules say, and that."""
        assert self.environment is not None
        finding = Finding(
            NOT_STARTED,
            FindingKind.RISKY,
            FoundBy.BUILDER,
            environment=self.environment,
            said=error.message,
            evidence=tuple(error.lines),
            explanation="its compiler does not start",
            advice=error.hint or "",
        )
        return self._unanswered(desk.look_at(self)[1], finding, CompileFailure("unsupported", error.message))

    def lost(self, error: UnitLostError) -> CheckResult:
        """What is found where the workers that asked died."""
        code = "crashed"
        finding = Finding(
            code, FindingKind.NOT_BUILT, FoundBy.BUILDER, environment=self.environment, said=error.message
        )
        if self.environment is None:
            return replace(self._unknown, findings=(finding,))
        return self._unanswered(self._unknown, finding, CompileFailure(code, error.message, error.lines))

    def _unanswered(self, known: CheckResult, finding: Finding, failure: CompileFailure) -> CheckResult:
        assert self.environment is not None
        report = CompileReport("", "", "", failure=failure)
        outcome = outcome_of(report)
        complete = outcome is not CompileOutcome.UNKNOWN
        answer = EnvironmentResult(self.environment, "", "", outcome, (finding,), report, complete)
        return replace(known, environments=(answer,))
