"""The judge: one case at one precision on one candidate, to a verdict with its evidence."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np

from harness.backends import Candidate, Computed, Emulator, EmulatorFacts, Observation, Plan, judged_as
from harness.case import EMULATOR_WITH_KERNELS, Case, RunSpec, Waived, find_waiver
from harness.comparison import COMPUTED, SHAPE, ErrorMap, map_error
from harness.compiler import conversion_warning
from harness.errors import CandidateError, CaseFileError, HarnessError, InternalError, ModelError, of_system
from harness.golden import GoldenState
from harness.judge.candidates import EMULATOR, WITHOUT_ENGINE, Candidates, nothing_to_round
from harness.judge.checks import check_shapes, cost_of_sums, find_hidden, idle_inputs, take_scores
from harness.judge.layers import beyond_own_limits, is_faithful, measure_layers, observation_for
from harness.judge.losses import HiddenFault, Selection
from harness.judge.names import check_names
from harness.judge.outputs import TensorGates
from harness.judge.reference import empty_outputs
from harness.judge.regions import find_regions, observed_of
from harness.judge.results import (
    Cause,
    Emulation,
    Judged,
    LayerResult,
    Observed,
    OutputResult,
    Region,
    RunError,
    RunResult,
    ShapeResult,
    Verdict,
    without_origins,
    worst_of,
)
from harness.judge.workbench import Workbench, profiles_of
from harness.tensors import Accumulate, Precision
from harness.text import names
from harness.worker.protocol import PACKAGE_OF, TENSORRT, TENSORRT_RTX, EngineFacts

if TYPE_CHECKING:
    from harness.golden import GoldenStatus
    from harness.judge.losses import OwnRoundings
    from harness.tactics import Repeats

Stage = Callable[[str], None]
T = TypeVar("T")
Decision = tuple[Verdict, Cause, str]


@dataclass(frozen=True)
class JudgeOptions:
    """How to judge.

    Args:
        layers: whether intermediate tensors are observed; False judges the outputs alone.
        observation: how; None is debug where the release has tensors between its kernels, else typed.
        memory_budget: bytes that intermediate tensors of one evaluation may take at a time.
        golden_update: rewrite golden references that are missing or differ; refused when CI is set.
        shapes: whether the shapes of the profile are run, and batches against their rows.
        keep_outputs: keep the candidate's outputs in each result, as `RunResult.values`.
        repeats: how often an engine is built, each time tuned anew. All of them must pass, and the fact `repeats`
            says which layers changed tactic and how far the outputs moved. The emulator is not repeated.
        kernels: the environment whose kernels the emulator assumes, or `none`; None is the engine's own beside an
            engine, and what harness.toml names for the emulator itself.
        accumulate: what the emulator adds up products of FP16 in; None is as the case says.
    """

    layers: bool = True
    observation: Observation | None = None
    memory_budget: int = 1 << 30
    golden_update: bool = False
    shapes: bool = True
    keep_outputs: bool = False
    repeats: int = 1
    kernels: str | None = None
    accumulate: Accumulate | None = None


class Judge:
    """Judges runs; keeps the model, inputs and reference of the last case, and the candidates' workers.

    Use it as a context manager: leaving it ends the workers.

    Args:
        options: how to judge.
        candidates: where candidates come from; by default the emulator and the environments of harness.toml.
    """

    def __init__(self, options: JudgeOptions | None = None, candidates: Candidates | None = None) -> None:
        self.options = options or JudgeOptions()
        self.candidates = candidates or Candidates()
        self._bench: Workbench | None = None
        self._ahead: tuple[Workbench, threading.Thread] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free sessions and end workers. Calling it twice is allowed."""
        self.release()
        self.candidates.close()

    def release(self) -> None:
        """Free sessions and engines; workers stay. Calling it twice is allowed."""
        self._take_prepared(None)
        if self._bench is not None:
            self._bench.close()
            self._bench = None
        self.candidates.release_model()

    def bench(self, case: Case) -> Workbench:
        """The workbench of `case`; the one before it is freed."""
        if self._bench is None or self._bench.case is not case:
            if self._bench is not None:
                self._bench.close()
                self.candidates.release_model()
            prepared = self._take_prepared(case)
            self._bench = prepared or Workbench(case, memory_budget=self.options.memory_budget)
        return self._bench

    def prepare(self, case: Case) -> None:
        """Make the model, the inputs and the reference of the case after this one, while an engine is built and run.

        Not beside a model whose weights alone are beyond the memory budget: two of them need not fit.
        """
        weights = () if self._bench is None else self._bench.model.weights.values()
        if self._ahead is None and sum(each.nbytes for each in weights) <= self.options.memory_budget:
            bench = Workbench(case, memory_budget=self.options.memory_budget)
            thread = threading.Thread(target=bench.prepare, name=f"prepare {case.name}", daemon=True)
            self._ahead = bench, thread
            thread.start()

    def _take_prepared(self, case: Case | None) -> Workbench | None:
        """The workbench of `case` that was prepared; one of another case is freed."""
        if self._ahead is None:
            return None
        (bench, thread), self._ahead = self._ahead, None
        thread.join()
        if bench.case is case:
            return bench
        bench.close()
        return None

    def assume(self, bench: Workbench, candidate: str) -> None:
        """Let the emulator of `bench` assume what fits `candidate`, and the options.

        Raises:
            EnvironmentConfigError: there is no such environment.
            CandidateError: its worker does not start.
        """
        bench.assumed = self.candidates.assumed(
            candidate, bench.case, kernels=self.options.kernels, accumulate=self.options.accumulate
        )

    def run(
        self, case: Case, spec: RunSpec, candidate: str = EMULATOR, stage: Stage = lambda name: None
    ) -> RunResult:
        """Judge one run. Errors that harness knows become the verdict `error`; `stage` is called with what goes on."""
        blank = RunResult(
            case=case.name,
            precision=spec.precision,
            candidate=candidate,
            verdict=Verdict.SKIP,
            reason="",
            case_path=case.model.path if case.path is None else str(case.path),
            inputs=case.shape_arguments,
            given=case.given,
        )
        bench = self.bench(case)
        if missing := bench.missing_packages():
            reason = f"needs {', '.join(missing)}, which is not installed"
            return replace(blank, cause=Cause.PACKAGE, reason=reason)
        try:
            check_names(case, bench.model)
            self.assume(bench, candidate)
            made = self.candidates.get(candidate, bench)
            if made is bench.emulator:
                why = nothing_to_round(bench.model, spec.precision)
                if why:
                    return _skipped(replace(blank, cause=Cause.NOTHING_TO_ROUND, reason=why), bench)
            elif candidate not in WITHOUT_ENGINE and (
                lacking := self.candidates.lacking(candidate, case, spec)
            ):
                return replace(blank, cause=lacking[0], reason=lacking[1])
            return _Run(bench, spec, made, self.options, stage).judge(blank)
        except HarnessError as error:
            return _failed(blank, error, bench)
        except MemoryError as error:
            short = ModelError(f"not enough memory: {error}", where=bench.where, hint="try smaller shapes")
            return _failed(blank, short, bench)
        except Exception as error:  # the other runs must not be lost
            known = of_system(error) if isinstance(error, OSError) else None
            return _failed(blank, known or InternalError.of(error), bench)


@dataclass
class _Run:
    bench: Workbench
    spec: RunSpec
    candidate: Candidate
    options: JudgeOptions
    stage: Stage
    timings: dict[str, float] = field(default_factory=dict)
    facts: EngineFacts | EmulatorFacts | None = None
    repeats: Repeats | None = None
    selections: dict[Selection, None] = field(default_factory=dict)
    """What was chosen otherwise for near ties, in order."""
    later: list[list[Mapping[str, np.ndarray]]] = field(default_factory=list)
    """The outputs of the builds after the first."""
    failures: list[Mapping[str, str]] = field(default_factory=list)
    """Sample by sample, the outputs that could not be computed, with the reason."""

    @property
    def precision(self) -> Precision:
        return self.spec.precision

    @property
    def judged_as(self) -> Precision:
        """The precision whose gates the candidate is held to."""
        return judged_as(self.precision, self.engine)

    @property
    def emulated(self) -> bool:
        return isinstance(self.candidate, Emulator)

    @property
    def engine(self) -> EngineFacts | None:
        return self.facts if isinstance(self.facts, EngineFacts) else None

    def judge(self, blank: RunResult) -> RunResult:
        expected = self.timed("reference", lambda: self.bench.expected)
        golden = self.bench.golden(update=self.options.golden_update)
        actual = self.timed("candidate", self.unobserved)
        outputs = self.timed("compare", lambda: self.outputs(expected, actual))
        outputs, counted = self.worst_build(expected, outputs)
        passed = all(output.passed for output in outputs)
        expects_failure = self.expects_failure()
        layers: tuple[LayerResult, ...] = ()
        faithful = None
        regions: tuple[Region, ...] = ()
        hidden: tuple[HiddenFault, ...] = ()
        if self.options.layers:
            layers, faithful = self.timed("layers", lambda: self.layers(expected, actual, outputs))
            seen = self.bench.shows_layers(self.candidate)
            regions = () if passed or not seen else find_regions(layers, self.bench.model, self.engine)
            if passed and seen:
                model, emulated = self.bench.model, self.emulated
                hidden = find_hidden(layers, model, self.judged_as, overflows_alone=not emulated)
            layers = without_origins(layers) if passed else layers
        beyond = beyond_own_limits(layers, self.bench.case.tolerances, self.judged_as) if passed else None
        verdict, cause, reason = _verdict(self.spec, expects_failure, passed, outputs, layers, regions)
        reason = f"{counted}: {reason}" if counted else reason
        reason = "; ".join([reason, *(each.describe(self.judged_as) for each in self.selections)])
        own = self.timed("reference", lambda: self.bench.own_roundings)
        shapes = self.timed("shapes", self.shapes) if self.options.shapes and passed else ()
        scores = tuple(take_scores(self.bench.case, expected, actual)) if not self.unfinished else ()
        dropped = next((each for each in scores if not each.passed), None)
        if verdict is Verdict.PASS and dropped is not None:
            verdict, cause, reason = Verdict.FAIL, Cause.SCORE, str(dropped)
        elif verdict is Verdict.PASS:
            reason = "; ".join([reason, *map(str, scores)])
        decided = verdict, cause, reason
        verdict, cause, reason = self.settled(decided, golden, own, shapes, blank)
        warnings = self.warnings(expected, beyond, golden, own, shapes, blank)
        cost = self.timed("compare", lambda: cost_of_sums(self.bench, self.precision, outputs))
        warnings += [] if cost is None else [cost]
        return replace(
            blank,
            verdict=verdict,
            cause=cause,
            reason=reason,
            outputs=outputs,
            layers=layers,
            regions=regions,
            selections=tuple(self.selections),
            hidden=hidden,
            observed=self.observed(layers),
            faithful=faithful,
            timings=self.timings,
            facts=self.facts,
            judged_as=None if self.judged_as is self.precision else self.judged_as,
            emulation=Emulation(self.bench.assumed.kernels, self.bench.assumed.accumulate),
            repeats=self.repeats,
            own_roundings=own.facts,
            scores=scores,
            shapes=tuple(each for each in shapes if each.fault or each.skipped),
            error_map=None if passed or self.later else self.error_map(expected, actual, outputs),
            values=tuple(actual) if self.options.keep_outputs else (),
            compared_with=self.bench.compared_with(self.candidate, self.judged_as),
            warnings=tuple(dict.fromkeys(warnings)),
            golden=None if golden is None else golden.state,
        )

    def warnings(
        self,
        expected: list[dict[str, np.ndarray]],
        beyond: str | None,
        golden: GoldenStatus | None,
        own: OwnRoundings,
        shapes: tuple[ShapeResult, ...],
        blank: RunResult,
    ) -> list[str]:
        """What the person should know although it changes no verdict."""
        engine = self.engine
        warnings = [*(engine.warnings if engine else ()), *empty_outputs(expected)]
        warnings += own.warnings if self.bench.case.reference is None else ()
        warnings += idle_inputs(self.bench)
        converted = conversion_warning(self.bench.model, None if engine is None else engine.fingerprint)
        others = (beyond, self.bench.other_inputs(self.candidate), converted)
        warnings += [each for each in others if each]
        declared = bool(profiles_of(self.bench.case))
        warnings += [str(each) for each in shapes if each.skipped or (each.fault and not declared)]
        if self.judged_as is not self.precision:
            warnings.append(self.why_judged_otherwise(blank))
        if golden is not None and golden.message is not None and not self.options.golden_update:
            missing = golden.state is GoldenState.MISSING  # another processor rounds differently: no news
            warnings += [golden.message] if missing else []
        return warnings

    def settled(
        self,
        decided: Decision,
        golden: GoldenStatus | None,
        own: OwnRoundings,
        shapes: tuple[ShapeResult, ...],
        blank: RunResult,
    ) -> Decision:
        """The verdict, its cause and its reason, after what decides beside the gates: that of the file comes first."""
        verdict, cause, reason = decided
        changed = (
            golden is not None and golden.state is GoldenState.CHANGED and not self.options.golden_update
        )
        if changed and golden is not None and golden.message is not None:
            verdict, cause, reason = Verdict.FAIL, Cause.GOLDEN_CHANGED, golden.message
        if verdict is Verdict.PASS and (fault := self.bench.export_fault):
            verdict, cause, reason = Verdict.FAIL, Cause.EXPORT, fault
        wrong = next((each for each in shapes if each.fault), None)
        if verdict is Verdict.PASS and wrong is not None and profiles_of(self.bench.case):
            verdict, cause, reason = Verdict.FAIL, Cause.SHAPE, str(wrong)
        if verdict in (Verdict.PASS, Verdict.XPASS) and own.fault and self.bench.case.reference is None:
            expected_too = verdict is Verdict.XPASS
            verdict, cause, reason = Verdict.XFAIL if expected_too else Verdict.FAIL, Cause.FILE, own.fault
        if verdict is Verdict.FAIL and (waived := self.waived(blank.candidate)):
            verdict = Verdict.FAIL if waived.expired else Verdict.XFAIL
            cause = Cause.WAIVER_EXPIRED if waived.expired else Cause.WAIVED
            reason = f"{reason}; {waived}"
        return verdict, cause, reason

    def shapes(self) -> tuple[ShapeResult, ...]:
        """What other shapes give than that of the case."""
        return check_shapes(self.bench, self.candidate, self.plan(Observation.NONE), self.judged_as)

    @property
    def unfinished(self) -> bool:
        """Whether an output could not be computed."""
        return any(self.failures)

    def why_judged_otherwise(self, blank: RunResult) -> str:
        """Why the gates are not those of the precision that was asked for."""
        why = f"{blank.candidate} runs no engine with TF32 turned off"
        if self.engine is not None and self.engine.realised.own is not None:
            why = (
                f"{blank.case} is in {self.judged_as} throughout, and {self.precision} changes nothing of it"
            )
        return f"{why}: judged by the gates of {self.judged_as}"

    def release(self) -> str | None:
        """The TensorRT release of the candidate; None for the emulator, and for TensorRT for RTX."""
        fingerprint = None if self.engine is None else self.engine.fingerprint
        return None if fingerprint is None or fingerprint.product == TENSORRT_RTX else fingerprint.tensorrt

    def expects_failure(self) -> bool:
        """Whether the case expects this candidate to fail; releases that are emulated count as the emulator."""
        fingerprint = None if self.engine is None else self.engine.fingerprint
        if self.emulated and self.bench.assumed.compiler is not None:
            return self.spec.expects_failure(EMULATOR_WITH_KERNELS)
        if fingerprint is None or fingerprint.tensorrt is None:
            return self.spec.expects_failure()
        return self.spec.expects_failure(PACKAGE_OF[fingerprint.product or TENSORRT], fingerprint.tensorrt)

    def observed(self, layers: tuple[LayerResult, ...]) -> Observed | None:
        """What was observed of an engine."""
        how = observation_for(self.candidate, self.options.observation)
        if self.emulated or not self.options.layers or how is Observation.NONE:
            return None
        return observed_of(how, layers, self.bench.model)

    def waived(self, candidate: str) -> Waived | None:
        """The waiver of the case that speaks of this run."""
        return find_waiver(
            self.bench.case.waivers, precision=self.precision, tensorrt=self.release(), release=candidate
        )

    def timed(self, name: str, work: Callable[[], T]) -> T:
        self.stage(name)
        start = time.perf_counter()
        result = work()
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - start
        return result

    def plan(self, observation: Observation) -> Plan:
        return Plan(self.precision, observation=observation, build=self.bench.case.build)

    def unobserved(self) -> list[Mapping[str, np.ndarray]]:
        if self.options.repeats > 1 and not self.emulated:
            return self.repeated()
        outputs: list[Mapping[str, np.ndarray]] = []
        for feeds in self.bench.feeds:
            evaluation = self.candidate.evaluate(self.plan(Observation.NONE), feeds)
            self.facts = evaluation.facts
            outputs.append({name: np.array(value) for name, value in evaluation.tensors.items()})
            self.failures.append(evaluation.failures)
        return outputs

    def repeated(self) -> list[Mapping[str, np.ndarray]]:
        """Build the unobserved engine several times: the outputs of the first."""
        from harness.tactics import build_repeatedly, compare_builds

        plan, model = self.plan(Observation.NONE), self.bench.model.sha256
        evaluate, feeds = self.candidate.evaluate, self.bench.feeds
        builds = list(build_repeatedly(evaluate, plan, feeds, model, self.options.repeats))
        self.facts = builds[0].facts
        self.repeats = compare_builds(builds)
        self.later = [list(build.outputs) for build in builds[1:]]
        return list(builds[0].outputs)

    def worst_build(
        self, expected: list[dict[str, np.ndarray]], first: tuple[OutputResult, ...]
    ) -> tuple[tuple[OutputResult, ...], str]:
        """The outputs of the first build that fails, or of the first one; and how many of several builds fail."""
        judged = [first, *(self.outputs(expected, actual) for actual in self.later)]
        failing = [outputs for outputs in judged if not all(output.passed for output in outputs)]
        if not self.later:
            return first, ""
        assert self.repeats is not None
        self.repeats = replace(self.repeats, passes=len(judged) - len(failing))
        if not failing:
            return first, f"{len(judged)} builds"
        return failing[0], f"{len(failing)} of {len(judged)} builds"

    def outputs(
        self, expected: list[dict[str, np.ndarray]], actual: list[Mapping[str, np.ndarray]]
    ) -> tuple[OutputResult, ...]:
        judged = TensorGates(self.bench.model, self.bench.case.tolerances, self.judged_as)
        results: list[OutputResult] = []
        for sample, feeds in enumerate(self.bench.feeds):
            beside = None if self.emulated else self.bench.beside_engine(self.judged_as)
            baseline = None if beside is None else beside.attempt(feeds, self.judged_as)
            computed = Computed(actual[sample], self.failures[sample] if self.failures else {})
            found = judged.judge(sample, expected[sample], computed, baseline, self.bench.parts(sample))
            chosen = None
            if self.emulated and not all(output.passed for output in found):
                chosen = self.bench.chosen(self.judged_as, sample)
            if chosen is not None:
                given = chosen.run(feeds)
                found = judged.judge(sample, given, computed, baseline, self.bench.parts(sample))
                self.selections.update(dict.fromkeys(chosen.selections))
            results += found
        return tuple(results)

    def error_map(
        self,
        expected: list[dict[str, np.ndarray]],
        actual: list[Mapping[str, np.ndarray]],
        outputs: tuple[OutputResult, ...],
    ) -> ErrorMap | None:
        """Where in the worst output the error sits."""
        worst = worst_of(outputs)
        if worst is None or worst.tensor not in actual[worst.sample]:
            return None
        pair = actual[worst.sample][worst.tensor], expected[worst.sample][worst.tensor]
        return map_error(*pair, tensor=worst.tensor, sample=worst.sample)

    def layers(
        self,
        expected: list[dict[str, np.ndarray]],
        actual: list[Mapping[str, np.ndarray]],
        outputs: tuple[OutputResult, ...],
    ) -> tuple[tuple[LayerResult, ...], bool | None]:
        observation = observation_for(self.candidate, self.options.observation)
        if observation is Observation.NONE:
            return (), None
        layers, engines = measure_layers(
            self.bench,
            self.candidate,
            self.plan(observation),
            self.bench.case.tolerances,
            judged_as=self.judged_as,
        )
        if self.emulated:
            return layers, None
        limits = {output.tensor: rms_limit(output) for output in outputs}
        faithful = all(
            is_faithful(engine.outputs, plain, reference, limits)
            for observed, plain, reference in zip(engines, actual, expected, strict=True)
            for engine in observed
        )
        return layers, faithful if any(engines) else None


def _failed(blank: RunResult, error: HarnessError, bench: Workbench) -> RunResult:
    """A run that ended with an error."""
    of_candidate = isinstance(error, CandidateError)
    of_case = any(error is failure for failure in bench.failures.values()) or isinstance(error, CaseFileError)
    details = RunError(type(error).__name__, error.message, error.where, error.hint)
    if isinstance(error, CandidateError):
        environment = error.environment or blank.candidate
        details = replace(details, environment=environment, request=error.request, fault=error.fault)
    return replace(
        blank,
        verdict=Verdict.ERROR,
        cause=(
            Cause.INTERNAL
            if isinstance(error, InternalError)
            else Cause.CANDIDATE
            if of_candidate
            else Cause.CASE
            if of_case
            else Cause.RUN
        ),
        reason=str(error),
        error=details,
        evidence=error.evidence if isinstance(error, CandidateError | InternalError) else (),
        mistake=not isinstance(error, CandidateError | InternalError),
    )


def _skipped(skipped: RunResult, bench: Workbench) -> RunResult:
    """A run that judges nothing; what a model's own roundings cost is said nevertheless."""
    if not bench.model.quantized and not bench.model.own_tensors:
        return skipped
    own = bench.own_roundings
    skipped = replace(skipped, warnings=own.warnings, own_roundings=own.facts)
    if own.fault and bench.case.reference is None:
        return replace(skipped, verdict=Verdict.FAIL, cause=Cause.FILE, reason=own.fault)
    return replace(skipped, reason="; ".join(filter(None, (skipped.reason, own.price))))


def rms_limit(output: OutputResult) -> float:
    """The root mean square error that the gates of `output` let pass; 0 where none limits it."""
    limits = [gate.limit for gate in output.gates if gate.metric == "rmse"]
    limits += [gate.limit * output.metrics.reference_rms for gate in output.gates if gate.metric == "nrmse"]
    return min(limits, default=0.0)


def _verdict(
    spec: RunSpec,
    expects_failure: bool,
    passed: bool,
    outputs: tuple[OutputResult, ...],
    layers: tuple[LayerResult, ...],
    regions: tuple[Region, ...],
) -> tuple[Verdict, Cause, str]:
    if passed and expects_failure:
        reason = f"passes, although the case expects it to fail: {spec.reason}"
        return Verdict.XPASS, Cause.UNEXPECTED_PASS, reason
    if passed:
        return Verdict.PASS, Cause.GATES_HOLD, describe_outputs(outputs)
    if not expects_failure:
        return Verdict.FAIL, Cause.GATE_FAILED, describe_failure(outputs)
    origins = {layer.node: None for layer in layers if layer.origin}
    if layers and spec.origin and not _starts_as_expected(set(origins), regions, set(spec.origin)):
        starts = [
            *origins,
            *(f"one of the {len(region.nodes)} nodes up to {region.tensor}" for region in regions),
        ]
        found = ", ".join(starts) or "nowhere that was observed"
        reason = f"fails as expected, but the error starts at {found}, not {', '.join(spec.origin)}"
        return Verdict.FAIL, Cause.OTHER_ORIGIN, reason
    return Verdict.XFAIL, Cause.EXPECTED, f"fails as expected: {spec.reason}"


def _starts_as_expected(origins: set[str], regions: tuple[Region, ...], expected: set[str]) -> bool:
    """Whether every origin is expected, and every region holds one that is, and none is elsewhere."""
    inside = {node for region in regions for node in region.nodes}
    return (
        origins <= expected
        and expected <= origins | inside
        and all(not expected.isdisjoint(region.nodes) for region in regions)
    )


def describe_outputs(outputs: tuple[OutputResult, ...]) -> str:
    """One line: the first gate that failed, or that all hold, and of which outputs the values were not judged."""
    if not all(output.passed for output in outputs):
        return describe_failure(outputs)
    finite = dict.fromkeys(output.tensor for output in outputs if output.judged is Judged.FINITENESS)
    if not finite:
        return "all gates hold"
    return f"all gates hold; of {names(finite)} only finiteness was judged, not the values"


def describe_failure(outputs: tuple[OutputResult, ...]) -> str:
    """One line: the first gate that failed."""
    failed = [(output, gate) for output in outputs for gate in output.gates if not gate.passed]
    output, gate = failed[0]
    if gate.metric in (SHAPE, COMPUTED):
        return f"{output.tensor}: {output.metrics.incomparable}"
    if gate.metric == "nonfinite":
        return f"{output.tensor}: {gate.value:.0f} of {output.metrics.count} elements are not finite"
    return f"{output.tensor}: {gate.subject} {gate.value:.3g}, limit {gate.limit:.3g}"
