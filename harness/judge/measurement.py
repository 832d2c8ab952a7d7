"""Measuring one run: the candidate beside the reference, its layers, other shapes, and the user's own metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from harness.backends import Candidate, Computed, Emulator, EmulatorFacts, Observation, Plan, judged_as
from harness.case import RunSpec
from harness.cluster import OnStage
from harness.comparison import ErrorMap, map_error
from harness.errors import HarnessError
from harness.judge.checks import check_shapes, cost_of_sums, find_hidden, take_scores
from harness.judge.layers import COPIES, is_faithful, measure_layers, observation_for
from harness.judge.losses import HiddenFault, OwnRoundings, Selection, over_samples
from harness.judge.outputs import TensorGates
from harness.judge.regions import find_regions, observed_of
from harness.judge.results import (
    LayerResult,
    Observed,
    OutputResult,
    Region,
    RunResult,
    ShapeResult,
    without_origins,
    worst_of,
)
from harness.judge.workbench import Workbench
from harness.tensors import Accumulate, Precision
from harness.worker.protocol import EngineFacts

if TYPE_CHECKING:
    from harness.golden import GoldenStatus
    from harness.tactics import Repeats

Idle = Callable[[], None]
Samples = list[Mapping[str, np.ndarray]]
T = TypeVar("T")


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


@dataclass(frozen=True)
class MeasuredRun:
    """What was found in one run, before anything is decided.

    Args:
        run: the result without its verdict; of several builds the outputs are those of the first that fails.
        own: what the model's own roundings do to it.
        golden: what the golden reference says; None where none is kept.
        other_inputs: a warning where the reference was fed otherwise than the candidate.
        cost_of_sums: a warning where FP16 sums are most of the error.
    """

    run: RunResult
    own: OwnRoundings
    golden: GoldenStatus | None
    other_inputs: str | None
    cost_of_sums: str | None


@dataclass
class Measurement:
    """Measures one run.

    Args:
        bench: the case.
        spec: the precision, and what the case expects of it.
        candidate: what is judged.
        options: how to judge.
        stage: called with the name of each stage as it starts.
        idle: called when the candidate has been observed, and its worker has nothing to do.
        timings: seconds by stage, as far as it got.
    """

    bench: Workbench
    spec: RunSpec
    candidate: Candidate
    options: JudgeOptions
    stage: OnStage
    idle: Idle = lambda: None
    timings: dict[str, float] = field(default_factory=dict)
    _facts: EngineFacts | EmulatorFacts | None = None
    _repeats: Repeats | None = None
    _selections: list[Selection] = field(default_factory=list)
    """What was chosen otherwise for near ties, in order."""
    _later: list[Samples] = field(default_factory=list)
    """The outputs of the builds after the first."""
    _known: list[Computed] = field(default_factory=list)
    """Sample by sample, outputs and layers of the emulator, where they were computed at once."""
    _failures: list[Mapping[str, str]] = field(default_factory=list)
    """Sample by sample, the outputs that could not be computed, with the reason."""

    def take(self, blank: RunResult) -> MeasuredRun:
        """Run reference and candidate, and compare all there is to compare."""
        bench, options = self.bench, self.options
        expected = self._timed("reference", lambda: bench.expected)
        golden = bench.golden
        actual = self._timed("candidate", self._unobserved)
        first = self._timed("compare", lambda: self._judge_outputs(expected, actual))
        outputs = self._worst_build(expected, first)
        passed = all(output.passed for output in outputs)
        layers: tuple[LayerResult, ...] = ()
        faithful = None
        if options.layers:
            layers, faithful = self._timed("layers", lambda: self._layers(expected, actual, outputs))
        regions, hidden = self._look_behind(layers, outputs)
        own = self._timed("reference", lambda: bench.own_roundings)
        shapes = self._timed("shapes", self._shapes) if options.shapes and passed else ()
        scores = () if any(self._failures) else tuple(take_scores(bench.case, expected, actual))
        cost = self._timed("compare", lambda: cost_of_sums(bench, self.spec.precision, outputs))
        run = replace(
            blank,
            outputs=outputs,
            layers=without_origins(layers) if passed else layers,
            regions=regions,
            selections=over_samples(self._selections),
            hidden=hidden,
            observed=self._observed(layers),
            faithful=faithful,
            timings=self.timings,
            facts=self._facts,
            compared_with=bench.compared_with(self.candidate, self._judged_as),
            golden=None if golden is None else golden.state,
            judged_as=None if self._judged_as is self.spec.precision else self._judged_as,
            repeats=self._repeats,
            own_roundings=own.facts,
            values=tuple(actual) if options.keep_outputs else (),
            scores=scores,
            shapes=tuple(each for each in shapes if each.fault or each.skipped),
            error_map=None if passed or self._later else _error_map(expected, actual, outputs),
        )
        return MeasuredRun(run, own, golden, bench.other_inputs(self.candidate), cost)

    @property
    def _judged_as(self) -> Precision:
        """The precision whose gates the candidate is held to."""
        return judged_as(self.spec.precision, self._engine)

    @property
    def _emulated(self) -> bool:
        return isinstance(self.candidate, Emulator)

    @property
    def _engine(self) -> EngineFacts | None:
        return self._facts if isinstance(self._facts, EngineFacts) else None

    def _timed(self, name: str, work: Callable[[], T]) -> T:
        self.stage(name)
        start = time.perf_counter()
        result = work()
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - start
        return result

    def _plan(self, observation: Observation) -> Plan:
        return Plan(self.spec.precision, observation=observation, build=self.bench.case.build)

    def _unobserved(self) -> Samples:
        if self.options.repeats > 1 and not self._emulated:
            return self._repeated()
        if not self._emulated:  # what its outputs are compared with is computed while the engine is built
            self.candidate.build_ahead(self._plan(Observation.NONE), self.bench.feeds[0])
            with suppress(HarnessError):
                for sample in range(len(self.bench.feeds)):
                    self.bench.emulated(self.spec.precision, sample)
        names = {info.name for info in self.bench.model.outputs}
        at_once, outputs = self._at_once, list[Mapping[str, np.ndarray]]()
        for feeds in self.bench.feeds:
            plan = self._plan(Observation.TYPED if at_once else Observation.NONE)
            evaluation = self.candidate.evaluate(plan, feeds)
            self._facts = evaluation.facts
            tensors, failures = evaluation.tensors, evaluation.failures
            outputs.append({name: np.array(value) for name, value in tensors.items() if name in names})
            self._failures.append({name: why for name, why in failures.items() if name in names})
            if at_once:
                self._known.append(Computed(tensors, failures))
        return outputs

    @property
    def _at_once(self) -> bool:
        """Whether the emulator gives outputs and layers in one inference: if all of them fit the memory budget."""
        bench, who = self.bench, self.candidate
        if not self.options.layers or who is not bench.emulator or not who.units(self.spec.precision):
            return False
        copies = COPIES * len(bench.feeds)
        return len(bench.memory.chunks(bench.layers_of(who), copies=copies)) == 1

    def _repeated(self) -> Samples:
        """Build the unobserved engine several times: the outputs of the first."""
        from harness.tactics import build_repeatedly, compare_builds

        plan, model = self._plan(Observation.NONE), self.bench.model.sha256
        evaluate, feeds = self.candidate.evaluate, self.bench.feeds
        builds = list(build_repeatedly(evaluate, plan, feeds, model, self.options.repeats))
        self._facts = builds[0].facts
        self._repeats = compare_builds(builds)
        self._later = [list(build.outputs) for build in builds[1:]]
        return list(builds[0].outputs)

    def _worst_build(
        self, expected: list[dict[str, np.ndarray]], first: tuple[OutputResult, ...]
    ) -> tuple[OutputResult, ...]:
        """The outputs of the first build that fails, or of the first one; counts those that pass."""
        judged = [first, *(self._judge_outputs(expected, actual) for actual in self._later)]
        failing = [outputs for outputs in judged if not all(output.passed for output in outputs)]
        if not self._later:
            return first
        assert self._repeats is not None
        self._repeats = replace(self._repeats, passes=len(judged) - len(failing))
        return failing[0] if failing else first

    def _judge_outputs(
        self, expected: list[dict[str, np.ndarray]], actual: Samples
    ) -> tuple[OutputResult, ...]:
        judged = TensorGates(self.bench.model, self.bench.case.tolerances, self._judged_as)
        results: list[OutputResult] = []
        for sample, feeds in enumerate(self.bench.feeds):
            baseline = None if self._emulated else self.bench.emulated(self._judged_as, sample)
            computed = Computed(actual[sample], self._failures[sample] if self._failures else {})
            own = self.bench.parts(sample), self.bench.flips(self._judged_as, sample)
            found = judged.judge(sample, expected[sample], computed, baseline, *own)
            chosen = None
            if isinstance(self.candidate, Emulator) and not all(output.passed for output in found):
                chosen = self.bench.choices.of_emulator(self._judged_as, sample, emulator=self.candidate)
            elif not self._emulated and not all(output.passed for output in found):
                chosen = self.bench.choices.of_engine(self._judged_as, sample, actual[sample])
            if chosen is not None:
                given = chosen.run(feeds)
                again = judged.judge(sample, given, computed, baseline, *own)
                if not self._emulated and not all(output.passed for output in again):
                    results += found  # it was a guess, and explains nothing
                    continue
                found = again
                self._selections += chosen.selections
            results += found
        return tuple(results)

    def _layers(
        self, expected: list[dict[str, np.ndarray]], actual: Samples, outputs: tuple[OutputResult, ...]
    ) -> tuple[tuple[LayerResult, ...], bool | None]:
        observation = observation_for(self.candidate, self.options.observation)
        if observation is Observation.NONE:
            return (), None
        layers, engines = measure_layers(
            self.bench,
            self.candidate,
            self._plan(observation),
            self.bench.case.tolerances,
            judged_as=self._judged_as,
            idle=self.idle,
            known=self._known,
        )
        self._known.clear()
        if self._emulated:
            return layers, None
        limits = {output.tensor: rms_limit(output) for output in outputs}
        faithful = all(
            is_faithful(engine.outputs, plain, reference, limits)
            for observed, plain, reference in zip(engines, actual, expected, strict=True)
            for engine in observed
        )
        return layers, faithful if any(engines) else None

    def _look_behind(
        self, layers: tuple[LayerResult, ...], outputs: tuple[OutputResult, ...]
    ) -> tuple[tuple[Region, ...], tuple[HiddenFault, ...]]:
        """Where among unobserved nodes a failure starts; and what is lost behind outputs that pass."""
        if not self.options.layers or not self.bench.shows_layers(self.candidate):
            return (), ()
        model = self.bench.model
        if all(output.passed for output in outputs):
            return (), find_hidden(layers, model, self._judged_as)
        return find_regions(layers, model, self._engine, outputs), ()

    def _observed(self, layers: tuple[LayerResult, ...]) -> Observed | None:
        """What was observed of an engine."""
        how = observation_for(self.candidate, self.options.observation)
        if self._emulated or not self.options.layers or how is Observation.NONE:
            return None
        return observed_of(how, layers, self.bench.model)

    def _shapes(self) -> tuple[ShapeResult, ...]:
        """What other shapes give than that of the case."""
        return check_shapes(self.bench, self.candidate, self._plan(Observation.NONE), self._judged_as)


def _error_map(
    expected: list[dict[str, np.ndarray]], actual: Samples, outputs: tuple[OutputResult, ...]
) -> ErrorMap | None:
    """Where in the worst output the error sits."""
    worst = worst_of(outputs)
    if worst is None or worst.tensor not in actual[worst.sample]:
        return None
    pair = actual[worst.sample][worst.tensor], expected[worst.sample][worst.tensor]
    return map_error(*pair, tensor=worst.tensor, sample=worst.sample)


def rms_limit(output: OutputResult) -> float:
    """The root mean square error that the gates of `output` let pass; 0 where none limits it."""
    limits = [gate.limit for gate in output.gates if gate.metric == "rmse"]
    limits += [gate.limit * output.metrics.reference_rms for gate in output.gates if gate.metric == "nrmse"]
    return min(limits, default=0.0)
