"""The judge: one case at one precision on one candidate, to a verdict with its evidence."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from harness.backends import Candidate, Plan
from harness.case import Case, RunSpec
from harness.cluster import OnStage
from harness.errors import (
    CandidateError,
    CaseFileError,
    HarnessError,
    InternalError,
    NodeFailedError,
    ReferenceNotFiniteError,
    explained,
)
from harness.judge.candidates import EMULATOR, WITHOUT_ENGINE, Candidates, nothing_to_round
from harness.judge.checks import find_baked_behind
from harness.judge.decision import Question, decide, warnings_of
from harness.judge.measurement import Idle, JudgeOptions, Measurement
from harness.judge.names import check_names
from harness.judge.results import Cause, RunError, RunReason, RunResult, Verdict, baked_text
from harness.judge.workbench import Workbench


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
        self._ending: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free sessions and end workers. Calling it twice is allowed."""
        if self._ending is not None:
            self._ending.join()
        self.release()
        self.candidates.close()

    def end_workers(self) -> None:
        """Begin to end the workers, as nobody asks for an engine any more; `close` waits for that."""
        self._ending = threading.Thread(target=self.candidates.end_workers, name="end the worker")
        self._ending.start()

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
            self._bench = prepared or self._new_bench(case)
        return self._bench

    def known(self, case: Case) -> Case:
        """`case`, or the equal one of the workbench at hand: units from another process have copies."""
        return case if self._bench is None or self._bench.case != case else self._bench.case

    def is_large(self, case: Case) -> bool:
        """Whether the weights of `case` alone are beyond the memory budget; loads its model."""
        bench = self.bench(case)
        with suppress(Exception):  # what cannot be had is said by the run
            if not bench.missing_packages():
                return sum(each.nbytes for each in bench.model.weights.values()) > self.options.memory_budget
        return False

    def prepare(self, case: Case) -> None:
        """Make the model, the inputs and the reference of the case after this one, while an engine is built and run.

        Not beside a model whose weights alone are beyond the memory budget: two of them need not fit.
        """
        if self._ahead is None and (self._bench is None or not self.is_large(self._bench.case)):
            bench = self._new_bench(case)
            thread = threading.Thread(target=bench.prepare, name=f"prepare {case.name}", daemon=True)
            self._ahead = bench, thread
            thread.start()

    def build_ahead(self, case: Case, spec: RunSpec, candidate: str) -> None:
        """Begin the engine of the run after this one, while what this one observed is compared.

        Not if its case is not prepared by now. What goes wrong here does so again when it is its turn.
        """
        if candidate in WITHOUT_ENGINE or self.options.repeats > 1:
            return
        bench, made = self._bench, self.candidates.get
        if bench is None or bench.case is not case:
            if self._ahead is None or self._ahead[0].case is not case or self._ahead[1].is_alive():
                return
            bench, made = self._ahead[0], self.candidates.prepare
        with suppress(HarnessError):
            if not bench.missing_packages() and self.candidates.lacking(candidate, case, spec) is None:
                made(candidate, bench).build_ahead(Plan(spec.precision, build=case.build), bench.feeds[0])

    def _new_bench(self, case: Case) -> Workbench:
        options = self.options
        return Workbench(case, memory_budget=options.memory_budget, golden_update=options.golden_update)

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
        self,
        case: Case,
        spec: RunSpec,
        candidate: str = EMULATOR,
        stage: OnStage = lambda name: None,
        idle: Idle = lambda: None,
    ) -> RunResult:
        """Judge one run. Errors that harness knows become the verdict `error`.

        Args:
            case: the case.
            spec: the run of it.
            candidate: what is judged.
            stage: called with what goes on.
            idle: called when the candidate has been observed, and its worker has nothing to do.
        """
        blank, bench = blank_result(case, spec, candidate), self.bench(case)
        if missing := bench.missing_packages():
            detail = f"needs {', '.join(missing)}, which is not installed"
            return replace(blank, why=RunReason(Cause.PACKAGE, detail))
        try:
            check_names(case, bench.model)
            self.assume(bench, candidate)
            blank = replace(blank, emulation=self.candidates.emulation(candidate, bench.assumed))
            made = self.candidates.get(candidate, bench)
            if made is bench.emulator:  # what it rounds nothing of can still differ from another reference
                why = nothing_to_round(bench.model, spec.precision)
                if why and case.reference is None:
                    return _skipped(blank, bench, why)
            elif candidate not in WITHOUT_ENGINE and (
                lacking := self.candidates.lacking(candidate, case, spec)
            ):
                return replace(blank, why=lacking)
            return self._judge(bench, spec, made, blank, stage, idle)
        except HarnessError as error:
            if isinstance(error, ReferenceNotFiniteError) and error.own is not None:
                return _ruined(blank, spec, error)
            if isinstance(error, NodeFailedError) and (baked := find_baked_behind(bench.model, error.node)):
                error.hint = f"{baked_text(baked)}; as it is, it runs at batch {baked[0].constant[0]} alone"
            of_case = any(error is failure for failure in bench.failures.values())
            return failed_result(blank, error, of_case=of_case or isinstance(error, CaseFileError))
        except Exception as error:  # the other runs must not be lost
            return failed_result(blank, explained(error, bench.where))

    def _judge(
        self,
        bench: Workbench,
        spec: RunSpec,
        made: Candidate,
        blank: RunResult,
        stage: OnStage,
        idle: Idle,
    ) -> RunResult:
        found = Measurement(bench, spec, made, self.options, stage, idle).take(blank)
        question = Question(bench, spec, found, self.options.golden_update)
        verdict, why = decide(question)
        return replace(found.run, verdict=verdict, why=why, warnings=warnings_of(question))


def _ruined(blank: RunResult, spec: RunSpec, error: ReferenceNotFiniteError) -> RunResult:
    """A run of a file that overflows its own types, so that its outputs are not finite at any precision."""
    detail = f"the file itself: {error.own}; {error.count} elements of output {error.tensor!r} are not finite"
    detail = f"{detail}; {error.hint}"
    verdict = Verdict.XFAIL if spec.expects_failure(blank.candidate) else Verdict.FAIL
    return replace(blank, verdict=verdict, why=RunReason(Cause.FILE, detail))


def blank_result(case: Case, spec: RunSpec, candidate: str) -> RunResult:
    """The result of a run of which nothing is known yet."""
    return RunResult(
        case=case.name,
        precision=spec.precision,
        candidate=candidate,
        verdict=Verdict.SKIP,
        case_path=case.model.path if case.path is None else str(case.path),
        inputs=case.shape_arguments,
        given=case.given,
    )


def failed_result(blank: RunResult, error: HarnessError, *, of_case: bool = False) -> RunResult:
    """A run that ended with an error; `of_case` if no run of its case can be judged."""
    of_candidate = isinstance(error, CandidateError)
    details = RunError.of(error)
    if of_candidate and details.environment is None:
        details = replace(details, environment=blank.candidate)
    if isinstance(error, InternalError):
        cause = Cause.INTERNAL
    elif of_candidate:
        cause = Cause.CANDIDATE
    else:
        cause = Cause.CASE if of_case else Cause.RUN
    return replace(
        blank,
        verdict=Verdict.ERROR,
        why=RunReason(cause, error=details),
        evidence=error.evidence if isinstance(error, CandidateError | InternalError) else (),
        mistake=not isinstance(error, CandidateError | InternalError),
    )


def _skipped(blank: RunResult, bench: Workbench, why: str) -> RunResult:
    """A run that judges nothing; what a model's own roundings cost is said nevertheless."""
    if not bench.model.quantized and not bench.model.own_tensors:
        return replace(blank, why=RunReason(Cause.NOTHING_TO_ROUND, why))
    own = bench.own_roundings
    ruined = own.fault and bench.case.reference is None
    return replace(
        blank,
        verdict=Verdict.FAIL if ruined else blank.verdict,
        why=RunReason(Cause.FILE, own=own.gist)
        if ruined
        else RunReason(Cause.NOTHING_TO_ROUND, why, own=own.gist),
        warnings=own.warnings,
        own_roundings=own.facts,
    )
