"""One model, and what its nodes, rules and compilers say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.backends import shape_ranges
from harness.case import Case, InputSpec, check_input_names, make_feeds
from harness.compiler import (
    BAKED_SIZE,
    TF32,
    FindingKind,
    GraphView,
    Match,
    ReportCache,
    compile_model,
    match_rules,
    probe_of,
)
from harness.conversion.codes import ASSUMED_SHAPE, FAILURE_CODES, KEPT
from harness.conversion.examination import Blamed, Examination, outcome_of
from harness.conversion.findings import CompileOutcome, EnvironmentResult, Finding, FoundBy, NodeFate
from harness.conversion.kernels import fates_of, kernel_findings
from harness.conversion.masks import mask_findings
from harness.conversion.parts import Parts
from harness.conversion.scales import scale_findings
from harness.conversion.splitting import split as split_model
from harness.conversion.timing import TimedEngine, time_kernels
from harness.environments import Environment, shared_supervisor
from harness.errors import CandidateError
from harness.judge import profiles_of
from harness.model import LOW_DTYPE, Model, TensorInfo, guess_fills
from harness.tensors import Precision
from harness.worker.protocol import CompileFailure, CompileReport

Profiles = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
_RANKS = {kind: rank for rank, kind in enumerate(FindingKind)}
_KINDS = {
    CompileOutcome.REFUSED: FindingKind.REFUSED,
    CompileOutcome.NOT_BUILT: FindingKind.NOT_BUILT,
    CompileOutcome.UNKNOWN: FindingKind.RISKY,
}


def assuming_one(case: Case, inputs: Sequence[TensorInfo]) -> tuple[Case, tuple[Finding, ...]]:
    """A bare model with 1 for each dynamic axis of which nothing says the size, and the finding that says so.

    A compiler needs a size; what it takes and refuses seldom depends on which.
    """
    if case.path is not None or case.data:
        return case, ()
    assumed = {
        info.name: InputSpec(shape=tuple(dim if isinstance(dim, int) else 1 for dim in info.shape))
        for info in inputs
        if info.shape and _is_open(info) and info.name not in case.inputs
    }
    if not assumed:
        return case, ()
    shapes = [f"{name}:[{','.join(map(str, spec.shape or ()))}]" for name, spec in assumed.items()]
    finding = Finding(
        ASSUMED_SHAPE,
        FindingKind.RISKY,
        FoundBy.RULE,
        explanation=f"compilers are asked with 1 for each dynamic axis: {', '.join(shapes)}",
        advice="give the sizes that are deployed, in this form, with --input",
    )
    return case.model_copy(update={"inputs": {**case.inputs, **assumed}}), (finding,)


@dataclass(frozen=True)
class CheckedModel:
    """One model and what is needed to ask about it."""

    case: Case
    model: Model
    precision: Precision | None
    profiles: Profiles
    graph: GraphView
    matches: tuple[Match, ...]
    assumed: tuple[Finding, ...] = ()

    @classmethod
    def of(cls, case: Case, model: Model, precision: Precision | None, *, is_asked: bool) -> CheckedModel:
        """The model of a case, with its shapes if a compiler is asked."""
        check_input_names(case, model.inputs)
        profiles: Profiles = {}
        assumed: tuple[Finding, ...] = ()
        if is_asked and any(map(_is_open, model.inputs)):
            case, assumed = assuming_one(case, model.inputs)
            profiles = shape_ranges(
                model, make_feeds(case, model.inputs, guess_fills(model))[0], profiles_of(case)
            )
        given = {name: spec.shape for name, spec in case.inputs.items() if spec.shape is not None}
        graph = GraphView(model, given)
        matches = match_rules(graph)
        if precision in LOW_DTYPE:
            matches = tuple(match for match in matches if match.rule.code != TF32)
        return cls(case, model, precision, profiles, graph, matches, assumed)

    def ask(self, environment: Environment, cache: ReportCache | None) -> Callable[[Model], CompileReport]:
        """What asks the compiler of `environment` about a part of the model.

        Raises:
            CandidateError: its worker does not start.
        """

        probe = probe_of(environment, shared_supervisor(environment))

        def asking(model: Model) -> CompileReport:
            try:
                return compile_model(
                    model,
                    self.precision or Precision.FP32,
                    environment,
                    profiles=self.profiles if model is self.model else _closed(model, self.profiles),
                    cache=cache,
                )
            except CandidateError as error:  # what makes no sense of this part is no reason to stop
                failure = CompileFailure("unsupported", error.message, error.lines)
                return CompileReport(probe.product, probe.tensorrt, "strong", failure=failure)

        return asking

    def in_environment(
        self,
        environment: Environment,
        cache: ReportCache | None,
        folder: Path | None = None,
        *,
        times: bool = False,
    ) -> EnvironmentResult:
        """What the compiler of `environment` makes of the model; its parts are written to `folder`."""
        ask = self.ask(environment, cache)
        report = ask(self.model)
        engine = self._timed(environment) if times and report.built else TimedEngine()
        if engine.kernels is not None:  # another build of TensorRT may have other kernels
            report = replace(report, kernels=engine.kernels)
        holding = [match for match in self.matches if match.rule.include(report.product, report.release)]
        suspects = [
            match.node.name for match in holding if match.node and match.rule.kind is FindingKind.REFUSED
        ]
        fed = {name: ranges[1] for name, ranges in self.profiles.items()}
        parts = Parts(self.model, fed, self._feeds)
        examination = Examination(
            parts, ask, dict.fromkeys(parts.owners[name] for name in suspects if name in parts.owners)
        )
        examination.run(report)
        scales = scale_findings(self.model, self.graph, environment.name)
        found = [self._finding(blamed, holding, scales, environment.name) for blamed in examination.blamed]
        said = {(each.code, each.node and each.node.name) for each in found}
        found += [
            of_rule(match, environment.name)
            for match in holding
            if match.rule.kind not in STOPS and (match.rule.code, match.node and match.node.name) not in said
        ]
        found += [replace(each, environment=environment.name) for each in self.assumed]
        found += self._not_asked(examination, holding, environment.name)
        found += [self._kept(name, environment.name) for name in report.kept]
        found += [each for each in scales if each.kind not in STOPS]
        found += mask_findings(self.model, self.graph, self.precision, environment.name)
        fates: tuple[NodeFate, ...] = ()
        if report.kernels is not None:
            fates = fates_of(self.model, report.kernels, self.precision)
            found += kernel_findings(self.model, self.graph, report.kernels, fates, environment.name)
        return EnvironmentResult(
            environment.name,
            report.product,
            report.release,
            outcome_of(report),
            worst_first(found),
            report,
            examination.complete,
            fates,
            () if folder is None else split_model(parts, examination.bad, ask, folder),
            engine.times,
            engine.why_not,
        )

    def _timed(self, environment: Environment) -> TimedEngine:
        precision = self.precision or Precision.FP32
        return time_kernels(self.model, precision, environment, self._feeds(), self.profiles)

    def _feeds(self) -> Mapping[str, np.ndarray]:
        return make_feeds(self.case, self.model.inputs, guess_fills(self.model))[0]

    def _finding(
        self, blamed: Blamed, holding: Sequence[Match], scales: Sequence[Finding], environment: str
    ) -> Finding:
        name = blamed.inner or blamed.node
        known = [*map(of_rule, holding), *scales]
        rules = (
            each
            for each in known
            if each.node and each.node.name == name and (each.kind in STOPS or each.code == BAKED_SIZE)
        )
        failure = blamed.failure
        code = "refused" if failure is None else FAILURE_CODES.get(failure.kind, "not-built")
        found = Finding(
            code,
            _KINDS[blamed.outcome],
            FoundBy.PARSER if blamed.outcome is CompileOutcome.REFUSED else FoundBy.BUILDER,
            self.graph.facts(name),
            environment,
            blamed.said,
            () if failure is None else failure.evidence,
            advice=_ADVICE.get(code, "").format(environment=environment),
            alone=blamed.alone,
        )
        rule = next(rules, None)
        return found if rule is None else found.explained_by(rule)

    def _not_asked(
        self, examination: Examination, holding: Sequence[Match], environment: str
    ) -> Iterator[Finding]:
        """What rules say stands in the way where the compiler could not be asked.

        That is within the bodies of a node that it refuses, and in the rest that was not seen to build; one finding
        a node, as of those that it names.
        """
        owners = examination.owners
        done = {each.inner or each.node for each in examination.blamed}
        for match in holding:
            name = None if match.node is None else match.node.name
            if match.rule.kind not in STOPS or name is None or name not in owners or name in done:
                continue
            if owners[name] in examination.bad or examination.leaves_a_rest:
                done.add(name)
                yield of_rule(match, environment)

    def _kept(self, name: str, environment: str) -> Finding:
        return Finding(
            KEPT,
            FindingKind.RISKY,
            FoundBy.PARSER,
            self.graph.facts(name),
            environment,
            explanation=f"the parser refuses it, or what it writes, at {self.precision}: it stays in FP32",
        )


_ADVICE = {
    "crashed": "`--split DIR` writes the smallest part that it crashes on: report that to its makers",
    "timed-out": "if it only needs more time, raise `limits.compile` of {environment} in harness.toml",
    "out-of-memory": "raise `limits.memory_gib` of {environment} in harness.toml, or use a larger machine",
}
"""What to do about failures of a builder that no rule explains, by the code of the finding."""

#: Kinds of findings that leave no engine.
STOPS = (FindingKind.REFUSED, FindingKind.NOT_BUILT)


def _closed(model: Model, profiles: Profiles) -> Profiles:
    """Profiles of the inputs of a part that are open, as the whole has them."""
    names = {info.name for info in model.inputs if _is_open(info)}
    return {name: ranges for name, ranges in profiles.items() if name in names}


def _is_open(info: TensorInfo) -> bool:
    return not all(isinstance(size, int) for size in info.shape or (None,))


def of_rule(match: Match, environment: str | None = None) -> Finding:
    """What a rule says, by itself or of an environment."""
    rule = match.rule
    return Finding(
        rule.code,
        rule.kind,
        FoundBy.RULE,
        match.node,
        environment,
        explanation=rule.explanation,
        advice=match.advice,
        releases=rule.releases,
        source=rule.source,
    )


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings by kind, and of one kind in the order of the nodes."""
    return tuple(
        sorted(findings, key=lambda each: (_RANKS[each.kind], -1 if each.node is None else each.node.index))
    )
