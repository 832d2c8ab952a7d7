"""`check`: what rules and compilers say of models, and findings made of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from harness.backends import shape_ranges
from harness.case import Case, InputSpec, check_input_names, make_feeds, one_or_more
from harness.cluster import CaseUnit, Stage, opened
from harness.compiler import (
    BAKED_SIZE,
    TF32,
    GraphView,
    Kind,
    Match,
    NodeFacts,
    ReportCache,
    compile_model,
    match_rules,
    probe_of,
)
from harness.conversion.codes import ASSUMED_SHAPE, FAILURE_CODES, KEPT, NOT_STARTED, check_codes
from harness.conversion.examination import Blamed, Examination, outcome_of
from harness.conversion.exports import by_exporter, exported
from harness.conversion.findings import (
    CheckReport,
    CheckResult,
    EnvironmentResult,
    Finding,
    FoundBy,
    NodeFate,
    Outcome,
)
from harness.conversion.kernels import fates_of, kernel_findings
from harness.conversion.parts import Parts
from harness.conversion.scales import scale_findings
from harness.conversion.splitting import folder_for
from harness.conversion.splitting import split as split_model
from harness.conversion.timing import TimedEngine, time_kernels
from harness.environments import Environment, close_shared, load, select, shared_supervisor
from harness.errors import CandidateError, UnitLostError
from harness.judge import Target, profiles_of, select_cases
from harness.model import LOW_DTYPE, Model, TensorInfo, guess_fills, load_model_of
from harness.tensors import Precision, host_fingerprint
from harness.worker.protocol import CompileFailure, CompileReport

Progress = Callable[[str], None]
Profiles = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
_RANKS = {kind: rank for rank, kind in enumerate(Kind)}
_KINDS = {Outcome.REFUSED: Kind.REFUSED, Outcome.NOT_BUILT: Kind.NOT_BUILT, Outcome.UNKNOWN: Kind.RISKY}


def check(
    targets: Sequence[Target] | Target,
    *,
    precision: Precision | str | None = None,
    environments: Sequence[str] | str = (),
    inputs: Mapping[str, Sequence[int]] | None = None,
    tags: Sequence[str] | str = (),
    split: Path | None = None,
    times: bool = False,
    progress: Progress | None = None,
    cache: ReportCache | None = None,
    scheduler: str | None = None,
) -> CheckReport:
    """Will models convert, which nodes do not, and what is silently computed otherwise.

    Args:
        targets: case files, folders of them, .onnx files, or cases.
        precision: of the typed graph that is asked about; None: the file as it is written.
        environments: names from harness.toml whose compilers are asked; without one, rules alone speak.
        inputs: shapes for the inputs of .onnx files.
        tags: only cases with one of these tags.
        split: write the largest parts that a compiler takes, and those that it does not, to this folder; where there
            are several models or environments, to one in it for each.
        times: time the kernels of each engine, where there is a GPU.
        progress: called with what goes on.
        cache: where compilers' reports are kept; by default harness's cache folder.
        scheduler: address of a dask scheduler, whose workers ask their compilers.

    Raises:
        SchedulerError: it does not answer, or its workers cannot do what is asked of them; nothing was asked.
        CaseFileError, ModelError, NothingSelectedError: as `run`.
        EnvironmentConfigError: an environment is not in harness.toml.
        CandidateError: the worker of no environment starts. Where others do, that is a finding (`not-started`).
    """
    wanted = None if precision is None else Precision(precision)
    names = one_or_more(environments)
    if scheduler is None:
        known = load()
        for name in names:
            select(name, known)
    cases = list(by_exporter(select_cases(targets, inputs=inputs, tags=tags)))
    check_codes(cases)
    units = []
    for case in cases:
        for asked in names or (None,):
            places = [case.name] * (len(cases) > 1) + [asked or ""] * (len(names) > 1)
            folder = None if split is None or asked is None else folder_for(split, *places)
            units.append(CheckUnit(case, wanted, asked, folder, times))
    results = _carry_out(units, names, progress or (lambda _: None), CheckDesk(cache), scheduler)
    step = max(len(names), 1)
    merged = (results[at : at + step] for at in range(0, len(results), step))
    return CheckReport(host_fingerprint(), tuple(map(_merge, merged)))


def _carry_out(
    units: Sequence[CheckUnit], names: Sequence[str], tell: Progress, desk: CheckDesk, scheduler: str | None
) -> list[CheckResult]:
    """What came of each unit.

    Raises:
        CandidateError: no environment's worker starts.
    """
    broken: dict[str, CandidateError] = {}

    def result_of(unit: CheckUnit, get: Callable[[], CheckResult]) -> CheckResult:
        name = unit.environment
        if name is None or name not in broken:
            try:
                return get()
            except UnitLostError as error:  # workers died of it
                return unit.lost(error)
            except CandidateError as error:
                if name is None:
                    raise
                broken[name] = error
        if len(broken) == len(set(names)):
            raise broken[names[0]]
        return unit.not_started(broken[name], desk)

    if scheduler is None:
        results = []
        for unit in units:
            tell(unit.title)
            results.append(result_of(unit, partial(unit.carry_out, desk, tell)))
        return results
    files = [path for unit in units for path in unit.files]
    with opened(scheduler, environments=names, files=files) as cluster:
        futures = [cluster.submit(unit, partial(tell, unit.title)) for unit in units]
        return [result_of(unit, future.result) for unit, future in zip(units, futures, strict=True)]


def _merge(results: Sequence[CheckResult]) -> CheckResult:
    """One result of those of one model in several environments."""
    # One whose worker died knows nothing of the model.
    first = max(results, key=lambda each: bool(each.sha256))
    return replace(first, environments=tuple(each for one in results for each in one.environments))


class CheckDesk:
    """Keeps the model at hand: the other environments are asked about it, too."""

    def __init__(self, cache: ReportCache | None = None) -> None:
        self.cache = cache
        self._known: tuple[Case, Subject | None, CheckResult] | None = None

    def look_at(self, unit: CheckUnit) -> tuple[Subject | None, CheckResult]:
        """The model of a unit, and what rules say of it; None where it cannot be exported."""
        if self._known is None or self._known[0] != unit.case:
            self._known = (unit.case, *unit.look())
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

    def look(self) -> tuple[Subject | None, CheckResult]:
        """The model, and what rules say of it; None where it cannot be exported."""
        case = self.case
        case, model, faults = exported(case) if case.model.torch else (case, load_case(case), ())
        if model is None:
            return None, CheckResult(self.target, case.name, self.precision, "", 0, faults)
        subject = Subject.of(case, model, self.precision, is_asked=self.environment is not None)
        found = worst_first([*faults, *map(_of_rule, subject.matches), *scale_findings(model, subject.graph)])
        return subject, CheckResult(
            self.target,
            case.name,
            self.precision,
            model.sha256,
            len(model.nodes),
            found,
            expected=case.findings,
        )

    def carry_out(self, desk: CheckDesk, stage: Stage) -> CheckResult:
        """See Unit."""
        subject, result = desk.look_at(self)
        if subject is None or self.environment is None:
            return result
        found = subject.in_environment(select(self.environment), desk.cache, self.split, times=self.times)
        return replace(result, environments=(found,))

    def not_started(self, error: CandidateError, desk: CheckDesk) -> CheckResult:
        """What is found where the compiler does not start: what rules say, and that."""
        assert self.environment is not None
        finding = Finding(
            NOT_STARTED,
            Kind.RISKY,
            FoundBy.BUILDER,
            environment=self.environment,
            said=error.message,
            evidence=tuple(error.lines),
            explanation="its compiler does not start",
            advice=error.hint or "",
        )
        report = CompileReport("", "", "", failure=CompileFailure("unsupported", error.message))
        outcome = EnvironmentResult(
            self.environment, "", "", Outcome.UNKNOWN, (finding,), report, complete=False
        )
        return replace(desk.look_at(self)[1], environments=(outcome,))

    def lost(self, error: UnitLostError) -> CheckResult:
        """What is found where the workers that asked died."""
        result = CheckResult(self.target, self.case.name, self.precision, "", 0, expected=self.case.findings)
        code, kind = "crashed", Kind.NOT_BUILT
        finding = Finding(code, kind, FoundBy.BUILDER, environment=self.environment, said=error.message)
        if self.environment is None:
            return replace(result, findings=(finding,))
        report = CompileReport("", "", "", failure=CompileFailure(code, error.message, error.lines))
        outcome = EnvironmentResult(self.environment, "", "", outcome_of(report), (finding,), report)
        return replace(result, environments=(outcome,))


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
        Kind.RISKY,
        FoundBy.RULE,
        explanation=f"compilers are asked with 1 for each dynamic axis: {', '.join(shapes)}",
        advice="give the sizes that are deployed, in this form, with --input",
    )
    return case.model_copy(update={"inputs": {**case.inputs, **assumed}}), (finding,)


def load_case(case: Case) -> Model:
    """The model of a case.

    Raises:
        ModelError: it cannot be had.
    """
    return load_model_of(case)


@dataclass(frozen=True)
class Subject:
    """One model and what is needed to ask about it."""

    case: Case
    model: Model
    precision: Precision | None
    profiles: Profiles
    graph: GraphView
    matches: tuple[Match, ...]
    assumed: tuple[Finding, ...] = ()

    @classmethod
    def of(cls, case: Case, model: Model, precision: Precision | None, *, is_asked: bool) -> Subject:
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
        suspects = [match.node.name for match in holding if match.node and match.rule.kind is Kind.REFUSED]
        fed = {name: ranges[1] for name, ranges in self.profiles.items()}
        parts = Parts(
            self.model, fed, lambda: make_feeds(self.case, self.model.inputs, guess_fills(self.model))[0]
        )
        examination = Examination(
            parts, ask, dict.fromkeys(parts.owners[name] for name in suspects if name in parts.owners)
        )
        examination.run(report)
        scales = scale_findings(self.model, self.graph, environment.name)
        found = [self._finding(blamed, holding, scales, environment.name) for blamed in examination.blamed]
        said = {(each.code, each.node and each.node.name) for each in found}
        found += [
            _of_rule(match, environment.name)
            for match in holding
            if match.rule.kind not in STOPS and (match.rule.code, match.node and match.node.name) not in said
        ]
        found += [replace(each, environment=environment.name) for each in self.assumed]
        found += self._not_asked(examination, holding, environment.name)
        found += [self._kept(name, environment.name) for name in report.kept]
        found += [each for each in scales if each.kind not in STOPS]
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
        feeds = make_feeds(self.case, self.model.inputs, guess_fills(self.model))[0]
        return time_kernels(self.model, self.precision or Precision.FP32, environment, feeds, self.profiles)

    def _finding(
        self, blamed: Blamed, holding: Sequence[Match], scales: Sequence[Finding], environment: str
    ) -> Finding:
        name = blamed.inner or blamed.node
        about = [each for each in holding if each.node and each.node.name == name]
        match = next(
            (each for each in about if each.rule.kind in STOPS or each.rule.code == BAKED_SIZE), None
        )
        failure = blamed.failure
        found = Finding(
            "refused" if failure is None else FAILURE_CODES.get(failure.kind, "not-built"),
            _KINDS[blamed.outcome],
            FoundBy.PARSER if blamed.outcome is Outcome.REFUSED else FoundBy.BUILDER,
            None if name is None else self._facts(name),
            environment,
            blamed.said,
            () if failure is None else failure.evidence,
            alone=blamed.alone,
        )
        if match is not None:
            return found.explained_by(match)
        for each in scales:
            if each.kind in STOPS and each.node is not None and each.node.name == name:
                return replace(
                    found,
                    code=each.code,
                    explanation=each.explanation,
                    advice=each.advice,
                    source=each.source,
                )
        return found

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
                yield _of_rule(match, environment)

    def _kept(self, name: str, environment: str) -> Finding:
        return Finding(
            KEPT,
            Kind.RISKY,
            FoundBy.PARSER,
            self._facts(name),
            environment,
            explanation=f"the parser refuses it, or what it writes, at {self.precision}: it stays in FP32",
        )

    def _facts(self, name: str) -> NodeFacts | None:
        view = self.graph.node(name)
        return None if view is None else view.facts()


#: Kinds of findings that leave no engine.
STOPS = (Kind.REFUSED, Kind.NOT_BUILT)


def _closed(model: Model, profiles: Profiles) -> Profiles:
    """Profiles of the inputs of a part that are open, as the whole has them."""
    names = {info.name for info in model.inputs if _is_open(info)}
    return {name: ranges for name, ranges in profiles.items() if name in names}


def _is_open(info: TensorInfo) -> bool:
    return not all(isinstance(size, int) for size in info.shape or (None,))


def _of_rule(match: Match, environment: str | None = None) -> Finding:
    found = Finding(match.rule.code, match.rule.kind, FoundBy.RULE, match.node, environment)
    return found.explained_by(match)


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings by kind, and of one kind in the order of the nodes."""
    return tuple(
        sorted(findings, key=lambda each: (_RANKS[each.kind], -1 if each.node is None else each.node.index))
    )
