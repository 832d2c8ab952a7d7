"""The errors of every layer and what the tensors hold, measured when asked for and kept."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from harness.backends import Observation
from harness.diagnosis import Held, Lab, Stage, emulate
from harness.judge import COPIES, LayerResult, RunResult, Verdict, describe_failure, measure_layers


class Measured:
    """The layers of one subject on the emulator, by what is kept in FP32.

    Args:
        lab: whose model it is, and who is told.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.subject = lab.emulated
        self._layers: dict[frozenset[str], tuple[LayerResult, ...]] = {}

    def layers(self, kept: frozenset[str]) -> tuple[LayerResult, ...]:
        """Every float tensor in topological order, over all samples, with `kept` in FP32."""
        if kept not in self._layers:
            self._lab.tell(Stage.PREDICT, "measure the layers")
            bench = self.subject.bench
            plan = self.subject.plan(kept, observation=Observation.TYPED)
            self._layers[kept], _ = measure_layers(bench, bench.emulator, plan, bench.case.tolerances)
        return self._layers[kept]

    @cached_property
    def held(self) -> dict[str, Held]:
        """What every float tensor holds in FP32, over all samples."""
        self._lab.tell(Stage.PREDICT, "measure what the tensors hold")
        bench = self.subject.bench
        found = {}
        for chunk in bench.tensor_chunks(bench.model.float_tensors, copies=COPIES):
            runs = [bench.reference.run(feeds, chunk) for feeds in bench.feeds]
            for name in chunk:
                found[name] = Held.of(name, [run[name] for run in runs], self.subject.precision)
        return found

    def result(self, kept: frozenset[str]) -> RunResult:
        """The run with `kept` in FP32, for a picture: what the kept nodes would introduce is no part of it."""
        outputs, _ = emulate(self.subject, kept)
        passed = all(output.passed for output in outputs)
        case = self.subject.bench.case
        return RunResult(
            case=case.name,
            precision=self.subject.precision,
            candidate=self.subject.candidate.name,
            verdict=Verdict.PASS if passed else Verdict.FAIL,
            reason="all gates hold" if passed else describe_failure(outputs),
            outputs=outputs,
            layers=tuple(
                replace(layer, introduced=None) if layer.node in kept else layer
                for layer in self.layers(kept)
            ),
            case_path=None if case.path is None else str(case.path),
        )
