"""What is diagnosed: a model with its inputs, at a precision, on a candidate; and how its outputs are judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from harness.backends import Assumed, Candidate, Computed, Evaluation, Observation, Plan
from harness.case import BuildOptions, Case, ModelSource, Tolerance
from harness.comparison import COMPUTED, NONFINITE, SHAPE, RelativeError, excess
from harness.diagnosis.context.formats import TensorRange
from harness.errors import UsageError
from harness.judge import Given, LayerResult, OutputResult, TensorGates, Workbench, select_cases
from harness.model import Model
from harness.tensors import Precision, hash_feeds, host_fingerprint
from harness.text import names
from harness.worker.protocol import TENSORRT, Fingerprint

MEMORY_BUDGET = 1 << 30
DECIDED_ANYWAY = frozenset({SHAPE, COMPUTED, NONFINITE.metric})
"""GateCheck that the reference's own rounding does not touch, where it is finite and of the same shape in FP64, too."""
EngineFor = Callable[[Model], Candidate]


@dataclass(frozen=True)
class Undecided:
    """An output whose gates the reference cannot decide, as its own rounding takes too much of them.

    Args:
        share: the reference's own error as a share of the tightest gate.
        finite: the candidate is not finite, or of another shape, where the reference is sound: that is decided, and
            nothing else of it.
    """

    share: float
    finite: bool


@dataclass
class Subject:
    """The model under diagnosis and everything that judges it.

    Args:
        bench: model, inputs, reference and emulator.
        precision: the precision under test.
        candidate: what is diagnosed; the bench's own emulator, or an engine.
        engine_for: makes a candidate of the same kind for a part of the model; None where there is none.
        undecided: by name, the outputs that are not judged, or for being finite only; the first stage finds them.
    """

    bench: Workbench
    precision: Precision
    candidate: Candidate
    engine_for: EngineFor | None = None
    undecided: dict[str, Undecided] = field(default_factory=dict)
    known_errors: dict[tuple[Assumed, int], Mapping[str, RelativeError]] = field(default_factory=dict)
    """By what is assumed and sample, what `introduced_errors` has found of each tensor."""
    known_ranges: dict[tuple[Precision, str, int], TensorRange] = field(default_factory=dict)
    """By precision, tensor and axis, what it holds in all samples."""
    known_layers: dict[tuple[Assumed, int], tuple[LayerResult, ...]] = field(default_factory=dict)
    """Likewise, what `emulated_layers` has measured."""

    @property
    def model(self) -> Model:
        """The model."""
        return self.bench.model

    @property
    def emulated(self) -> bool:
        """Whether the candidate is the emulator."""
        return self.candidate is self.bench.emulator

    @cached_property
    def units(self) -> tuple[str, ...]:
        """The nodes that the precision lowers, in topological order."""
        return self.bench.emulator.units(self.precision)

    def ordered(self, nodes: Collection[str]) -> tuple[str, ...]:
        """Those of `nodes` that the precision lowers, in topological order."""
        return tuple(name for name in self.units if name in nodes)

    def plan(
        self,
        island: Iterable[str] = (),
        *,
        precision: Precision | None = None,
        observation: Observation = Observation.NONE,
        marks: Iterable[str] = (),
        build: BuildOptions | None = None,
        casts: bool = False,
        fp32_sums: Iterable[str] = (),
    ) -> Plan:
        """An evaluation of this case; by default the one that a user would deploy."""
        return Plan(
            precision or self.precision,
            islands=frozenset(island),
            observation=observation,
            marks=frozenset(marks),
            build=build or self.bench.case.build,
            casts=casts,
            fp32_sums=frozenset(fp32_sums),
        )

    def judge(
        self,
        found: Computed | Evaluation,
        sample: int,
        plan: Plan,
        *,
        as_emulator: bool = False,
    ) -> tuple[OutputResult, ...]:
        """Hold the outputs of one sample against their gates.

        Args:
            found: the outputs by name, and why others could not be computed; those fail.
            sample: position of the sample.
            plan: what they were evaluated under; its precision decides the gates.
            as_emulator: they are the emulator's, whatever the candidate is.
        """
        absolute = as_emulator or self.emulated
        emulated = None if absolute else self.emulation(plan.precision, sample)
        judged = TensorGates(self.model, self.bench.case.tolerances, plan.precision)
        computed = Computed(found.tensors, found.failures)
        own = self.bench.parts(sample), self.bench.flips(plan.precision, sample)
        outputs = judged.judge(sample, self.bench.expected[sample], computed, emulated, *own)
        if not all(output.passed for output in outputs):
            if absolute:
                lowered = [
                    name for name in self.bench.emulator.units(plan.precision) if name not in plan.islands
                ]
                chosen = self.bench.choices.of_emulator(plan.precision, sample, lowered)
            else:
                chosen = self.bench.choices.of_engine(plan.precision, sample, found.tensors)
            if chosen is not None:
                again = judged.judge(sample, chosen.run(self.bench.feeds[sample]), computed, emulated, *own)
                if absolute or all(output.passed for output in again):
                    outputs = again
        return self.decidable(outputs)

    def decidable(self, outputs: Sequence[OutputResult]) -> tuple[OutputResult, ...]:
        """`outputs` without the gates that the reference cannot decide, and without outputs that then have none."""
        kept = []
        for output in outputs:
            doubt = self.undecided.get(output.tensor)
            if doubt is None:
                kept.append(output)
            elif doubt.finite:
                gates = tuple(gate for gate in output.gates if gate.metric in DECIDED_ANYWAY)
                kept.append(replace(output, gates=gates))
        return tuple(kept)

    def fused_away(self, nodes: Collection[str]) -> str:
        """That the engine has left out the Casts around `nodes`, in words."""
        engine = f"{self.product or TENSORRT} {self.release}"
        return f"{engine} fused the Casts around {names(self.ordered(nodes))} away"

    def emulation(self, precision: Precision, sample: int) -> Computed:
        """The emulator's outputs with everything lowered: what an engine may err by."""
        return self.bench.emulated(precision, sample)

    @cached_property
    def identity(self) -> str:
        """SHA-256 over what decides the outcome of an evaluation: of two subjects alike, one journal serves both."""
        case, assumed = self.bench.case, self.bench.assumed
        parts = {
            "model": self.model.sha256,
            "precision": self.precision.value,
            "feeds": [hash_feeds(feeds) for feeds in self.bench.feeds],
            "tolerances": [rule.model_dump(mode="json") for rule in case.tolerances],
            **({} if assumed == Assumed() else {"assumed": [assumed.kernels, assumed.accumulate.value]}),
            "build": None if self.emulated else case.build.model_dump(mode="json"),
            **(
                {}
                if case.reference is None
                else {"expected": [hash_feeds(each) for each in self.bench.expected]}
            ),
            "candidate": self._made_with(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def engine(self) -> Fingerprint | None:
        """What its engines are made with; None for the emulator."""
        return self.candidate.fingerprint()

    @property
    def product(self) -> str | None:
        """What the engine is built with, as the worker names it; None where nothing says so."""
        return None if self.engine is None else self.engine.product

    @property
    def release(self) -> str | None:
        """The full version of that product; None where there is none."""
        return None if self.engine is None else self.engine.tensorrt

    def _made_with(self) -> dict[str, str | None]:
        """What decides numbers: not what an environment is called, nor which kernel Linux runs."""
        engine = {} if self.engine is None else vars(self.engine)
        facts = {**vars(host_fingerprint()), **engine}
        return {name: facts[name] for name in facts.keys() - {"environment", "system", "harness"}}


def make_bench(
    model: Model,
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    tolerances: Sequence[Tolerance] = (),
    build: BuildOptions | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> Workbench:
    """A workbench for a model and inputs that are at hand, without a case file."""
    case = Case(
        name=model.name,
        model=ModelSource(path=str(model.path or f"{model.name}.onnx")),
        tolerances=tuple(tolerances),
        build=build or BuildOptions(),
        samples=max(len(feeds), 1),
    )
    bench = Workbench(case, memory_budget=memory_budget)
    bench.model = model
    bench.feeds = [dict(sample) for sample in feeds]
    bench.given = True
    return bench


def badness(outputs: Sequence[OutputResult]) -> float:
    """How far the worst gate is beyond its limit, as a multiple of the limit: up to 1 passes."""
    return max((excess(output.gates) for output in outputs), default=0.0)


def choose_case(
    target: Case | Path | str,
    inputs: Mapping[str, Sequence[int]] | None,
    precision: Precision | None,
    *,
    given: Given | None = None,
    purpose: str,
) -> Case:
    """The one case that `target` is; `inputs` gives shapes to an .onnx file, `given` the rest; `purpose` needs it.

    Raises:
        UsageError: it is none, or several.
    """
    cases = select_cases(
        target, inputs=inputs, given=given, precisions=() if precision is None else (precision,)
    )
    if len(cases) != 1:
        listed = names((case.name for case in cases), 4)
        raise UsageError(
            f"there are {len(cases)} cases; {purpose} needs one",
            where=str(target),
            hint=f"name one of {listed}",
        )
    return cases[0]


def choose_precision(case: Case, precision: Precision | None) -> Precision:
    """The given precision; else the only one of the case beside FP32, or FP16."""
    if precision is not None:
        return precision
    lower = [run.precision for run in case.runs if run.precision is not Precision.FP32]
    return lower[0] if len(lower) == 1 else Precision.FP16
